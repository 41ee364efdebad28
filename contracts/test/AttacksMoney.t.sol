// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Attacks on the money of jobs and workers, each of which fails.
contract AttacksMoneyTest is Base {
    OperatorId private node;
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        for (uint256 i = 11; i <= 14; ++i) {
            addNode(i);
        }
        job = openJob();
    }

    function close() private {
        vm.prank(REQUESTER);
        registry.closeJob(job, anchor());
    }

    function test_a_requester_cannot_close_away_what_is_committed() public {
        BatchId batch = commit(job, 1);
        close();
        later(RECEIPT_TIME + 1);
        registry.refund(job);
        settle(settlement(batch, node, 1000e18), 1, 3);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 1000e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 1000e18, "the workers are paid");
        assertConserved();
    }

    function test_a_requester_cannot_close_between_receipt_and_commit() public {
        vm.prank(vm.addr(2001));
        registry.takeJob(job, anchor());
        close();
        registryStillHolds(1110e18);
        later(RECEIPT_TIME - 1);
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 1000e18), 1, 3);
        registry.refund(job);
        assertConserved();
    }

    function registryStillHolds(uint256 amount) private {
        vm.expectRevert();
        registry.refund(job);
        vm.assertEq(registry.totals().escrow, amount, "nothing left yet");
    }

    function test_a_deadline_cannot_cut_off_what_a_receipt_promises() public {
        vm.prank(vm.addr(2001));
        registry.takeJob(job, anchor());
        later(1 days + RECEIPT_TIME);
        registryStillHolds(1110e18);
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 1000e18), 1, 3);
    }

    /// @dev A rival takes the job over when its verifier is late, and closes it.
    function test_a_rival_that_takes_over_can_neither_close_nor_shut_out_who_owes_receipts() public {
        vm.prank(vm.addr(2001));
        registry.takeJob(job, anchor());
        later(TAKEOVER + 1);
        vm.prank(vm.addr(2002));
        registry.takeJob(job, anchor());
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotYourJob.selector, job, vm.addr(2002)));
        registry.closeJob(job, anchor());
        settle(settlement(commit(job, 1), node, 1000e18), 1, 3);
    }

    function test_a_verifier_cannot_close_a_free_job() public {
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotYourJob.selector, job, vm.addr(2001)));
        registry.closeJob(job, anchor());
    }

    function test_taking_again_does_not_hold_a_job() public {
        uint256 free = vm.getBlockTimestamp() + TAKEOVER;
        for (uint256 i = 0; i < 10; ++i) {
            vm.prank(vm.addr(2001));
            registry.takeJob(job, anchor());
            later(1 minutes);
        }
        vm.warp(free + 1);
        vm.prank(vm.addr(2002));
        registry.takeJob(job, anchor());
    }

    /// @dev A leader that commits what nobody can settle, to keep the money from others.
    function test_a_junk_commit_costs_what_it_blocks() public {
        BatchId batch = commit(job, 1);
        later(GRACE + 1);
        dropBatch(batch);
        vm.assertEq(registry.account(owner(1)).stake, 0, "1,000 of 1,110");
        vm.assertEq(registry.job(job).escrow, 1110e18, "all is free again");
        settle(settlement(commit(job, 2), node, 1000e18), 2, 2);
        assertConserved();
    }

    /// @dev The same commitments in many batches, to settle the one whose draw is kind.
    function test_draws_cannot_be_collected_by_committing_the_same_again_and_again() public {
        commit(job, 1, 6);
        uint256[] memory row = lines(job, 6);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyUnits.selector, job, 6, 4));
        registry.commitBatch(bytes32(uint256(2)), 10, bytes32(uint256(3)), row, anchor());
    }

    function test_every_draw_that_is_let_go_costs_its_leader() public {
        BatchId batch = commitLines(1, bytes32(uint256(2)), 10, lines(job, 10));
        vm.prank(owner(1));
        registry.addStake(1000e18);
        for (uint256 i = 1; i <= 5; ++i) {
            vm.roll(vm.getBlockNumber() + 8200);
            registry.recommit(batch);
            vm.assertEq(registry.account(owner(1)).stake, 2000e18 - i * PENALTY, "the penalty");
        }
        later(GRACE + 1);
        dropBatch(batch);
        vm.assertEq(registry.account(owner(1)).stake, 1900e18 - 1110e18, "and the budget, in the end");
        assertConserved();
    }

    function test_a_leader_that_never_settles_is_replaced_and_pays() public {
        BatchId batch = commit(job, 1);
        later(SETTLE_TIME + 1);
        takeBatch(batch, 2);
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - PENALTY, "penalty");
        vm.assertEq(registry.seats(), 7, "it keeps its seat");
        settle(settlement(batch, node, 1000e18), 2, 2);
    }

    /// @dev The quorum pays nobody, so that no payout can be challenged, and the requester wants its money back.
    function test_a_settlement_that_pays_nobody_frees_nothing_before_disputes_are_over() public {
        BatchId batch = commit(job, 1);
        IRegistry.Settlement memory s = settlement(batch, node, 0);
        (s.payoutCount, s.payoutRoot, s.auditUnits) = (0, 0, 0);
        settle(s, 1, 3);
        uint256 before = credit.balanceOf(REQUESTER);
        close();
        later(WINDOW + court.longestDispute() - 1);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER), before, "still there");
        voidBatch(batch, true);
        vm.assertEq(registry.batch(batch).voided ? 1 : 0, 1, "until it is voided");
        addVerifier(4);
        later(1);
        registry.refund(job);
        assertConserved();
    }

    function test_a_voided_settlement_that_paid_nobody_is_settled_with_all_its_budget() public {
        addVerifier(4);
        BatchId batch = commit(job, 1);
        IRegistry.Settlement memory s = settlement(batch, node, 0);
        (s.payoutCount, s.payoutRoot, s.auditUnits) = (0, 0, 0);
        settle(s, 1, 3);
        close();
        later(RECEIPT_TIME + 1);
        voidBatch(batch, true);
        registry.refund(job);
        takeBatch(batch, 4);
        settle(settlement(batch, node, 1000e18), 4, 1);
        later(WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 1000e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 1000e18, "the workers are paid after all");
        assertConserved();
    }

    function testFuzz_two_batches_never_pay_more_than_the_job_has(uint64 a, uint64 b, uint96 x, uint96 y) public {
        (a, b) = (a % UNITS + 1, b % UNITS + 1);
        BatchId first = commit(job, 1, a);
        uint256[] memory row = lines(job, b);
        if (a + b > UNITS) {
            vm.prank(vm.addr(2001));
            vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyUnits.selector, job, b, UNITS - a));
            registry.commitBatch(bytes32(uint256(2)), 1, 0, row, anchor());
            return;
        }
        BatchId second = commit(job, 1, b);
        (uint256 budget, uint256 other) = (lineOf(first, 0).budget, lineOf(second, 0).budget);
        vm.assertLe(budget + other, 1110e18, "no more than there is");
        (x, y) = (uint96(x % (budget - uint256(a) * 1e18 + 1)), uint96(y % (other - uint256(b) * 1e18 + 1)));
        settle(settlement(first, node, x), 1, 3);
        settle(settlement(second, node, y), 1, 3);
        vm.assertEq(registry.job(job).unitsPaid, a + b, "units");
        assertConserved();
    }

    /// @dev A worker retires and unstakes as soon as its work is committed.
    function testFuzz_stake_is_still_there_when_the_last_dispute_is_over(uint40 settled, uint40 judged) public {
        settled = settled % GRACE;
        judged = uint40(judged % (WINDOW + court.longestDispute()));
        BatchId batch = commit(job, 1);
        vm.prank(owner(10));
        registry.retire(node);
        vm.prank(owner(10));
        registry.requestUnstake(NODE_STAKE);
        later(settled);
        if (settled > SETTLE_TIME) takeBatch(batch, 2);
        settle(
            settlement(batch, OperatorId.wrap(5), 1e18), settled > SETTLE_TIME ? 2 : 1, settled > SETTLE_TIME ? 2 : 3
        );
        later(judged);
        vm.prank(owner(10));
        vm.expectRevert();
        registry.withdraw();
        vm.prank(address(court));
        vm.assertEq(registry.slash(owner(10), type(uint96).max), NODE_STAKE, "all of it");
    }

    /// @dev A requester and a quorum accuse each other's victim for its stake.
    function test_an_accusation_takes_little_for_who_brings_it() public {
        vm.prank(owner(10));
        registry.addStake(900e18);
        BatchId batch = commit(job, 1);
        settle(withFault(settlement(batch, OperatorId.wrap(5), 1e18), node), 1, 3);
        later(WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.totals().burned, 1000e18 - 55e18, "all but 55 of 1,000 is burned");
    }
}
