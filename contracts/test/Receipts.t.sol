// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice A verifier's receipts: honoured by a batch in time, or paid for.
contract ReceiptsTest is Base {
    address private constant CHALLENGER = address(0xd00d);
    uint256 private constant CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    bytes32 private constant HASH = keccak256("a commitment");
    JobId private job;
    uint64 private deadline;

    function setUp() public override {
        super.setUp();
        addVerifier(1);
        addVerifier(2);
        addNode(10);
        fund(CHALLENGER, 1000 * CREDIT);
        job = openJob();
        deadline = uint64(vm.getBlockTimestamp() + 1 hours);
    }

    function open(bytes32 hash) private returns (ChallengeId) {
        bytes memory note = receipt(1, hash, deadline);
        vm.prank(CHALLENGER);
        return registry.challengeReceipt(hash, deadline, note);
    }

    /// @notice Verifier 1 commits to four leaves, of which the third is `HASH`; the third one's proof.
    function honour() private returns (BatchId batch, bytes32[] memory proof) {
        proof = new bytes32[](2);
        proof[0] = leafOf("fourth");
        bytes32 first = keccak256(abi.encodePacked(bytes1(0x01), leafOf("first"), leafOf("second")));
        bytes32 second = keccak256(abi.encodePacked(bytes1(0x01), leafOf(HASH), leafOf("fourth")));
        proof[1] = first;
        vm.prank(vm.addr(2001));
        batch = registry.commitBatch(job, keccak256(abi.encodePacked(bytes1(0x01), first, second)), 4);
    }

    function testFuzz_a_promise_nobody_kept_costs_the_verifier_its_penalty_and_its_seat(bytes32 hash, uint40 late)
        public
    {
        vm.warp(deadline + 1 + late % (WINDOW - 1));
        ChallengeId id = open(hash);
        uint256 until = vm.getBlockTimestamp() + 1 hours;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, until));
        registry.resolve(id);
        assertConserved();
        vm.warp(until);
        registry.resolve(id);
        vm.assertTrue(registry.challenge(id).phase == IRegistry.Phase.Upheld, "upheld");
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - 100e18, "the penalty");
        vm.assertEq(registry.account(CHALLENGER).stake, 50e18 + 40e18, "bond and two fifths of the penalty");
        vm.assertEq(registry.totals().burned, 60e18, "there is no jury and no requester: the rest is burned");
        vm.assertEq(registry.activeVerifiers(), 2, "the seat");
        assertConserved();
    }

    function testFuzz_a_promise_that_was_kept_costs_the_challenger_its_bond(address anyone) public {
        (BatchId batch, bytes32[] memory proof) = honour();
        vm.warp(deadline + 1);
        ChallengeId id = open(HASH);
        vm.prank(anyone);
        registry.answerReceipt(id, batch, 2, proof);
        vm.assertTrue(registry.challenge(id).phase == IRegistry.Phase.Rejected, "rejected");
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE + 20e18, "two fifths of the bond");
        vm.assertEq(registry.account(CHALLENGER).stake, 0, "the bond is gone");
        vm.assertEq(registry.totals().burned, 30e18, "the rest is burned");
        assertConserved();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Rejected));
        registry.answerReceipt(id, batch, 2, proof);
        bytes memory note = receipt(1, HASH, deadline);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyChallenged.selector, id));
        registry.challengeReceipt(HASH, deadline, note);
    }

    function testFuzz_another_place_or_commitment_is_no_answer(uint256 index, bytes32 hash) public {
        (BatchId batch, bytes32[] memory proof) = honour();
        vm.warp(deadline + 1);
        vm.assume(hash != HASH);
        ChallengeId id = open(hash);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, batch, 2));
        registry.answerReceipt(id, batch, 2, proof);
        vm.assume(index != 2);
        ChallengeId second = open(HASH);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, batch, index));
        registry.answerReceipt(second, batch, index, proof);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, BatchId.wrap(99), 2));
        registry.answerReceipt(second, BatchId.wrap(99), 2, proof);
    }

    function test_a_batch_after_the_deadline_is_no_answer() public {
        vm.warp(deadline + 1);
        (BatchId batch, bytes32[] memory proof) = honour();
        ChallengeId id = open(HASH);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, batch, 2));
        registry.answerReceipt(id, batch, 2, proof);
    }

    function testFuzz_a_receipt_counts_after_its_deadline_and_within_the_window(uint40 at) public {
        at = at % (4 * WINDOW);
        bytes memory note = receipt(1, HASH, deadline);
        vm.warp(vm.getBlockTimestamp() + at);
        vm.prank(CHALLENGER);
        if (vm.getBlockTimestamp() <= deadline || vm.getBlockTimestamp() > deadline + WINDOW) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.OutsideWindow.selector, deadline, deadline + WINDOW));
        }
        registry.challengeReceipt(HASH, deadline, note);
        assertConserved();
    }

    function test_what_no_verifier_signed_is_no_receipt() public {
        vm.warp(deadline + 1);
        bytes32 kind = keccak256("Receipt(bytes32 leaf,uint64 deadline)");
        bytes memory ofNode = signed(1010, keccak256(abi.encode(kind, HASH, deadline)));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        registry.challengeReceipt(HASH, deadline, ofNode);
        bytes memory note = receipt(1, HASH, deadline);
        vm.chainId(5);
        vm.expectRevert();
        registry.challengeReceipt(HASH, deadline, note);
    }

    function test_the_twin_of_a_signature_is_refused() public {
        vm.warp(deadline + 1);
        bytes memory note = receipt(1, HASH, deadline);
        assembly {
            let s := mload(add(note, 0x40))
            mstore(add(note, 0x40), sub(CURVE_ORDER, s))
        }
        note[64] = note[64] == 0x1b ? bytes1(0x1c) : bytes1(0x1b);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(0)));
        registry.challengeReceipt(HASH, deadline, note);
    }

    function test_a_verifier_that_has_retired_still_pays_for_its_receipts() public {
        vm.prank(owner(1));
        registry.retire(OperatorId.wrap(1));
        vm.prank(owner(1));
        registry.requestUnstake(VERIFIER_STAKE);
        vm.warp(deadline + 1);
        ChallengeId id = open(HASH);
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        registry.resolve(id);
        vm.assertEq(registry.account(owner(1)).unbonding, VERIFIER_STAKE - 100e18, "out of what it was taking away");
        assertConserved();
    }
}
