// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";
import {Bls} from "./helpers/Bls.sol";

/// @notice What a verifier's owner has open is at most what it has at stake; one tenth of 1,110 CREDIT a unit.
contract ExposureTest is Base {
    uint96 private constant UNIT = 111e18;
    OperatorId private node;
    JobId private job;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= 3; ++i) {
            addVerifier(i);
        }
        node = addNode(10);
        for (uint256 i = 11; i <= 13; ++i) {
            addNode(i);
        }
        job = openJob();
    }

    function exposureBps() internal pure override returns (uint16) {
        return 10_000;
    }

    /// @dev In units of the job, as all amounts here.
    function open(uint256 i) private view returns (uint256) {
        return uint256(registry.account(owner(i)).exposed) * 0.1e18 / UNIT;
    }

    function refuse(uint256 i, JobId of_, uint64 units, uint256 exposed, uint256 stake) private {
        refuse(i, owner(i), of_, units, exposed, stake);
    }

    function refuse(uint256 i, address who, JobId of_, uint64 units, uint256 exposed, uint256 stake) private {
        uint256[] memory row = lines(of_, units);
        vm.prank(vm.addr(2000 + i));
        vm.expectRevert(abi.encodeWithSelector(IRegistry.Overexposed.selector, who, exposed, stake));
        registry.commitBatch(bytes32(uint256(2)), 10, bytes32(uint256(3)), row, anchor());
    }

    function test_no_more_is_committed_than_is_at_stake() public {
        refuse(1, job, 10, 10 * UNIT, VERIFIER_STAKE);
        commit(job, 1, 4);
        refuse(1, job, 6, 10 * UNIT, VERIFIER_STAKE);
        commit(job, 1, 5);
        vm.assertEq(open(1), 9, "of 9.009");
        vm.prank(owner(1));
        registry.addStake(UNIT);
        commit(job, 1, 1);
        vm.assertEq(open(1), 10, "more stake, more open");
    }

    /// @dev The owner leaves its seat with a batch open, and takes another with another key.
    function test_an_owner_that_changes_its_verifier_keeps_what_it_has_open() public {
        commit(job, 1, 9);
        OperatorId first = registry.operatorOf(vm.addr(2001));
        vm.prank(owner(1));
        registry.retire(first);
        later(UNSTAKE_DELAY);
        bytes memory agreed = consent(2050, owner(1));
        bytes memory key = Bls.publicKey(3050);
        bytes memory proof = possession(50, 3050, owner(1));
        vm.prank(owner(1));
        registry.registerVerifier(vm.addr(2050), 0, "127.0.0.1:4000", agreed, key, proof);
        later(SEAT_DELAY);
        refuse(50, owner(1), openJob(), 1, 10 * UNIT, VERIFIER_STAKE);
    }

    function test_a_batch_that_is_taken_over_moves_to_who_takes_it() public {
        BatchId batch = commit(job, 1, 6);
        JobId another = openJob();
        commit(another, 2, 5);
        later(SETTLE_TIME + 1);
        IRegistry.Header memory header = headerOf(batch);
        vm.prank(vm.addr(2002));
        vm.expectRevert(
            abi.encodeWithSelector(
                IRegistry.Overexposed.selector, owner(2), 11 * uint256(UNIT), uint256(VERIFIER_STAKE)
            )
        );
        registry.takeBatch(batch, header);
        takeBatch(batch, 3);
        vm.assertEq(open(1), 0, "free");
        vm.assertEq(open(3), 6, "taken over");
    }

    function test_a_voided_batch_is_nobodys_until_it_is_taken_again() public {
        BatchId batch = commit(job, 1, 6);
        settle(settlement(batch, node, 1e18), 1, 3);
        vm.assertEq(open(1), 6, "until it is final");
        vm.prank(address(court));
        registry.void(batch, false);
        vm.assertEq(open(1), 0, "void");
        takeBatch(batch, 2);
        vm.assertEq(open(2), 6, "again");
        later(GRACE + 1);
        dropBatch(batch);
        vm.assertEq(open(2), 0, "dropped");
    }

    function test_a_dropped_batch_is_open_no_more_and_its_penalty_was_there() public {
        BatchId batch = commit(job, 1, 9);
        later(GRACE + 1);
        dropBatch(batch);
        vm.assertEq(open(1), 0, "free");
        vm.assertEq(registry.account(owner(1)).stake, VERIFIER_STAKE - 9 * UNIT, "all it kept from others");
    }

    function test_what_is_settled_is_open_until_it_is_final_however_late_it_is_claimed() public {
        BatchId batch = commit(job, 1, 9);
        settle(settlement(batch, node, 900e18), 1, 3);
        JobId another = openJob();
        refuse(1, another, 1, 10 * UNIT, VERIFIER_STAKE);
        later(WINDOW);
        refuse(1, another, 1, 10 * UNIT, VERIFIER_STAKE);
        registry.finalize(batch);
        vm.assertEq(open(1), 0, "final");
        commit(another, 1, 9);
        registry.claim(claimOf(batch, node, 900e18));
        vm.assertEq(open(1), 9, "a claim frees nothing twice");
        assertConserved();
    }

    function test_who_unstakes_keeps_what_is_open(uint96 more, uint64 units, uint96 amount) public {
        more = 200e18 + more % 800e18;
        units = 1 + units % 10; // ten are more than the seat's share
        vm.prank(owner(1));
        registry.addStake(more);
        commit(job, 1, units);
        IRegistry.Account memory was = registry.account(owner(1));
        uint256 kept = was.exposed * (VERIFIER_STAKE / 10_000);
        vm.assertGe(kept, units * UNIT, "rounded up");
        if (kept < VERIFIER_STAKE) kept = VERIFIER_STAKE;
        amount = uint96(amount % was.stake) + 1;
        vm.prank(owner(1));
        if (was.stake < kept + amount) {
            vm.expectRevert(abi.encodeWithSelector(IRegistry.StakeTooLow.selector, owner(1), was.stake, kept + amount));
            registry.requestUnstake(amount);
        } else {
            registry.requestUnstake(amount);
            vm.assertGe(registry.account(owner(1)).stake, kept, "what is open is still at stake");
        }
    }

    function test_the_first_claim_frees_what_nobody_finalized() public {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18, 0);
        BatchId batch = commit(openJob(p), 1, 5);
        settle(settlement(batch, node, 100e18), 1, 3);
        later(WINDOW);
        registry.claim(claimOf(batch, node, 100e18));
        vm.assertEq(registry.account(owner(1)).exposed, 0, "without fees and faults");
    }

    function test_stake_that_is_open_is_neither_unstaked_nor_bonded() public {
        vm.prank(owner(1));
        registry.addStake(1000e18);
        BatchId batch = commit(job, 1, 10);
        vm.prank(owner(1));
        vm.expectRevert();
        registry.requestUnstake(1000e18);
        vm.prank(address(court));
        vm.expectRevert();
        registry.chargeBond(owner(1), 1000e18);
        settle(settlement(batch, node, 1e18), 1, 3);
        later(WINDOW);
        registry.finalize(batch);
        vm.prank(owner(1));
        registry.requestUnstake(1000e18);
    }

    function test_a_fault_without_accusers_shares_nothing() public {
        BatchId batch = commit(job, 1, 5);
        IRegistry.Settlement memory s = withFault(settlement(batch, node, 0), node, 2, new uint32[](0));
        settle(s, 1, 3);
        uint256 surplus = registry.job(job).surplus;
        later(WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.job(job).surplus, surplus, "nothing for the requester");
        vm.assertEq(registry.batch(batch).pool, 0, "nor for auditors");
        vm.assertEq(registry.totals().burned, NODE_STAKE, "all is burned");
        assertConserved();
    }

    function test_a_seat_is_kept_down_to_half_of_its_stake() public {
        OperatorId verifier = registry.operatorOf(vm.addr(2001));
        vm.prank(address(court));
        registry.slash(owner(1), 500e18);
        vm.assertTrue(lens.operator(verifier).active, "half is left");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, verifier));
        registry.retire(verifier);
        refuse(1, job, 5, 5 * UNIT, 500e18);
        vm.prank(address(court));
        registry.slash(owner(1), 1);
        vm.assertEq(registry.seats(), 6, "and a unit less is too little");
    }
}
