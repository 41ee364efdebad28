// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {CourtBase} from "./helpers/CourtBase.sol";

interface Snapshots {
    function snapshotState() external returns (uint256);
    function revertToState(uint256 snapshot) external returns (bool);
}

/// @notice Attacks on the court, by what they try: to lock it, to copy, to choose a jury, to have none, to wait, to profit
/// from oneself, and to be rid of others.
/// forge-config: default.fuzz.runs = 128
contract AttacksCourtTest is CourtBase {
    address private constant ATTACKER = address(0xbad);
    /// Segments of node 11, the attacker's, where it wants many.
    uint32 private _segments = SEGMENTS;

    function setUp() public override {
        super.setUp();
        fund(ATTACKER, 100_000 * CREDIT);
        vm.prank(ATTACKER);
        registry.addStake(50_000e18);
    }

    function segmentsOf(uint256 i) internal view override returns (uint32) {
        return i == 11 ? _segments : SEGMENTS;
    }

    function retire(uint256 i) private {
        OperatorId node = nodeOf(i);
        vm.prank(owner(i));
        registry.retire(node);
    }

    /// @notice Everything that somebody has: tokens, stake, and what unbonds.
    function wealthOf(address who) private view returns (uint256) {
        IRegistry.Account memory a = registry.account(who);
        return credit.balanceOf(who) + a.stake + a.unbonding;
    }

    // -------------------------------------------------------------------------------------------- locking out

    /// @dev 255 own challenges, and one more than that: the true one is opened and decided as if they were not there.
    function test_any_number_of_own_challenges_keeps_nobody_out() public {
        _segments = 300;
        batch = commitFor(job);
        settleHonestly();
        uint256 before = stakeOf(ATTACKER);
        for (uint32 i = 0; i < 260; ++i) {
            this.challengeOwn(i);
        }
        vm.assertEq(before - stakeOf(ATTACKER), 260 * BOND, "each costs a bond");
        ChallengeId segment = challengeSegment();
        ChallengeId record = challengeRecord(CHALLENGER);
        vm.assertTrue(decide(segment, 7), "the true one is upheld");
        vm.assertEq(stakeOf(owner(10)), 0, "and the worker pays");
        vm.assertTrue(ChallengeId.unwrap(record) != 0, "the record has a place of its own");
        vm.assertEq(registry.batch(batch).settled.openChallenges, 1, "they count as one");
    }

    /// @dev Called from outside, so that what it takes of memory is given back.
    function challengeOwn(uint32 segment) external {
        challengeSegment(ATTACKER, 11, segment);
    }

    function test_the_last_of_many_challenges_lets_the_batch_go_and_none_before() public {
        settleHonestly();
        ChallengeId one = challengeSegment();
        ChallengeId other = challengeSegment(ATTACKER, 11, 0);
        roundOfBoth(one, other, false);
        later(1 hours);
        court.resolve(one);
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claims());
        court.resolve(other);
        registry.claim(claims());
        assertConserved();
    }

    function test_what_was_rejected_is_not_tried_again() public {
        settleHonestly();
        ChallengeId id = challengeSegment();
        vm.expectRevert();
        this.again();
        uint256 opened = vm.getBlockTimestamp();
        vm.assertTrue(!decide(id, 0), "rejected");
        vm.warp(opened + 1);
        vm.expectRevert();
        this.again();
    }

    function again() external {
        challengeSegment(ATTACKER, 10, SEGMENT);
    }

    /// @dev One that nobody drew has been seen by no jury: it must not shield what it was about.
    function test_a_challenge_left_to_expire_shields_nothing() public {
        settleHonestly();
        uint256 opened = vm.getBlockTimestamp();
        ChallengeId id = challengeSegment(ATTACKER, 10, SEGMENT);
        mine();
        outwait();
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Rejected, "without effect");
        vm.warp(opened + 1);
        vm.assertTrue(decide(challengeSegment(), 7), "the same is tried by another");
    }

    // ------------------------------------------------------------------------------------------------ copying

    function test_whoever_copies_an_open_challenge_has_no_seal_for_it() public {
        settleHonestly();
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Segment, 0, SEGMENT);
        // The attacker sees the challenge on its way, and what it was sealed with.
        ICourt.Step memory step = stepOf(10, SEGMENT);
        IRegistry.Header memory h = header();
        bytes32 subject = subjectOf(ICourt.Kind.Segment, 0, SEGMENT);
        bytes32 own = keccak256(abi.encode(ATTACKER, subject, SALT));
        vm.prank(ATTACKER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotSealed.selector, ATTACKER, own));
        court.challengeSegment(batch, h, step, SALT);
        vm.prank(ATTACKER);
        court.seal(own);
        vm.prank(ATTACKER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotSealed.selector, ATTACKER, own));
        court.challengeSegment(batch, h, step, SALT);
        vm.prank(CHALLENGER);
        court.challengeSegment(batch, h, step, SALT);
    }

    function testFuzz_a_seal_opens_only_what_it_was_made_for(uint32 segment, bytes32 salt, bool record) public {
        settleHonestly();
        segment = segment % SEGMENTS;
        vm.assume(segment != SEGMENT || salt != SALT || record);
        seal(CHALLENGER, CHALLENGER, ICourt.Kind.Segment, 0, SEGMENT);
        IRegistry.Header memory h = header();
        ICourt.Step memory step = stepOf(10, segment);
        vm.prank(CHALLENGER);
        vm.expectRevert();
        if (record) court.challengeRecord(batch, h, salt);
        else court.challengeSegment(batch, h, step, salt);
    }

    // ----------------------------------------------------------------------------------------- choosing a jury

    /// @dev Own nodes retire and list again once the hash is known, pay bonds away, rotate: the jury stays what it was.
    function testFuzz_nothing_changes_the_jury_once_its_block_is_known(bytes32 entropy, uint32 choice) public {
        vm.assume(entropy != 0);
        settleHonestly();
        ChallengeId id = challengeSegment();
        mine();
        vm.setBlockhash(court.challenge(id).drawBlock, entropy);
        Snapshots state = Snapshots(address(vm));
        uint256 snapshot = state.snapshotState();
        address[] memory jury = court.drawJury(id);
        state.revertToState(snapshot);
        later(1);
        for (uint256 i = 12; i <= 31; ++i) {
            if (choice >> i & 1 == 0) continue;
            retire(i);
            if (i % 3 == 0) listNode(i, i, 0, 1);
            if (i % 3 == 1) addNode(i + 100);
        }
        address[] memory drawn = court.drawJury(id);
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertTrue(drawn[i] == jury[i], "the same jury");
        }
    }

    /// @dev A challenger that draws only the juries it owns: the others are drawn by whoever wants the reward, or cost it
    /// its bond; the worker never loses by one that was not drawn.
    function test_a_jury_that_does_not_suit_its_challenger_is_drawn_by_others() public {
        settleHonestly();
        ChallengeId id = challengeSegment(ATTACKER, 10, SEGMENT);
        mine();
        vm.prank(vm.addr(1031));
        address[] memory jury = court.drawJury(id);
        vm.assertEq(stakeOf(owner(31)), NODE_STAKE + REWARD, "every node's software does it for this");
        vote(id, jury, 0, 0);
        later(1 hours);
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Rejected, "an honest jury");
        vm.assertGe(stakeOf(owner(10)), NODE_STAKE, "the worker has won");
    }

    function testFuzz_each_jury_that_is_left_undrawn_costs_a_bond(uint8 tries) public {
        tries = 1 + tries % 5;
        settleHonestly();
        uint256 before = wealthOf(ATTACKER);
        ChallengeId[] memory ids = new ChallengeId[](tries);
        for (uint32 i = 0; i < tries; ++i) {
            ids[i] = challengeSegment(ATTACKER, 10, i);
        }
        mine();
        outwait();
        for (uint256 i = 0; i < tries; ++i) {
            court.resolve(ids[i]);
            assertPhase(ids[i], ICourt.Phase.Rejected, "without effect");
        }
        vm.assertEq(before - wealthOf(ATTACKER), tries * BOND, "a bond a try");
        vm.assertEq(registry.totals().burned, tries * BOND, "burned");
        vm.assertEq(stakeOf(owner(10)), NODE_STAKE, "the worker has lost nothing");
        registry.claim(claims());
        assertConserved();
    }

    /// @dev Missing the block's hash on purpose sets another block, but no other deadline.
    function test_waiting_for_another_hash_does_not_save_the_bond() public {
        settleHonestly();
        ChallengeId id = challengeSegment(ATTACKER, 10, SEGMENT);
        uint256 end = court.challenge(id).until;
        vm.roll(vm.getBlockNumber() + 10_000);
        court.drawJury(id);
        vm.assertEq(court.challenge(id).until, end, "the same time to draw");
        mine();
        vm.warp(end);
        court.resolve(id);
        vm.assertEq(registry.totals().burned, BOND, "the bond is lost");
        vm.assertEq(registry.batch(batch).attempt, 0, "and nothing else happened");
    }

    /// @dev Every verifier that signed, and every accuser, runs nodes: none of them sits, in either round.
    function testFuzz_connected_owners_judge_in_no_round(bytes32 entropy) public {
        vm.assume(entropy != 0);
        for (uint256 i = 1; i <= 3; ++i) {
            listNode(i, 100 + i, NODE_STAKE, 1);
        }
        settle(accusing(settlement(), 10, MISMATCH));
        ChallengeId id = challengeFault(CHALLENGER, 0);
        mine();
        vm.setBlockhash(court.challenge(id).drawBlock, entropy);
        address[] memory jury = court.drawJury(id);
        _assertNeutral(jury);
        vote(id, jury, 7, 0);
        vm.prank(ATTACKER);
        court.appeal(id);
        mine();
        vm.setBlockhash(court.challenge(id).drawBlock, keccak256(abi.encode(entropy)));
        _assertNeutral(court.drawJury(id));
    }

    function _assertNeutral(address[] memory jury) private pure {
        for (uint256 i = 0; i < jury.length; ++i) {
            uint256 n = numberOf(jury[i]);
            vm.assertTrue(n == 11 || n >= 15, "neither accused, accuser, leader nor signer");
        }
    }

    // -------------------------------------------------------------------------------------------- having none

    /// @dev A workload that nobody offers: whoever is framed there has all of it back, without a jury, at the price of a bond.
    function test_a_quorum_that_frames_everybody_where_no_jury_can_form_gains_nothing() public {
        JobId empty = openJobFor(9);
        batch = commitFor(empty);
        IRegistry.Settlement memory s = settlement();
        for (uint256 i = 15; i <= 24; ++i) {
            s = accusing(s, i, MISMATCH);
        }
        settle(s);
        uint256 before = stakeOf(CHALLENGER);
        ChallengeId id = challengeRecord(CHALLENGER);
        mine();
        vm.expectRevert(abi.encodeWithSelector(ICourt.JuryTooSmall.selector, id, 0, 3));
        court.drawJury(id);
        outwait();
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Dismissed, "no jury");
        for (uint256 i = 15; i <= 24; ++i) {
            vm.assertEq(stakeOf(owner(i)), NODE_STAKE, "their stake is back");
        }
        vm.assertEq(stakeOf(CHALLENGER), before - BOND, "for one bond in all");
        vm.assertTrue(registry.batch(batch).voided, "nothing stands");
        vm.expectRevert(IRegistry.NothingClaimed.selector);
        registry.claim(claims());
        vm.assertEq(stakeOf(owner(1)), VERIFIER_STAKE, "but nobody is slashed without a verdict");
        assertConserved();
    }

    /// @dev Juries that stay silent confirm nothing; each juror pays one fine, and that is all.
    function testFuzz_silent_juries_confirm_nothing_and_pay_a_fine_each(uint8 kind, uint8 first, uint8 second) public {
        settle(kind % 3 == 1 ? accusing(settlement(), 10, MISMATCH) : settlement());
        (first, second) = (_mostly(first), _mostly(second));
        uint256 before = stakeOf(CHALLENGER);
        ChallengeId id;
        if (kind % 3 == 0) id = challengeRecord(CHALLENGER);
        else if (kind % 3 == 1) id = challengeFault(CHALLENGER, 0);
        else id = challengeSegment();
        address[] memory one = draw(id);
        vote(id, one, 0, first);
        address[] memory two = draw(id);
        vote(id, two, 0, second);
        assertPhase(id, ICourt.Phase.Dismissed, "no verdict");
        vm.assertTrue(registry.batch(batch).voided, "what was settled does not stand");
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(stakeOf(one[i]), NODE_STAKE - (first >> i & 1) * FINE, "first jury");
            vm.assertEq(stakeOf(two[i]), NODE_STAKE - (second >> i & 1) * FINE, "second jury");
            vm.assertTrue(!contains(two, one[i]), "nobody is fined twice");
        }
        vm.assertEq(stakeOf(CHALLENGER), before - 2 * REWARD, "the bond is back, less what drew the juries");
        if (kind % 3 == 1) vm.assertEq(stakeOf(owner(10)), NODE_STAKE, "the accused has its stake back");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        takeBatch(batch, 2);
        settle(settlement(), 1, 3);
        assertConserved();
    }

    /// @dev At least two of three bits.
    function _mostly(uint8 mask) private pure returns (uint8) {
        mask = mask % 8;
        return count(mask, 3) >= 2 ? mask : 7 - mask;
    }

    // ------------------------------------------------------------------------------------------------ waiting

    /// @dev A verdict that nobody carries out until another verifier has the seats: who has them now pays nothing.
    function test_a_verdict_left_unresolved_never_meets_the_next_holder_of_a_seat() public {
        settleHonestly();
        ChallengeId id = challengeRecord(CHALLENGER);
        round(id, 7, 0);
        for (uint256 i = 1; i <= 3; ++i) {
            OperatorId verifier = registry.operatorOf(vm.addr(2000 + i));
            vm.prank(owner(i));
            registry.retire(verifier);
        }
        later(UNSTAKE_DELAY + 1);
        for (uint256 i = 5; i <= 7; ++i) {
            addVerifier(i);
        }
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Upheld, "carried out late");
        for (uint256 i = 4; i <= 7; ++i) {
            vm.assertEq(stakeOf(owner(i)), VERIFIER_STAKE, "who did not sign keeps its stake");
        }
        for (uint256 i = 1; i <= 3; ++i) {
            vm.assertEq(stakeOf(owner(i)), 0, "who signed does not");
        }
        assertConserved();
    }

    function testFuzz_whatever_is_left_undone_for_long_can_still_be_ended(uint32 delay, uint8 stage) public {
        settleHonestly();
        ChallengeId id = challengeSegment();
        if (stage % 3 > 0) {
            address[] memory jury = draw(id);
            if (stage % 3 == 2) vote(id, jury, 7, 0);
        }
        later(uint256(delay) + 3 hours);
        vm.roll(vm.getBlockNumber() + 5 + delay / 12);
        vm.setBlockhash(vm.getBlockNumber() - 1, keccak256("late"));
        court.resolve(id);
        if (phaseOf(id) == ICourt.Phase.Draw) {
            outwait();
            vm.roll(vm.getBlockNumber() + 5);
            court.resolve(id);
        }
        ICourt.Phase end = phaseOf(id);
        vm.assertTrue(end == ICourt.Phase.Rejected || end == ICourt.Phase.Upheld, "over");
        vm.assertEq(registry.totals().bonds, 0, "nothing is left in bonds");
        registry.claim(claims());
        assertConserved();
    }

    /// @dev No window is prolonged by another's verdict: after the first, nothing more can be challenged.
    function testFuzz_an_upheld_challenge_opens_no_window(uint32 delay) public {
        settleHonestly();
        uint256 closes = vm.getBlockTimestamp() + WINDOW;
        vm.assertTrue(decide(challengeSegment(), 7), "upheld");
        later(delay);
        IRegistry.Header memory h = header();
        vm.prank(ATTACKER);
        vm.expectRevert(abi.encodeWithSelector(ICourt.OutsideWindow.selector, closes - WINDOW, closes));
        court.challengeRecord(batch, h, SALT);
        registry.claim(claims());
    }

    // --------------------------------------------------------------------------------------- accusing oneself

    /// @dev Worker, challenger, requester and the whole jury are one: with the default shares it burns more than half of a
    /// node's stake, and of the rest of the stake all.
    function testFuzz_a_worker_that_challenges_itself_loses_with_a_jury_of_its_own(uint96 extra, bool appealed) public {
        extra = uint96(extra % (800 * CREDIT));
        vm.prank(owner(10));
        registry.addStake(extra);
        settleHonestly();
        uint256 before = _coalition();
        ChallengeId id = challengeSegment(ATTACKER, 10, SEGMENT);
        mine();
        vm.prank(ATTACKER);
        address[] memory jury = court.drawJury(id);
        vote(id, jury, 7, 0);
        if (appealed) {
            vm.prank(ATTACKER);
            court.appeal(id);
            round(id, 31, 0);
        } else {
            later(1 hours);
            court.resolve(id);
        }
        assertPhase(id, ICourt.Phase.Upheld, "as it wanted");
        vm.assertLe(_coalition(), before - 55e18 - extra, "it has paid for that");
    }

    function test_signers_that_challenge_themselves_lose_with_a_jury_of_their_own() public {
        settleHonestly();
        uint256 before = _coalition();
        ChallengeId id = challengeRecord(ATTACKER);
        vm.assertTrue(decide(id, 7), "as they wanted");
        vm.assertLe(_coalition(), before - 3 * uint256(VERIFIER_STAKE) + 46e18, "they have paid for that");
    }

    /// @dev All there are, and the money of the job that comes back to its requester.
    function _coalition() private view returns (uint256 sum) {
        sum = wealthOf(ATTACKER) + wealthOf(REQUESTER) + wealthOf(address(this));
        for (uint256 i = 1; i <= 31; ++i) {
            sum += wealthOf(owner(i));
        }
        sum += registry.job(job).surplus;
    }

    // ------------------------------------------------------------------------------------- being rid of others

    /// @dev A false fault that a leader has signed by others and not by itself cannot be settled; one that it signs costs
    /// the accusers, and never the signers, who checked what a record can show.
    function test_signers_of_a_false_fault_that_validates_lose_nothing() public {
        IRegistry.Settlement memory s = accusing(settlement(), 10, MISMATCH);
        (uint256 others, bytes memory signature) = quorum(s, 2, 3);
        IRegistry.Header memory h = header();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.LeaderMissing.selector, batch, OperatorId.wrap(1)));
        registry.settleBatch(s, h, others, signature);
        settle(s);
        vm.assertTrue(decide(challengeFault(ATTACKER, 0), 7), "false");
        for (uint256 i = 1; i <= 4; ++i) {
            vm.assertEq(stakeOf(owner(i)), VERIFIER_STAKE, "a verifier");
        }
        vm.assertEq(registry.seats(), 15, "all seats are taken");
    }

    /// @dev Two thirds of the seats accuse the last third: it keeps its seat until a jury has looked, and then all.
    function test_two_thirds_cannot_unseat_the_last_third_before_a_jury_has_looked() public {
        IRegistry.Settlement memory s = settlement();
        listNode(4, 104, NODE_STAKE, 1);
        s = accusing(s, 104, MISMATCH);
        settle(s);
        vm.assertEq(stakeOf(owner(4)), 0, "frozen");
        vm.assertEq(registry.seats(), 15, "it has its seat");
        ChallengeId id = challengeFault(owner(4), 0);
        vm.assertTrue(decide(id, 7), "false");
        vm.assertEq(registry.seats(), 15, "and keeps it");
        vm.assertGe(stakeOf(owner(4)), VERIFIER_STAKE + NODE_STAKE, "and its stake");
        later(WINDOW);
        registry.finalize(batch);
        vm.assertEq(registry.seats(), 15, "for good");
    }

    /// @dev Three that lie as one: their stake is gone once a jury has looked, and whom they accused is whole.
    function test_accusers_that_agree_on_a_lie_pay_with_all_they_have() public {
        vm.prank(owner(12));
        registry.addStake(400e18);
        settle(accusing(settlement(), 10, MISMATCH));
        vm.assertTrue(decide(challengeFault(owner(10), 0), 7), "false");
        for (uint256 i = 12; i <= 14; ++i) {
            vm.assertEq(stakeOf(owner(i)), 0, "a liar");
        }
        vm.assertGe(stakeOf(owner(10)), NODE_STAKE, "the accused");
    }

    /// @dev A challenge moves no tokens: it takes and gives stake, so that a token that stands still silences nobody.
    function test_a_challenger_needs_no_token_that_moves() public {
        settleHonestly();
        vm.prank(CHALLENGER);
        credit.approve(address(registry), 0);
        uint256 balance = credit.balanceOf(CHALLENGER);
        vm.assertTrue(decide(challengeSegment(), 7), "upheld");
        vm.assertEq(credit.balanceOf(CHALLENGER), balance, "nothing was sent");
    }
}
