// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Base} from "./helpers/Base.sol";

/// @notice Challenges, juries, appeals: whatever the votes, the money is conserved and goes where it should.
contract ChallengesTest is Base {
    address private constant CHALLENGER = address(0xd00d);
    OperatorId private worker;
    JobId private job;
    BatchId private batch;
    IRegistry.Commitment private commitment;

    function setUp() public override {
        super.setUp();
        addVerifier(1);
        worker = addNode(10);
        for (uint256 i = 11; i <= 18; ++i) {
            addNode(i);
        }
        fund(CHALLENGER, 1000 * CREDIT);
        job = openJob();
        commitment = IRegistry.Commitment(1, 0, vm.addr(1010), 0, 0, 0, 8, RECORD, 10);
        vm.prank(vm.addr(2001));
        batch = registry.commitBatch(job, keccak256(abi.encodePacked(bytes1(0), abi.encode(structHash()))), 1);
        mine();
        registry.draw(batch);
        settle(settlement(batch, worker, 100e18), 1, 1);
    }

    function structHash() private view returns (bytes32) {
        IRegistry.Commitment memory c = commitment;
        bytes32 kind = keccak256(
            "Commitment(uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,bytes32 traceRoot,uint32 segments,bytes result,uint64 workUnits)"
        );
        return keccak256(
            abi.encode(
                kind,
                c.job,
                c.task,
                c.node,
                c.manifest,
                c.inputs,
                c.traceRoot,
                c.segments,
                keccak256(c.result),
                c.workUnits
            )
        );
    }

    function mine() private {
        vm.roll(vm.getBlockNumber() + 4);
        vm.setBlockhash(vm.getBlockNumber() - 2, keccak256(abi.encode("entropy", vm.getBlockNumber())));
    }

    function open() private returns (ChallengeId id) {
        vm.prank(CHALLENGER);
        id = registry.challengeSegment(batch, commitment, 0, new bytes32[](0), 3);
    }

    /// @notice One round; bit i of `wrong` is juror i's vote, of `silent` whether it does not reveal.
    function round(ChallengeId id, uint256 wrong, uint256 silent) private {
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

    function test_juries_have_distinct_owners_and_no_parties() public {
        ChallengeId id = open();
        mine();
        uint32[] memory jury = registry.drawJury(id);
        for (uint256 i = 0; i < jury.length; ++i) {
            vm.assertTrue(jury[i] != OperatorId.unwrap(worker), "not the worker");
            for (uint256 n = 0; n < i; ++n) {
                vm.assertTrue(jury[i] != jury[n], "distinct");
            }
        }
    }

    function testFuzz_the_majority_decides_and_the_loser_pays(uint8 votes) public {
        votes = votes % 8;
        bool upheld = (votes & 1) + (votes >> 1 & 1) + (votes >> 2 & 1) >= 2;
        ChallengeId id = open();
        round(id, votes, 0);
        vm.warp(vm.getBlockTimestamp() + 1 hours);
        registry.resolve(id);
        IRegistry.Phase phase = registry.challenge(id).phase;
        vm.assertTrue(phase == (upheld ? IRegistry.Phase.Upheld : IRegistry.Phase.Rejected), "verdict");
        vm.assertEq(registry.account(owner(10)).stake, upheld ? 0 : 120e18, "the worker's stake");
        vm.assertEq(registry.account(CHALLENGER).stake, upheld ? 50e18 + 40e18 : 0, "the challenger's");
        assertConserved();
        vm.warp(vm.getBlockTimestamp() + 1);
        uint256 before = credit.balanceOf(owner(10));
        registry.claim(claimOf(batch, worker, 100e18));
        vm.assertEq(credit.balanceOf(owner(10)) - before, upheld ? 0 : 100e18, "the worker's pay");
        assertConserved();
    }

    function testFuzz_an_appeal_has_the_last_word_and_books_balance(uint8 first, uint8 second, uint8 silent) public {
        silent = silent % 32;
        uint256 revealed;
        for (uint256 i = 0; i < 5; ++i) {
            if (silent >> i & 1 == 0) ++revealed;
        }
        vm.assume(revealed >= 3);
        ChallengeId id = open();
        round(id, first % 8, 0);
        bool verdict = registry.challenge(id).wrong;
        address appellant = verdict ? owner(10) : CHALLENGER;
        vm.prank(appellant);
        registry.appeal(id);
        round(id, second % 32, silent);
        IRegistry.Challenge memory c = registry.challenge(id);
        vm.assertTrue(c.phase == IRegistry.Phase.Upheld || c.phase == IRegistry.Phase.Rejected, "decided");
        bool upheld = c.phase == IRegistry.Phase.Upheld;
        vm.assertEq(upheld ? 0 : 1, registry.account(owner(10)).stake == 0 ? 0 : 1, "stake follows the last verdict");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        assertConserved();
    }

    function test_what_is_out_of_time_or_proof_is_refused() public {
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchSegment.selector, 8, 8));
        registry.challengeSegment(batch, commitment, 0, new bytes32[](0), 8);
        IRegistry.Commitment memory other = commitment;
        other.workUnits += 1;
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.BadCommitmentProof.selector, batch, 0));
        registry.challengeSegment(batch, other, 0, new bytes32[](0), 3);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.NoSuchFault.selector, batch, 0));
        registry.challengeFault(batch, 0);
        uint256 settled = vm.getBlockTimestamp();
        vm.warp(settled + WINDOW);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.OutsideWindow.selector, settled, settled + WINDOW));
        registry.challengeSegment(batch, commitment, 0, new bytes32[](0), 3);
    }

    function test_a_challenge_copied_by_a_front_runner_costs_the_first_nothing() public {
        fund(owner(50), 1000 * CREDIT);
        vm.prank(owner(50));
        ChallengeId id = registry.challengeSegment(batch, commitment, 0, new bytes32[](0), 3);
        uint256 before = credit.balanceOf(CHALLENGER);
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.AlreadyChallenged.selector, id));
        registry.challengeSegment(batch, commitment, 0, new bytes32[](0), 3);
        vm.assertEq(credit.balanceOf(CHALLENGER), before, "no bond taken");
    }

    function test_strangers_do_not_vote_and_votes_cannot_change_once_revealing() public {
        ChallengeId id = open();
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
        ChallengeId id = open();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.TooEarly.selector, id, vm.getBlockNumber() + 2));
        registry.drawJury(id);
        vm.roll(vm.getBlockNumber() + 20_000);
        vm.assertEq(registry.drawJury(id).length, 0, "no jury yet");
        vm.assertEq(registry.challenge(id).drawBlock, vm.getBlockNumber() + 2, "a later block");
    }

    function test_without_jurors_the_bond_goes_back_and_the_pay_is_free() public {
        for (uint256 i = 11; i <= 16; ++i) {
            vm.prank(owner(i));
            registry.retire(OperatorId.wrap(uint32(i - 8)));
        }
        ChallengeId id = open();
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
