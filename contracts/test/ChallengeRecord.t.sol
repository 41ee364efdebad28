// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice A record that cannot be had or does not validate: the settlement is voided, and those who signed it pay.
/// forge-config: default.fuzz.runs = 128
contract ChallengeRecordTest is CourtBase {
    function testFuzz_a_record_that_the_jury_refuses_is_voided_and_its_signers_pay(uint8 votes) public {
        settleHonestly();
        uint256 before = stakeOf(CHALLENGER);
        bool upheld = decide(challengeRecord(CHALLENGER), votes % 8);
        vm.assertTrue(upheld == (count(votes, 3) >= 2), "the majority decides");
        vm.assertEq(registry.batch(batch).attempt, upheld ? 1 : 0, "attempt");
        vm.assertEq(lens.claimable(1, 2), upheld ? 0 : PAY + FEE, "claimable");
        for (uint256 i = 1; i <= 3; ++i) {
            uint256 won = i == 1 ? (BOND - REWARD) / 10 : 0;
            vm.assertEq(stakeOf(owner(i)), upheld ? 0 : VERIFIER_STAKE + won, "a signer; the leader wins a lost bond");
        }
        vm.assertEq(stakeOf(owner(4)), VERIFIER_STAKE, "who did not sign keeps its stake");
        vm.assertEq(registry.seats(), upheld ? 8 : 15, "seats");
        vm.assertEq(stakeOf(CHALLENGER), upheld ? before - REWARD + 10e18 : before - BOND, "the challenger");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function test_it_needs_no_payout_and_no_fault() public {
        IRegistry.Settlement memory s = settlement();
        (s.payoutRoot, s.payoutCount, s.payoutTotal) = (0, 0, 0);
        s.shares[0] = Lines.packPaid(uint48(Lines.paidUnits(s.shares[0])), 0, 0);
        settle(s);
        vm.assertTrue(decide(challengeRecord(CHALLENGER), 7), "voided");
        vm.assertEq(stakeOf(owner(1)), 0, "the leader pays");
    }

    function test_a_header_that_is_not_the_batch_s_is_refused() public {
        settleHonestly();
        IRegistry.Header memory h = unpaidHeader();
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadHeader.selector, batch));
        court.challengeRecord(batch, h, SALT);
    }

    function test_what_is_not_settled_has_no_record() public {
        IRegistry.Header memory h = header();
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        court.challengeRecord(batch, h, SALT);
    }

    function test_other_challenges_of_a_voided_settlement_are_dismissed_with_their_bonds() public {
        settleHonestly();
        uint256 before = stakeOf(CHALLENGER);
        ChallengeId record = challengeRecord(CHALLENGER);
        ChallengeId segment = challengeSegment();
        roundOfBoth(record, segment, true);
        enrich(owner(10));
        vm.prank(owner(10));
        court.appeal(segment);
        later(1 hours);
        court.resolve(record);
        uint256 worker_ = stakeOf(owner(10));
        mine();
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, segment, ICourt.Phase.Dismissed));
        court.drawJury(segment);
        court.resolve(segment);
        assertPhase(segment, ICourt.Phase.Dismissed, "dismissed");
        vm.assertEq(stakeOf(CHALLENGER), before + 10e18 - 2 * REWARD, "both bonds are back, less what drew the juries");
        vm.assertEq(stakeOf(owner(10)) - worker_, APPEAL_BOND, "the appellant's too");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function test_a_verdict_about_a_voided_settlement_punishes_nobody() public {
        settleHonestly();
        ChallengeId record = challengeRecord(CHALLENGER);
        ChallengeId segment = challengeSegment();
        roundOfBoth(segment, record, true);
        later(1 hours);
        court.resolve(record);
        vm.prank(CHALLENGER);
        vm.expectRevert();
        court.appeal(segment);
        court.resolve(segment);
        assertPhase(segment, ICourt.Phase.Dismissed, "dismissed");
        vm.assertEq(stakeOf(owner(10)), NODE_STAKE, "the worker keeps its stake");
        assertConserved();
    }

    function test_jurors_of_a_voided_settlement_owe_nothing() public {
        settleHonestly();
        ChallengeId record = challengeRecord(CHALLENGER);
        ChallengeId segment = challengeSegment();
        address[] memory jury = draw(record);
        address[] memory idle = court.drawJury(segment);
        vote(record, jury, 7, 0);
        later(1 hours);
        court.resolve(record);
        court.resolve(segment);
        assertPhase(segment, ICourt.Phase.Dismissed, "dismissed");
        for (uint256 i = 0; i < idle.length; ++i) {
            vm.assertGe(stakeOf(idle[i]), NODE_STAKE, "nobody is fined for a vote that was not needed");
        }
        assertConserved();
    }

    function test_the_next_attempt_is_challenged_anew() public {
        settleHonestly();
        ChallengeId first = challengeRecord(CHALLENGER);
        vm.assertTrue(decide(first, 7), "voided");
        takeBatch(batch, 4);
        settle(settlement(), 4, 1);
        ChallengeId second = challengeRecord(CHALLENGER);
        vm.assertTrue(ChallengeId.unwrap(second) != ChallengeId.unwrap(first), "another challenge");
        vm.assertTrue(!decide(second, 0), "this one stands");
        later(WINDOW);
        registry.claim(claims());
        assertConserved();
    }
}
