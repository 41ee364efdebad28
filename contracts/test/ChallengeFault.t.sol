// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice A fault found false: stake and reputation return, and those whose answers carried it pay; nobody else does.
/// forge-config: default.fuzz.runs = 128
contract ChallengeFaultTest is CourtBase {
    uint8 private constant WITHHELD = 2;
    uint8 private constant FALSE_AUDIT = 3;

    function accuse(uint8 reason) private {
        settle(accusing(settlement(), 10, reason));
    }

    function assertAccusersKeepTheirStake() private view {
        for (uint256 i = 12; i <= 14; ++i) {
            vm.assertEq(stakeOf(owner(i)), NODE_STAKE, "an accuser");
        }
    }

    function testFuzz_a_false_fault_is_undone_and_its_accusers_pay(uint96 extra, bool upheld, bool audit) public {
        extra = uint96(extra % (500 * CREDIT));
        vm.prank(owner(10));
        registry.addStake(extra);
        accuse(audit ? FALSE_AUDIT : MISMATCH);
        vm.assertEq(stakeOf(owner(10)), 0, "frozen");
        uint256 before = stakeOf(CHALLENGER);
        vm.assertTrue(decide(challengeFault(CHALLENGER, 0), upheld ? 7 : 0) == upheld, "decided");
        // Of a node's stake of the three that the accusers lose, 5% goes to whom they wronged.
        vm.assertEq(stakeOf(owner(10)), upheld ? NODE_STAKE + extra + 5e18 : 0, "the accused");
        vm.assertTrue(registry.slashes(batch)[0].absolved == upheld, "on record");
        for (uint256 i = 12; i <= 14; ++i) {
            vm.assertEq(stakeOf(owner(i)), upheld ? 0 : NODE_STAKE, "an accuser");
        }
        for (uint256 i = 1; i <= 4; ++i) {
            vm.assertEq(stakeOf(owner(i)), VERIFIER_STAKE, "signers could not know better, and win nothing");
        }
        vm.assertEq(stakeOf(CHALLENGER), upheld ? before - REWARD + 10e18 : before - BOND, "the challenger");
        registry.finalize(batch);
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function testFuzz_who_withheld_a_state_and_shows_it_to_the_jury_pays_for_being_late(uint8 votes) public {
        accuse(WITHHELD);
        bool upheld = decide(challengeFault(CHALLENGER, 0), votes % 8);
        vm.assertEq(stakeOf(owner(10)), upheld ? NODE_STAKE - FINE : 0, "its stake is back, less a fine");
        for (uint256 i = 12; i <= 14; ++i) {
            vm.assertGe(stakeOf(owner(i)), NODE_STAKE, "who did not get it told the truth");
        }
    }

    function test_who_disagreed_about_an_inexact_result_loses_no_stake() public {
        accuse(DISAGREED);
        vm.assertEq(stakeOf(owner(10)), NODE_STAKE, "a fault without stake");
        vm.assertTrue(decide(challengeFault(CHALLENGER, 0), 7), "overturned");
        vm.assertEq(stakeOf(owner(10)), NODE_STAKE, "the accused");
        assertAccusersKeepTheirStake();
    }

    function testFuzz_the_accused_s_bond_comes_out_of_what_the_fault_holds(bool upheld, bool byKey) public {
        accuse(MISMATCH);
        address caller = byKey ? vm.addr(1010) : owner(10);
        seal(caller, owner(10), ICourt.Kind.Fault, 0, 0);
        vm.prank(caller);
        ChallengeId id = court.challengeFault(batch, 0, SALT);
        vm.assertTrue(court.challenge(id).challenger == owner(10), "its owner's challenge");
        vm.assertEq(registry.slashes(batch)[0].amount, NODE_STAKE - BOND, "the fault holds less");
        assertConserved();
        vm.assertTrue(decide(id, upheld ? 7 : 0) == upheld, "decided");
        vm.assertEq(stakeOf(owner(10)), upheld ? NODE_STAKE - REWARD + 15e18 : 0, "all of it is back, or lost");
    }

    function test_another_fault_of_the_same_owner_can_hold_the_bond() public {
        IRegistry.Settlement memory s = accusing(settlement(), 10, MISMATCH);
        s = accusing(s, 10, MISMATCH);
        s.faults[1].task = 5;
        settle(s);
        vm.assertEq(registry.slashes(batch)[1].amount, 0, "the first took all");
        ChallengeId second = challengeFault(owner(10), 1);
        ChallengeId first = challengeFault(owner(10), 0);
        vm.assertEq(registry.slashes(batch)[0].amount, 0, "two bonds");
        roundOfBoth(second, first, true);
        later(1 hours);
        court.resolve(second);
        court.resolve(first);
        vm.assertGe(stakeOf(owner(10)), NODE_STAKE, "all is back");
        assertConserved();
    }

    function test_a_stranger_s_bond_is_its_own() public {
        accuse(MISMATCH);
        seal(owner(60), owner(60), ICourt.Kind.Fault, 0, 0);
        vm.prank(owner(60));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, owner(60), 0, BOND));
        court.challengeFault(batch, 0, SALT);
    }

    function testFuzz_what_the_record_does_not_hold_cannot_be_challenged(uint32 index) public {
        accuse(MISMATCH);
        index = index == 0 ? 1 : index;
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.NoSuchFault.selector, batch, index));
        court.challengeFault(batch, index, SALT);
    }

    function test_a_convicted_node_that_challenges_its_fault_in_vain_wins_nothing_of_its_bond() public {
        accuse(MISMATCH);
        ChallengeId id = challengeFault(owner(10), 0);
        vm.assertTrue(!decide(id, 0), "rejected");
        vm.assertEq(stakeOf(owner(10)), 0, "nothing");
        assertAccusersKeepTheirStake();
    }

    function test_the_accused_can_appeal_with_what_the_fault_still_holds() public {
        vm.prank(owner(10));
        registry.addStake(200e18);
        accuse(MISMATCH);
        ChallengeId id = challengeFault(owner(10), 0);
        round(id, 0, 0);
        vm.prank(vm.addr(1010));
        court.appeal(id);
        vm.assertEq(registry.slashes(batch)[0].amount, 100e18, "two bonds less");
        assertConserved();
        round(id, 31, 0);
        assertPhase(id, ICourt.Phase.Upheld, "the last verdict");
        vm.assertEq(stakeOf(owner(10)), 300e18 + 15e18 - 2 * REWARD, "everything is back");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
    }
}
