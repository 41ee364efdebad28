// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice Jurors answer for what they say that executing gives, and what they find convicts whom it contradicts.
contract JuryEvidenceTest is CourtBase {
    uint8 private constant WITHHELD = 2;
    uint8 private constant FALSE_AUDIT = 3;
    address private constant APPELLANT = address(0xface);

    /// @notice What a juror of a fault opens that found `answer`: the lowest bit says whether the fault is false.
    function of_(bytes32 answer, bool false_) private pure returns (bytes32) {
        return bytes32(uint256(answer) >> 1 << 1 | (false_ ? 1 : 0));
    }

    function truth(bool false_) private pure returns (bytes32) {
        return of_(sha256("where the segment leads"), false_);
    }

    /// @notice A first round in which juror i opens `found[i]`.
    function hear(ChallengeId id, bytes32[3] memory found) private returns (address[] memory jury) {
        jury = draw(id);
        for (uint256 i = 0; i < 3; ++i) {
            commitVote(id, jury[i], found[i]);
        }
        later(1 hours);
        for (uint256 i = 0; i < 3; ++i) {
            revealVote(id, jury[i], found[i]);
        }
        later(1 hours);
        court.resolve(id);
        later(1 hours);
        court.resolve(id);
        assertConserved();
    }

    /// @notice Node 11 is said to have answered falsely on the segment of node 10.
    function settleFalseAudit() private {
        IRegistry.Settlement memory s = accusing(settlement(), 11, FALSE_AUDIT);
        (s.faults[0].task, s.faults[0].segment) = (10, SEGMENT);
        settle(s);
    }

    function challengeAudit(uint256 i, uint32 segment) private returns (ChallengeId) {
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Fault, 0, 0);
        IRegistry.Header memory h = header();
        ICourt.Step memory step = stepOf(i, segment);
        vm.prank(CHALLENGER);
        return court.challengeAudit(batch, 0, h, step, SALT);
    }

    function twoRounds(uint256 first, uint256 second) private returns (address[] memory jury) {
        settleHonestly();
        enrich(APPELLANT);
        ChallengeId id = challengeSegment();
        round(id, first, 0);
        vm.prank(APPELLANT);
        court.appeal(id);
        jury = draw(id);
        vote(id, jury, second, 0);
        assertPhase(id, ICourt.Phase.Upheld, "upheld");
    }

    // ------------------------------------------------------------------------------------------ false answers

    function test_a_juror_whose_answer_all_others_contradict_loses_a_node_s_stake() public {
        address[] memory jury = twoRounds(7, 15);
        vm.assertEq(stakeOf(jury[4]), 0, "it did not execute what it answered");
        vm.assertTrue(stakeOf(jury[0]) > NODE_STAKE, "the others are paid");
        vm.assertEq(registry.totals().bonds, 0, "burned, and no prize for the others");
    }

    function test_where_juries_are_split_an_answer_costs_a_fine_and_no_more() public {
        address[] memory jury = twoRounds(3, 7);
        vm.assertEq(stakeOf(jury[4]), NODE_STAKE - FINE, "5 of 8 show nothing");
    }

    function test_a_juror_of_a_fault_that_seals_a_guess_is_not_paid() public {
        settle(accusing(settlement(), 10, MISMATCH));
        ChallengeId id = challengeFault(CHALLENGER, 0);
        address[] memory jury = hear(id, [truth(true), bytes32(uint256(1)), truth(true)]);
        assertPhase(id, ICourt.Phase.Upheld, "upheld");
        vm.assertEq(stakeOf(jury[0]), NODE_STAKE + 15e18, "half of the jury's part");
        vm.assertEq(stakeOf(jury[1]), NODE_STAKE, "a guess");
        vm.assertEq(stakeOf(jury[2]), NODE_STAKE + 15e18, "half of the jury's part");
    }

    // --------------------------------------------------------------------------------- auditors in the right

    function test_a_jury_that_clears_an_auditor_convicts_the_worker_that_it_contradicts() public {
        settleFalseAudit();
        address[] memory jury = hear(challengeAudit(10, SEGMENT), [truth(true), truth(true), truth(true)]);
        vm.assertGe(stakeOf(owner(11)), NODE_STAKE, "the auditor has its stake");
        vm.assertEq(stakeOf(owner(12)), 0, "those that outvoted it pay");
        vm.assertEq(stakeOf(owner(10)), 0, "and the worker that they covered");
        vm.assertTrue(!contains(jury, owner(10)), "which does not sit");
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claims());
        vm.assertEq(credit.balanceOf(owner(10)), before, "its pay is forfeit");
        assertConserved();
    }

    function test_who_is_convicted_with_an_auditor_cleared_was_contradicted_by_most() public {
        settleFalseAudit();
        ChallengeId id = challengeAudit(10, SEGMENT);
        bytes32 other = of_(sha256("another"), true);
        hear(id, [truth(true), other, truth(false)]);
        assertPhase(id, ICourt.Phase.Upheld, "two of three");
        vm.assertGe(stakeOf(owner(10)), NODE_STAKE, "but none says the same");
    }

    /// forge-config: default.fuzz.runs = 32
    function testFuzz_a_worker_is_not_convicted_by_what_it_committed_to(bool had) public {
        settleFalseAudit();
        ChallengeId id = challengeAudit(10, SEGMENT);
        bytes32 claimed = court.challenge(id).claimed;
        bytes32 found = of_(had ? claimed : sha256("proofyard: this state cannot be had"), true);
        hear(id, [found, found, found]);
        assertPhase(id, ICourt.Phase.Upheld, "the auditor is innocent");
        vm.assertGe(stakeOf(owner(10)), NODE_STAKE, "and the worker");
    }

    function test_only_the_segment_of_the_fault_can_be_shown() public {
        settleFalseAudit();
        bytes memory refusal = abi.encodeWithSelector(ICourt.NoSuchFault.selector, batch, 0);
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Fault, 0, 0);
        IRegistry.Header memory h = header();
        for (uint256 i = 0; i < 2; ++i) {
            ICourt.Step memory step = i == 0 ? stepOf(10, SEGMENT + 1) : stepOf(11, SEGMENT);
            vm.prank(CHALLENGER);
            vm.expectRevert(refusal);
            court.challengeAudit(batch, 0, h, step, SALT);
        }
    }

    function test_a_worker_s_fault_convicts_nobody_else() public {
        IRegistry.Settlement memory s = accusing(settlement(), 10, MISMATCH);
        (s.faults[0].task, s.faults[0].segment) = (10, SEGMENT);
        settle(s);
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Fault, 0, 0);
        IRegistry.Header memory h = header();
        ICourt.Step memory step = stepOf(10, SEGMENT);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.NoSuchFault.selector, batch, 0));
        court.challengeAudit(batch, 0, h, step, SALT);
    }

    // ------------------------------------------------------------------------------------------- no accusers

    function test_the_leader_pays_for_a_false_fault_that_has_no_accusers() public {
        settle(withFault(settlement(), nodeOf(11), MISMATCH, new uint32[](0)));
        vm.assertTrue(decide(challengeFault(CHALLENGER, 0), 7), "overturned");
        vm.assertGe(stakeOf(owner(11)), NODE_STAKE, "the innocent");
        vm.assertEq(stakeOf(owner(1)), 0, "the leader had the bytes");
        vm.assertEq(stakeOf(owner(2)), VERIFIER_STAKE, "another signer");
    }

    function test_calling_a_state_withheld_that_a_jury_gets_costs_the_leader_a_fine() public {
        settle(accusing(settlement(), 11, WITHHELD));
        vm.assertTrue(decide(challengeFault(CHALLENGER, 0), 7), "overturned");
        vm.assertEq(stakeOf(owner(1)), VERIFIER_STAKE - FINE, "the leader");
    }
}

