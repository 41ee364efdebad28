// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice A verdict taken to a larger jury.
contract AppealTest is Case {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function testFuzz_an_appeal_has_the_last_word_and_books_balance(uint8 first, uint8 second, uint8 silent) public {
        silent = silent % 32;
        uint256 revealed;
        for (uint256 i = 0; i < 5; ++i) {
            if (silent >> i & 1 == 0) ++revealed;
        }
        vm.assume(revealed >= 3);
        ChallengeId id = challengeSegment();
        round(id, first % 8, 0);
        bool verdict = registry.challenge(id).wrong;
        address appellant = verdict ? owner(10) : CHALLENGER;
        vm.prank(appellant);
        registry.appeal(id);
        round(id, second % 32, silent);
        IRegistry.Challenge memory c = registry.challenge(id);
        vm.assertTrue(c.phase == IRegistry.Phase.Upheld || c.phase == IRegistry.Phase.Rejected, "decided");
        bool upheld = c.phase == IRegistry.Phase.Upheld;
        vm.assertEq(upheld ? 0 : 1, registry.account(owner(10)).stake == 0 ? 0 : 1, "stake follows the last verdict");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function test_an_appeal_is_made_once_in_its_time_and_with_a_bond() public {
        ChallengeId id = challengeSegment();
        vm.prank(owner(10));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Draw));
        registry.appeal(id);
        round(id, 7, 0);
        uint256 end = registry.challenge(id).until;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, end));
        registry.resolve(id);
        uint256 before = credit.balanceOf(owner(10));
        vm.prank(owner(10));
        registry.appeal(id);
        vm.assertEq(before - credit.balanceOf(owner(10)), 150e18, "the appeal's bond");
        before = credit.balanceOf(owner(11));
        vm.prank(owner(11));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Draw));
        registry.appeal(id);
        vm.assertEq(credit.balanceOf(owner(11)), before, "whom another preceded pays nothing");
        assertConserved();
    }

    function test_an_appeal_out_of_time_is_refused() public {
        ChallengeId id = challengeSegment();
        round(id, 7, 0);
        uint256 end = registry.challenge(id).until;
        vm.warp(end);
        vm.prank(owner(10));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooLate.selector, id, end));
        registry.appeal(id);
    }

    function testFuzz_an_appeal_that_finds_no_jury_leaves_the_first_verdict(bool wrong) public {
        ChallengeId id = challengeSegment();
        round(id, wrong ? 7 : 0, 0);
        vm.prank(owner(10));
        registry.appeal(id);
        for (uint256 i = 11; i <= 15; ++i) {
            vm.prank(owner(i));
            registry.retire(OperatorId.wrap(uint32(i - 5)));
        }
        mine();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JuryTooSmall.selector, id, 3, 5));
        registry.drawJury(id);
        vm.warp(vm.getBlockTimestamp() + 6 hours);
        uint256 stake = registry.account(owner(10)).stake;
        registry.resolve(id);
        IRegistry.Phase phase = registry.challenge(id).phase;
        vm.assertTrue(phase == (wrong ? IRegistry.Phase.Upheld : IRegistry.Phase.Rejected), "the first verdict stands");
        // Its bond comes back; then it loses its stake, or wins two fifths of the challenger's bond.
        uint256 after_ = registry.account(owner(10)).stake;
        vm.assertEq(after_, wrong ? 0 : stake + 150e18 + 20e18, "the appellant's bond");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }
}
