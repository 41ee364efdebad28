"""Tasks that rest on a result which is not accepted are done again by anybody; a batch waits for those it rests on."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))

from proofyard.verifier.database import Batch, BatchState, Database, Job, JobState, Task, TaskState
from proofyard.verifier.outcomes import apply_record
from worlds import TOKEN, Work, World, address, network
from worlds import Job as ProtocolJob

from proofyard.protocol.codec import encode
from proofyard.protocol.members import encode_members
from proofyard.protocol.types import BatchId, JobId, Wei
from proofyard.verifier import settling

JOB = JobId(1)
HERE = BatchId(10)


def chain(**changes: Any) -> World:
    job = ProtocolJob(JOB, (2, 2, 2), deps=((), (0,), (1,)))
    work = [Work(1, 0, "n0", fake=(0, 1)), Work(1, 1, "n1"), Work(1, 2, "n2")]
    return replace(World([job], network(9, stake=Wei(10**6 * TOKEN)), work), **changes)


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database("sqlite://")
    yield made
    made.close()


def batch_of(world: World) -> Batch:
    members = world.members[HERE]
    return Batch(id=1, state=BatchState.JUDGED, root=b"", members=encode_members(members), chain_id=HERE)


def test_stale_tasks_are_done_again_and_bar_nobody(database: Database) -> None:
    world = chain()
    (job,) = world.jobs
    with database.session() as session:
        terms: dict[str, Any] = {"audit_fee": "1", "auditors_per_segment": 2, "segments_per_audit": 1, "deadline": 1}
        row = Job(id=1, requester="0xR", manifest=job.cid, units=30, reward="1", state=JobState.RUNNING, **terms)
        session.add(row)
        session.flush()
        session.add(batch_of(world))
        session.flush()
        for spec in job.graph:
            node = address(f"n{spec.index}")
            session.add(Task(job=1, index=spec.index, spec=encode(spec), state=TaskState.JUDGING, batch=1, node=node))
    with database.session() as session:
        batch = session.get(Batch, 1)
        assert batch is not None
        apply_record(session, batch, world.view, world.record)
    with database.session() as session:
        tasks = [session.get(Task, (1, index)) for index in range(3)]
        assert [task.state for task in tasks if task] == [TaskState.READY] * 3
        assert [task.barred for task in tasks if task] == [address("n0"), "", ""]
        found = session.get(Job, 1)
        assert found is not None and found.state == JobState.RUNNING


class Waiting:
    """A verifier's context on a chain where batch 9, which others lead, is settled after some rounds of waiting."""

    def __init__(self, world: World, *, rounds: int, grace: int = 10_000) -> None:
        self.world, self.left, self.waited = world, rounds, 0
        self._params = SimpleNamespace(settle_grace=grace)
        self.chain: Any = self

    def batch(self, batch: BatchId) -> Any:
        over = batch == 9 and self.left <= 0
        return SimpleNamespace(
            id=batch, opened_at=1000, dropped=over, settled_at=0, voided=False, attempt=0, verifier=1
        )

    async def on_chain(self, ask: Any) -> Any:
        return ask()

    async def params(self) -> Any:
        return self._params

    def chain_time(self) -> float:
        return 1000.0

    async def wait(self, _seconds: float) -> None:
        self.left -= 1
        self.waited += 1

    def graph(self, _cid: Any) -> Any:
        return self.world.jobs[0].graph


async def over(context: Waiting, monkeypatch: pytest.MonkeyPatch) -> Any:
    async def fetched(*_: Any) -> None:
        pass

    monkeypatch.setattr(settling, "fetch_manifests", fetched)
    world: Any = context.world
    lists = SimpleNamespace(members=world.members)
    return await settling._over(context, world.view, batch_of(world), lists)  # type: ignore[arg-type]


@pytest.mark.parametrize(("held", "waits"), [(0, True), (1, True), (2, False)])
async def test_a_batch_waits_for_an_earlier_one_that_holds_what_it_rests_on(
    held: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own task 1, or task 0 that it rests on; not for one that rests on it."""
    context = Waiting(chain(work=[Work(1, 1, "n1")], others={9: [Work(1, held, "n8")]}), rounds=3)
    found = await over(context, monkeypatch)
    assert context.waited == (3 if waits else 0)
    assert found == (((BatchId(9), None),) if waits else ())


async def test_no_batch_waits_until_it_could_be_dropped_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Waiting(chain(work=[Work(1, 1, "n1")], others={9: [Work(1, 0, "n8")]}), rounds=3, grace=200)
    assert await over(context, monkeypatch) == ()
    assert context.waited == 0
