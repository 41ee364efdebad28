// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Opening, paying for and ending jobs; committing and drawing batches.
contract JobsTest is Base {
    function testFuzz_opening_takes_the_pay_and_closing_returns_it(uint96 reward, uint96 fee) public {
        (reward, fee) = (uint96(reward % (1000 * CREDIT)), uint96(fee % (1000 * CREDIT)));
        uint256 before = credit.balanceOf(REQUESTER);
        IRegistry.JobParams memory p = jobParams(reward, fee);
        vm.prank(REQUESTER);
        JobId job = registry.openJob(p);
        vm.assertEq(before - credit.balanceOf(REQUESTER), uint256(reward) + fee, "escrow taken");
        assertConserved();
        vm.prank(REQUESTER);
        registry.closeJob(job);
        vm.assertEq(credit.balanceOf(REQUESTER), before, "all returned");
        assertConserved();
    }

    function test_bad_terms_are_refused_by_name() public {
        IRegistry.JobParams memory p = jobParams(1, 1);
        p.taskCount = 0;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no tasks"));
        registry.openJob(p);
        p = jobParams(1, 1);
        p.deadline = uint40(vm.getBlockTimestamp());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "deadline in the past"));
        registry.openJob(p);
        p = jobParams(1, 1);
        p.workload = 64;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "workload is no bit of 64"));
        registry.openJob(p);
        p = jobParams(1, 1);
        p.segmentsPerAudit = 0;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no audits"));
        registry.openJob(p);
    }

    function test_a_permit_that_was_front_run_still_opens_the_job() public {
        uint256 key = 0xbeef;
        address requester = vm.addr(key);
        credit.transfer(requester, 2e18);
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                requester,
                address(registry),
                2e18,
                0,
                type(uint256).max
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", credit.DOMAIN_SEPARATOR(), hash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        credit.permit(requester, address(registry), 2e18, type(uint256).max, v, r, s);
        IRegistry.JobParams memory p = jobParams(1e18, 1e18);
        vm.prank(requester);
        registry.openJobWithPermit(p, type(uint256).max, v, r, s);
        vm.assertEq(credit.balanceOf(requester), 0, "escrowed");
    }

    function test_only_requester_and_verifier_close_a_job() public {
        addVerifier(1);
        JobId job = openJob();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotYourJob.selector, job, address(this)));
        registry.closeJob(job);
        commit(job, 1);
        vm.prank(vm.addr(2001));
        registry.closeJob(job);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        registry.topUp(job, 1, 1);
    }

    function test_committed_tasks_keep_their_share_until_the_grace_is_over() public {
        addVerifier(1);
        IRegistry.JobParams memory p = jobParams(1000e18, 0);
        p.taskCount = 40;
        vm.prank(REQUESTER);
        JobId job = registry.openJob(p);
        commit(job, 1);
        uint256 before = credit.balanceOf(REQUESTER);
        vm.prank(REQUESTER);
        registry.closeJob(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 750e18, "what is not committed");
        vm.warp(vm.getBlockTimestamp() + 2 days + 1);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 1000e18, "the rest, unsettled in time");
        assertConserved();
    }

    function test_an_open_job_is_not_refunded() public {
        JobId job = openJob();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobStillOpen.selector, job, vm.getBlockTimestamp() + 1 days));
        registry.refund(job);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownJob.selector, JobId.wrap(99)));
        registry.refund(JobId.wrap(99));
    }

    function testFuzz_anyone_may_top_a_job_up_and_what_is_left_goes_to_its_requester(uint96 reward, uint96 fee) public {
        (reward, fee) = (uint96(reward % (100 * CREDIT)), uint96(fee % (100 * CREDIT)));
        JobId job = openJob();
        fund(owner(50), 1000 * CREDIT);
        vm.prank(owner(50));
        registry.topUp(job, reward, fee);
        vm.assertEq(registry.totals().escrow, 1100e18 + uint256(reward) + fee, "escrow");
        assertConserved();
        uint256 before = credit.balanceOf(REQUESTER);
        vm.prank(REQUESTER);
        registry.closeJob(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 1100e18 + uint256(reward) + fee, "returned");
    }

    function test_nodes_and_strangers_commit_nothing() public {
        addNode(1);
        JobId job = openJob();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(this)));
        registry.commitBatch(job, 0, 1);
        vm.prank(vm.addr(1001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1001)));
        registry.commitBatch(job, 0, 1);
        addVerifier(2);
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatchSize.selector, 0, 10));
        registry.commitBatch(job, 0, 0);
        vm.prank(vm.addr(2002));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadBatchSize.selector, 11, 10));
        registry.commitBatch(job, 0, 11);
    }

    function test_the_seed_is_fixed_by_its_block_and_cannot_be_drawn_again() public {
        addVerifier(1);
        JobId job = openJob();
        vm.prank(vm.addr(2001));
        BatchId batch = registry.commitBatch(job, bytes32(uint256(2)), 10);
        uint256 drawBlock = vm.getBlockNumber() + 2;
        vm.roll(drawBlock);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarlyToDraw.selector, batch, drawBlock));
        registry.draw(batch);
        vm.roll(drawBlock + 1);
        vm.setBlockhash(drawBlock, keccak256("entropy"));
        bytes32 seed = registry.draw(batch);
        vm.assertEq(seed, keccak256(abi.encode(keccak256("entropy"), batch, uint256(2))), "seed");
        vm.roll(drawBlock + 20);
        vm.assertEq(registry.draw(batch), seed, "the same for ever");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedAvailable.selector, batch));
        registry.recommit(batch);
    }

    function test_a_lost_seed_is_moved_for_everyone_to_see() public {
        addVerifier(1);
        JobId job = openJob();
        vm.prank(vm.addr(2001));
        BatchId batch = registry.commitBatch(job, bytes32(uint256(2)), 10);
        uint256 drawBlock = vm.getBlockNumber() + 2;
        vm.roll(vm.getBlockNumber() + 20_000);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedLost.selector, batch, drawBlock));
        registry.draw(batch);
        registry.recommit(batch);
        vm.assertEq(registry.batch(batch).commitBlock, vm.getBlockNumber(), "new block");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(9)));
        registry.draw(BatchId.wrap(9));
    }
}
