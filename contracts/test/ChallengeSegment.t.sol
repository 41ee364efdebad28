// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

/// @notice A segment found wrong: whatever the votes, the money is conserved and goes where it should.
/// forge-config: default.fuzz.runs = 128
contract ChallengeSegmentTest is CourtBase {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function open(ICourt.Step memory step, bytes memory refusal) private {
        IRegistry.Header memory h = header();
        if (refusal.length > 0) vm.expectRevert(refusal);
        vm.prank(CHALLENGER);
        court.challengeSegment(batch, h, step, SALT);
    }

    function testFuzz_the_majority_decides_and_the_loser_pays(uint8 votes, uint96 extra) public {
        votes = votes % 8;
        extra = uint96(extra % (800 * CREDIT));
        vm.prank(owner(10));
        registry.addStake(extra);
        uint256 before = stakeOf(CHALLENGER);
        uint256 burned = registry.totals().burned;
        bool upheld = decide(challengeSegment(), votes);
        vm.assertTrue(upheld == (count(votes, 3) >= 2), "the majority decides");
        // Shares are of a node's stake at most: 10% to the winner, 5% to the requester, 30% to the jury's majority.
        uint256 bond = BOND - REWARD;
        vm.assertEq(stakeOf(owner(10)), upheld ? 0 : NODE_STAKE + extra + bond / 10, "the worker's stake");
        vm.assertEq(stakeOf(CHALLENGER), upheld ? before - REWARD + 10e18 : before - BOND, "the challenger's");
        vm.assertEq(registry.job(job).surplus, upheld ? 125e18 : 120e18 + bond / 20, "the requester's");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        uint256 least = upheld ? NODE_STAKE + extra - 45e18 : bond * 55 / 100;
        vm.assertGe(registry.totals().burned - burned, least, "the rest is burned");
        vm.assertLe(registry.totals().burned - burned, least + 5, "but for what does not divide");
        later(1);
        uint256 balance = credit.balanceOf(owner(10));
        registry.claim(claims());
        vm.assertEq(credit.balanceOf(owner(10)) - balance, upheld ? 0 : PAY, "the worker's pay");
        assertConserved();
    }

    function testFuzz_jurors_are_paid_for_what_was_decided_and_pay_for_the_opposite(uint8 votes) public {
        votes = votes % 8;
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        vote(id, jury, votes, 0);
        later(1 hours);
        court.resolve(id);
        uint256 wrong = count(votes, 3);
        uint256 agreeing = wrong >= 2 ? wrong : 3 - wrong;
        uint256 pot = (wrong >= 2 ? NODE_STAKE : BOND - REWARD) * 3 / 10 + (3 - agreeing) * FINE;
        for (uint256 i = 0; i < 3; ++i) {
            bool agrees = (votes >> i & 1 == 1) == (wrong >= 2);
            vm.assertEq(stakeOf(jury[i]), agrees ? NODE_STAKE + pot / agreeing : NODE_STAKE - FINE, "a juror");
        }
    }

    function test_of_those_who_find_a_segment_wrong_only_who_found_the_same_are_paid() public {
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        bytes32[3] memory found = [sha256("led there"), sha256("led there"), keccak256("made up")];
        for (uint256 i = 0; i < 3; ++i) {
            commitVote(id, jury[i], found[i]);
        }
        later(1 hours);
        for (uint256 i = 0; i < 3; ++i) {
            revealVote(id, jury[i], found[i]);
        }
        later(1 hours);
        court.resolve(id);
        later(1 hours);
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Upheld, "all three found it wrong");
        vm.assertEq(stakeOf(jury[0]), NODE_STAKE + 15e18, "half of the jury's share");
        vm.assertEq(stakeOf(jury[1]), NODE_STAKE + 15e18, "the other half");
        vm.assertEq(stakeOf(jury[2]), NODE_STAKE, "nothing for what nobody else found");
        assertConserved();
    }

    function test_what_is_out_of_place_or_proof_is_refused() public {
        bytes memory bad = abi.encodeWithSelector(ICourt.BadCommitmentProof.selector, batch, 0);
        ICourt.Step memory step = stepOf(10, SEGMENT);
        step.segment = SEGMENTS;
        open(step, abi.encodeWithSelector(ICourt.NoSuchSegment.selector, SEGMENTS, SEGMENTS));
        step = stepOf(10, SEGMENT);
        step.commitment.workUnits += 1;
        open(step, bad);
        step = stepOf(10, SEGMENT);
        step.afterCid = cidOf(10, SEGMENT);
        open(step, bad);
        step = stepOf(10, SEGMENT);
        step.segment -= 1;
        open(step, bad);
        step = stepOf(10, SEGMENT);
        step.index = 1;
        open(step, abi.encodeWithSelector(ICourt.BadCommitmentProof.selector, batch, 1));
        vm.assertEq(registry.totals().bonds, 0, "no bond was taken");
    }

    function testFuzz_only_what_its_worker_sealed_as_work_can_be_challenged(bytes32 salt) public {
        vm.assume(salt != bytes32(uint256(10)));
        ICourt.Step memory step = stepOf(10, SEGMENT);
        step.salt = salt;
        open(step, abi.encodeWithSelector(ICourt.NotWork.selector, batch, 0));
        vm.assertEq(registry.totals().bonds, 0, "no bond was taken");
    }

    function testFuzz_a_decoy_convicts_nobody(bytes32 salt) public {
        _decoy = true;
        batch = commitFor(job);
        settleHonestly();
        ICourt.Step memory step = stepOf(10, SEGMENT);
        open(step, abi.encodeWithSelector(ICourt.NotWork.selector, batch, 0));
        step.salt = salt;
        open(step, abi.encodeWithSelector(ICourt.NotWork.selector, batch, 0));
    }

    function test_another_header_than_the_settled_one_is_refused() public {
        ICourt.Step memory step = stepOf(10, SEGMENT);
        IRegistry.Header memory h = unpaidHeader();
        vm.prank(CHALLENGER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadCommitmentProof.selector, batch, 0));
        court.challengeSegment(batch, h, step, SALT);
    }

    function testFuzz_what_the_worker_did_not_sign_cannot_be_challenged(uint8 i, bytes32 noise) public {
        i = 11 + i % 10;
        ICourt.Step memory step = stepOf(10, SEGMENT);
        step.signature = signed(1000 + uint256(i), structHash(step.commitment));
        open(step, abi.encodeWithSelector(IRegistry.BadConsent.selector, vm.addr(1010), vm.addr(1000 + uint256(i))));
        step.signature = abi.encodePacked(noise, noise, uint8(27));
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Segment, 0, SEGMENT);
        IRegistry.Header memory h = header();
        vm.expectRevert();
        vm.prank(CHALLENGER);
        court.challengeSegment(batch, h, step, SALT);
    }

    function test_a_key_that_was_rotated_away_still_stands_for_what_it_signed() public {
        bytes memory agreed = consent(1500, owner(10));
        vm.prank(owner(10));
        registry.rotateKey(worker, vm.addr(1500), agreed);
        ChallengeId id = challengeSegment();
        vm.assertEq(court.challenge(id).accused, OperatorId.unwrap(worker), "the worker");
        vm.assertTrue(decide(id, 7), "upheld");
        vm.assertEq(stakeOf(owner(10)), 0, "its owner pays");
    }

    function test_the_window_closes_and_an_upheld_challenge_does_not_open_it_again() public {
        uint256 settled = vm.getBlockTimestamp();
        ChallengeId id = challengeSegment();
        vm.warp(settled + WINDOW - 1);
        challengeSegment(CHALLENGER, 10, 0);
        vm.warp(settled + WINDOW);
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Segment, 0, 1);
        bytes memory closed = abi.encodeWithSelector(ICourt.OutsideWindow.selector, settled, settled + WINDOW);
        open(stepOf(10, 1), closed);
        vm.roll(vm.getBlockNumber() - 1);
        vm.assertTrue(decide(id, 7), "upheld");
        open(stepOf(10, 1), closed);
    }

    function test_a_state_that_is_named_by_no_cid_follows_from_nothing() public {
        vm.assertEq(court.challenge(challengeSegment()).claimed, sha256(abi.encode(10, SEGMENT + 1)), "a CID's digest");
        _malformed = true;
        batch = commitFor(job);
        settleHonestly();
        vm.assertEq(court.challenge(challengeSegment()).claimed, bytes32(0), "nobody finds 0");
    }

    bool private _malformed;
    bool private _decoy;

    function commitmentOf(uint256 i) internal view override returns (ICourt.Commitment memory c) {
        c = super.commitmentOf(i);
        if (_decoy) c.mark = markOf(i, 1);
    }

    function cidOf(uint256 i, uint256 n) internal view override returns (bytes memory) {
        return _malformed && i == 10 ? abi.encodePacked("state ", n) : super.cidOf(i, n);
    }
}
