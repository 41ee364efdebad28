// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, JobId, BatchId, OperatorId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Opening, paying for and ending jobs.
contract JobsTest is Base {
    function testFuzz_opening_takes_the_pay_and_closing_returns_what_was_not_used(
        uint96 reward,
        uint96 audit,
        uint96 fee
    ) public {
        (reward, audit, fee) = (reward % 1e21, audit % 1e21, fee % 1e21);
        uint256 before = credit.balanceOf(REQUESTER);
        JobId job = openJob(jobParams(reward, audit, fee));
        vm.assertEq(before - credit.balanceOf(REQUESTER), uint256(reward) + audit + fee, "escrow taken");
        assertConserved();
        vm.prank(REQUESTER);
        registry.closeJob(job, anchor());
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.JobStillOpen.selector, job, vm.getBlockTimestamp() + RECEIPT_TIME)
        );
        registry.refund(job);
        later(RECEIPT_TIME + 1);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER), before, "all returned");
        registry.refund(job);
        assertConserved();
    }

    function test_bad_terms_are_refused_by_name() public {
        IRegistry.JobParams memory p = jobParams(1, 1, 1);
        p.units = 0;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no units, or too many"));
        registry.openJob(p);
        p.units = 1 << 48;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no units, or too many"));
        registry.openJob(p);
        p = jobParams(1, 1, 1);
        p.deadline = uint40(vm.getBlockTimestamp());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "deadline in the past"));
        registry.openJob(p);
        p = jobParams(1, 1, 1);
        p.workload = 64;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "workload is no bit of 64"));
        registry.openJob(p);
        p = jobParams(1, 1, 1);
        p.segmentsPerAudit = 0;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no audits"));
        registry.openJob(p);
        p = jobParams(1, 1, 1);
        p.auditorsPerSegment = 1;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadJob.selector, "no audits"));
        registry.openJob(p);
    }

    function test_a_permit_that_was_front_run_still_opens_the_job() public {
        uint256 key = 0xbeef;
        address requester = vm.addr(key);
        credit.transfer(requester, 3e18);
        bytes32 hash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                requester,
                address(registry),
                3e18,
                0,
                type(uint256).max
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", credit.DOMAIN_SEPARATOR(), hash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        credit.permit(requester, address(registry), 3e18, type(uint256).max, v, r, s);
        IRegistry.JobParams memory p = jobParams(1e18, 1e18, 1e18);
        vm.prank(requester);
        registry.openJobWithPermit(p, type(uint256).max, v, r, s);
        vm.assertEq(credit.balanceOf(requester), 0, "escrowed");
    }

    function test_only_the_requester_closes_a_job_and_its_verifier_once_all_is_paid() public {
        addVerifier(1);
        OperatorId node = addNode(10);
        JobId job = openJob();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotYourJob.selector, job, address(this)));
        registry.closeJob(job, anchor());
        BatchId batch = commit(job, 1);
        vm.prank(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotYourJob.selector, job, vm.addr(2001)));
        registry.closeJob(job, anchor());
        settle(settlement(batch, node, 1e18), 1, 1);
        vm.prank(vm.addr(2001));
        registry.closeJob(job, anchor());
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        registry.topUp(job, 1, anchor());
        vm.prank(REQUESTER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobIsClosed.selector, job));
        registry.closeJob(job, anchor());
    }

    function test_what_is_committed_stays_reserved_until_it_is_settled_or_dropped() public {
        addVerifier(1);
        IRegistry.JobParams memory p = jobParams(1000e18, 0, 0);
        p.units = 40;
        JobId job = openJob(p);
        BatchId batch = commit(job, 1, 10);
        uint256 before = credit.balanceOf(REQUESTER);
        vm.prank(REQUESTER);
        registry.closeJob(job, anchor());
        later(RECEIPT_TIME + 1);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 750e18, "what is not committed");
        later(GRACE);
        dropBatch(batch);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 1000e18, "the rest, unsettled in time");
        assertConserved();
    }

    function test_what_a_batch_left_over_is_free_once_nobody_can_dispute_it() public {
        addVerifier(1);
        OperatorId node = addNode(10);
        JobId job = openJob();
        settle(settlement(commit(job, 1), node, 900e18), 1, 1);
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(j.surplus, 200e18, "1,110 less 900 and the fee of 10");
        uint256 free = vm.getBlockTimestamp() + SEAT_DELAY;
        vm.assertGe(SEAT_DELAY, WINDOW + court.longestDispute(), "which is longer than any dispute");
        vm.assertEq(j.surplusFrom, free, "when it is free");
        uint256 before = credit.balanceOf(REQUESTER);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER), before, "fully paid, but disputable");
        vm.warp(free);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 200e18, "now");
        assertConserved();
    }

    /// @dev Audits of decoys, and of work that is done again, take more of the audit fee than the units that are paid. What is
    /// missing is missing from all that is left alike: the last lines still hold the reward of what is in them.
    /// forge-config: default.fuzz.runs = 1000
    function testFuzz_what_audits_took_starves_no_line(uint256 first, uint256 paid, uint256 second) public {
        addVerifier(1);
        OperatorId node = addNode(10);
        IRegistry.JobParams memory p = jobParams(18e18, 9e18, 9e17);
        p.units = 18;
        JobId job = openJob(p);
        (first, second) = (10 + first % 9, 1 + second % 7);
        paid = paid % (first - 7);
        spend(commit(job, 1, uint64(first)), node, uint48(paid), 1e18 * paid + 5e17 * first);
        uint256 left = 18 - paid;
        BatchId open = commit(job, 1, uint64(second));
        vm.assertGe(uint256(lineOf(open, 0).budget), 105e16 * second, "reward and fee of the next line");
        BatchId last = commit(job, 1, uint64(left - second));
        vm.assertGe(uint256(lineOf(last, 0).budget), 105e16 * (left - second), "and of the last");
        vm.assertLe(uint256(lineOf(open, 0).budget), 155e16 * second, "never more than the price");
        assertConserved();
    }

    /// @dev Settles a batch of one line with so many of its units paid and `amount` for work and audits.
    function spend(BatchId batch, OperatorId node, uint48 units, uint256 amount) private {
        IRegistry.Settlement memory s = settlement(batch, node, uint96(amount));
        s.shares[0] = Lines.packPaid(units, uint96(amount), 0);
        settle(s, 1, 1);
    }

    function test_an_open_job_is_not_refunded() public {
        JobId job = openJob();
        uint256 until = vm.getBlockTimestamp() + 1 days + RECEIPT_TIME;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JobStillOpen.selector, job, until));
        registry.refund(job);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownJob.selector, JobId.wrap(99)));
        registry.refund(JobId.wrap(99));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownJob.selector, JobId.wrap(99)));
        registry.job(JobId.wrap(99));
    }

    function testFuzz_anyone_may_top_a_job_up_and_what_is_left_goes_to_its_requester(uint96 amount) public {
        amount = uint96(amount % (100 * CREDIT));
        JobId job = openJob();
        fund(owner(50), 1000 * CREDIT);
        vm.prank(owner(50));
        registry.topUp(job, amount, anchor());
        vm.assertEq(registry.totals().escrow, 1110e18 + uint256(amount), "escrow");
        assertConserved();
        uint256 before = credit.balanceOf(REQUESTER);
        later(1 days + RECEIPT_TIME + 1);
        registry.refund(job);
        vm.assertEq(credit.balanceOf(REQUESTER) - before, 1110e18 + uint256(amount), "returned");
    }
}
