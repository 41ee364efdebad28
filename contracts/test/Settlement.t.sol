// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {Dial} from "../src/libraries/Dial.sol";
import {Base} from "./helpers/Base.sol";
import {Bls} from "./helpers/Bls.sol";
import {Deployer} from "./helpers/Deployer.sol";

/// @notice Settling by quorum, slashing, claiming.
contract SettlementTest is Base {
    OperatorId private node;
    JobId private job;
    BatchId private batch;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        job = openJob();
        batch = commit(job, 1);
    }

    function test_two_thirds_settle_and_less_do_not() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 one, bytes memory single) = quorum(s, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoQuorum.selector, 1, 3));
        registry.settleBatch(s, one, single);
        settle(s, 2, 2);
        vm.assertEq(registry.claimable(1, 2), 100e18, "claimable");
        assertConserved();
        (uint256 all, bytes memory signature) = quorum(s, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.settleBatch(s, all, signature);
    }

    function testFuzz_a_changed_settlement_is_not_the_one_that_was_signed(uint256 which, uint96 amount) public {
        amount = uint96(amount % (1000 * CREDIT)) + 1;
        IRegistry.Settlement memory s = settlement(batch, node, amount);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        which %= 6;
        if (which == 0) s.payoutTotal -= 1;
        if (which == 1) s.payoutRoot = ~s.payoutRoot;
        if (which == 2) s.auditUnits += 1;
        if (which == 3) s = withFault(s, node);
        if (which == 4) s.auditRoot = bytes32(uint256(1));
        if (which == 5) s.payoutCount += 1;
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, signers, signature);
    }

    function test_claiming_more_signers_than_signed_is_refused() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (, bytes memory signature) = quorum(s, 1, 2);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, 7, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, 15, 7));
        registry.settleBatch(s, 15, signature);
    }

    function test_identity_and_short_signatures_are_refused() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, 7, new bytes(256));
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, 7, new bytes(96));
    }

    function test_a_signature_of_another_chain_or_registry_is_worthless() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        vm.chainId(10);
        vm.expectRevert(IRegistry.BadSignature.selector);
        registry.settleBatch(s, signers, signature);
        vm.chainId(31337);
        vm.assertTrue(
            Deployer.registry(address(credit), parameters()).domainSeparator() != registry.domainSeparator(), "registry"
        );
    }

    function test_a_settlement_pays_no_more_than_the_escrow() public {
        IRegistry.Settlement memory s = settlement(batch, node, 1100e18 + 1);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.EscrowTooLow.selector, job, 1100e18, uint256(1100e18) + 1));
        registry.settleBatch(s, signers, signature);
    }

    function test_malformed_settlements_are_refused_by_name() public {
        IRegistry.Settlement memory s = settlement(batch, node, 1);
        s.record = hex"00";
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadSettlement.selector, "record is not a CID"));
        registry.settleBatch(s, 7, "");
        s = settlement(batch, node, 1);
        s.faults = new IRegistry.Fault[](33);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadSettlement.selector, "too many faults"));
        registry.settleBatch(s, 7, "");
        s = settlement(batch, node, 1);
        s.payoutCount = 1 << 24;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadSettlement.selector, "too many payouts"));
        registry.settleBatch(s, 7, "");
        s = settlement(BatchId.wrap(77), node, 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownBatch.selector, BatchId.wrap(77)));
        registry.settleBatch(s, 7, "");
    }

    function testFuzz_pay_is_claimed_once_after_the_window_by_anyone(uint96 amount, uint40 wait, address sender)
        public
    {
        amount = uint96(amount % (1000 * CREDIT)) + 1;
        wait = wait % (2 * WINDOW);
        settle(settlement(batch, node, amount), 1, 3);
        uint256 before = credit.balanceOf(owner(10));
        uint256 opens = vm.getBlockTimestamp() + WINDOW;
        vm.warp(vm.getBlockTimestamp() + wait);
        vm.prank(sender);
        if (wait < WINDOW) vm.expectRevert(abi.encodeWithSelector(IRegistry.WindowOpen.selector, batch, opens));
        registry.claim(claimOf(batch, node, amount));
        if (wait < WINDOW) return;
        vm.assertEq(credit.balanceOf(owner(10)) - before, amount, "paid to the owner");
        vm.assertEq(registry.operator(node).consecutiveValid, 1, "reputation");
        vm.assertTrue(registry.isClaimed(batch, 0), "marked");
        assertConserved();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyClaimed.selector, batch, 0));
        registry.claim(claimOf(batch, node, amount));
    }

    function test_payouts_beyond_the_signed_total_take_nothing_from_others() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        s.payoutTotal = 99e18;
        settle(s, 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.PayoutsExceedTotal.selector, batch));
        registry.claim(claimOf(batch, node, 100e18));
    }

    function test_a_fault_takes_the_whole_stake_unbonding_included_and_splits_it() public {
        OperatorId cheat = addNode(11);
        vm.prank(owner(11));
        registry.addStake(50e18);
        vm.prank(owner(11));
        registry.requestUnstake(30e18);
        settle(withFault(settlement(batch, node, 100e18), cheat), 1, 3);
        vm.assertEq(registry.account(owner(11)).stake, 0, "stake");
        vm.assertEq(registry.account(owner(11)).unbonding, 0, "unbonding");
        vm.assertTrue(!registry.operator(cheat).active, "inactive");
        vm.assertEq(registry.totals().bonds, 150e18, "frozen until the window closes");
        assertConserved();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WindowOpen.selector, batch, vm.getBlockTimestamp() + WINDOW));
        registry.finalize(batch);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18 + 45e18, "pay and the auditors' share");
        vm.assertEq(registry.totals().burned, 45e18, "burned");
        vm.assertEq(registry.totals().escrow, 1000e18 + 60e18, "the requester's share");
        registry.finalize(batch);
        assertConserved();
    }

    function test_a_fault_forfeits_unsettled_pay_and_resets_reputation() public {
        settle(settlement(batch, node, 100e18), 1, 3);
        BatchId second = commit(job, 1);
        settle(withFault(settlement(second, OperatorId.wrap(1), 1), node), 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)), before, "no pay");
        vm.assertEq(registry.operator(node).consecutiveValid, 0, "no reputation");
        vm.assertEq(registry.operator(node).lastFault, vm.getBlockTimestamp() - WINDOW, "on record");
        assertConserved();
    }

    function test_later_payouts_are_marked_outside_the_batch() public {
        IRegistry.Settlement memory s = settlement(batch, node, 100e18);
        uint256 size = 64;
        bytes32[] memory row = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            row[i] = keccak256(abi.encodePacked(bytes1(0), abi.encode(batch, i, node, 1e18, 0, 0)));
        }
        bytes32[] memory proof = new bytes32[](6);
        uint256 place = 50;
        for (uint256 level = 0; level < 6; ++level) {
            proof[level] = row[place ^ 1];
            for (uint256 i = 0; i < size >> (level + 1); ++i) {
                row[i] = keccak256(abi.encodePacked(bytes1(0x01), row[2 * i], row[2 * i + 1]));
            }
            place >>= 1;
        }
        (s.payoutRoot, s.payoutCount, s.auditUnits) = (row[0], uint32(size), 0);
        settle(s, 1, 3);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        IRegistry.Claim[] memory claims = new IRegistry.Claim[](1);
        claims[0] = IRegistry.Claim(batch, 50, node, 1e18, 0, 0, proof);
        registry.claim(claims);
        vm.assertTrue(registry.isClaimed(batch, 50) && !registry.isClaimed(batch, 51), "one bit");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyClaimed.selector, batch, 50));
        registry.claim(claims);
    }

    function testFuzz_the_dial_and_the_weight_stay_within_their_bounds(
        uint32 tasks,
        uint96 reward,
        uint32 segments,
        uint8 asked
    ) public view {
        (uint256 n, uint256 m) = (uint256(segments) + 1, uint256(asked) + 1);
        (uint256 probability, uint256 drawn) = registry.auditProbability(node, tasks, reward, n, m);
        vm.assertEq(probability, 1e18, "a new node is always audited");
        vm.assertGe(drawn, m < n ? m : n, "on as many segments as the job asks for");
        vm.assertLe(drawn, n, "and on no more than there are");
        vm.assertEq(registry.payoutWeight(node), 0.5e18, "a new node weighs a half");
    }

    /// @dev Expected loss against gain, for one faked segment in each of up to four tasks: the power written out.
    function testFuzz_one_faked_segment_of_each_task_never_pays(
        uint96 stake,
        uint96 reward,
        uint8 tasks,
        uint16 segments,
        uint8 asked
    ) public pure {
        (uint256 t, uint256 n) = (uint256(tasks) % 4 + 1, uint256(segments) % 512 + 1);
        (uint256 s, uint256 r) = (uint256(stake) % 1e28, uint256(reward) % 1e28 + 1);
        (uint256 probability, uint256 drawn) = Dial.odds(5000, s, t, r, 1000, n, uint256(asked) + 1);
        if (r * 10_000 >= 9000 * (s + r)) {
            vm.assertEq(probability, 1e18, "too much for the stake: always audited");
            vm.assertEq(drawn, n, "and whole");
            return;
        }
        uint256 missed = 1e18 - probability * drawn / n;
        uint256 allMissed = 1e18;
        for (uint256 i = 0; i < t; ++i) {
            allMissed = allMissed * missed / 1e18;
        }
        // Roundings down above: a few units.
        vm.assertGe((1e18 - allMissed + 8) * (s + r) * 9, r * 1e18 * 10, "loses");
    }
}
