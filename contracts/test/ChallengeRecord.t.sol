// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice Settlements found wrong, by a payout or by a fault: voided, paid for by those who signed, settled again.
contract ChallengeRecordTest is Case {
    function testFuzz_a_payout_the_jury_finds_wrong_voids_the_settlement_and_its_signers_pay(uint8 votes) public {
        settleHonestly();
        bool upheld = decide(challengePayout(), votes % 8);
        vm.assertEq(registry.batch(batch).attempt, upheld ? 1 : 0, "attempt");
        vm.assertEq(registry.claimable(1, 2), upheld ? 0 : 100e18, "claimable");
        for (uint256 i = 1; i <= 3; ++i) {
            // The batch's own verifier wins two fifths of a bond that was lost.
            uint256 left = VERIFIER_STAKE + (i == 1 ? 20e18 : 0);
            vm.assertEq(registry.account(owner(i)).stake, upheld ? 0 : left, "a signer's stake");
        }
        vm.assertEq(registry.account(owner(4)).stake, VERIFIER_STAKE, "who did not sign keeps its stake");
        vm.assertEq(registry.activeVerifiers(), upheld ? 8 : 15, "seats");
        vm.assertEq(registry.account(CHALLENGER).stake, upheld ? 50e18 + 1200e18 : 0, "the challenger's");
        vm.assertEq(registry.totals().escrow, upheld ? 1100e18 + 300e18 : 1000e18 + 5e18, "the requester's share");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function testFuzz_a_fault_the_jury_finds_false_gives_back_stake_and_reputation(uint96 extra, bool upheld) public {
        extra = uint96(extra % (500 * CREDIT));
        earn();
        vm.prank(owner(10));
        registry.addStake(extra);
        settle(withFault(settlement(batch, worker, 100e18), worker), 1, 3);
        vm.assertEq(registry.account(owner(10)).stake, 0, "frozen");
        vm.assertEq(registry.operator(worker).consecutiveValid, 0, "reputation falls at once");
        vm.assertEq(registry.slashes(batch)[0].amount, NODE_STAKE + extra, "on record");
        ChallengeId id = challengeFault();
        vm.assertTrue(decide(id, upheld ? 7 : 0) == upheld, "decided");
        vm.assertEq(registry.account(owner(10)).stake, upheld ? NODE_STAKE + extra : 0, "stake");
        vm.assertEq(registry.operator(worker).consecutiveValid, upheld ? 1 : 0, "reputation");
        vm.assertEq(registry.operator(worker).lastFault == 0 ? 1 : 0, upheld ? 1 : 0, "record");
        vm.assertEq(registry.slashes(batch).length, upheld ? 0 : 1, "slashes");
        if (upheld) return;
        registry.finalize(batch);
        assertConserved();
    }

    /// @notice One valid audit of the worker, claimed, in a batch before.
    function earn() private {
        BatchId earlier = commit(job, 1);
        settle(settlement(earlier, worker, 1e18), 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claimOf(earlier, worker, 1e18));
    }

    function test_a_voided_batch_is_settled_again_by_those_who_are_left_and_not_with_old_signatures() public {
        IRegistry.Settlement memory s = settlement(batch, worker, 100e18);
        (uint256 last, bytes memory old) = quorum(s, 4, 1);
        settle(s, 1, 3);
        vm.assertTrue(decide(challengePayout(), 7), "voided");
        IRegistry.Claim[] memory claims = claimOf(batch, worker, 100e18);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        registry.claim(claims);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, last, old);
        settle(s, 4, 1);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claims);
        vm.assertTrue(registry.isClaimed(batch, 0), "paid in the second attempt");
        assertConserved();
    }

    function test_other_challenges_of_a_voided_settlement_are_dismissed_with_their_bonds() public {
        settleHonestly();
        ChallengeId payout = challengePayout();
        ChallengeId segment = challengeSegment();
        round(segment, 7, 0);
        vm.prank(owner(10));
        registry.appeal(segment);
        vm.assertTrue(decide(payout, 7), "voided");
        uint256 stake = registry.account(CHALLENGER).stake;
        uint256 appellant = registry.account(owner(10)).stake;
        registry.resolve(segment);
        vm.assertTrue(registry.challenge(segment).phase == IRegistry.Phase.Dismissed, "dismissed");
        vm.assertEq(registry.account(CHALLENGER).stake - stake, 50e18, "the bond is back");
        vm.assertEq(registry.account(owner(10)).stake - appellant, 150e18, "the appellant's too");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function test_a_verdict_about_a_voided_settlement_punishes_nobody() public {
        settleHonestly();
        ChallengeId payout = challengePayout();
        ChallengeId segment = challengeSegment();
        round(segment, 7, 0);
        vm.assertTrue(decide(payout, 7), "voided");
        uint256 stake = registry.account(owner(10)).stake;
        registry.resolve(segment);
        vm.assertTrue(registry.challenge(segment).phase == IRegistry.Phase.Dismissed, "dismissed");
        vm.assertEq(registry.account(owner(10)).stake, stake, "the worker keeps its stake");
        assertConserved();
    }

    function test_what_the_record_does_not_hold_cannot_be_challenged() public {
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.challengePayout(claimOf(batch, worker, 100e18)[0]);
        settleHonestly();
        IRegistry.Claim memory c = claimOf(batch, worker, 99e18)[0];
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadPayoutProof.selector, batch, 0));
        registry.challengePayout(c);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchFault.selector, batch, 0));
        registry.challengeFault(batch, 0);
    }

    function test_a_second_fault_of_one_owner_is_given_back_in_the_order_of_its_taking() public {
        IRegistry.Settlement memory s = withFault(settlement(batch, worker, 100e18), worker);
        IRegistry.Fault memory fault = s.faults[0];
        s.faults = new IRegistry.Fault[](2);
        (s.faults[0], s.faults[1]) = (fault, fault);
        settle(s, 1, 3);
        vm.assertEq(registry.slashes(batch)[1].amount, 0, "taken once");
        vm.assertTrue(decide(challengeFault(), 7), "voided");
        vm.assertEq(registry.account(owner(10)).stake, NODE_STAKE, "given back once");
        vm.assertEq(registry.operator(worker).lastFault, 0, "no fault on record");
    }
}
