"""What a replayed segment is compared with."""

import pytest
from scene import FIRST, SECOND, THIRD, TOLERANCE, Scene, moved, result_of

from proofyard.artifacts import cid_of_bytes
from proofyard.disputes.errors import NoSuchPlace
from proofyard.protocol.cid import raw_cid


async def test_equal_bytes_and_rounding_hold_and_a_skipped_step_does_not() -> None:
    honest = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    assert [(await honest.replay(segment)).equal for segment in (0, 1)] == [True, True]
    rounded = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 1.0 + TOLERANCE / 10, done=1), THIRD])
    near = await rounded.replay(0)
    assert near.holds and not near.equal and 0 < near.distance < TOLERANCE
    skipped = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 2.0, done=1), THIRD])
    far = await skipped.replay(0)
    assert far.holds is False
    assert "beyond the tolerance" in str(far)


async def test_a_first_state_or_result_of_its_own_is_wrong_although_every_segment_is_right() -> None:
    stale = Scene([SECOND, THIRD, THIRD], result_of(THIRD), [THIRD, THIRD])
    assert "the first state does not follow" in str(await stale.replay(0))
    assert (await stale.replay(0)).holds is False
    swapped = Scene([FIRST, SECOND, THIRD], result_of(SECOND), [SECOND, THIRD])
    assert (await swapped.replay(0)).holds
    last = await swapped.replay(1)
    assert last.holds is False
    assert "the result does not follow" in str(last)


async def test_inputs_that_are_no_settled_results_are_wrong() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD], inputs=(raw_cid(b"made up"),))
    found = await scene.replay(1)
    assert found.holds is False
    assert "not settled results" in str(found)


@pytest.mark.parametrize("garbage", [b"no state at all", moved(FIRST, float("nan"), done=1)], ids=["bytes", "nan"])
async def test_a_committed_state_that_is_none_is_wrong(garbage: bytes) -> None:
    scene = Scene([FIRST, garbage, THIRD], result_of(THIRD), [SECOND, THIRD])
    found = await scene.replay(0)
    assert found.holds is False
    assert "state refused" in str(found)


async def test_a_state_that_nobody_delivers_leaves_the_segment_open() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [moved(FIRST, 2.0, done=1), THIRD])
    del scene.states[cid_of_bytes(SECOND)]
    for segment, number in ((0, 1), (1, 1)):
        found = await scene.replay(segment)
        assert found.holds is None
        assert f"state {number} of task 0" in str(found)


async def test_a_place_that_is_not_there_is_named() -> None:
    scene = Scene([FIRST, SECOND, THIRD], result_of(THIRD), [SECOND, THIRD])
    with pytest.raises(NoSuchPlace, match="segments 0 to 1"):
        await scene.replay(2)
