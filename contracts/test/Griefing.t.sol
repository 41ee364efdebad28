// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice Single wei, and a stranger who sends every open call before the one who meant it.
/// forge-config: default.fuzz.runs = 128
contract GriefingTest is CourtBase {
    address private constant STRANGER = address(0xbad);

    function test_tokens_sent_to_the_registry_change_nothing() public {
        uint256 accounted = held();
        credit.transfer(address(registry), 1);
        vm.assertEq(held(), accounted, "the books ignore them");
        settleHonestly();
        later(WINDOW);
        registry.claim(claims());
        vm.assertEq(credit.balanceOf(address(registry)), held() + 1, "and they stay");
    }

    function testFuzz_single_wei_are_neither_lost_nor_made(uint8 amount, uint8 fee, uint8 extra, bool faulty) public {
        JobId small = openJob(jobParams(uint96(amount) + 1, uint96(fee), uint96(extra)));
        fund(STRANGER, 2);
        vm.prank(STRANGER);
        registry.addStake(1);
        vm.prank(STRANGER);
        registry.topUp(small, 1, anchor());
        BatchId id = commit(small, 2);
        vm.prank(owner(11));
        registry.addStake(uint96(extra));
        IRegistry.Settlement memory s = settlement(id, worker, 1);
        settle(faulty ? withFault(s, nodeOf(11)) : s, 1, 3);
        assertConserved();
        later(3 days);
        registry.claim(claimOf(id, worker, 1));
        assertConserved();
        registry.refund(small);
        registry.refund(small);
        IRegistry.Job memory j = registry.job(small);
        vm.assertEq(uint256(j.escrow) + j.surplus, 0, "nothing is left");
        assertConserved();
    }

    function testFuzz_single_wei_of_a_challenge_are_neither_lost_nor_made(uint8 votes, uint8 extra) public {
        vm.prank(owner(10));
        registry.addStake(extra);
        settleHonestly();
        decide(challengeSegment(), votes % 8);
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function test_a_stranger_has_no_way_to_keep_somebody_s_stake_bonded() public {
        vm.prank(owner(10));
        registry.addStake(10e18);
        vm.prank(owner(10));
        registry.requestUnstake(10e18);
        uint256 releaseAt = registry.account(owner(10)).releaseAt;
        later(1 days);
        fund(STRANGER, CREDIT);
        vm.prank(STRANGER);
        registry.addStake(1);
        vm.prank(STRANGER);
        registry.requestUnstake(1);
        vm.assertEq(registry.account(owner(10)).releaseAt, releaseAt, "its clock runs on");
        vm.warp(releaseAt);
        vm.prank(owner(10));
        registry.withdraw();
    }

    // ------------------------------------------------------------------------------------------ front-running

    function test_a_copied_settlement_is_the_same_settlement() public {
        IRegistry.Settlement memory s = settlement();
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory h = header();
        vm.prank(STRANGER);
        settle(s, signers, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.settleBatch(s, h, signers, signature);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        vm.prank(STRANGER);
        registry.finalize(batch);
        vm.prank(STRANGER);
        registry.claim(claims());
        vm.assertEq(credit.balanceOf(owner(10)) - before, PAY, "whoever claims, the owner is paid");
        vm.assertEq(credit.balanceOf(STRANGER), 0, "and nobody else");
    }

    function test_a_copied_draw_is_the_same_draw() public {
        BatchId id = commitLines(1, bytes32(uint256(2)), 1, lines(job, 1));
        mine();
        vm.setBlockhash(registry.batch(id).commitBlock + 2, keccak256("entropy"));
        vm.prank(STRANGER);
        bytes32 seed = registry.draw(id);
        vm.assertEq(registry.draw(id), seed, "one seed");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedAvailable.selector, id));
        registry.recommit(id);
    }

    function test_a_challenge_moved_on_by_a_stranger_goes_the_same_way() public {
        settleHonestly();
        ChallengeId id = challengeSegment();
        mine();
        vm.prank(STRANGER);
        address[] memory jury = court.drawJury(id);
        vm.assertEq(jury.length, 3, "drawn");
        vm.assertEq(stakeOf(STRANGER), REWARD, "it is paid for that");
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Vote));
        court.drawJury(id);
        later(2 hours);
        vm.prank(STRANGER);
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Draw, "nobody revealed");
        vm.assertEq(stakeOf(STRANGER), REWARD, "nothing more");
    }

    function test_a_seal_that_a_stranger_repeats_is_as_old_as_it_was() public {
        settleHonestly();
        bytes32 sealed_ = keccak256(abi.encode(CHALLENGER, subjectOf(ICourt.Kind.Segment, 0, SEGMENT), SALT));
        vm.prank(CHALLENGER);
        court.seal(sealed_);
        vm.roll(vm.getBlockNumber() + 1);
        vm.prank(STRANGER);
        court.seal(sealed_);
        ICourt.Step memory step = stepOf(10, SEGMENT);
        IRegistry.Header memory h = header();
        vm.prank(CHALLENGER);
        court.challengeSegment(batch, h, step, SALT);
    }

    function test_a_stranger_cannot_register_with_what_it_has_seen() public {
        bytes memory agreed = consent(1040, owner(40));
        bytes memory key = hex"";
        vm.prank(STRANGER);
        vm.expectRevert();
        registry.registerNode(vm.addr(1040), 0, 1, "", agreed);
        vm.prank(STRANGER);
        vm.expectRevert();
        registry.registerVerifier(vm.addr(1040), 0, "", agreed, key, key);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOwner.selector, worker, STRANGER, owner(10)));
        registry.rotateKey(worker, vm.addr(1040), agreed);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, worker));
        registry.retire(worker);
    }
}
