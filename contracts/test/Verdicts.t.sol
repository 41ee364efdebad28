// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base, Line} from "./helpers/Base.sol";

/// @notice What the Court may have done, and nobody else.
contract VerdictsTest is Base {
    OperatorId private node;
    JobId private job;
    BatchId private batch;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 4; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        for (uint256 i = 11; i <= 14; ++i) {
            addNode(i);
        }
        job = openJob();
        batch = commit(job, 1);
    }

    modifier asCourt() {
        vm.prank(address(court));
        _;
    }

    function stakeOf(uint256 i) private view returns (uint256) {
        return registry.account(owner(i)).stake;
    }

    function test_nobody_but_the_court_may() public {
        bytes[] memory calls = new bytes[](11);
        calls[0] = abi.encodeCall(IRegistry.chargeBond, (owner(10), 1));
        calls[1] = abi.encodeCall(IRegistry.chargeFrozen, (batch, 0, 1));
        calls[2] = abi.encodeCall(IRegistry.give, (owner(10), 1));
        calls[3] = abi.encodeCall(IRegistry.giveJob, (job, 1));
        calls[4] = abi.encodeCall(IRegistry.burn, (1));
        calls[5] = abi.encodeCall(IRegistry.slash, (owner(10), 1));
        calls[6] = abi.encodeCall(IRegistry.hold, (batch));
        calls[7] = abi.encodeCall(IRegistry.release, (batch));
        calls[8] = abi.encodeCall(IRegistry.convict, (batch, node, job, 0, 0));
        calls[9] = abi.encodeCall(IRegistry.absolve, (batch, 0));
        calls[10] = abi.encodeCall(IRegistry.void, (batch, true));
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool ok, bytes memory answer) = address(registry).call(calls[i]);
            vm.assertTrue(!ok && bytes4(answer) == IRegistry.NotCourt.selector, "refused");
        }
    }

    // -------------------------------------------------------------------------------------------------- money

    function test_a_bond_comes_from_the_stake_of_the_callers_owner_or_its_own() public {
        vm.prank(address(court));
        vm.assertTrue(registry.chargeBond(vm.addr(1010), 50e18) == owner(10), "the hot key's owner");
        vm.assertEq(stakeOf(10), 50e18, "which may leave its node without backing");
        vm.assertTrue(!lens.operator(node).active, "inactive");
        fund(address(0xd00d), 50e18);
        vm.prank(address(0xd00d));
        registry.addStake(50e18);
        vm.prank(address(court));
        vm.assertTrue(registry.chargeBond(address(0xd00d), 50e18) == address(0xd00d), "an account of its own");
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, address(0xd00d), 0, 1));
        registry.chargeBond(address(0xd00d), 1);
        vm.assertEq(registry.totals().bonds, 100e18, "bonds");
        assertConserved();
    }

    function test_a_bond_never_takes_what_backs_a_verifier_or_its_quarantine() public {
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(address(court));
            vm.expectRevert(
                abi.encodeWithSelector(
                    IRegistry.StakeTooLow.selector, owner(4), VERIFIER_STAKE, uint256(VERIFIER_STAKE) + 1
                )
            );
            registry.chargeBond(vm.addr(2004), 1);
            if (i == 1) break;
            OperatorId fourth = registry.operatorOf(vm.addr(2004));
            vm.prank(owner(4));
            registry.retire(fourth);
        }
        later(UNSTAKE_DELAY);
        vm.prank(address(court));
        registry.chargeBond(vm.addr(2004), 1);
    }

    function test_a_rotated_key_does_not_reach_the_stake() public {
        bytes memory agreed = consent(5555, owner(10));
        vm.prank(owner(10));
        registry.rotateKey(node, vm.addr(5555), agreed);
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, vm.addr(1010), 0, 1));
        registry.chargeBond(vm.addr(1010), 1);
    }

    function testFuzz_money_moves_from_the_bonds_and_stays_accounted_for(uint96 a, uint96 b, uint96 c) public {
        (a, b, c) = (a % 30e18, b % 30e18, c % 30e18);
        vm.prank(address(court));
        registry.chargeBond(vm.addr(1010), 100e18);
        vm.prank(address(court));
        registry.give(owner(11), a);
        vm.prank(address(court));
        registry.giveJob(job, b);
        vm.prank(address(court));
        registry.burn(c);
        vm.assertEq(stakeOf(11), NODE_STAKE + a, "to an owner");
        vm.assertEq(registry.job(job).surplus, b, "to a job");
        vm.assertEq(registry.totals().burned, c, "burned");
        vm.assertEq(registry.totals().bonds, 100e18 - uint256(a) - b - c, "the rest");
        assertConserved();
        vm.prank(address(court));
        vm.expectRevert();
        registry.burn(100e18 - a - b - c + 1);
    }

    function testFuzz_a_slash_takes_stake_then_what_unbonds_and_the_seat_that_it_does_not_back(uint96 amount) public {
        vm.prank(owner(4));
        registry.addStake(300e18);
        vm.prank(owner(4));
        registry.requestUnstake(200e18);
        amount = amount % 2000e18;
        vm.prank(address(court));
        uint256 taken = registry.slash(owner(4), amount);
        vm.assertEq(taken, amount < 1300e18 ? amount : 1300e18, "as much as there is");
        IRegistry.Account memory a = registry.account(owner(4));
        vm.assertEq(uint256(a.stake) + a.unbonding, 1300e18 - taken, "left");
        vm.assertEq(a.unbonding < 200e18 ? a.stake : 0, 0, "stake goes first");
        vm.assertEq(
            registry.seats(), amount > 600e18 ? 7 : 15, "the seat: less than half of what it staked for it is left"
        );
        assertConserved();
    }

    function test_what_a_fault_holds_serves_as_bond_for_its_own_challenge() public {
        settle(withFault(settlement(batch, OperatorId.wrap(6), 1e18), node), 1, 3);
        vm.prank(address(court));
        registry.chargeFrozen(batch, 0, 50e18);
        vm.assertEq(registry.slashes(batch)[0].amount, 50e18, "the rest is held");
        vm.assertEq(registry.account(owner(10)).frozen, 50e18, "frozen");
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, owner(10), 50e18, 51e18));
        registry.chargeFrozen(batch, 0, 51e18);
        vm.prank(address(court));
        registry.absolve(batch, 0);
        vm.prank(address(court));
        registry.give(owner(10), 50e18);
        vm.assertEq(stakeOf(10), NODE_STAKE, "all is back");
        assertConserved();
    }

    // ---------------------------------------------------------------------------------------------- voiding

    function test_only_a_settled_batch_is_held_or_voided_and_releasing_a_voided_one_is_harmless() public {
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        registry.hold(batch);
        vm.prank(address(court));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotSettled.selector, batch));
        registry.void(batch, false);
        vm.prank(address(court));
        registry.release(batch);
    }

    function test_a_voided_settlement_pays_nobody_frees_nothing_and_costs_its_signers_their_stake() public {
        settle(withFault(settlement(batch, OperatorId.wrap(6), 500e18), node), 1, 3);
        uint256 surplus = registry.job(job).surplus;
        vm.assertEq(voidBatch(batch, true), 3 * VERIFIER_STAKE, "seized");
        vm.assertEq(registry.totals().bonds, 3 * VERIFIER_STAKE, "for the Court to share");
        vm.assertEq(registry.seats(), 8, "the seats too");
        vm.assertEq(stakeOf(10), NODE_STAKE, "the accused has its stake back");
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(j.surplus, surplus, "nothing is free for the requester");
        vm.assertEq(j.unitsPaid, 10, "nor can its units be committed again");
        IRegistry.Batch memory b = registry.batch(batch);
        vm.assertTrue(b.voided && b.attempt == 1 && b.settled.settledAt == 0, "to be settled again");
        assertConserved();
        IRegistry.Settlement memory s = settlement(batch, node, 500e18);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "voided, take it first"));
        registry.settleBatch(s, header, 8, "");
    }

    function test_a_voided_batch_is_taken_by_any_seat_that_counts_and_settled_with_all_its_budget() public {
        addVerifier(5);
        settle(settlement(batch, node, 500e18), 1, 4);
        later(SEAT_DELAY);
        voidBatch(batch, true);
        takeBatch(batch, 5);
        Line memory l = lineOf(batch, 0);
        vm.assertEq(l.budget, 1110e18, "what was paid and what was left over");
        vm.assertEq(l.paidUnits + l.amount, 0, "nothing is paid");
        vm.assertEq(registry.job(job).unitsOpen, 10, "open again");
        vm.assertEq(registry.job(job).unitsPaid, 0, "not paid");
        settle(settlement(batch, node, 1000e18), 5, 1);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 1000e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 1000e18, "paid");
        assertConserved();
    }

    function test_the_grace_of_a_voided_batch_runs_from_its_voiding() public {
        settle(settlement(batch, node, 500e18), 1, 3);
        later(GRACE);
        voidBatch(batch, false);
        later(GRACE);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOverdue.selector, batch, vm.getBlockTimestamp()));
        registry.dropBatch(batch, header);
        takeBatch(batch, 1);
        settle(settlement(batch, node, 500e18), 1, 3);
        assertConserved();
    }

    function test_a_voided_batch_that_nobody_takes_is_dropped_and_costs_nobody() public {
        settle(settlement(batch, node, 500e18), 1, 3);
        voidBatch(batch, false);
        later(GRACE + 1);
        dropBatch(batch);
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(uint256(j.escrow) + j.surplus, 1110e18, "all is back");
        vm.assertEq(j.unitsPaid + j.unitsOpen, 0, "units too");
        vm.assertEq(stakeOf(1), VERIFIER_STAKE, "no leader, no penalty");
        assertConserved();
    }

    function test_signatures_of_one_attempt_are_worth_nothing_for_the_next() public {
        IRegistry.Settlement memory s = settlement(batch, node, 500e18);
        settle(s, 1, 3);
        voidBatch(batch, false);
        takeBatch(batch, 1);
        IRegistry.Header memory header = headerOf(batch);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        vm.prank(address(court));
        settle(s, bitmap, signature);
        voidBatch(batch, false);
        takeBatch(batch, 1);
        header = headerOf(batch);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, bitmap, signature);
    }

    /// forge-config: default.fuzz.runs = 4
    function testFuzz_a_batch_that_was_taken_and_voided_too_often_can_still_be_voided_and_dropped(bool odd) public {
        // Taken over once, so that the number is odd.
        batch = commit(openJob(), odd ? 1 : 2);
        if (odd) {
            later(SETTLE_TIME + 1);
            takeBatch(batch, 2);
        }
        while (registry.batch(batch).attempt < 254) {
            settle(settlement(batch, node, 500e18), 2, 3);
            voidBatch(batch, false);
            takeBatch(batch, 2);
        }
        settle(settlement(batch, node, 500e18), 2, 3);
        voidBatch(batch, false);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "too many attempts"));
        registry.takeBatch(batch, header);
        later(GRACE + 1);
        dropBatch(batch);
        assertConserved();
    }

    function testFuzz_units_committed_again_while_a_batch_was_void_are_paid_once(uint64 first, uint64 second) public {
        (first, second) = (first % 11, second % 11);
        job = openJob(jobParams(1000e18, 100e18, 0));
        batch = commit(job, 1);
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        s.shares[0] = Lines.packPaid(uint48(0), Lines.amount(s.shares[0]), 0);
        settle(s, 1, 3);
        BatchId again = commit(job, 1);
        voidBatch(batch, false);
        takeBatch(batch, 1);
        s = settlement(batch, node, 1e18);
        s.shares[0] = Lines.packPaid(uint48(first), Lines.amount(s.shares[0]), 0);
        settle(s, 1, 3);
        s = settlement(again, node, 1e18);
        s.shares[0] = Lines.packPaid(uint48(second), Lines.amount(s.shares[0]), 0);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(again);
        if (first + second > UNITS) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyUnits.selector, job, second, UNITS - first));
        }
        registry.settleBatch(s, header, bitmap, signature);
        vm.assertLe(registry.job(job).unitsPaid, UNITS, "no more than the job has");
        assertConserved();
    }
}
