"""What a replayed segment is compared with; the computation itself is given, so that each case is exact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.disputes.errors import NoSuchPlace, StateWithheld
from proofyard.disputes.replaying import Replayer
from proofyard.disputes.settled import Settled
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.record import CommittedTask
from proofyard.protocol.types import Address, Cid, Digest, JobId, SegmentIndex, TaskIndex
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

TOLERANCE = 1e-3
MANIFEST = Manifest(
    workload="lora",
    model=raw_cid(b"model"),
    data=raw_cid(b"data"),
    tolerance=TOLERANCE,
    params={
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 1,
        "workers": 1,
        "segments": 2,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
    },
)
MANIFEST_CID = raw_cid(b"manifest")
SPECS = tuple(WORKLOAD.graph(MANIFEST))
FIRST = WORKLOAD.initial_state(MANIFEST, SPECS[0], Inputs())


def moved(state: bytes, by: float, *, done: int) -> bytes:
    """A state whose every number is `by` further, after `done` steps."""
    tensors = decode_state(state)
    return encode_state(
        {n: np.array(done, np.int64) if n == "step" else (a + np.float32(by)) for n, a in tensors.items()}
    )


SECOND = moved(FIRST, 1.0, done=1)
THIRD = moved(SECOND, 1.0, done=2)


class Scene:
    """A batch of one task with these states and result; `answers` are what executing its segments gives here."""

    def __init__(self, states: list[bytes], result: bytes, answers: list[bytes], inputs: tuple[Cid, ...] = ()) -> None:
        self.states, self.answers = {cid_of_bytes(state): state for state in states}, answers
        trace = tuple(cid_of_bytes(state) for state in states)
        zero = Digest(bytes(32))
        commitment = Commitment(
            job=JobId(1),
            task=TaskIndex(0),
            node=Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
            manifest=zero,
            inputs=root([cid_bytes(MANIFEST_CID), *map(cid_bytes, inputs)]),
            trace_root=root([cid_bytes(cid) for cid in trace]),
            segments=2,
            result=cid_of_bytes(result),
            work_units=1,
        )
        record: Any = SimpleNamespace(
            batch=1, job=1, manifest=MANIFEST_CID, tasks=(CommittedTask(commitment, b"", trace, 0),)
        )
        event: Any = SimpleNamespace(record=raw_cid(b"record"), batch=1)
        settled = Settled(event, record, MANIFEST, SPECS)
        chain: Any = None
        self.replayer = Replayer(settled, chain, self, self, patience_s=0)  # type: ignore[arg-type]

    async def state(self, record: Cid, task: CommittedTask, number: int, patience_s: float) -> bytes:
        found = self.states.get(task.trace[number])
        if found is None:
            raise StateWithheld(task.commitment.task, number, ["nobody has it"])
        return found

    async def on_disk(self, cid: Cid) -> Path:
        return Path(cid)

    async def run_segment(self, manifest: Manifest, task: Any, index: int, before: bytes, inputs: Inputs) -> bytes:
        return self.answers[index]

    async def replay(self, segment: int) -> Any:
        return await self.replayer.segment(TaskIndex(0), SegmentIndex(segment))


def result_of(last: bytes) -> bytes:
    return WORKLOAD.result(MANIFEST, SPECS[0], last)


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
