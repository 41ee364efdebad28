// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../../src/interfaces/IRegistry.sol";
import {Base} from "./Base.sol";

/// @notice A batch of one commitment, node 10's, settled by verifiers 1 to 3 of 4; and what a jury does with it.
abstract contract Case is Base {
    address internal constant CHALLENGER = address(0xd00d);
    OperatorId internal worker;
    JobId internal job;
    BatchId internal batch;

    function setUp() public virtual override {
        super.setUp();
        for (uint256 i = 1; i <= 4; ++i) {
            addVerifier(i);
        }
        worker = addNode(10);
        for (uint256 i = 11; i <= 18; ++i) {
            addNode(i);
        }
        fund(CHALLENGER, 1000 * CREDIT);
        job = openJob();
        vm.prank(vm.addr(2001));
        batch = registry.commitBatch(job, leafOf(structHash(commitmentOf(10))), 1);
        mine();
        registry.draw(batch);
    }

    function settleHonestly() internal {
        settle(settlement(batch, worker, 100e18), 1, 3);
    }

    function challengeSegment() internal returns (ChallengeId) {
        vm.prank(CHALLENGER);
        return registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 3);
    }

    function challengePayout() internal returns (ChallengeId) {
        vm.prank(CHALLENGER);
        return registry.challengePayout(claimOf(batch, worker, 100e18)[0]);
    }

    function challengeFault() internal returns (ChallengeId) {
        vm.prank(CHALLENGER);
        return registry.challengeFault(batch, 0);
    }

    /// @notice One round; bit i of `wrong` is juror i's vote, of `silent` whether it does not reveal.
    function round(ChallengeId id, uint256 wrong, uint256 silent) internal {
        mine();
        uint32[] memory jury = registry.drawJury(id);
        uint8 number = registry.challenge(id).round;
        for (uint256 i = 0; i < jury.length; ++i) {
            bytes32 sealedVote = keccak256(abi.encode(id, number, jury[i], wrong >> i & 1 == 1, bytes32(i)));
            vm.prank(registry.operator(OperatorId.wrap(jury[i])).key);
            registry.commitVote(id, sealedVote);
        }
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        for (uint256 i = 0; i < jury.length; ++i) {
            if (silent >> i & 1 == 1) continue;
            vm.prank(registry.operator(OperatorId.wrap(jury[i])).key);
            registry.revealVote(id, wrong >> i & 1 == 1, bytes32(i));
        }
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        registry.resolve(id);
        assertConserved();
    }

    /// @notice A first verdict that nobody appeals against; whether the challenge was upheld.
    function decide(ChallengeId id, uint256 wrong) internal returns (bool) {
        round(id, wrong, 0);
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        registry.resolve(id);
        assertConserved();
        return registry.challenge(id).phase == IRegistry.Phase.Upheld;
    }
}
