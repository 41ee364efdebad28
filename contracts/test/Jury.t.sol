// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Case} from "./helpers/Case.sol";

/// @notice Drawing jurors, and their votes by commit and reveal.
contract JuryTest is Case {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function test_juries_have_distinct_owners_and_no_parties() public {
        ChallengeId id = challengeSegment();
        mine();
        uint32[] memory jury = registry.drawJury(id);
        for (uint256 i = 0; i < jury.length; ++i) {
            vm.assertTrue(jury[i] != OperatorId.unwrap(worker), "not the worker");
            for (uint256 n = 0; n < i; ++n) {
                vm.assertTrue(jury[i] != jury[n], "distinct");
            }
        }
    }

    function test_strangers_do_not_vote_and_votes_cannot_change_once_revealing() public {
        ChallengeId id = challengeSegment();
        mine();
        uint32[] memory jury = registry.drawJury(id);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotJuror.selector, id, address(this)));
        registry.commitVote(id, bytes32(uint256(5)));
        address juror = registry.operator(OperatorId.wrap(jury[0])).key;
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadVote.selector, id));
        registry.commitVote(id, bytes32(uint256(2)));
        vm.prank(juror);
        registry.commitVote(id, keccak256("sealed"));
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, vm.getBlockTimestamp() + 1 hours));
        registry.revealVote(id, true, 0);
        uint256 end = vm.getBlockTimestamp() + 1 hours;
        vm.warp(end);
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooLate.selector, id, end));
        registry.commitVote(id, keccak256("other"));
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadVote.selector, id));
        registry.revealVote(id, true, 0);
    }

    function test_a_jury_nobody_drew_in_time_is_drawn_from_a_later_block() public {
        ChallengeId id = challengeSegment();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, vm.getBlockNumber() + 2));
        registry.drawJury(id);
        vm.roll(vm.getBlockNumber() + 20_000);
        vm.assertEq(registry.drawJury(id).length, 0, "no jury yet");
        vm.assertEq(registry.challenge(id).drawBlock, vm.getBlockNumber() + 2, "a later block");
    }

    function testFuzz_a_jury_that_does_not_reveal_by_half_pays_and_is_replaced(uint8 silent) public {
        silent = silent % 8;
        uint256 absent = (silent & 1) + (silent >> 1 & 1) + (silent >> 2 & 1);
        vm.assume(absent >= 2);
        ChallengeId id = challengeSegment();
        round(id, 7, silent);
        vm.assertTrue(registry.challenge(id).phase == IRegistry.Phase.Draw, "drawn again");
        vm.assertEq(registry.jurors(id, 0).length, 0, "nobody sits");
        vm.assertEq(registry.challenge(id).fines, absent * 5e18, "the silent pay");
        uint256 drawBlock = registry.challenge(id).drawBlock;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, drawBlock));
        registry.drawJury(id);
        bool upheld = decide(id, 7);
        vm.assertTrue(upheld, "the next jury decides");
        vm.assertEq(registry.totals().bonds, 0, "the fines are distributed");
    }

    function test_nobody_sits_who_cannot_execute_the_workload_or_is_a_party() public {
        IRegistry.JobParams memory p = jobParams(1000e18, 100e18);
        p.workload = 1;
        vm.prank(REQUESTER);
        JobId other = registry.openJob(p);
        vm.prank(vm.addr(2001));
        batch = registry.commitBatch(other, leafOf(structHash(commitmentOf(10))), 1);
        mine();
        registry.draw(batch);
        settleHonestly();
        for (uint256 i = 20; i <= 22; ++i) {
            fund(owner(i), 1000 * CREDIT);
            bytes memory agreed = consent(1000 + i, owner(i));
            vm.prank(owner(i));
            registry.registerNode(vm.addr(1000 + i), NODE_STAKE, 2, "", agreed);
        }
        vm.prank(owner(20));
        ChallengeId id = registry.challengeSegment(batch, commitmentOf(10), 0, new bytes32[](0), 3);
        mine();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JuryTooSmall.selector, id, 2, 3));
        registry.drawJury(id);
    }

    function test_a_juror_that_has_retired_may_vote_and_one_off_the_jury_may_not() public {
        ChallengeId id = challengeSegment();
        mine();
        uint32[] memory jury = registry.drawJury(id);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Vote));
        registry.drawJury(id);
        address worker_ = vm.addr(1010);
        vm.prank(worker_);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NotJuror.selector, id, worker_));
        registry.commitVote(id, keccak256("sealed"));
        IRegistry.OperatorView memory juror = registry.operator(OperatorId.wrap(jury[0]));
        vm.prank(juror.owner);
        registry.retire(juror.id);
        vm.prank(juror.key);
        registry.commitVote(id, keccak256("sealed"));
    }

    function test_a_vote_is_opened_in_its_time_and_counted_in_its_time() public {
        ChallengeId id = challengeSegment();
        mine();
        uint32[] memory jury = registry.drawJury(id);
        address juror = registry.operator(OperatorId.wrap(jury[0])).key;
        bytes32 sealedVote = keccak256(abi.encode(id, 0, jury[0], true, bytes32(0)));
        vm.prank(juror);
        registry.commitVote(id, sealedVote);
        uint256 end = vm.getBlockTimestamp() + 2 hours;
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, end));
        registry.resolve(id);
        vm.warp(end);
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooLate.selector, id, end));
        registry.revealVote(id, true, 0);
    }

    function test_without_jurors_the_bond_goes_back_and_the_pay_is_free() public {
        for (uint256 i = 11; i <= 16; ++i) {
            vm.prank(owner(i));
            registry.retire(OperatorId.wrap(uint32(i - 5)));
        }
        ChallengeId id = challengeSegment();
        mine();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.JuryTooSmall.selector, id, 2, 3));
        registry.drawJury(id);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.Contested.selector, batch));
        registry.claim(_afterWindow());
        vm.warp(vm.getBlockTimestamp() + 6 hours);
        registry.resolve(id);
        vm.assertTrue(registry.challenge(id).phase == IRegistry.Phase.Dismissed, "dismissed");
        vm.assertEq(registry.account(CHALLENGER).stake, 50e18, "the bond is back");
        registry.claim(claimOf(batch, worker, 100e18));
        assertConserved();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.WrongPhase.selector, id, IRegistry.Phase.Dismissed));
        registry.resolve(id);
    }

    function _afterWindow() private returns (IRegistry.Claim[] memory) {
        vm.warp(vm.getBlockTimestamp() + WINDOW);
        return claimOf(batch, worker, 100e18);
    }
}
