// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Vm} from "./helpers/Vm.sol";

/// @notice Verifiers that want the same job.
contract TakeJobTest is Base {
    OperatorId private first;
    OperatorId private second;
    JobId private job;

    function setUp() public override {
        super.setUp();
        first = addVerifier(1);
        second = addVerifier(2);
        job = openJob();
    }

    function take(uint256 i) private {
        vm.prank(vm.addr(2000 + i));
        registry.takeJob(job, anchor());
    }

    function refused(OperatorId holder, uint256 free) private {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobTakenBy.selector, job, holder, free));
    }

    function test_of_two_verifiers_the_first_has_it() public {
        take(1);
        refused(first, vm.getBlockTimestamp() + TAKEOVER);
        take(2);
        take(1);
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(first), "the first");
    }

    function testFuzz_it_is_free_again_after_the_timeout_and_not_before(uint40 wait, bool byBatch) public {
        take(1);
        uint256 free = vm.getBlockTimestamp() + TAKEOVER;
        wait = wait % (2 * TAKEOVER);
        later(wait);
        uint256[] memory row = lines(job, 1);
        vm.prank(vm.addr(2002));
        if (wait <= TAKEOVER) refused(first, free);
        if (byBatch) registry.commitBatch(bytes32(uint256(1)), 1, 0, row, anchor());
        else registry.takeJob(job, anchor());
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(wait <= TAKEOVER ? first : second), "who has it");
    }

    function test_only_commits_renew_it() public {
        take(1);
        later(TAKEOVER);
        take(1);
        later(1);
        take(2);
        later(TAKEOVER);
        commitLines(2, bytes32(uint256(2)), 1, lines(job, 1));
        later(TAKEOVER);
        refused(second, vm.getBlockTimestamp());
        take(1);
    }

    function test_who_just_lost_it_can_commit_what_it_owes_and_does_not_get_it_back() public {
        take(1);
        later(TAKEOVER + 1);
        take(2);
        commitLines(1, bytes32(uint256(2)), 1, lines(job, 1));
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(second), "still the second's");
        uint256 taken = vm.getBlockTimestamp();
        later(RECEIPT_TIME + 1);
        uint256[] memory row = lines(job, 1);
        // The second never committed: it is free for anybody.
        vm.prank(vm.addr(2002));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row, anchor());
        refused(second, vm.getBlockTimestamp() + TAKEOVER);
        vm.prank(vm.addr(2001));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row, anchor());
        vm.assertEq(registry.job(job).formerUntil, taken + RECEIPT_TIME, "until when");
    }

    function test_a_seat_that_is_left_frees_its_jobs_and_keeps_the_promise_of_who_had_them_before() public {
        take(1);
        later(TAKEOVER + 1);
        take(2);
        addVerifier(3);
        vm.prank(owner(2));
        registry.retire(second);
        take(3);
        commitLines(1, bytes32(uint256(2)), 1, lines(job, 1));
        vm.assertEq(registry.job(job).former, OperatorId.unwrap(first), "the first's receipts still count");
    }

    function test_what_has_ended_cannot_be_taken() public {
        vm.prank(REQUESTER);
        registry.closeJob(job, anchor());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        take(1);
        uint256[] memory row = lines(job, 1);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row, anchor());
        job = openJob();
        later(1 days + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.DeadlinePassed.selector, job, vm.getBlockTimestamp() - 1));
        take(1);
    }

    function test_nodes_and_strangers_take_nothing() public {
        addNode(10);
        vm.prank(vm.addr(1010));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        registry.takeJob(job, anchor());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(this)));
        registry.takeJob(job, anchor());
    }

    // -------------------------------------------------------------------------------------------- opened for one

    function openFor(OperatorId verifier) private returns (JobId) {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18, 10e18);
        p.verifier = verifier;
        return openJob(p);
    }

    function test_a_job_that_is_opened_for_a_verifier_needs_no_taking() public {
        vm.recordLogs();
        job = openFor(second);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bool told;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != IRegistry.JobTaken.selector) continue;
            bool right = uint256(logs[i].topics[1]) == JobId.unwrap(job);
            told = right && uint256(logs[i].topics[2]) == OperatorId.unwrap(second);
        }
        vm.assertTrue(told, "as if it had taken it");
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(j.verifier, OperatorId.unwrap(second), "whose it is");
        vm.assertEq(j.lastActive, vm.getBlockTimestamp(), "since");
        refused(second, vm.getBlockTimestamp() + TAKEOVER);
        take(1);
        uint256[] memory row = lines(job, 1);
        refused(second, vm.getBlockTimestamp() + TAKEOVER);
        vm.prank(vm.addr(2001));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row, anchor());
        commitLines(2, bytes32(uint256(2)), 1, row);
        assertConserved();
    }

    function testFuzz_a_job_that_is_opened_for_a_verifier_is_free_as_one_that_it_took(uint40 wait, bool leaves) public {
        JobId named = openFor(first);
        take(1);
        addVerifier(3);
        later(wait % (2 * TAKEOVER));
        if (leaves) {
            vm.prank(owner(1));
            registry.retire(first);
        }
        JobId[] memory ids = new JobId[](2);
        (ids[0], ids[1]) = (job, openJob());
        takeAll(2, ids);
        ids[0] = named;
        takeAll(2, ids);
        (IRegistry.Job memory a, IRegistry.Job memory b) = (registry.job(job), registry.job(named));
        vm.assertEq(a.verifier, b.verifier, "holder");
        vm.assertEq(a.lastActive, b.lastActive, "since");
        vm.assertEq(a.former, b.former, "who had it");
        vm.assertEq(a.formerUntil, b.formerUntil, "until when that one may commit");
    }

    function test_a_job_is_opened_for_nobody_but_a_verifier_with_a_seat() public {
        OperatorId node = addNode(10);
        addVerifier(3);
        vm.prank(owner(1));
        registry.retire(first);
        OperatorId[3] memory others = [node, first, OperatorId.wrap(1000)];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "its verifier has no seat"));
            openFor(others[i]);
        }
    }

    function test_a_job_is_opened_for_no_verifier_that_could_not_take_it_yet() public {
        take(1);
        commitLines(1, bytes32(uint256(2)), 1, lines(job, 1));
        uint256 counts = vm.getBlockTimestamp() + SEAT_DELAY;
        OperatorId young = addVerifier(4);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeatTooNew.selector, young, counts));
        openFor(young);
        later(SEAT_DELAY);
        vm.assertEq(registry.job(openFor(young)).verifier, OperatorId.unwrap(young), "once it counts");
    }

    // ------------------------------------------------------------------------------------------------ at once

    function takeAll(uint256 i, JobId[] memory ids) private {
        vm.prank(vm.addr(2000 + i));
        registry.takeJobs(ids, anchor());
    }

    function jobsOf(uint256 count) private returns (JobId[] memory ids) {
        ids = new JobId[](count);
        for (uint256 n = 0; n < count; ++n) {
            ids[n] = openJob();
        }
    }

    /// @dev What can be wrong with one of several: nothing, it is its own, another's, closed, past its deadline, unknown.
    function spoil(JobId id, uint256 how) private returns (JobId) {
        if (how == 1 || how == 2) {
            vm.prank(vm.addr(2000 + how));
            registry.takeJob(id, anchor());
        } else if (how == 3) {
            vm.prank(REQUESTER);
            registry.closeJob(id, anchor());
        } else if (how == 4) {
            return job;
        } else if (how == 5) {
            return JobId.wrap(JobId.unwrap(id) + 1000);
        }
        return id;
    }

    function testFuzz_of_several_those_are_taken_that_can_be(uint256 dice, uint8 count) public {
        later(1 days + 1);
        JobId[] memory ids = jobsOf(count % 12);
        bool any;
        for (uint256 n = 0; n < ids.length; ++n) {
            uint256 how = (dice >> 8 * n) % 6;
            ids[n] = spoil(ids[n], how);
            any = any || how < 2;
        }
        vm.prank(vm.addr(2001));
        if (!any) vm.expectRevert(IRegistry.NothingTaken.selector);
        registry.takeJobs(ids, anchor());
        for (uint256 n = 0; n < ids.length; ++n) {
            uint256 how = (dice >> 8 * n) % 6;
            if (how == 5) continue;
            uint32 holder = how < 2 ? OperatorId.unwrap(first) : how == 2 ? OperatorId.unwrap(second) : 0;
            vm.assertEq(registry.job(ids[n]).verifier, holder, "who has it");
        }
    }

    function testFuzz_at_once_is_as_one_by_one(uint40 wait, bool leaves) public {
        takeAll(1, jobsOf(2));
        (uint256 last, uint256 before) = (JobId.unwrap(job) + 2, JobId.unwrap(job) + 1);
        later(wait % (2 * TAKEOVER));
        if (leaves) {
            addVerifier(3);
            vm.prank(owner(1));
            registry.retire(first);
        }
        JobId[] memory ids = new JobId[](2);
        (ids[0], ids[1]) = (JobId.wrap(last), openJob());
        takeAll(2, ids);
        vm.prank(vm.addr(2002));
        try registry.takeJob(JobId.wrap(before), anchor()) {} catch {}
        IRegistry.Job memory a = registry.job(JobId.wrap(last));
        IRegistry.Job memory b = registry.job(JobId.wrap(before));
        vm.assertEq(a.verifier, b.verifier, "holder");
        vm.assertEq(a.lastActive, b.lastActive, "since");
        vm.assertEq(a.former, b.former, "who had it");
        vm.assertEq(a.formerUntil, b.formerUntil, "until when that one may commit");
    }

    function test_several_are_at_most_128_and_once_taken_they_are_renewed_by_nothing() public {
        JobId[] memory ids = jobsOf(128);
        takeAll(1, ids);
        uint256 since = vm.getBlockTimestamp();
        later(TAKEOVER);
        takeAll(1, ids);
        vm.assertEq(registry.job(ids[127]).lastActive, since, "only commits renew it");
        vm.prank(vm.addr(2002));
        vm.expectRevert(IRegistry.NothingTaken.selector);
        registry.takeJobs(ids, anchor());
        ids = jobsOf(129);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooManyJobs.selector, 129, 128));
        takeAll(1, ids);
    }

    function test_several_are_for_seats_that_count_alone() public {
        JobId[] memory ids = jobsOf(2);
        addNode(10);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        vm.prank(vm.addr(1010));
        registry.takeJobs(ids, anchor());
        takeAll(1, ids);
        commitLines(1, bytes32(uint256(2)), 1, lines(ids[0], 1));
        uint256 counts = vm.getBlockTimestamp() + SEAT_DELAY;
        OperatorId young = addVerifier(4);
        ids = jobsOf(1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeatTooNew.selector, young, counts));
        takeAll(4, ids);
    }
}
