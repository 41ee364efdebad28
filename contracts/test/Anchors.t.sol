// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, JobId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice A reorganisation gives a job's number to another job: what was meant for the one does not reach the other.
contract AnchorsTest is Base {
    address private constant STRANGER = address(0xbeef);
    uint96 private constant MORE = 5e18;
    uint256 private opened;
    IRegistry.Anchor private seen;
    JobId private job;

    function setUp() public override {
        super.setUp();
        addVerifier(1);
        fund(STRANGER, 1000 * CREDIT);
        opened = vm.getBlockNumber();
    }

    /// @dev The job of REQUESTER, which gets the first number, and the stranger's; the chain goes on by `blocks`.
    function openBoth(address first, address second, bytes32 hash, uint256 blocks) private {
        job = openJobOf(first, opened);
        openJobOf(second, opened);
        vm.roll(opened + blocks);
        vm.setBlockhash(opened, hash);
    }

    function openJobOf(address requester, uint256 salt) private returns (JobId id) {
        IRegistry.JobParams memory p = jobParams(100e18, 10e18, 1e18);
        p.manifest = keccak256(abi.encode(requester, salt));
        vm.prank(requester);
        id = registry.openJob(p);
    }

    /// @dev What was meant for the job as its caller saw it, sent on a chain on which both were opened the other way round.
    function swapNumbers() private {
        uint256 before = vm.snapshotState();
        openBoth(REQUESTER, STRANGER, "one chain", 1);
        seen = IRegistry.Anchor(uint64(opened), "one chain");
        IRegistry.Anchor memory kept = seen;
        vm.revertToState(before);
        vm.roll(opened);
        openBoth(STRANGER, REQUESTER, "another", 1);
        seen = kept;
    }

    function refusal(bytes32 found) private view returns (bytes memory) {
        return abi.encodeWithSelector(IRegistry.AnchorGone.selector, seen.number, seen.hash, found);
    }

    function commit() private {
        vm.prank(vm.addr(2001));
        registry.commitBatch(bytes32(uint256(2)), 1, 0, lines(job, 4), seen);
    }

    function test_a_commit_does_not_reach_another_job_of_the_same_number() public {
        swapNumbers();
        uint96 escrow = registry.job(job).escrow;
        vm.expectRevert(refusal("another"));
        commit();
        vm.assertEq(registry.job(job).unitsOpen, 0, "no unit is held");
        vm.assertEq(registry.job(job).escrow, escrow, "no escrow is reserved");
        vm.assertEq(registry.job(job).verifier, 0, "it is nobody's");
        seen.hash = "another";
        commit();
        vm.assertEq(registry.job(job).unitsOpen, 4, "who saw this chain may");
    }

    function test_nor_does_anything_else_that_names_one() public {
        swapNumbers();
        JobId[] memory both = new JobId[](2);
        (both[0], both[1]) = (job, JobId.wrap(JobId.unwrap(job) + 1));
        vm.prank(vm.addr(2001));
        vm.expectRevert(refusal("another"));
        registry.takeJob(job, seen);
        vm.prank(vm.addr(2001));
        vm.expectRevert(refusal("another"));
        registry.takeJobs(both, seen);
        vm.prank(REQUESTER);
        vm.expectRevert(refusal("another"));
        registry.topUp(job, MORE, seen);
        vm.prank(STRANGER);
        vm.expectRevert(refusal("another"));
        registry.closeJob(job, seen);
    }

    /// @dev A job that stays where it was, under blocks that are other ones: its anchor is the oldest that says enough.
    function test_a_reorganisation_above_the_youngest_job_changes_nothing() public {
        openBoth(REQUESTER, STRANGER, "one chain", 5);
        seen = IRegistry.Anchor(uint64(opened), "one chain");
        for (uint256 i = 1; i < 5; ++i) {
            vm.setBlockhash(opened + i, keccak256(abi.encode(i)));
        }
        commit();
        vm.assertEq(registry.job(job).unitsOpen, 4, "committed");
    }

    function testFuzz_the_hash_must_be_right_as_long_as_it_can_be_had(uint256 age, bytes32 given) public {
        age = 1 + age % 600;
        openBoth(REQUESTER, STRANGER, "one chain", age);
        seen = IRegistry.Anchor(uint64(opened), given);
        if (age <= 256 && given != "one chain") vm.expectRevert(refusal("one chain"));
        commit();
    }

    function test_of_the_last_256_blocks_the_oldest_is_looked_at_and_the_one_before_is_not() public {
        testFuzz_the_hash_must_be_right_as_long_as_it_can_be_had(255, 0);
        seen.hash = "one chain";
        commit();
        vm.roll(opened + 257);
        seen.hash = 0;
        commit();
    }

    function testFuzz_a_block_that_is_not_there_is_no_anchor(uint64 ahead, bytes32 given) public {
        openBoth(REQUESTER, STRANGER, "one chain", 1);
        uint256 number = vm.getBlockNumber() + ahead % (type(uint64).max - vm.getBlockNumber());
        seen = IRegistry.Anchor(uint64(number), given);
        vm.expectRevert(refusal(0));
        commit();
        seen.hash = 0;
        vm.expectRevert(refusal(0));
        commit();
    }
}