/// @notice Benches with fewer owners than a jury.
contract SmallBenchTest is CourtBase {
    function courtParameters() internal pure override returns (ICourt.Params memory p) {
        p = super.courtParameters();
        (p.jurySize, p.appealJurySize) = (5, 7);
    }

    /// @notice Nodes 11 to `last` are left beside the worker.
    function keepTo(uint256 last) private {
        for (uint256 i = last + 1; i <= 31; ++i) {
            OperatorId node = nodeOf(i);
            vm.prank(owner(i));
            registry.retire(node);
        }
        later(1);
    }

    function test_a_small_bench_sends_three() public {
        settleHonestly();
        keepTo(14);
        ChallengeId id = challengeSegment();
        vm.assertEq(draw(id).length, 3, "of four an odd number");
        vote(id, court.jurors(id, 0), 7, 0);
        later(1 hours);
        court.resolve(id);
        vm.assertEq(stakeOf(owner(10)), 0, "convicted");
    }

    function test_voiding_for_want_of_a_jury_costs_a_bond_each_time() public {
        settleHonestly();
        keepTo(12);
        uint256 before = stakeOf(CHALLENGER);
        uint256 burned = registry.totals().burned;
        ChallengeId id = challengeSegment();
        mine();
        vm.expectRevert(abi.encodeWithSelector(ICourt.JuryTooSmall.selector, id, 2, 3));
        court.drawJury(id);
        outwait();
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Dismissed, "nobody can tell");
        vm.assertTrue(registry.batch(batch).voided, "so nothing stands");
        vm.assertEq(stakeOf(CHALLENGER), before - BOND, "whoever wanted it pays");
        vm.assertEq(registry.totals().burned, burned + BOND, "and nobody gains by it");
        assertConserved();
    }

    function test_jurors_that_stay_silent_cost_the_challenger_nothing() public {
        settleHonestly();
        keepTo(15);
        uint256 before = stakeOf(CHALLENGER);
        ChallengeId id = challengeSegment();
        round(id, 0, 31);
        mine();
        vm.expectRevert(abi.encodeWithSelector(ICourt.JuryTooSmall.selector, id, 0, 3));
        court.drawJury(id);
        outwait();
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Dismissed, "no verdict");
        vm.assertEq(stakeOf(CHALLENGER), before - REWARD, "but for what the first draw cost");
    }
}
