"""Handing on states to jurors and challengers."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.artifacts import ArtifactUnavailable, BlockStore
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.mark import mark_cid
from proofyard.protocol.members import Member, encode_members
from proofyard.protocol.messages import ObtainState
from proofyard.protocol.record import BatchRecord, CommittedTask, RecordedJob, encode_record
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex
from proofyard.verifier.disputes import StateDesk
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.engine.world import Step
from proofyard.verifier.store.database import Database

WORKER = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
ZERO = Digest(bytes(32))
TRACE = (raw_cid(b"first"), raw_cid(b"second"))


def record() -> BatchRecord:
    commitment = Commitment(JobId(1), TaskIndex(5), WORKER, ZERO, ZERO, ZERO, 1, raw_cid(b"result"), 1, ZERO)
    return BatchRecord(
        chain_id=1,
        registry=WORKER,
        batch=BatchId(1),
        attempt=0,
        leader=OperatorId(1),
        jobs=(RecordedJob(JobId(1), raw_cid(b"manifest")),),
        tasks=(CommittedTask(commitment, Signature(b""), TRACE),),
        salts=(bytes(32),),
        counted=(),
        uncounted=(),
        over=(),
        repeated=(),
        audits=(),
        faults=(),
        stale=(),
        redress=(),
        payouts=(),
    )


class Verifier:
    """What the desk needs of one; its worker delivers, or is away."""

    def __init__(self, folder: Path, *, worker_is_there: bool) -> None:
        self.store = BlockStore(folder)
        self.endpoint = SimpleNamespace(on=lambda *_: None)
        self.database = Database(f"sqlite:///{folder.parent / folder.name}.db")
        self.record = self.store.put_bytes(encode_record(record()))
        self.obtained: list[tuple[Cid, Address | None]] = []
        self._worker_is_there = worker_is_there
        context: Any = self
        self._desk = StateDesk(context)

    async def have(self, cid: Cid, holder: Address | None, *, max_bytes: int) -> None:
        if not self._worker_is_there:
            raise ArtifactUnavailable(cid, 1, ["the worker is away"])
        self.obtained.append((cid, holder))

    async def asked(self, number: int, *, task: int = 5, job: int = 1, record: Cid | None = None) -> tuple[bool, str]:
        peer: Any = SimpleNamespace(peer="somebody")
        unused: Any = None
        answer = await self._desk.obtain(
            peer, ObtainState(record or self.record, JobId(job), TaskIndex(task), number), unused
        )
        return answer.proceed, answer.reason


async def test_a_state_is_fetched_from_the_worker_that_committed_to_it(tmp_path: Path) -> None:
    verifier = Verifier(tmp_path, worker_is_there=True)
    assert await verifier.asked(1) == (True, "")
    assert verifier.obtained == [(TRACE[1], WORKER)]
    assert await verifier.asked(2) == (True, "")
    assert verifier.obtained[1:] == [(mark_cid(ZERO), WORKER)], "the number after the last state's"
    away = Verifier(tmp_path / "other", worker_is_there=False)
    proceed, reason = await away.asked(0)
    assert not proceed and "the worker is away" in reason


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"number": 3}, "no task 5 of job 1 with a state 3"),
        ({"number": -1}, "no task 5 of job 1 with a state -1"),
        ({"number": 0, "task": 4}, "no task 4"),
        ({"number": 0, "job": 2}, "of job 2"),
        ({"number": 0, "record": raw_cid(b"unknown")}, "not in the store"),
    ],
)
async def test_nothing_is_fetched_that_no_record_names(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    verifier = Verifier(tmp_path, worker_is_there=True)
    proceed, reason = await verifier.asked(**asked)
    assert not proceed and said in reason
    assert verifier.obtained == []


async def test_without_the_record_a_state_is_found_by_the_batches_that_hold_the_task(tmp_path: Path) -> None:
    """Of those that are not final: whoever judges before a settlement has no record to name."""
    verifier = Verifier(tmp_path, worker_is_there=True)
    task = record().tasks[0]
    members = encode_members([Member(task.commitment, task.signature, task.trace)])
    batch = Batch(
        id=1, state=BatchState.JUDGED, root=ZERO, members=members, lines=((JobId(1), 1),), chain_id=BatchId(1)
    )
    await verifier.database.write(Step((batch,), (), ()))
    unknown = raw_cid(b"unknown")
    assert await verifier.asked(1, record=unknown) == (True, "")
    assert verifier.obtained == [(TRACE[1], WORKER)]
    batch.state = BatchState.FINAL
    await verifier.database.write(Step((batch,), (), ()))
    assert not (await verifier.asked(1, record=unknown))[0]
    verifier.database.close()


@pytest.mark.parametrize("content", [b"no record", bytes(600_000), encode_record(record())[:-9]], ids=len)
async def test_what_is_no_record_is_read_once_however_often_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    verifier = Verifier(tmp_path, worker_is_there=True)
    cid, reads = verifier.store.put_bytes(content), []
    read = verifier.store.get_bytes
    monkeypatch.setattr(verifier.store, "get_bytes", lambda *args, **more: (reads.append(args), read(*args, **more))[1])
    answers = await asyncio.gather(*(verifier.asked(0, record=cid) for _ in range(40)))
    assert {proceed for proceed, _ in answers} == {False}
    assert all("is no record" in reason for _, reason in answers)
    assert len(reads) == 1
    assert await verifier.asked(1) == (True, ""), "others are answered meanwhile"


async def test_a_record_that_comes_later_is_read_then(tmp_path: Path) -> None:
    verifier = Verifier(tmp_path, worker_is_there=True)
    verifier.store.delete_block(verifier.record)
    assert not (await verifier.asked(1))[0]
    verifier.store.put_bytes(encode_record(record()))
    assert await verifier.asked(1) == (True, "")
