// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

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
        registry.takeJob(job);
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
        if (byBatch) registry.commitBatch(bytes32(uint256(1)), 1, 0, row);
        else registry.takeJob(job);
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
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row);
        refused(second, vm.getBlockTimestamp() + TAKEOVER);
        vm.prank(vm.addr(2001));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row);
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
        registry.closeJob(job);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        take(1);
        uint256[] memory row = lines(job, 1);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        registry.commitBatch(bytes32(uint256(1)), 1, 0, row);
        job = openJob();
        later(1 days + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.DeadlinePassed.selector, job, vm.getBlockTimestamp() - 1));
        take(1);
    }

    function test_nodes_and_strangers_take_nothing() public {
        addNode(10);
        vm.prank(vm.addr(1010));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        registry.takeJob(job);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(this)));
        registry.takeJob(job);
    }
}
