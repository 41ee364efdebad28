// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice Single wei, and a stranger who sends every open call before the one who meant it.
contract GriefingTest is Case {
    address private constant STRANGER = address(0xbad);

    function test_tokens_sent_to_the_registry_change_nothing() public {
        uint256 accounted = held();
        credit.transfer(address(registry), 1);
        vm.assertEq(held(), accounted, "the books ignore them");
        settleHonestly();
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        registry.claim(claimOf(batch, worker, 100e18));
        vm.assertEq(credit.balanceOf(address(registry)), held() + 1, "and they stay");
    }

    function testFuzz_single_wei_are_neither_lost_nor_made(uint8 amount, uint8 extra, bool faulty) public {
        IRegistry.JobParams memory p = jobParams(uint96(amount) + 1, uint96(extra));
        vm.prank(REQUESTER);
        JobId small = registry.openJob(p);
        fund(STRANGER, 2);
        vm.prank(STRANGER);
        registry.addStake(1);
        vm.prank(STRANGER);
        registry.topUp(small, 1, 0);
        BatchId id = commit(small, 2);
        OperatorId cheat = registry.operatorOf(vm.addr(1011));
        vm.prank(owner(11));
        registry.addStake(uint96(extra));
        IRegistry.Settlement memory s = settlement(id, worker, 1);
        settle(faulty ? withFault(s, cheat) : s, 1, 3);
        assertConserved();
        vm.warp(vm.getBlockTimestamp() + 1 days + 1);
        registry.claim(claimOf(id, worker, 1));
        assertConserved();
        registry.refund(small);
        registry.refund(small);
        vm.assertEq(registry.job(small).spent, uint256(registry.job(small).reward) + p.auditFee, "nothing is left");
        assertConserved();
    }

    function test_a_stranger_has_no_way_to_keep_somebody_s_stake_bonded() public {
        vm.prank(owner(10));
        registry.addStake(10e18);
        vm.prank(owner(10));
        registry.requestUnstake(10e18);
        uint256 releaseAt = registry.account(owner(10)).releaseAt;
        vm.warp(vm.getBlockTimestamp() + 1 days);
        fund(STRANGER, CREDIT);
        vm.prank(STRANGER);
        registry.addStake(1);
        vm.prank(STRANGER);
        registry.requestUnstake(1);
        vm.assertEq(registry.account(owner(10)).releaseAt, releaseAt, "its clock runs on");
        vm.warp(releaseAt);
        vm.prank(owner(10));
        registry.withdraw();
    }

    // ------------------------------------------------------------------------------------------ front-running

    function test_a_copied_settlement_is_the_same_settlement() public {
        IRegistry.Settlement memory s = settlement(batch, worker, 100e18);
        (uint256 signers, bytes memory signature) = quorum(s, 1, 3);
        vm.prank(STRANGER);
        registry.settleBatch(s, signers, signature);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadySettled.selector, batch));
        registry.settleBatch(s, signers, signature);
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        uint256 before = credit.balanceOf(owner(10));
        vm.prank(STRANGER);
        registry.finalize(batch);
        vm.prank(STRANGER);
        registry.claim(claimOf(batch, worker, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, 100e18, "whoever claims, the owner is paid");
        vm.assertEq(credit.balanceOf(STRANGER), 0, "and nobody else");
    }

    function test_a_copied_draw_is_the_same_draw() public {
        vm.prank(vm.addr(2001));
        BatchId id = registry.commitBatch(job, bytes32(uint256(2)), 1);
        mine();
        vm.setBlockhash(registry.batch(id).commitBlock + 2, keccak256("entropy"));
        vm.prank(STRANGER);
        bytes32 seed = registry.draw(id);
        vm.assertEq(registry.draw(id), seed, "one seed");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.SeedAvailable.selector, id));
        registry.recommit(id);
    }

    function test_a_challenge_moved_on_by_a_stranger_goes_the_same_way() public {
        settleHonestly();
        ChallengeId id = challengeSegment();
        mine();
        vm.prank(STRANGER);
        uint32[] memory jury = registry.drawJury(id);
        vm.assertEq(jury.length, 3, "drawn");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Vote));
        registry.drawJury(id);
        vm.warp(vm.getBlockTimestamp() + 2 hours);
        vm.prank(STRANGER);
        registry.resolve(id);
        vm.assertTrue(registry.challenge(id).phase == IRegistry.Phase.Draw, "nobody revealed");
        vm.assertEq(registry.account(STRANGER).stake, 0, "nothing for the stranger");
    }

    function test_a_stranger_cannot_register_with_what_it_has_seen() public {
        bytes memory agreed = consent(1040, owner(40));
        bytes memory key = hex"";
        vm.prank(STRANGER);
        vm.expectRevert();
        registry.registerNode(vm.addr(1040), 0, 1, "", agreed);
        vm.prank(STRANGER);
        vm.expectRevert();
        registry.registerVerifier(vm.addr(1040), 0, "", agreed, key, key);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotOwner.selector, worker, STRANGER, owner(10)));
        registry.rotateKey(worker, vm.addr(1040), agreed);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.StillBacked.selector, worker));
        registry.retire(worker);
    }
}
