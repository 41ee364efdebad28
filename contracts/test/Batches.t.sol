// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Committing, drawing, taking over and dropping batches.
contract BatchesTest is Base {
    OperatorId private node;
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        job = openJob();
    }

    function refused(string memory reason, bytes32 root, uint32 size, uint256[] memory row) private {
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, reason));
        registry.commitBatch(root, size, 0, row, anchor());
    }

    // ------------------------------------------------------------------------------------------------ commits

    function test_malformed_batches_are_refused_by_name() public {
        refused("empty", 0, 0, lines(job, 1));
        refused("no lines, or too many", 0, 1, new uint256[](0));
        refused("no lines, or too many", 0, 1, new uint256[](129));
        uint256[] memory twice = new uint256[](2);
        (twice[0], twice[1]) = (line(job, 1), line(job, 1));
        refused("jobs must ascend", 0, 1, twice);
        uint256[] memory row = lines(job, 1);
        row[0] |= 1;
        refused("line not empty", 0, 1, row);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownJob.selector, JobId.wrap(77)));
        registry.commitBatch(0, 1, 0, lines(JobId.wrap(77), 1), anchor());
    }

    function test_nodes_and_strangers_commit_nothing() public {
        uint256[] memory row = lines(job, 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(this)));
        registry.commitBatch(0, 1, 0, row, anchor());
        vm.prank(vm.addr(1010));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        registry.commitBatch(0, 1, 0, row, anchor());
    }

    function testFuzz_a_line_reserves_its_share_by_units_and_no_more_units_than_there_are(
        uint96 money,
        uint48 units,
        uint48 part
    ) public {
        IRegistry.JobParams memory p = jobParams(uint96(money % 1e23), 7, 3);
        p.units = uint64(units) + 1 > type(uint48).max ? units : uint64(units) + 1;
        uint64 some = uint64(part) % p.units + 1;
        JobId id = openJob(p);
        BatchId batch = commitLines(1, bytes32(uint256(2)), 1, lines(id, some));
        uint256 total = uint256(p.reward) + 10;
        uint256 due = (total * some + p.units - 1) / p.units;
        vm.assertEq(lineOf(batch, 0).budget, due, "rounded up");
        vm.assertEq(registry.job(id).escrow, total - due, "what is free");
        uint256[] memory more = lines(id, p.units - some + 1);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyUnits.selector, id, p.units - some + 1, p.units - some));
        registry.commitBatch(0, 1, 0, more, anchor());
        if (some < p.units) {
            batch = commitLines(1, bytes32(uint256(2)), 1, lines(id, p.units - some));
            vm.assertEq(lineOf(batch, 0).budget, total - due, "the rest, even if the shares round up");
        }
        assertConserved();
    }

    function test_a_batch_of_several_jobs_reserves_from_each() public {
        JobId other = openJob();
        uint256[] memory row = new uint256[](2);
        (row[0], row[1]) = (line(job, 5), line(other, 10));
        BatchId batch = commitLines(1, bytes32(uint256(2)), 1, row);
        uint256[] memory reserved = headerOf(batch).lines;
        vm.assertEq(Lines.budget(reserved[0]), 555e18, "half of the first");
        vm.assertEq(Lines.budget(reserved[1]), 1110e18, "all of the second");
        vm.assertEq(registry.job(other).verifier, OperatorId.unwrap(registry.operatorOf(vm.addr(2001))), "taken");
        vm.assertEq(registry.batch(batch).header, Headers.stored(headerOf(batch)), "its hash is kept");
    }

    function testFuzz_commits_are_possible_as_long_as_a_receipt_is_due(uint40 wait, bool closed) public {
        vm.prank(vm.addr(2001));
        registry.takeJob(job, anchor());
        uint256 end = vm.getBlockTimestamp() + (closed ? 0 : 1 days);
        if (closed) {
            vm.prank(REQUESTER);
            registry.closeJob(job, anchor());
        }
        wait = wait % (2 * RECEIPT_TIME);
        vm.warp(end + wait);
        uint256[] memory row = lines(job, 1);
        vm.prank(vm.addr(2001));
        if (closed && wait >= RECEIPT_TIME) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        } else if (wait > RECEIPT_TIME) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.DeadlinePassed.selector, job, end + RECEIPT_TIME));
        }
        registry.commitBatch(0, 1, 0, row, anchor());
    }

    // --------------------------------------------------------------------------------------------------- draw

    function test_the_seed_is_fixed_by_its_block_and_cannot_be_drawn_again() public {
        BatchId batch = commitLines(1, bytes32(uint256(2)), 10, lines(job, 10));
        uint256 drawBlock = vm.getBlockNumber() + 2;
        vm.roll(drawBlock);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarlyToDraw.selector, batch, drawBlock));
        registry.draw(batch);
        vm.roll(drawBlock + 1);
        vm.setBlockhash(drawBlock, keccak256("entropy"));
        bytes32 seed = registry.draw(batch);
        bytes32 header = Headers.stored(headerOf(batch));
        vm.assertEq(seed, keccak256(abi.encode(keccak256("entropy"), batch, header)), "seed");
        vm.roll(drawBlock + 20);
        vm.assertEq(registry.draw(batch), seed, "the same for ever");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedAvailable.selector, batch));
        registry.recommit(batch);
    }

    function test_a_lost_seed_is_moved_for_everyone_to_see_and_the_leader_pays() public {
        BatchId batch = commitLines(1, bytes32(uint256(2)), 10, lines(job, 10));
        uint256 drawBlock = vm.getBlockNumber() + 2;
        vm.roll(vm.getBlockNumber() + 20_000);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedLost.selector, batch, drawBlock));
        registry.draw(batch);
        registry.recommit(batch);
        vm.assertEq(registry.batch(batch).commitBlock, vm.getBlockNumber(), "new block");
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - PENALTY, "penalty");
        vm.assertEq(registry.totals().burned, PENALTY, "burned");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(9)));
        registry.draw(BatchId.wrap(9));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(9)));
        registry.recommit(BatchId.wrap(9));
        assertConserved();
    }

    // ------------------------------------------------------------------------------------------------- taking

    function testFuzz_an_overdue_batch_is_taken_over_and_its_leader_pays(uint40 wait) public {
        wait = wait % (2 * GRACE);
        BatchId batch = commit(job, 1);
        uint256 start = vm.getBlockTimestamp();
        later(wait);
        IRegistry.Header memory header = headerOf(batch);
        if (wait <= SETTLE_TIME || wait > GRACE) {
            vm.prank(vm.addr(2002));
            if (wait > GRACE) {
                vm.expectRevert(abi.encodeWithSelector(IRegistry.BatchExpired.selector, batch, start + GRACE));
            } else {
                vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOverdue.selector, batch, start + SETTLE_TIME));
            }
            registry.takeBatch(batch, header);
            return;
        }
        takeBatch(batch, 2);
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - PENALTY, "penalty");
        vm.assertEq(registry.batch(batch).leaderSince, vm.getBlockTimestamp(), "a new term");
        settle(settlement(batch, node, 1e18), 2, 2);
        assertConserved();
    }

    /// @dev Everybody has signed the first leader's record, which it keeps back.
    function test_a_successor_is_not_bound_to_what_was_signed_for_the_leader_before() public {
        BatchId batch = commit(job, 1);
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        later(SETTLE_TIME + 1);
        vm.prank(owner(1));
        registry.addStake(PENALTY);
        takeBatch(batch, 2);
        vm.assertEq(registry.batch(batch).attempt, 1, "a new attempt");
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, bitmap, signature);
        settle(settlement(batch, node, 2e18), 1, 3);
        vm.assertEq(registry.batch(batch).settled.remaining, 2e18, "the successor's record");
    }

    /// @dev Two verifiers of one hand cannot pass a hidden batch on to have it dropped for the small penalty.
    function test_who_committed_a_batch_owes_its_budget_whoever_leads_it_when_it_is_dropped() public {
        BatchId batch = commit(job, 1, 4);
        later(SETTLE_TIME + 1);
        takeBatch(batch, 2);
        later(GRACE);
        dropBatch(batch);
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - 444e18, "the committer, the takeover included");
        vm.assertEq(registry.account(owner(2)).stake, VERIFIER_STAKE - PENALTY, "the successor");
        assertConserved();
    }

    function test_a_committer_may_take_its_batch_back() public {
        BatchId batch = commit(job, 1);
        later(SETTLE_TIME + 1);
        takeBatch(batch, 2);
        later(SETTLE_TIME + 1);
        takeBatch(batch, 1);
        vm.assertEq(registry.seats(), 7, "a penalty takes no seat");
        uint256[] memory secrets = new uint256[](2);
        (secrets[0], secrets[1]) = (3001, 3003);
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        settle(s, 5, signatureOf(s, secrets));
    }

    function test_a_leader_cannot_take_its_own_batch_over() public {
        BatchId batch = commit(job, 1);
        later(SETTLE_TIME + 1);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOverdue.selector, batch, vm.getBlockTimestamp() - 1));
        registry.takeBatch(batch, header);
    }

    function test_a_batch_whose_leader_left_its_seat_is_free_at_once() public {
        BatchId batch = commit(job, 1);
        OperatorId first = registry.operatorOf(vm.addr(2001));
        vm.prank(owner(1));
        registry.retire(first);
        takeBatch(batch, 2);
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - PENALTY, "it pays all the same");
        settle(settlement(batch, node, 1e18), 2, 2);
    }

    function test_a_newcomer_cannot_lead_what_others_were_seated_for() public {
        BatchId batch = commit(job, 1);
        addVerifier(4);
        later(SETTLE_TIME + 1);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, 16, 7));
        registry.takeBatch(batch, header);
    }

    function test_another_header_is_refused() public {
        BatchId batch = commit(job, 1);
        later(SETTLE_TIME + 1);
        IRegistry.Header memory header = headerOf(batch);
        header.lines[0] += 1;
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadHeader.selector, batch));
        registry.takeBatch(batch, header);
        later(GRACE);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadHeader.selector, batch));
        registry.dropBatch(batch, header);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(9)));
        registry.dropBatch(BatchId.wrap(9), header);
    }

    // ----------------------------------------------------------------------------------------------- dropping

    function test_a_dropped_batch_gives_everything_back_and_costs_its_leader_its_budget() public {
        BatchId batch = commit(job, 1, 5);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOverdue.selector, batch, vm.getBlockTimestamp() + GRACE));
        registry.dropBatch(batch, header);
        later(GRACE + 1);
        dropBatch(batch);
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(j.escrow, 1110e18, "all of it");
        vm.assertEq(j.unitsOpen, 0, "units");
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - 555e18, "as much as it kept from others");
        vm.assertEq(registry.seats(), 6, "and the seat: less than half of its stake is left");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "dropped"));
        registry.dropBatch(batch, header);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatch.selector, "dropped"));
        registry.recommit(batch);
        assertConserved();
    }

    function test_a_small_dropped_batch_costs_the_penalty() public {
        BatchId batch = commit(openJob(jobParams(1, 0, 0)), 1);
        later(GRACE + 1);
        dropBatch(batch);
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - PENALTY, "penalty");
    }

    function test_an_expired_batch_is_not_settled() public {
        BatchId batch = commit(job, 1);
        uint256 end = vm.getBlockTimestamp() + GRACE;
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        later(GRACE + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BatchExpired.selector, batch, end));
        registry.settleBatch(s, header, bitmap, signature);
    }

    function test_a_settled_batch_is_neither_taken_nor_dropped() public {
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 1e18), 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.takeBatch(batch, header);
        later(GRACE + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.dropBatch(batch, header);
    }

    function test_a_batch_of_whose_quorum_nobody_is_left_is_taken_by_the_seats_that_count_now() public {
        BatchId first = commit(job, 1, 1);
        addVerifier(4);
        later(SEAT_DELAY - 1);
        BatchId batch = commit(openJob(), 1);
        later(1);
        for (uint256 i = 1; i <= 3; ++i) {
            OperatorId id = registry.operatorOf(vm.addr(2000 + i));
            vm.prank(owner(i));
            registry.retire(id);
        }
        takeBatch(batch, 4);
        settle(settlement(batch, node, 1e18), 4, 1);
        vm.assertEq(signersOf(batch), 16, "alone");
        dropBatch(first);
        assertConserved();
    }

    /// @notice Who was found against is not asked who may settle the batch instead.
    function test_a_voided_batch_is_taken_by_a_seat_that_its_quorum_did_not_have() public {
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 100e18), 1, 3);
        OperatorId later_ = addVerifier(4);
        vm.warp(vm.getBlockTimestamp() + SEAT_DELAY);
        voidBatch(batch, false);
        takeBatch(batch, 4);
        vm.assertEq(registry.batch(batch).verifier, OperatorId.unwrap(later_), "leads");
        vm.assertTrue(registry.quorum(registry.batch(batch).quorum) >> slotOf(4) & 1 == 1, "and is in its quorum now");
        settle(settlement(batch, node, 100e18), 2, 3);
        vm.assertEq(registry.batch(batch).absent, 1 << slotOf(1), "who did not sign");
        assertConserved();
    }

    /// @notice The draw of a settled batch is over, whether it was voided or not: nobody moves its seed.
    function test_the_seed_of_a_settled_batch_stays_what_it_was() public {
        BatchId batch = commit(job, 1);
        bytes32 seed = registry.batch(batch).seed;
        settle(settlement(batch, node, 100e18), 1, 3);
        refuseDraw(batch);
        voidBatch(batch, false);
        vm.roll(vm.getBlockNumber() + 20_000);
        refuseDraw(batch);
        takeBatch(batch, 2);
        vm.assertEq(registry.batch(batch).seed, seed, "the same again");
        vm.assertEq(registry.draw(batch), seed, "whoever draws");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedAvailable.selector, batch));
        registry.recommit(batch);
    }

    function refuseDraw(BatchId batch) private {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.draw(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.recommit(batch);
    }
}
