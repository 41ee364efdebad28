// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Headers} from "../src/libraries/Headers.sol";
import {Base} from "./helpers/Base.sol";
import {Deployer} from "./helpers/Deployer.sol";

/// @notice Settling by quorum.
contract SettlementTest is Base {
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

    function refused(IRegistry.Settlement memory s, bytes memory error_) private {
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(error_);
        registry.settleBatch(s, header, 7, "");
    }

    function malformed(IRegistry.Settlement memory s, string memory reason) private {
        refused(s, abi.encodeWithSelector(IRegistry.BadSettlement.selector, reason));
    }

    /// @dev The same, found only once the signatures are right.
    function wrong(IRegistry.Settlement memory s, bytes memory error_) private {
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(error_);
        registry.settleBatch(s, header, bitmap, signature);
    }

    // ------------------------------------------------------------------------------------------------- quorum

    function test_two_thirds_settle_and_less_do_not() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 2);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoQuorum.selector, 2, 4));
        registry.settleBatch(s, header, bitmap, signature);
        settle(s, 1, 3);
        vm.assertEq(lens.claimable(1, 2), 110e18, "claimable, fee included");
        assertConserved();
        (bitmap, signature) = quorum(s, 1, 4);
        header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.settleBatch(s, header, bitmap, signature);
    }

    function test_anyone_may_send_it() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(address(0xbad));
        registry.settleBatch(s, header, bitmap, signature);
        vm.assertEq(signersOf(batch), bitmap, "settled");
    }

    function test_the_leader_must_be_among_the_signers() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 2, 3);
        IRegistry.Header memory header = headerOf(batch);
        OperatorId leader = registry.operatorOf(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.LeaderMissing.selector, batch, leader));
        registry.settleBatch(s, header, bitmap, signature);
    }

    function testFuzz_a_changed_settlement_is_not_the_one_that_was_signed(uint256 which, uint96 amount) public {
        amount = uint96(amount % (1000 * CREDIT)) + 1;
        IRegistry.Settlement memory s = settlement(batch, node, amount);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        which %= 8;
        if (which == 0) s.payoutTotal -= 1;
        if (which == 1) s.payoutRoot = ~s.payoutRoot;
        if (which == 2) s.auditUnits += 1;
        if (which == 3) s = withFault(s, node);
        if (which == 4) s.auditRoot = bytes32(uint256(1));
        if (which == 5) s.payoutCount += 1;
        if (which == 6) s.shares[0] -= 1 << 96;
        if (which == 7) s.record = hex"015512200000000000000000000000000000000000000000000000000000000000000002";
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, signers, signature);
    }

    function test_claiming_more_signers_than_signed_is_refused() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, 15, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, 31, 15));
        registry.settleBatch(s, header, 31, signature);
    }

    function test_identity_and_short_signatures_are_refused() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, 7, new bytes(256));
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, 7, new bytes(96));
    }

    function test_a_signature_of_another_chain_or_registry_is_worthless() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.chainId(10);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, header, signers, signature);
        vm.chainId(31337);
        bytes32 other = Deployer.registry(address(credit), parameters(), address(court)).domainSeparator();
        vm.assertTrue(other != registry.domainSeparator(), "registry");
    }

    // -------------------------------------------------------------------------------------------------- shape

    function test_malformed_settlements_are_refused_by_name() public {
        IRegistry.Settlement memory s = settlement(batch, node, 1);
        s.record = hex"00";
        malformed(s, "record is not a CID");
        s = settlement(batch, node, 1);
        s.faults = new IRegistry.Fault[](33);
        malformed(s, "too many faults");
        s = settlement(batch, node, 1);
        s.payoutCount = 1 << 24;
        malformed(s, "too many payouts");
        s = settlement(batch, node, 1);
        s.payoutCount = 0;
        malformed(s, "a total without payouts");
        s = settlement(batch, node, 1);
        s.shares = new uint256[](2);
        malformed(s, "a share for each line");
        s = settlement(BatchId.wrap(77), node, 1);
        refused(s, abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(77)));
        s = settlement(batch, node, 2);
        s.payoutTotal = 1;
        wrong(s, abi.encodeWithSelector(IRegistry.BadSettlement.selector, "shares are not the total"));
    }

    function test_another_header_is_refused() public {
        IRegistry.Settlement memory s = settlement(batch, node, 1);
        IRegistry.Header memory header = headerOf(batch);
        header.size += 1;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadHeader.selector, batch));
        registry.settleBatch(s, header, 7, "");
    }

    function badFault(OperatorId id, uint8 reason, uint32[] memory accusers, string memory why) private {
        IRegistry.Settlement memory s = withFault(settlement(batch, node, 1), id, reason, accusers);
        wrong(s, abi.encodeWithSelector(IRegistry.BadSettlement.selector, why));
    }

    function test_a_fault_is_about_the_batch_and_carried_by_enough_other_owners() public {
        badFault(node, 0, accusersOf(node), "unknown reason of a fault");
        badFault(node, 5, accusersOf(node), "unknown reason of a fault");
        badFault(OperatorId.wrap(99), 4, new uint32[](0), "fault of an unknown operator");
        badFault(node, 1, new uint32[](257), "too many accusers");
        uint32[] memory accusers = new uint32[](2);
        (accusers[0], accusers[1]) = (accusersOf(node)[0], accusersOf(node)[1]);
        badFault(node, 1, accusers, "too few accusers");
        accusers = accusersOf(node);
        accusers[2] = accusers[1];
        badFault(node, 1, accusers, "accusers must be other owners");
        accusers[2] = OperatorId.unwrap(node);
        badFault(node, 1, accusers, "accusers must be other owners");
        accusers[2] = 99;
        badFault(node, 1, accusers, "accusers must be other owners");
        IRegistry.Settlement memory s = withFault(settlement(batch, node, 1), node);
        s.faults[0].job = 99;
        wrong(s, abi.encodeWithSelector(IRegistry.BadSettlement.selector, "fault in another job"));
        settle(withFault(withFault(settlement(batch, node, 1), node, 2, new uint32[](0)), node), 1, 3);
        vm.assertEq(registry.slashes(batch)[1].accusers.length, 3, "kept for the Court");
    }

    // -------------------------------------------------------------------------------------------------- money

    function testFuzz_a_line_pays_no_more_than_its_budget_and_its_units(uint96 amount, uint64 units) public {
        amount = amount % 2000e18;
        units = units % 20;
        IRegistry.Settlement memory s = settlement(batch, node, amount);
        s.shares[0] = Lines.packPaid(uint48(units), Lines.amount(s.shares[0]), 0);
        uint256 cost = uint256(amount) + uint256(10e18) * units / 10;
        if (units > 10) {
            return wrong(s, abi.encodeWithSelector(IRegistry.TooManyUnits.selector, job, units, 10));
        }
        if (cost > 1110e18) {
            return wrong(s, abi.encodeWithSelector(IRegistry.OverBudget.selector, job, 1110e18, cost));
        }
        settle(s, 1, 3);
        IRegistry.Job memory j = registry.job(job);
        vm.assertEq(j.unitsPaid, units, "units paid");
        vm.assertEq(j.unitsOpen, 0, "none open");
        vm.assertEq(j.surplus, 1110e18 - cost, "what is left over");
        vm.assertEq(registry.batch(batch).fees, cost - amount, "the fee for what was paid");
        assertConserved();
    }

    function test_units_that_were_not_paid_can_be_committed_again_with_what_is_left() public {
        IRegistry.Settlement memory s = settlement(batch, node, 600e18);
        s.shares[0] = Lines.packPaid(uint48(7), Lines.amount(s.shares[0]), 0);
        settle(s, 1, 3);
        BatchId again = commit(job, 1, 3);
        vm.assertEq(lineOf(again, 0).budget, 333e18, "three tenths, out of the surplus");
        vm.assertEq(registry.job(job).surplus, 1110e18 - 607e18 - 333e18, "the rest");
        settle(settlement(again, node, 330e18), 1, 3);
        vm.assertEq(registry.job(job).unitsPaid, 10, "all");
        assertConserved();
    }

    function test_a_batch_of_two_jobs_pays_each_from_its_own() public {
        (JobId a, JobId b) = (openJob(), openJob());
        uint256[] memory row = new uint256[](2);
        (row[0], row[1]) = (line(a, 10), line(b, 10));
        batch = commitLines(1, bytes32(uint256(2)), 10, row);
        drawNow(batch);
        IRegistry.Settlement memory s = settlement(batch, node, 300e18);
        (s.shares[0], s.shares[1]) = (Lines.packPaid(10, 100e18, 0), Lines.packPaid(5, 200e18, 0));
        settle(s, 1, 3);
        vm.assertEq(registry.job(a).surplus, 1000e18, "1,110 less 100 and 10");
        vm.assertEq(registry.job(b).surplus, 905e18, "1,110 less 200 and 5");
        vm.assertEq(lineOf(batch, 1).amount, 205e18, "in the line");
        vm.assertEq(registry.batch(batch).header, Headers.stored(headerOf(batch)), "whose hash is kept");
        assertConserved();
    }

    function testFuzz_fees_go_to_the_leader_and_the_signers_when_the_window_is_over(uint96 fee, uint8 leader) public {
        fee = uint96(fee % 1e24);
        leader = leader % 3 + 1;
        fund(REQUESTER, 2e6 * CREDIT);
        batch = commit(openJob(jobParams(1000e18, 0, fee)), leader);
        settle(settlement(batch, node, 1e18), 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WindowOpen.selector, batch, vm.getBlockTimestamp() + WINDOW));
        registry.finalize(batch);
        later(WINDOW);
        registry.finalize(batch);
        registry.finalize(batch);
        uint256 part = (fee - uint256(fee) * 5000 / 10_000) / 3;
        for (uint256 i = 1; i <= 4; ++i) {
            uint256 due = i == 4 ? 0 : i == leader ? fee - 2 * part : part;
            vm.assertEq(registry.account(owner(i)).stake, VERIFIER_STAKE + due, "its stake grows by it");
        }
        vm.assertEq(registry.batch(batch).fees, 0, "paid");
        assertConserved();
    }
}
