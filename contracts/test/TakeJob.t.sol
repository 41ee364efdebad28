// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
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

    function test_of_two_verifiers_the_first_has_it() public {
        take(1);
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.JobTakenBy.selector, job, first, vm.getBlockTimestamp() + 10 minutes)
        );
        take(2);
        take(1);
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(first), "the first");
    }

    function testFuzz_it_is_free_again_after_the_timeout_and_not_before(uint40 wait, bool byBatch) public {
        take(1);
        uint256 free = vm.getBlockTimestamp() + 10 minutes;
        wait = wait % 20 minutes;
        vm.warp(vm.getBlockTimestamp() + wait);
        vm.prank(vm.addr(2002));
        if (wait <= 10 minutes) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.JobTakenBy.selector, job, first, free));
        }
        if (byBatch) registry.commitBatch(job, bytes32(uint256(1)), 1);
        else registry.takeJob(job);
        vm.assertEq(
            registry.job(job).verifier, OperatorId.unwrap(wait <= 10 minutes ? first : second), "who schedules it"
        );
    }

    function testFuzz_work_keeps_it(uint40 wait) public {
        take(1);
        wait = wait % 10 minutes;
        vm.warp(vm.getBlockTimestamp() + wait);
        commit(job, 1);
        vm.warp(vm.getBlockTimestamp() + 10 minutes);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobTakenBy.selector, job, first, vm.getBlockTimestamp()));
        take(2);
    }

    function test_it_is_free_at_once_when_its_verifier_leaves() public {
        take(1);
        vm.prank(owner(1));
        registry.retire(first);
        take(2);
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(second), "taken over");
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(2001)));
        registry.takeJob(job);
    }

    function test_what_the_last_verifier_committed_is_still_settled() public {
        OperatorId node = addNode(10);
        BatchId batch = commit(job, 1);
        vm.warp(vm.getBlockTimestamp() + 10 minutes + 1);
        take(2);
        settle(settlement(batch, node, 100e18), 1, 2);
        vm.assertEq(registry.claimable(1, 2), 100e18, "settled");
        vm.assertEq(registry.job(job).verifier, OperatorId.unwrap(second), "and the job stays where it is");
    }

    function test_nobody_takes_a_closed_or_an_expired_job() public {
        JobId closed = openJob();
        vm.prank(REQUESTER);
        registry.closeJob(closed);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, closed));
        registry.takeJob(closed);
        uint256 deadline = registry.job(job).deadline;
        vm.warp(deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.DeadlinePassed.selector, job, deadline));
        take(1);
    }
}
