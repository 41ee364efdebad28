// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";
import {Trees} from "./helpers/Trees.sol";

/// @notice A verifier's receipts: honoured by a batch in time, or paid for.
/// forge-config: default.fuzz.runs = 128
contract ReceiptsTest is CourtBase {
    uint256 private constant CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    bytes32 private constant HASH = keccak256("a commitment");
    uint64 private deadline;

    function setUp() public override {
        super.setUp();
        deadline = uint64(vm.getBlockTimestamp() + RECEIPT_TIME);
    }

    function receipt(uint256 key, bytes32 leaf, JobId for_, uint64 due) private view returns (bytes memory) {
        bytes32 kind = keccak256("Receipt(bytes32 leaf,uint256 job,uint64 deadline)");
        return signed(key, keccak256(abi.encode(kind, leaf, for_, due)));
    }

    function open(bytes32 hash) private returns (ChallengeId) {
        bytes memory note = receipt(2001, hash, job, deadline);
        vm.prank(CHALLENGER);
        return court.challengeReceipt(hash, job, deadline, note);
    }

    function leavesWith(bytes32 hash) private pure returns (bytes32[] memory all) {
        all = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            all[i] = Trees.leaf(abi.encode(i == 2 ? hash : keccak256(abi.encode(i))));
        }
    }

    /// @notice Verifier `i` commits to four leaves for a job, of which the third is `HASH`.
    function honour(uint256 i, JobId for_) private returns (BatchId) {
        return commitLines(i, Trees.root(leavesWith(HASH)), 4, lines(for_, 5));
    }

    function answer(ChallengeId id, BatchId with_, uint256 index, bytes memory refusal) private {
        IRegistry.Header memory h = headerOf(with_);
        bytes32[] memory proof = Trees.proof(leavesWith(HASH), 2);
        if (refusal.length > 0) vm.expectRevert(refusal);
        court.answerReceipt(id, with_, h, index, proof);
    }

    function refused(BatchId with_, uint256 index) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ICourt.BadCommitmentProof.selector, with_, index);
    }

    function testFuzz_a_promise_nobody_kept_costs_the_verifier_its_penalty(bytes32 hash, uint40 late) public {
        uint256 before = stakeOf(CHALLENGER);
        vm.warp(deadline + 1 + late % WINDOW);
        ChallengeId id = open(hash);
        uint256 until = vm.getBlockTimestamp() + 1 hours;
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, until));
        court.resolve(id);
        assertConserved();
        vm.warp(until);
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Upheld, "upheld");
        vm.assertEq(stakeOf(owner(1)), VERIFIER_STAKE - 100e18, "the penalty");
        vm.assertEq(stakeOf(CHALLENGER), before + 10e18, "bond and a tenth of the penalty");
        vm.assertEq(registry.job(job).surplus, 5e18, "a twentieth for the requester");
        vm.assertEq(registry.totals().burned, 85e18, "there is no jury: the rest is burned");
        vm.assertEq(registry.seats(), 15, "the seat stays");
        assertConserved();
    }

    function testFuzz_a_promise_that_was_kept_costs_the_challenger_its_bond(address anyone) public {
        uint256 before = stakeOf(CHALLENGER);
        BatchId with_ = honour(1, job);
        vm.warp(deadline + 1);
        ChallengeId id = open(HASH);
        vm.prank(anyone);
        answer(id, with_, 2, "");
        assertPhase(id, ICourt.Phase.Rejected, "rejected");
        vm.assertEq(stakeOf(owner(1)), VERIFIER_STAKE + 5e18, "a tenth of the bond");
        vm.assertEq(stakeOf(CHALLENGER), before - BOND, "the bond is gone");
        vm.assertEq(registry.totals().burned, 425e17, "the rest is burned");
        assertConserved();
        answer(id, with_, 2, abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Rejected));
        bytes memory note = receipt(2001, HASH, job, deadline);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.AlreadyChallenged.selector, id));
        court.challengeReceipt(HASH, job, deadline, note);
    }

    function test_a_batch_of_another_verifier_or_one_made_before_the_receipt_keeps_it_too() public {
        BatchId with_ = honour(1, job);
        later(1);
        vm.warp(deadline + 1);
        answer(open(HASH), with_, 2, "");
    }

    function testFuzz_another_place_or_commitment_is_no_answer(uint256 index, bytes32 hash) public {
        BatchId with_ = honour(1, job);
        vm.warp(deadline + 1);
        vm.assume(hash != HASH && index != 2);
        answer(open(hash), with_, 2, refused(with_, 2));
        ChallengeId second = open(HASH);
        answer(second, with_, index, refused(with_, index));
        IRegistry.Header memory h = headerOf(with_);
        h.size = 5;
        vm.expectRevert(refused(with_, 2));
        court.answerReceipt(second, with_, h, 2, Trees.proof(leavesWith(HASH), 2));
    }

    function test_a_batch_of_another_job_is_no_answer() public {
        JobId other = openJob();
        BatchId with_ = honour(1, other);
        vm.warp(deadline + 1);
        answer(open(HASH), with_, 2, refused(with_, 2));
    }

    function test_a_batch_after_the_deadline_is_no_answer() public {
        vm.warp(deadline + 1);
        BatchId with_ = honour(1, job);
        answer(open(HASH), with_, 2, refused(with_, 2));
    }

    function test_a_batch_that_was_dropped_is_no_answer() public {
        deadline = uint64(vm.getBlockTimestamp() + GRACE + 1);
        BatchId with_ = honour(1, job);
        vm.warp(deadline + 1);
        dropBatch(with_);
        answer(open(HASH), with_, 2, refused(with_, 2));
    }

    function testFuzz_a_receipt_counts_after_its_deadline_and_within_the_window(uint40 at_) public {
        at_ = at_ % (4 * WINDOW);
        bytes memory note = receipt(2001, HASH, job, deadline);
        later(at_);
        bool due = vm.getBlockTimestamp() > deadline && vm.getBlockTimestamp() <= deadline + WINDOW;
        vm.prank(CHALLENGER);
        if (!due) vm.expectRevert(abi.encodeWithSelector(ICourt.OutsideWindow.selector, deadline, deadline + WINDOW));
        court.challengeReceipt(HASH, job, deadline, note);
        assertConserved();
    }

    function testFuzz_a_receipt_falls_due_only_while_a_batch_could_still_be_made(uint40 closed, uint40 due) public {
        uint256 start = vm.getBlockTimestamp();
        closed = closed % 2 days;
        due = 1 + due % 3 days;
        // The Registry's terms: a job lasts a day, and batches can be made for RECEIPT_TIME after it is over.
        uint256 last = start + 1 days + RECEIPT_TIME;
        if (closed < 1 days) {
            later(closed);
            vm.prank(REQUESTER);
            registry.closeJob(job, anchor());
            last = start + closed + RECEIPT_TIME;
        }
        deadline = uint64(start + due);
        if (vm.getBlockTimestamp() <= deadline) vm.warp(deadline + 1);
        bytes memory note = receipt(2001, HASH, job, deadline);
        bool open_ = deadline <= last && vm.getBlockTimestamp() <= deadline + WINDOW;
        vm.prank(CHALLENGER);
        if (!open_) {
            vm.expectRevert(abi.encodeWithSelector(ICourt.OutsideWindow.selector, deadline, deadline + WINDOW));
        }
        court.challengeReceipt(HASH, job, deadline, note);
    }

    function test_a_requester_that_closes_between_receipt_and_commit_costs_the_verifier_nothing() public {
        vm.prank(REQUESTER);
        registry.closeJob(job, anchor());
        later(RECEIPT_TIME - 1);
        BatchId with_ = honour(1, job);
        vm.warp(deadline + 1);
        answer(open(HASH), with_, 2, "");
        vm.assertGe(stakeOf(owner(1)), VERIFIER_STAKE, "it kept its word");
    }

    function test_each_promise_is_judged_by_itself() public {
        ChallengeId[3] memory all;
        uint64 second = deadline + 60;
        JobId other = openJob();
        vm.warp(second + 1);
        all[0] = open(HASH);
        bytes memory note = receipt(2001, HASH, job, second);
        vm.prank(CHALLENGER);
        all[1] = court.challengeReceipt(HASH, job, second, note);
        note = receipt(2001, HASH, other, second);
        vm.prank(CHALLENGER);
        all[2] = court.challengeReceipt(HASH, other, second, note);
        later(1 hours);
        for (uint256 i = 0; i < 3; ++i) {
            court.resolve(all[i]);
        }
        vm.assertEq(stakeOf(owner(1)), VERIFIER_STAKE - 300e18, "three broken promises");
        assertConserved();
    }

    function test_what_no_verifier_signed_is_no_receipt() public {
        vm.warp(deadline + 1);
        bytes memory ofNode = receipt(1010, HASH, job, deadline);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, vm.addr(1010)));
        court.challengeReceipt(HASH, job, deadline, ofNode);
        bytes memory note = receipt(2001, HASH, job, deadline);
        vm.expectRevert();
        court.challengeReceipt(HASH, JobId.wrap(2), deadline, note);
        vm.chainId(5);
        vm.expectRevert();
        court.challengeReceipt(HASH, job, deadline, note);
    }

    function test_the_twin_of_a_signature_is_refused() public {
        vm.warp(deadline + 1);
        bytes memory note = receipt(2001, HASH, job, deadline);
        assembly {
            let s := mload(add(note, 0x40))
            mstore(add(note, 0x40), sub(CURVE_ORDER, s))
        }
        note[64] = note[64] == 0x1b ? bytes1(0x1c) : bytes1(0x1b);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotVerifier.selector, address(0)));
        court.challengeReceipt(HASH, job, deadline, note);
    }

    function test_a_verifier_that_has_retired_still_pays_for_its_receipts() public {
        OperatorId verifier = registry.operatorOf(vm.addr(2001));
        vm.prank(owner(1));
        registry.retire(verifier);
        vm.warp(deadline + 1);
        ChallengeId id = open(HASH);
        later(1 hours);
        court.resolve(id);
        IRegistry.Account memory a = registry.account(owner(1));
        vm.assertEq(uint256(a.stake) + a.unbonding, VERIFIER_STAKE - 100e18, "out of what is bound");
        assertConserved();
    }
}
