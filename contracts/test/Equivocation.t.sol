// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice A verifier that signs two settlements of one attempt at a batch loses its stake to whoever holds both.
/// forge-config: default.fuzz.runs = 128
contract EquivocationTest is CourtBase {
    address private constant REPORTER = address(0xe4);

    struct Signed {
        IRegistry.Settlement settlement;
        bytes signature;
    }

    /// @notice The settlement of `amount`, signed by verifier `i`.
    function signedFor(uint96 amount, uint256 i) private view returns (Signed memory s) {
        s.settlement = settlement(batch, worker, amount);
        uint256[] memory secrets = new uint256[](1);
        secrets[0] = 3000 + i;
        s.signature = signatureOf(s.settlement, secrets);
    }

    /// @dev What a verifier signs now: with the seed.
    function signedHeader() private view returns (IRegistry.Header memory h) {
        h = header();
        if (h.seed == 0) h.seed = registry.batch(batch).seed;
    }

    function report(Signed memory one, Signed memory other, IRegistry.Header memory h, uint8 slot) private {
        vm.prank(REPORTER);
        court.reportEquivocation(one.settlement, other.settlement, h, slot, one.signature, other.signature);
    }

    function refuse(Signed memory one, Signed memory other, IRegistry.Header memory h, uint8 slot) private {
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotEquivocation.selector, batch));
        report(one, other, h, slot);
    }

    function testFuzz_two_signatures_cost_the_whole_stake(uint96 extra, uint96 one, uint96 other, bool settled) public {
        extra = uint96(extra % (500 * CREDIT));
        (one, other) = (uint96(one % (200 * CREDIT)), uint96(other % (200 * CREDIT)));
        vm.assume(one != other);
        vm.prank(owner(2));
        registry.addStake(extra);
        IRegistry.Header memory h = signedHeader();
        Signed memory first = signedFor(one, 2);
        Signed memory second = signedFor(other, 2);
        if (settled) settleHonestly();
        report(first, second, h, slotOf(2));
        uint256 taken = VERIFIER_STAKE + uint256(extra);
        vm.assertEq(stakeOf(owner(2)), 0, "all of it");
        vm.assertEq(stakeOf(REPORTER), taken / 10, "a tenth for whoever shows it");
        vm.assertEq(registry.totals().burned, taken - taken / 10, "the rest is burned");
        vm.assertEq(registry.seats(), 13, "and the seat");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
        refuse(first, second, h, 1);
        refuse(second, first, h, 1);
    }

    function test_one_settlement_is_no_equivocation_whoever_signs_it() public {
        IRegistry.Header memory h = signedHeader();
        Signed memory one = signedFor(1e18, 2);
        refuse(one, one, h, 1);
        Signed memory other = signedFor(2e18, 3);
        refuse(one, other, h, 1);
        refuse(one, other, h, 2);
    }

    function test_an_aggregate_is_the_signature_of_none() public {
        IRegistry.Header memory h = signedHeader();
        (Signed memory one, Signed memory other) = (signedFor(1e18, 2), signedFor(2e18, 2));
        (, one.signature) = quorum(one.settlement, 2, 2);
        (, other.signature) = quorum(other.settlement, 2, 2);
        refuse(one, other, h, 1);
    }

    function test_settlements_of_different_batches_are_none() public {
        Signed memory one = signedFor(1e18, 2);
        BatchId first = batch;
        IRegistry.Header memory h = signedHeader();
        batch = commitFor(job);
        Signed memory other = signedFor(2e18, 2);
        vm.expectRevert();
        report(one, other, h, 1);
        vm.assertTrue(BatchId.unwrap(first) != BatchId.unwrap(batch), "two batches");
    }

    function test_settlements_of_different_attempts_are_none() public {
        IRegistry.Header memory h = signedHeader();
        Signed memory one = signedFor(PAY, 4);
        settleHonestly();
        voidBatch(batch, false);
        takeBatch(batch, 4);
        Signed memory other = signedFor(1e18, 4);
        refuse(one, other, h, 3);
        refuse(one, other, signedHeader(), 3);
    }

    function test_two_signatures_in_an_attempt_that_was_voided_since_still_count() public {
        IRegistry.Header memory h = signedHeader();
        (Signed memory one, Signed memory other) = (signedFor(1e18, 4), signedFor(2e18, 4));
        settleHonestly();
        voidBatch(batch, false);
        report(one, other, h, 3);
        vm.assertEq(stakeOf(owner(4)), 0, "all of it");
    }

    function test_who_has_left_its_seat_still_pays() public {
        IRegistry.Header memory h = signedHeader();
        (Signed memory one, Signed memory other) = (signedFor(1e18, 2), signedFor(2e18, 2));
        OperatorId verifier = registry.operatorOf(vm.addr(2002));
        vm.prank(owner(2));
        registry.retire(verifier);
        report(one, other, h, 1);
        vm.assertEq(stakeOf(owner(2)), 0, "what was bound");
        assertConserved();
    }

    function test_before_the_draw_nothing_is_signed() public {
        batch = commitLines(1, bytes32(uint256(7)), 1, lines(job, 1));
        IRegistry.Header memory h = signedHeader();
        refuse(signedFor(1, 2), signedFor(2, 2), h, 1);
    }
}
