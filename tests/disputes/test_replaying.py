"""What a replayed segment is compared with, and what a juror answers to it."""

import itertools
from pathlib import Path

import pytest
from msgspec.structs import replace
from scene import FIRST, JOB, MANIFEST, SECOND, TASK, THIRD, Scene, moved, result_of

from proofyard.artifacts import cid_of_bytes
from proofyard.disputes.errors import DataAtHome, NoSuchPlace
from proofyard.disputes.replaying import combinations
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.seal import CANNOT_EXECUTE, REFUSED_STATE, UNAVAILABLE
from proofyard.protocol.types import SegmentIndex
from proofyard.workloads.errors import OutOfMemory, SegmentFailed
from proofyard.workloads.state import decode_state, encode_state


async def test_equal_bytes_hold_and_a_state_that_differs_in_one_bit_does_not() -> None:
    honest = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    assert [(await honest.replay(segment)).equal for segment in (0, 1)] == [True, True]
    near = bytearray(SECOND)
    near[-9] ^= 1
    far = await Scene([FIRST, SECOND, THIRD], result_of(THIRD), [bytes(near), THIRD]).replay(0)
    assert far.holds is False and not far.equal
    assert "another state" in str(far)
    assert (far.answer, far.state) == (cid_digest(cid_of_bytes(bytes(near))), bytes(near))


async def test_a_state_claimed_for_a_segment_that_cannot_be_executed_is_wrong() -> None:
    failed = SegmentFailed(0, "the loss is not a number")
    found = await Scene([FIRST, SECOND, THIRD], result_of(THIRD), [failed, THIRD]).replay(0)
    assert found.holds is False
    assert "not a number" in str(found)
    assert (found.answer, found.state) == (CANNOT_EXECUTE, FIRST)


async def test_what_this_machine_alone_cannot_do_is_no_finding() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [OutOfMemory("too little"), THIRD])
    with pytest.raises(OutOfMemory):
        await scene.replay(0)


async def test_a_state_that_breaks_a_law_is_wrong_whatever_executing_it_gives() -> None:
    tensors = {name: array.copy() for name, array in decode_state(SECOND).items()}
    tensors["second.m.lora_A"][0, 0] = -1
    trap = encode_state(tensors)
    found = await Scene([FIRST, trap, THIRD], result_of(THIRD), [trap, THIRD]).replay(1)
    assert found.holds is False
    assert "negative" in str(found)
    assert (found.answer, found.state) == (REFUSED_STATE, trap)


async def test_a_first_state_or_result_of_its_own_is_wrong_although_every_segment_is_right() -> None:
    stale = Scene([moved(FIRST, 0.01, done=0), SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    assert "the first state does not follow" in str(await stale.replay(0))
    assert (await stale.replay(0)).holds is False
    swapped = Scene([FIRST, SECOND, THIRD], result_of(SECOND), [SECOND, THIRD])
    assert (await swapped.replay(0)).holds
    last = await swapped.replay(1)
    assert last.holds is False
    assert last.answer == REFUSED_STATE
    assert "the result does not follow" in str(last)


async def test_inputs_that_are_no_committed_results_make_the_first_state_wrong_and_no_later_one() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD], inputs=(raw_cid(b"made up"),))
    found = await scene.replay(0)
    assert found.holds is False
    assert "no committed results" in str(found)
    assert (await scene.replay(1)).holds, "a segment is computed from model, data and the state before it"


@pytest.mark.parametrize("garbage", [b"no state at all", moved(FIRST, float("nan"), done=1)], ids=["bytes", "nan"])
async def test_a_committed_state_that_is_none_is_wrong(garbage: bytes) -> None:
    scene = Scene([FIRST, garbage, THIRD], result_of(THIRD), [SECOND, THIRD])
    assert (await scene.replay(0)).holds is False
    assert "state refused" in str(await scene.replay(1))


async def test_a_task_on_data_that_stays_at_home_is_replayed_by_whoever_was_given_it() -> None:
    digest = cid_of_bytes(b"a file")
    local = {"name": "wards", "digests": [digest], "unaudited": True}
    manifest = replace(MANIFEST, data=None, params=MANIFEST.params | {"local": local})
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD], manifest=manifest)
    with pytest.raises(DataAtHome, match=rf"the data set wards \({digest}\).*--data FILE"):
        await scene.replay(0)
    shown = await scene.replayer.shown(JOB, TASK, SegmentIndex(0))
    assert (shown.holds, shown.answer) == (True, cid_digest(cid_of_bytes(SECOND))), "a jury needs no copy for that"
    scene.at_home[digest] = Path("copy.jsonl")
    assert [(await scene.replay(segment)).equal for segment in (0, 1)] == [True, True]
    assert scene.computed_on == [Path("copy.jsonl")] * 2
    del scene.states[cid_of_bytes(SECOND)]
    assert (await scene.replayer.shown(JOB, TASK, SegmentIndex(0))).holds is None
    broken = Scene([FIRST, b"no state", THIRD], result_of(THIRD), [SECOND, THIRD], manifest=manifest)
    assert (await broken.replayer.shown(JOB, TASK, SegmentIndex(0))).holds is False


async def test_a_state_that_nobody_delivers_leaves_the_segment_after_it_open() -> None:
    """The one before it is judged by the digest alone."""
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 0.02, done=1), THIRD])
    del scene.states[cid_of_bytes(SECOND)]
    assert (await scene.replay(0)).holds is False
    found = await scene.replay(1)
    assert found.holds is None
    assert (found.answer, found.state) == (UNAVAILABLE, None)
    assert "state 1 of task 0" in str(found)


async def test_an_auditor_answers_with_its_own_state_or_that_it_cannot_be_executed() -> None:
    honest = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, SegmentFailed(1, "a trap")])
    assert await honest.replayer.answer(JOB, TASK, SegmentIndex(0)) == (cid_digest(cid_of_bytes(SECOND)), SECOND)
    assert await honest.replayer.answer(JOB, TASK, SegmentIndex(1)) == (CANNOT_EXECUTE, SECOND)


async def test_a_place_that_is_not_there_is_named() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    with pytest.raises(NoSuchPlace, match="segments 0 to 1"):
        await scene.replay(2)


def test_the_inputs_of_a_round_that_was_done_again_are_among_the_first_combinations() -> None:
    """Of sixteen tasks with two results each there are 65,536; a round is computed from one age, or all but one."""
    workers = 16
    candidates = [[raw_cid(b"new %d" % n), raw_cid(b"old %d" % n)] for n in range(workers)]
    new, old = (tuple(known[age] for known in candidates) for age in (0, 1))
    first = set(itertools.islice(combinations(candidates), 100))
    assert {new, old, (*new[:3], old[3], *new[4:]), (*old[:3], new[3], *old[4:])} <= first
    few = [[raw_cid(b"a"), raw_cid(b"b")], [raw_cid(b"c")]]
    assert set(combinations(few)) == set(itertools.product(*few))
    assert list(combinations([[], [raw_cid(b"c")]])) == []
