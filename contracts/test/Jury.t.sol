// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICourt} from "../src/interfaces/ICourt.sol";
import {IRegistry, OperatorId, JobId, BatchId, ChallengeId} from "../src/interfaces/IRegistry.sol";
import {Lines} from "../src/libraries/Lines.sol";
import {Jury} from "../src/libraries/Jury.sol";
import {CourtBase} from "./helpers/CourtBase.sol";
import {Vm} from "./helpers/Vm.sol";

interface Snapshots {
    function snapshotState() external returns (uint256);
    function revertToState(uint256 snapshot) external returns (bool);
}

/// @notice Who is drawn, and how jurors vote by commit and reveal.
/// forge-config: default.fuzz.runs = 128
contract JuryTest is CourtBase {
    function setUp() public override {
        super.setUp();
        settleHonestly();
    }

    function retire(uint256 i) private {
        OperatorId node = nodeOf(i);
        vm.prank(owner(i));
        registry.retire(node);
    }

    /// @notice Owners first to last leave, so that only nodes 11 to `first` - 1 may sit.
    function leaveOnly(uint256 first) private {
        for (uint256 i = first; i <= 31; ++i) {
            retire(i);
        }
        later(1);
    }

    // -------------------------------------------------------------------------------------------------- draws

    function testFuzz_juries_have_distinct_owners_that_are_nobody_s_party(bytes32 entropy) public {
        vm.assume(entropy != 0);
        // Everybody connected with the case has a node.
        for (uint256 i = 1; i <= 3; ++i) {
            listNode(i, 100 + i, NODE_STAKE, 1);
        }
        fund(CHALLENGER, 1000 * CREDIT);
        fund(REQUESTER, 1000 * CREDIT);
        _list(CHALLENGER, 1200);
        _list(REQUESTER, 1201);
        ChallengeId id = challengeSegment();
        mine();
        vm.setBlockhash(court.challenge(id).drawBlock, entropy);
        address[] memory jury = court.drawJury(id);
        vm.assertEq(jury.length, 3, "a full jury");
        for (uint256 i = 0; i < jury.length; ++i) {
            uint256 number = numberOf(jury[i]);
            vm.assertTrue(number >= 11 && number <= 31, "neither worker, challenger, requester nor signer");
            for (uint256 n = 0; n < i; ++n) {
                vm.assertTrue(jury[i] != jury[n], "distinct");
            }
        }
    }

    function _list(address who, uint256 key) private {
        bytes memory agreed = consent(key, who);
        vm.prank(who);
        registry.registerNode(vm.addr(key), NODE_STAKE, 1, "", agreed);
    }

    function test_accusers_and_the_accused_do_not_sit_on_a_fault() public {
        batch = commitFor(job);
        settle(accusing(settlement(), 11, MISMATCH));
        // Accused is 11, accusers are 12 to 14: of 10 and 15 to 17 three can sit and no fourth.
        for (uint256 i = 17; i <= 31; ++i) {
            retire(i);
        }
        later(1);
        ChallengeId id = challengeFault(CHALLENGER, 0);
        address[] memory jury = draw(id);
        for (uint256 i = 0; i < 3; ++i) {
            uint256 number = numberOf(jury[i]);
            vm.assertTrue(number == 10 || number == 15 || number == 16, "only who has nothing to do with it");
        }
    }

    function test_the_requesters_of_all_the_batch_s_jobs_do_not_judge_its_record() public {
        JobId mine_ = _jobOf(owner(16));
        uint256[] memory row = new uint256[](2);
        (row[0], row[1]) = (line(job, 20), line(mine_, 1));
        batch = commitLines(1, bytes32(uint256(9)), 2, row);
        drawNow(batch);
        IRegistry.Settlement memory s = settlement();
        s.shares[1] = Lines.packPaid(1, 0, 0);
        settle(s);
        leaveOnly(17);
        retire(15);
        retire(14);
        later(1);
        // Left are 10 to 13 and 16, who asked for the second job.
        address[] memory jury = draw(challengeRecord(CHALLENGER));
        vm.assertTrue(!contains(jury, owner(16)), "a requester is a party");
    }

    function _jobOf(address requester) private returns (JobId) {
        IRegistry.JobParams memory p = jobParams(10e18, 0, 0);
        vm.prank(requester);
        return registry.openJob(p);
    }

    function test_a_jury_is_drawn_once_its_block_has_a_hash_and_whoever_draws_it_is_paid() public {
        ChallengeId id = challengeSegment();
        uint256 drawBlock = court.challenge(id).drawBlock;
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, drawBlock));
        court.drawJury(id);
        mine();
        vm.prank(vm.addr(1015));
        court.drawJury(id);
        vm.assertEq(stakeOf(owner(15)), NODE_STAKE + REWARD, "a hot key draws for its owner");
        vm.assertEq(court.challenge(id).bond, BOND - REWARD, "out of the bond");
        vm.expectRevert(abi.encodeWithSelector(ICourt.WrongPhase.selector, id, ICourt.Phase.Vote));
        court.drawJury(id);
        assertConserved();
    }

    function test_a_jury_whose_hash_was_missed_is_drawn_from_a_later_block() public {
        ChallengeId id = challengeSegment();
        vm.roll(vm.getBlockNumber() + 20_000);
        vm.assertEq(court.drawJury(id).length, 0, "no jury yet");
        vm.assertEq(court.challenge(id).drawBlock, vm.getBlockNumber() + 2, "a later block");
        vm.assertEq(court.challenge(id).bond, BOND, "nobody is paid for that");
        vm.assertEq(draw(id).length, 3, "and then it sits");
    }

    function test_no_jury_is_drawn_out_of_time() public {
        ChallengeId id = challengeSegment();
        mine();
        uint256 end = court.challenge(id).until;
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooLate.selector, id, end));
        court.drawJury(id);
    }

    function test_every_owner_of_the_bench_has_the_same_chance() public {
        ChallengeId id = challengeSegment();
        mine();
        uint256[] memory seats = new uint256[](32);
        Snapshots state = Snapshots(address(vm));
        uint256 snapshot = state.snapshotState();
        for (uint256 i = 0; i < 700; ++i) {
            vm.setBlockhash(court.challenge(id).drawBlock, keccak256(abi.encode("a draw", i)));
            address[] memory jury = court.drawJury(id);
            for (uint256 n = 0; n < 3; ++n) {
                ++seats[numberOf(jury[n])];
            }
            state.revertToState(snapshot);
        }
        // 21 owners share 2,100 seats, 100 each, with a standard deviation of less than 10.
        for (uint256 i = 11; i <= 31; ++i) {
            vm.assertApproxEqAbs(seats[i], 100, 40, "nobody is favoured");
        }
    }

    // --------------------------------------------------------------------------------------------- the bench

    function test_who_leaves_after_the_opening_still_sits_and_who_comes_does_not() public {
        leaveOnly(14);
        ChallengeId id = challengeSegment();
        later(1);
        for (uint256 i = 11; i <= 13; ++i) {
            retire(i);
        }
        for (uint256 i = 40; i <= 60; ++i) {
            addNode(i);
        }
        address[] memory jury = draw(id);
        for (uint256 i = 11; i <= 13; ++i) {
            vm.assertTrue(contains(jury, owner(i)), "the bench of the opening");
        }
        vote(id, jury, 0, 0);
        assertPhase(id, ICourt.Phase.Verdict, "they can vote");
    }

    function test_nodes_without_the_workload_and_places_that_were_left_are_no_candidates() public {
        JobId other = openJobFor(1);
        for (uint256 i = 40; i <= 240; ++i) {
            fund(owner(i), 1000 * CREDIT);
            listNode(i, i, NODE_STAKE, 2);
        }
        for (uint256 i = 43; i <= 240; ++i) {
            retire(i);
        }
        later(1);
        batch = commitFor(other);
        settleHonestly();
        vm.assertGe(registry.benchLength(1), 200, "most of its places are empty");
        address[] memory jury = draw(challengeRecord(CHALLENGER));
        for (uint256 i = 40; i <= 42; ++i) {
            vm.assertTrue(contains(jury, owner(i)), "all who are left");
        }
    }

    function test_stake_that_is_frozen_keeps_nobody_from_sitting() public {
        // The batch accuses everybody but nodes 10 and 11: they are the jury of its record all the same.
        IRegistry.Settlement memory s = settlement();
        batch = commitFor(job);
        s = settlement();
        for (uint256 i = 15; i <= 31; ++i) {
            s = accusing(s, i, MISMATCH);
        }
        settle(s);
        vm.assertEq(stakeOf(owner(20)), 0, "frozen");
        ChallengeId id = challengeRecord(CHALLENGER);
        vm.assertTrue(decide(id, 7), "a jury formed");
        vm.assertGe(stakeOf(owner(20)), NODE_STAKE, "and all have their stake back");
        vm.assertEq(stakeOf(owner(1)), 0, "who framed them has lost its own");
    }

    // -------------------------------------------------------------------------------------------------- votes

    function test_strangers_do_not_vote_and_votes_cannot_change() public {
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotJuror.selector, id, address(this)));
        court.commitVote(id, keccak256("sealed"));
        vm.prank(vm.addr(1010));
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotJuror.selector, id, vm.addr(1010)));
        court.commitVote(id, keccak256("sealed"));
        address juror = vm.addr(1000 + numberOf(jury[0]));
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.commitVote(id, 0);
        bytes32 right = evidenceOf(id, false);
        commitVote(id, jury[0], right);
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.commitVote(id, keccak256("another"));
        uint256 end = court.challenge(id).until;
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, end));
        court.revealVote(id, right, 0, SALT);
        vm.warp(end);
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooLate.selector, id, end));
        court.commitVote(id, keccak256("late"));
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.revealVote(id, keccak256("something else"), 0, SALT);
        revealVote(id, jury[0], right);
        vm.prank(juror);
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.revealVote(id, right, 0, SALT);
    }

    function test_a_sealed_vote_is_worth_nothing_to_another_juror() public {
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        bytes32 right = evidenceOf(id, false);
        commitVote(id, jury[0], right);
        bytes32 copy = keccak256(abi.encode(id, uint8(0), uint8(0), jury[0], right, bytes32(0), SALT));
        vm.prank(vm.addr(1000 + numberOf(jury[1])));
        court.commitVote(id, copy);
        later(1 hours);
        vm.prank(vm.addr(1000 + numberOf(jury[1])));
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.revealVote(id, right, 0, SALT);
    }

    function testFuzz_a_record_is_found_wrong_or_right_and_nothing_else(bytes32 evidence) public {
        vm.assume(uint256(evidence) != 1 && uint256(evidence) != 2);
        ChallengeId id = challengeRecord(CHALLENGER);
        address[] memory jury = draw(id);
        commitVote(id, jury[0], evidence);
        later(1 hours);
        vm.prank(vm.addr(1000 + numberOf(jury[0])));
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.revealVote(id, evidence, 0, SALT);
    }

    function test_any_node_of_a_juror_s_owner_votes_for_it_once_also_after_it_was_retired_or_rotated() public {
        leaveOnly(14);
        listNode(11, 111, NODE_STAKE, 1);
        ChallengeId id = challengeSegment();
        draw(id);
        retire(11);
        bytes32 right = evidenceOf(id, false);
        commitVote(id, owner(11), right);
        vm.prank(vm.addr(1111));
        vm.expectRevert(abi.encodeWithSelector(ICourt.BadVote.selector, id));
        court.commitVote(id, keccak256("a second vote"));
        later(1 hours);
        OperatorId node = nodeOf(11);
        bytes memory agreed = consent(1500, owner(11));
        vm.prank(owner(11));
        registry.rotateKey(node, vm.addr(1500), agreed);
        vm.prank(vm.addr(1011));
        vm.expectRevert(abi.encodeWithSelector(ICourt.NotJuror.selector, id, vm.addr(1011)));
        court.revealVote(id, right, 0, SALT);
        vm.prank(vm.addr(1500));
        court.revealVote(id, right, 0, SALT);
        vm.assertEq(court.challenge(id).votesRight, 1, "counted");
    }

    function test_a_vote_is_counted_in_its_time() public {
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        bytes32 right = evidenceOf(id, false);
        commitVote(id, jury[0], right);
        uint256 end = court.challenge(id).until + 1 hours;
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, end));
        court.resolve(id);
        vm.warp(end);
        vm.prank(vm.addr(1000 + numberOf(jury[0])));
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooLate.selector, id, end));
        court.revealVote(id, right, 0, SALT);
    }

    // ----------------------------------------------------------------------------------------- silent juries

    function testFuzz_a_jury_that_does_not_reveal_by_half_pays_and_others_replace_it(uint8 silent) public {
        silent = silent % 8;
        uint256 absent = count(silent, 3);
        vm.assume(absent >= 2);
        ChallengeId id = challengeSegment();
        address[] memory jury = draw(id);
        vote(id, jury, 7, silent);
        assertPhase(id, ICourt.Phase.Draw, "drawn again");
        vm.assertEq(court.jurors(id, 0).length, 0, "nobody sits");
        vm.assertEq(court.challenge(id).fines, absent * FINE, "the silent pay");
        uint256 drawBlock = court.challenge(id).drawBlock;
        vm.expectRevert(abi.encodeWithSelector(ICourt.TooEarly.selector, id, drawBlock));
        court.drawJury(id);
        address[] memory next = draw(id);
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertTrue(!contains(next, jury[i]), "others");
        }
        vote(id, next, 7, 0);
        later(1 hours);
        court.resolve(id);
        assertPhase(id, ICourt.Phase.Upheld, "the next jury decides");
        vm.assertEq(registry.totals().bonds, 0, "the fines are distributed");
    }
}

