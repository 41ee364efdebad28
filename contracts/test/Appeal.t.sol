// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice A verdict taken to a larger jury.
/// forge-config: default.fuzz.runs = 128
contract AppealTest is CourtBase {
    address private constant APPELLANT = address(0xa99);

    function setUp() public override {
        super.setUp();
        enrich(APPELLANT);
        settleHonestly();
    }

    function appealed(bool wrong) private returns (ChallengeId id) {
        id = challengeSegment();
        round(id, wrong ? 7 : 0, 0);
        vm.prank(APPELLANT);
        court.appeal(id);
    }

    function testFuzz_an_appeal_has_the_last_word_and_books_balance(uint8 first, uint8 second, uint8 silent) public {
        silent = silent % 32;
        vm.assume(count(silent, 5) <= 2);
        ChallengeId id = challengeSegment();
        round(id, first % 8, 0);
        bool verdict = court.challenge(id).wrong;
        vm.prank(APPELLANT);
        court.appeal(id);
        uint256 before = stakeOf(APPELLANT);
        round(id, second % 32, silent);
        bool upheld = count(second & ~silent, 5) * 2 > 5 - count(silent, 5);
        assertPhase(id, upheld ? ICourt.Phase.Upheld : ICourt.Phase.Rejected, "decided");
        vm.assertTrue((stakeOf(owner(10)) == 0) == upheld, "the worker's stake follows the last verdict");
        vm.assertEq(stakeOf(APPELLANT) - before, verdict == upheld ? 0 : APPEAL_BOND, "a bond back from who was right");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function testFuzz_jurors_of_either_round_are_paid_for_the_last_verdict(bool first, bool last) public {
        ChallengeId id = challengeSegment();
        address[] memory one = draw(id);
        vote(id, one, first ? 7 : 0, 0);
        vm.prank(APPELLANT);
        court.appeal(id);
        address[] memory two = draw(id);
        for (uint256 i = 0; i < one.length; ++i) {
            vm.assertTrue(!contains(two, one[i]), "nobody sits twice");
        }
        vote(id, two, last ? 31 : 0, 0);
        for (uint256 i = 0; i < 3; ++i) {
            bool agrees = first == last;
            vm.assertTrue(agrees ? stakeOf(one[i]) > NODE_STAKE : stakeOf(one[i]) == NODE_STAKE - FINE, "first jury");
        }
        for (uint256 i = 0; i < 5; ++i) {
            vm.assertTrue(stakeOf(two[i]) > NODE_STAKE, "second jury");
        }
    }

    function test_an_appeal_is_made_once_in_its_time_and_with_a_bond() public {
        ChallengeId id = challengeSegment();
        vm.prank(APPELLANT);
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Draw));
        court.appeal(id);
        round(id, 7, 0);
        uint256 end = court.challenge(id).until;
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, end));
        court.resolve(id);
        vm.prank(owner(10));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, owner(10), NODE_STAKE, APPEAL_BOND));
        court.appeal(id);
        uint256 before = stakeOf(APPELLANT);
        vm.prank(APPELLANT);
        court.appeal(id);
        vm.assertEq(before - stakeOf(APPELLANT), APPEAL_BOND, "the appeal's bond");
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Draw));
        court.appeal(id);
        round(id, 31, 0);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Upheld));
        court.appeal(id);
    }

    function test_an_appeal_out_of_time_is_refused() public {
        ChallengeId id = challengeSegment();
        round(id, 7, 0);
        uint256 end = court.challenge(id).until;
        vm.warp(end);
        vm.prank(APPELLANT);
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooLate.selector, id, end));
        court.appeal(id);
    }

    function testFuzz_an_appeal_that_finds_no_jury_leaves_the_first_verdict(bool wrong) public {
        // Of the seven that are left three sit in the first round, and four are no jury of five.
        for (uint256 i = 18; i <= 31; ++i) {
            OperatorId node = nodeOf(i);
            vm.prank(owner(i));
            registry.retire(node);
        }
        later(1);
        uint256 before = stakeOf(APPELLANT);
        ChallengeId id = appealed(wrong);
        mine();
        vm.expectRevert(abi.encodeWithSelector(ICourt.JuryTooSmall.selector, id, 4, 5));
        court.drawJury(id);
        _expired(id, wrong, before);
    }

    function testFuzz_an_appeal_whose_juries_stay_silent_leaves_the_first_verdict(bool wrong) public {
        uint256 before = stakeOf(APPELLANT);
        ChallengeId id = appealed(wrong);
        round(id, 0, 31);
        assertPhase(id, ICourt.Phase.Draw, "drawn again");
        round(id, 0, 31);
        assertPhase(id, wrong ? ICourt.Phase.Upheld : ICourt.Phase.Rejected, "the first verdict stands");
        vm.assertEq(stakeOf(APPELLANT), before, "the appellant's bond is back");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }

    function testFuzz_an_appeal_that_nobody_drew_costs_its_bond(bool wrong) public {
        uint256 before = stakeOf(APPELLANT);
        ChallengeId id = appealed(wrong);
        mine();
        _expired(id, wrong, before - APPEAL_BOND);
    }

    function _expired(ChallengeId id, bool wrong, uint256 stake) private {
        outwait();
        court.resolve(id);
        assertPhase(id, wrong ? ICourt.Phase.Upheld : ICourt.Phase.Rejected, "the first verdict stands");
        vm.assertEq(stakeOf(APPELLANT), stake, "the appellant's bond");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }
}
