// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

interface StateSnapshots {
    function snapshotState() external returns (uint256);
    function revertToState(uint256 snapshot) external returns (bool);
}

/// @notice Who comes after a case was opened, and what comes after its window closed.
contract AttacksBenchTest is CourtBase {
    /// @dev A place that was left long ago is within the bench of the case: who takes it once the block is known does not
    /// sit.
    function test_a_place_left_long_ago_is_not_taken_to_sit_on_an_open_case() public {
        OperatorId node = nodeOf(31);
        vm.prank(owner(31));
        registry.retire(node);
        later(UNSTAKE_DELAY + 1);
        job = openJobFor(0);
        batch = commitFor(job);
        settleHonestly();
        ChallengeId id = challengeRecord(CHALLENGER);
        mine();
        later(1);
        addNode(200);
        uint256 length = court.challenge(id).bench;
        bool taken;
        for (uint256 i = 0; i < length; ++i) {
            taken = taken || registry.benchAt(0, i).owner == owner(200);
        }
        vm.assertTrue(taken, "it has a place within the bench");
        StateSnapshots state = StateSnapshots(address(vm));
        for (uint256 n = 1; n <= 64; ++n) {
            uint256 snapshot = state.snapshotState();
            vm.setBlockhash(court.challenge(id).drawBlock, keccak256(abi.encode(n)));
            vm.assertTrue(!contains(court.drawJury(id), owner(200)), "and no seat");
            state.revertToState(snapshot);
        }
    }

    /// @dev A challenge that is still open prolongs the window of nothing else.
    function test_an_open_challenge_opens_no_window() public {
        settleHonestly();
        uint256 closes = vm.getBlockTimestamp() + WINDOW;
        challengeSegment();
        vm.warp(closes);
        IRegistry.Header memory h = header();
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.OutsideWindow.selector, closes - WINDOW, closes));
        court.challengeRecord(batch, h, SALT);
    }
}
