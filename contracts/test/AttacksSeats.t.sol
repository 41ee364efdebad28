// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Bls} from "./helpers/Bls.sol";

/// @notice Attacks on who may settle, each of which fails.
contract AttacksSeatsTest is Base {
    OperatorId private node;
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        for (uint256 i = 11; i <= 14; ++i) {
            addNode(i);
        }
        job = openJob();
    }

    function retire(uint256 i) private {
        OperatorId id = registry.operatorOf(vm.addr(2000 + i));
        vm.prank(owner(i));
        registry.retire(id);
    }

    /// @dev Six seats of one block, to settle what three others committed.
    function test_a_quorum_bought_overnight_settles_nothing_that_was_committed_before() public {
        BatchId batch = commit(job, 1);
        for (uint256 i = 4; i <= 9; ++i) {
            addVerifier(i);
        }
        IRegistry.Settlement memory s = settlement(batch, OperatorId.wrap(5), 1000e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 4, 6);
        IRegistry.Header memory header = headerOf(batch);
        OperatorId leader = registry.operatorOf(vm.addr(2001));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.LeaderMissing.selector, batch, leader));
        registry.settleBatch(s, header, bitmap, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, bitmap | 1, 7));
        registry.settleBatch(s, header, bitmap | 1, signature);
        later(GRACE);
        uint256 own = 1 << slotOf(4);
        vm.prank(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, own, 7));
        registry.takeBatch(batch, header);
    }

    /// @dev Nor do they take the jobs: a seat that does not count commits nothing and holds nothing.
    function test_a_new_seat_cannot_take_a_job_to_hold_it() public {
        addVerifier(1000);
        commit(job, 1, 1);
        OperatorId late = addVerifier(4);
        JobId free = openJob();
        uint256 from = registry.seatCountsFrom(slotOf(4));
        vm.prank(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeatTooNew.selector, late, from));
        registry.takeJob(free, anchor());
    }

    /// @dev The leader collects signatures on a false record, leaves its own out and has it challenged.
    function test_a_leader_cannot_leave_itself_out_of_the_signers() public {
        addVerifier(4);
        BatchId batch = commit(job, 4);
        IRegistry.Settlement memory s = withFault(settlement(batch, node, 1e18), OperatorId.wrap(5));
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 3);
        IRegistry.Header memory header = headerOf(batch);
        OperatorId leader = registry.operatorOf(vm.addr(2004));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.LeaderMissing.selector, batch, leader));
        registry.settleBatch(s, header, bitmap, signature);
        // With it, it pays like the others.
        settle(s, 1, 4);
        vm.assertEq(voidBatch(batch, true), 4 * VERIFIER_STAKE, "all four");
    }

    function test_a_third_of_idle_seats_does_not_stop_the_others() public {
        BatchId batch = commit(job, 1);
        IRegistry.Settlement memory s = settlement(batch, node, 1e18);
        (uint256 bitmap, bytes memory signature) = quorum(s, 1, 1);
        IRegistry.Header memory header = headerOf(batch);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoQuorum.selector, 1, 3));
        registry.settleBatch(s, header, bitmap, signature);
        later(2 days);
        vm.prank(vm.addr(2001));
        registry.attend();
        registry.unseatIdle(1);
        registry.unseatIdle(2);
        settle(settlement(commit(openJob(), 1), node, 1e18), 1, 1);
    }

    /// @dev One stake cannot put seat after seat into quarantine.
    function test_one_stake_cannot_fill_the_slots_by_leaving_them() public {
        commit(job, 1, 1);
        retire(3);
        uint256 until = registry.account(owner(3)).boundUntil;
        vm.prank(owner(3));
        vm.expectRevert(
            abi.encodeWithSelector(
                IRegistry.StakeTooLow.selector, owner(3), VERIFIER_STAKE, uint256(VERIFIER_STAKE) + 1
            )
        );
        registry.requestUnstake(1);
        // Neither by another BLS key nor by another operator of the same owner.
        bytes memory agreed = consent(2100, owner(3));
        bytes memory proof = possession(100, 3100, owner(3));
        bytes memory key = keyOf(3100);
        vm.prank(owner(3));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBonded.selector, owner(3), until));
        registry.registerVerifier(vm.addr(2100), 0, "", agreed, key, proof);
        for (uint256 i = 0; i < 5; ++i) {
            seat(3, 0, 3003);
            retire(3);
        }
        addVerifier(4);
        vm.assertEq(registry.seats(), 3 | 1 << slotOf(4), "two and the newcomer are seated");
        vm.assertEq(slotOf(3), 2, "and only its own slot is kept from others");
    }

    function keyOf(uint256 secret) private view returns (bytes memory key) {
        key = Bls.publicKey(secret);
    }

    /// @dev Everybody leaves: those who stay bound are the only ones that cannot be replaced at once, and they return.
    function test_with_all_slots_in_quarantine_whoever_left_can_return_and_others_join_afterwards() public {
        commit(job, 1, 1);
        for (uint256 i = 4; i <= 256; ++i) {
            addVerifier(1000 + i);
        }
        for (uint256 i = 4; i <= 256; ++i) {
            retire(1000 + i);
        }
        seat(1010, 0, 4010);
        later(UNSTAKE_DELAY);
        addVerifier(4);
    }

    /// @dev Two of three accuse the third to be rid of it and to have its jobs.
    function test_two_of_three_cannot_unseat_the_third_by_accusing_it() public {
        fund(owner(3), 200 * CREDIT);
        OperatorId own = listNode(3, 3, NODE_STAKE, 1);
        vm.prank(vm.addr(2003));
        registry.takeJob(job, anchor());
        BatchId batch = commit(openJob(), 1);
        settle(withFault(settlement(batch, node, 1e18), own), 1, 2);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.assertEq(registry.seats(), 7, "seated");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, third));
        registry.retire(third);
        vm.prank(vm.addr(2001));
        vm.expectRevert(
            abi.encodeWithSelector(IRegistry.JobTakenBy.selector, job, third, vm.getBlockTimestamp() + TAKEOVER)
        );
        registry.takeJob(job, anchor());
        commitLines(3, bytes32(uint256(9)), 1, lines(job, 1));
        // It can bond its own challenge.
        vm.prank(owner(3));
        registry.addStake(50e18);
        vm.prank(address(court));
        registry.chargeBond(owner(3), 50e18);
        vm.assertEq(registry.seats(), 7, "and is seated still");
    }

    function test_a_verifier_whose_nodes_lost_their_backing_keeps_its_seat() public {
        fund(owner(3), 200 * CREDIT);
        OperatorId own = listNode(3, 3, NODE_STAKE, 1);
        vm.prank(address(court));
        registry.chargeBond(owner(3), 50e18);
        OperatorId third = registry.operatorOf(vm.addr(2003));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, third));
        registry.retire(third);
        registry.retire(own);
        vm.assertEq(registry.seats(), 7, "seated");
    }

    /// @dev A verdict is left unresolved until somebody else sits in the signer's slot.
    function test_a_verdict_finds_the_signer_and_not_who_sits_there_now() public {
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 1e18), 1, 3);
        retire(3);
        for (uint256 i = 4; i <= 256; ++i) {
            addVerifier(1000 + i);
        }
        later(UNSTAKE_DELAY);
        addVerifier(3000);
        vm.assertEq(slotOf(3000), 2, "the same slot");
        vm.assertEq(voidBatch(batch, true), 3 * VERIFIER_STAKE, "the signers pay");
        vm.assertEq(registry.account(owner(3000)).stake, VERIFIER_STAKE, "not the successor");
        vm.assertEq(registry.account(owner(3)).stake, 0, "but who signed");
        assertConserved();
    }

    /// @dev A slot with another holder does not count for what was committed before.
    function test_a_successor_does_not_sign_for_its_predecessor() public {
        BatchId batch = commit(job, 1);
        settle(settlement(batch, node, 1e18), 1, 3);
        retire(3);
        for (uint256 i = 4; i <= 256; ++i) {
            addVerifier(1000 + i);
        }
        later(UNSTAKE_DELAY);
        addVerifier(3000);
        BatchId other = commit(openJob(), 1);
        retire(2);
        IRegistry.Settlement memory s = settlement(other, node, 1e18);
        uint256[] memory secrets = new uint256[](2);
        (secrets[0], secrets[1]) = (3001, 6000);
        bytes memory signature = signatureOf(s, secrets);
        IRegistry.Header memory header = headerOf(other);
        uint256 counting = registry.quorum(registry.batch(other).quorum) & registry.seats();
        vm.assertEq(counting & 4, 0, "too new to count");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.UnknownSigner.selector, 5, counting));
        registry.settleBatch(s, header, 5, signature);
    }
}
