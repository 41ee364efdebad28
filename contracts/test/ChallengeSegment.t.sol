// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice A segment found wrong: whatever the votes, the money is conserved and goes where it should.
contract ChallengeSegmentTest is Case {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function testFuzz_the_majority_decides_and_the_loser_pays(uint8 votes) public {
        votes = votes % 8;
        bool upheld = (votes & 1) + (votes >> 1 & 1) + (votes >> 2 & 1) >= 2;
        ChallengeId id = challengeSegment();
        round(id, votes, 0);
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        registry.resolve(id);
        IRegistry.Phase phase = registry.challenge(id).phase;
        vm.assertTrue(phase == (upheld ? IRegistry.Phase.Upheld : IRegistry.Phase.Rejected), "verdict");
        vm.assertEq(registry.account(owner(10)).stake, upheld ? 0 : 120e18, "the worker's stake");
        vm.assertEq(registry.account(CHALLENGER).stake, upheld ? 50e18 + 40e18 : 0, "the challenger's");
        assertConserved();
        vm.warp(vm.getBlockTimestamp() + 1);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, worker, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, upheld ? 0 : 100e18, "the worker's pay");
        assertConserved();
    }

    function test_what_is_out_of_time_or_proof_is_refused() public {
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchSegment.selector, 8, 8));
        registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 8);
        IRegistry.Commitment memory other = commitmentOf(10);
        other.workUnits += 1;
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, batch, 0));
        registry.challengeSegment(batch, other, 0, new bytes32[](0), 3);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchFault.selector, batch, 0));
        registry.challengeFault(batch, 0);
        uint256 settled = vm.getBlockTimestamp();
        vm.warp(settled + WINDOW);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.OutsideWindow.selector, settled, settled + WINDOW));
        registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 3);
    }

    function test_a_challenge_copied_by_a_front_runner_costs_the_first_nothing() public {
        fund(owner(50), 1000 * CREDIT);
        vm.prank(owner(50));
        ChallengeId id = registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 3);
        uint256 before = credit.balanceOf(CHALLENGER);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyChallenged.selector, id));
        registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 3);
        vm.assertEq(credit.balanceOf(CHALLENGER), before, "no bond taken");
    }
}
