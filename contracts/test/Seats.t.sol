// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Bls} from "./helpers/Bls.sol";

/// @notice Seats of verifiers: when they count, when they are lost, what stays bound.
contract SeatsTest is Base {
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        job = openJob();
    }

    function quorumNow() private view returns (uint256) {
        (,,,, uint256 version) = registry.counts();
        return registry.quorum(uint24(version));
    }

    function test_founding_seats_count_at_once_and_later_ones_after_the_delay() public {
        vm.assertEq(quorumNow(), 7, "founders");
        commit(job, 1, 1);
        OperatorId late = addVerifier(4);
        vm.assertEq(quorumNow(), 7, "not yet");
        vm.assertEq(registry.seats(), 15, "but taken");
        uint256 from = vm.getBlockTimestamp() + SEAT_DELAY;
        vm.assertEq(registry.seatCountsFrom(slotOf(4)), from, "when it counts");
        uint256[] memory row = lines(job, 1);
        vm.prank(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeatTooNew.selector, late, from));
        registry.commitBatch(0, 1, 0, row, anchor());
        vm.prank(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeatTooNew.selector, late, from));
        registry.takeJob(job, anchor());
        vm.assertTrue(!lens.verifiers(3, 4)[0].counts, "the lens says so");
        later(SEAT_DELAY);
        vm.assertTrue(lens.verifiers(3, 4)[0].counts, "now it does");
        commitLines(4, bytes32(uint256(9)), 1, lines(openJob(), 1));
        vm.assertEq(quorumNow(), 15, "with the next batch");
    }

    /// forge-config: default.fuzz.runs = 1000
    function testFuzz_seats_mature_in_the_order_of_their_delays(uint8 a, uint8 b) public {
        commit(job, 1, 1);
        later(a);
        addVerifier(4);
        later(b);
        addVerifier(5);
        later(SEAT_DELAY - 1);
        commit(job, 1, 1);
        vm.assertEq(quorumNow(), b == 0 ? 7 : 15, "the first, if it came before the second");
        later(1);
        commit(job, 1, 1);
        vm.assertEq(quorumNow(), 31, "both");
    }

    function test_a_seat_that_goes_leaves_a_quorum_that_the_others_settle_with() public {
        OperatorId node = addNode(10);
        BatchId batch = commit(job, 1);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        vm.assertEq(quorumNow(), 3, "a new version at once");
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, 7, 3));
        registry.settleBatch(s, header, bitmap, signature);
        settle(s, 1, 2);
        vm.assertEq(signersOf(batch), 3, "two of two");
    }

    function test_a_seat_stays_with_its_last_holder_through_quarantine() public {
        commit(job, 1, 1);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        later(1);
        vm.assertEq(
            OperatorId.unwrap(registry.seatHolder(2, vm.getBlockTimestamp())), OperatorId.unwrap(third), "liable"
        );
        vm.assertEq(registry.account(owner(3)).boundUntil, vm.getBlockTimestamp() - 1 + UNSTAKE_DELAY, "bound");
        vm.prank(owner(3));
        vm.expectRevert(
            abi.encodeWithSelector(
                IRegistry.StakeTooLow.selector, owner(3), VERIFIER_STAKE, uint256(VERIFIER_STAKE) + 1
            )
        );
        registry.requestUnstake(1);
        later(UNSTAKE_DELAY);
        vm.prank(owner(3));
        registry.requestUnstake(VERIFIER_STAKE);
    }

    function test_whoever_left_returns_to_its_own_slot_with_its_own_key_and_counts_late() public {
        commit(job, 1, 1);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        uint256 until = registry.account(owner(3)).boundUntil;
        bytes memory agreed = consent(2003, owner(3));
        bytes memory key = Bls.publicKey(4003);
        bytes memory proof = possession(3, 4003, owner(3));
        vm.prank(owner(3));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBonded.selector, owner(3), until));
        registry.registerVerifier(vm.addr(2003), 0, "", agreed, key, proof);
        vm.assertEq(OperatorId.unwrap(seat(3, 0, 3003)), OperatorId.unwrap(third), "the same operator");
        vm.assertEq(registry.seats(), 7, "its own slot");
        vm.assertEq(quorumNow(), 3, "which does not count yet");
        later(SEAT_DELAY);
        commit(openJob(), 1, 1);
        vm.assertEq(quorumNow(), 7, "later it does");
    }

    function test_a_returned_seat_still_signs_for_what_was_committed_before_it_left() public {
        OperatorId node = addNode(10);
        BatchId batch = commit(job, 1);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        seat(3, 0, 3003);
        settle(settlement(batch, node, 1e18), 1, 3);
        vm.assertEq(signersOf(batch), 7, "all three");
    }

    function test_a_reused_slot_is_not_the_old_one() public {
        OperatorId node = addNode(10);
        BatchId old = commit(job, 1);
        settle(settlement(old, node, 1e18), 1, 3);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        // All other slots are taken, so that the next verifier gets this one.
        for (uint256 i = 4; i <= 256; ++i) {
            addVerifier(i);
        }
        bytes memory agreed = consent(2300, owner(300));
        bytes memory key = Bls.publicKey(3300);
        bytes memory proof = possession(300, owner(300));
        fund(owner(300), 2000 * CREDIT);
        vm.prank(owner(300));
        vm.expectRevert(IRegistry.VerifierSetFull.selector);
        registry.registerVerifier(vm.addr(2300), VERIFIER_STAKE, "", agreed, key, proof);
        uint256 left = vm.getBlockTimestamp();
        later(UNSTAKE_DELAY);
        OperatorId other = addVerifier(300);
        vm.assertEq(slotOf(300), 2, "reused");
        vm.assertEq(
            OperatorId.unwrap(registry.seatHolder(2, left)), OperatorId.unwrap(third), "who had it is remembered"
        );
        vm.assertEq(
            OperatorId.unwrap(registry.seatHolder(2, vm.getBlockTimestamp())), OperatorId.unwrap(other), "who has it"
        );
        vm.assertEq(OperatorId.unwrap(registry.seatHolder(2, 1)), 0, "nobody before");
        // The batch is voided: its signers pay, not who sits there now.
        voidBatch(old, true);
        vm.assertEq(registry.account(owner(3)).stake, 0, "the signer pays");
        vm.assertEq(registry.account(owner(300)).stake, VERIFIER_STAKE, "the innocent does not");
        assertConserved();
    }

    function test_an_idle_seat_is_taken_away_and_its_stake_stays() public {
        commit(job, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotIdle.selector, 2));
        registry.unseatIdle(2);
        later(2 days);
        vm.prank(vm.addr(2001));
        registry.attend();
        vm.prank(vm.addr(2001));
        registry.attend();
        later(1 days);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotIdle.selector, 0));
        registry.unseatIdle(0);
        registry.unseatIdle(2);
        vm.assertEq(quorumNow(), 3, "out of the quorum");
        vm.assertEq(registry.account(owner(3)).stake, VERIFIER_STAKE, "stake stays");
        vm.assertGe(registry.account(owner(3)).boundUntil, vm.getBlockTimestamp() + UNSTAKE_DELAY, "bound");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotIdle.selector, 2));
        registry.unseatIdle(2);
        vm.prank(vm.addr(2002));
        registry.attend();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotIdle.selector, 1));
        registry.unseatIdle(1);
        vm.prank(vm.addr(2003));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(2003)));
        registry.attend();
    }

    function test_signing_is_attending() public {
        OperatorId node = addNode(10);
        later(2 days);
        settle(settlement(commit(openJob(), 1), node, 1e18), 1, 2);
        later(1 days);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotIdle.selector, 0));
        registry.unseatIdle(0);
        registry.unseatIdle(2);
    }

    function test_founders_may_leave_before_the_first_batch() public {
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.prank(owner(3));
        registry.retire(third);
        (,,,, uint256 version) = registry.counts();
        vm.assertEq(version, 1, "nothing refers to the version: it is replaced");
        vm.assertEq(quorumNow(), 3, "seats");
        OperatorId node = addNode(10);
        settle(settlement(commit(job, 1), node, 1e18), 1, 2);
    }
}