/// @notice A Registry that is nothing but a bench: place i has owner `i + 1`, and every `step`th one was not left.
contract BenchOnly {
    uint256 private immutable STEP;

    constructor(uint256 step) {
        STEP = step;
    }

    function benchAt(uint8, uint256 index) external view returns (IRegistry.BenchEntry memory) {
        return IRegistry.BenchEntry(address(uint160(index + 1)), 1, index % STEP == 0 ? 0 : 2);
    }

    function batch(BatchId) external pure returns (IRegistry.Batch memory b) {}
    function quorum(uint24) external pure returns (uint256) {}
    function operatorState(OperatorId) external pure returns (IRegistry.Operator memory o) {}
    function job(JobId) external pure returns (IRegistry.Job memory j) {}
}

/// @notice The draw by itself, on benches of any length and emptiness.
contract DrawTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 private constant LOOKS = 1024;
    ICourt.Challenge private _challenge;
    Jury.Panel private _panel;

    function draw(uint256 places, uint256 step, bytes32 entropy, uint256 size) private returns (address[] memory) {
        (_challenge.bench, _challenge.openedAt) = (uint32(places), 10);
        IRegistry bench = IRegistry(address(new BenchOnly(step)));
        return Jury.draw(bench, ChallengeId.wrap(1), _challenge, _panel, entropy, size);
    }

    function assertJury(address[] memory jury, uint256 places, uint256 step) private pure {
        for (uint256 i = 0; i < jury.length; ++i) {
            uint256 place = uint160(jury[i]) - 1;
            vm.assertTrue(place < places && place % step == 0, "a place that was not left");
            for (uint256 n = 0; n < i; ++n) {
                vm.assertTrue(jury[i] != jury[n], "distinct");
            }
        }
    }

    function testFuzz_a_bench_is_searched_to_its_end(uint16 places, uint8 step, bytes32 entropy, uint8 size) public {
        (places, step, size) = (uint16(places % (LOOKS + 1)), 1 + step % 100, 1 + size % 20);
        address[] memory jury = draw(places, step, entropy, size);
        uint256 seated = (uint256(places) + step - 1) / step;
        vm.assertEq(jury.length, seated < size ? seated : size, "all who may sit, or as many as are wanted");
        assertJury(jury, places, step);
    }

    function testFuzz_a_draw_from_a_long_bench_ends_in_bounded_gas(uint32 places, uint8 step, bytes32 entropy) public {
        places = uint32(LOOKS + places % 1_000_000);
        step = step == 0 ? 1 : step;
        uint256 before = gasleft();
        address[] memory jury = draw(places, step, entropy, 11);
        vm.assertLe(before - gasleft(), 8_000_000, "gas");
        assertJury(jury, places, step);
        if (step <= 10) vm.assertEq(jury.length, 11, "a full jury where one place in ten is taken");
    }
}
