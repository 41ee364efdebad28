"""Errors of the verifier's own, wherever they are: one job stops and says so, all others come to their end.

A defect is put into each of the state machine's handlers and into each effect, for one of two jobs; tasks, batches,
auditors and the chain are shared by both.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from simulated import Counting, SimulatedNode
from stage import CREDIT, FakeChain, Verifier, introduce, join, make_verifier, record_of

from proofyard.chain import Wallet
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Announce
from proofyard.protocol.types import JobId, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier import mail, peers, service
from proofyard.verifier import runner as runner_module
from proofyard.verifier.engine import machine, tasks, world
from proofyard.verifier.engine.blame import jobs_of, jobs_of_effect
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.events import Event, Now
from proofyard.verifier.engine.rows import Batch, Job, JobState, Log, Task
from proofyard.verifier.engine.world import World

TASKS, NODES = 3, 5


class Once:
    """What the outbox promises, around a stand-in for the chain: a subject is sent once, also where whoever asked has
    begun anew while its transaction was on its way."""

    def __init__(self, chain: Any) -> None:
        self._chain = chain
        self._lock = threading.Lock()
        self._committed: dict[str | None, Any] = {}

    def client(self, subject: str | None) -> Any:
        return Sending(self._chain, partial(self._commit_batch, subject))

    def _commit_batch(self, subject: str | None, *batch: Any) -> Any:
        with self._lock:
            if subject not in self._committed:
                self._committed[subject] = self._chain.commit_batch(*batch)
            return self._committed[subject]

    def close(self) -> None:
        """Nothing is open."""


class Sending:
    """The chain, for one subject."""

    def __init__(self, chain: Any, commit_batch: Callable[..., Any]) -> None:
        self._chain = chain
        self.commit_batch = commit_batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)


class Pair:
    """A verifier with two jobs on a network of honest nodes: something is broken with the first one. `apart`: the
    second one is opened once that has shown, so that no batch has both."""

    def __init__(self, folder: Path, *, apart: bool = False, **settings: Any) -> None:
        self.chain = FakeChain()
        self.verifier: Verifier = make_verifier(self.chain, folder, workload=Counting(TASKS), lease_s=0.5, **settings)
        self.verifier.runner.rules = replace(self.verifier.runner.rules, batch_min_s=0.0)
        self.verifier.context.outbox = cast(Any, Once(self.verifier.context.chain))
        introduce(self.verifier)
        announce = Announce(("lora",), 0, 0, "", tasks=2, audits=2)
        for number in range(NODES):
            wallet = Wallet.generate()
            node = SimulatedNode(self.verifier, wallet, queue=2, silence=0, seed=number)
            join(self.verifier, node, record_of(self.chain.add_node(wallet, valid=0)), announce)
        self.failed = 0
        self.bad = self._add()
        self.good = JobId(0) if apart else self._add()

    def _add(self) -> JobId:
        manifest = encode_manifest(Manifest(workload="lora", params={}))
        return self.chain.add_job(
            JobFacts(
                manifest=cid_digest(self.verifier.context.store.put_bytes(manifest)),
                requester=Wallet.generate().address,
                reward=Wei(3 * CREDIT),
                audit_fee=Wei(CREDIT),
                verifier_fee=Wei(CREDIT),
                units=TASKS,
                auditors_per_segment=2,
                segments_per_audit=1,
                workload=0,
                deadline=self.chain.clock + 10_000,
            )
        )

    def fail(self, jobs: tuple[JobId, ...]) -> None:
        """A defect that shows with the first job alone."""
        if jobs == (self.bad,):
            self.failed += 1
            raise ZeroDivisionError("a defect")

    def fails_for_good(self) -> bool:
        return self.failed >= runner_module.MAX_ERRORS and "internal error" in self.said()

    async def live(self, said: Callable[[], bool] = lambda: True) -> None:
        """Until the second job is done, for good, and of the first one is `said` what there is to say: what the engine
        holds in memory may be forgotten with the burst in which it fails."""

        def over() -> bool:
            row = next((row for row in self.verifier.stored(Job) if row.id == self.good), None)
            return row is not None and row.state == JobState.DONE and row.units_paid == row.units and said()

        async with self.verifier.running():
            if not self.good:
                await self.verifier.until(lambda: self.failed > 0, seconds=120)
                self.good = self._add()
            await self.verifier.until(over, seconds=120)

    def row(self, job: JobId) -> Job:
        row: Job = next(row for row in self.verifier.stored(Job) if row.id == job)
        return row

    def said(self) -> str:
        """Everything that people can read of the first job."""
        stored = self.verifier.stored
        lines = [line.text for line in stored(Log) if line.job == self.bad]
        batches = [batch.reason for batch in stored(Batch) if self.bad in dict(batch.lines)]
        return " ".join([self.row(self.bad).reason, *batches, *lines])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "HARSH_S", 0.001)
    monkeypatch.setattr(runner_module, "MAX_HARSH_S", 0.01)
    monkeypatch.setattr(runner_module, "TICK_S", 0.05)
    monkeypatch.setattr(world, "BACKOFF_S", 0.01)
    monkeypatch.setattr(world, "MAX_BACKOFF_S", 0.1)
    monkeypatch.setattr(mail, "LINGER_S", 0.001)


APART = {"batch_tasks": 1, "apart": True}
"""What is wrong with a batch, or with an audit in it, delays the batch: the jobs share none then."""
OF_PEERS = ("AuditAnswered", "AuditSealed", "SealAnswered", "TaskAnswered", "WorkCommitted")
"""What several peers say, each for itself: it takes `MAX_ERRORS` of them, each so often, to stop a job."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in ("ChainEvent", "Expanded", "Packed", "ResultLooked", "StateLooked", "WorkCommitted")),
        *((kind, APART) for kind in ("AuditSealed", "SealAnswered", "Drawn", "Signed", "RecordSettled")),
    ],
)
async def test_an_error_in_a_handler_stops_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> None:
    pair = Pair(tmp_path, **settings)
    event_type = next(each for each in machine._HANDLERS if each.__name__ == kind)
    handler = machine._HANDLERS[event_type]

    def broken(world: World, event: Event, now: Now) -> None:
        pair.fail(jobs_of(world.rows, event))
        handler(world, event, now)

    monkeypatch.setitem(machine._HANDLERS, event_type, broken)
    await pair.live()
    assert pair.row(pair.good).state == JobState.DONE
    most = runner_module.MAX_ERRORS * (NODES if kind in OF_PEERS else 1) + 1
    assert 0 < pair.failed <= most, "nothing is tried for ever"
    if kind == "ChainEvent":
        assert pair.bad not in pair.verifier.rows.jobs, "what the chain says of it is what this verifier fails at"
    elif pair.failed > ((runner_module.MAX_ERRORS - 1) * (NODES + 1) if kind in OF_PEERS else runner_module.MAX_ERRORS):
        assert pair.row(pair.bad).state == JobState.FAILED and "internal error" in pair.row(pair.bad).reason


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in ("Expand", "TakeJob", "LookAtState", "LookAtResult", "Pack")),
        *((kind, APART) for kind in ("CommitBatch", "Draw", "Settle", "ReadRecord")),
    ],
)
async def test_an_error_in_an_effect_stops_its_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> None:
    pair = Pair(tmp_path, **settings)
    effect_type = next(each for each in service._PERFORM if each.__name__ == kind)
    perform = service._PERFORM[effect_type]

    async def broken(context: Any, effect: Effect) -> float | None:
        pair.fail(jobs_of_effect(context.rows, effect.key))
        found: float | None = await perform(context, effect)
        return found

    monkeypatch.setitem(service._PERFORM, effect_type, broken)
    await pair.live(said=pair.fails_for_good)
    assert pair.row(pair.good).state == JobState.DONE
    assert "internal error" in pair.said()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", ["_task_offer", "case_of"])
async def test_an_offer_that_cannot_be_made_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Offers of several jobs go to a node in one message."""
    pair = Pair(tmp_path, batch_tasks=1)
    make: Any = getattr(peers, part)

    def offer(context: Any, key: Any, *rest: Any) -> Any:
        pair.fail((key[0],))
        return make(context, key, *rest)

    async def case(context: Any, batch: Any, place: Any) -> Any:
        pair.fail((place[0],))
        return await make(context, batch, place)

    monkeypatch.setattr(peers, part, offer if part == "_task_offer" else case)
    await pair.live(said=pair.fails_for_good)
    assert pair.row(pair.good).state == JobState.DONE
    assert "internal error" in pair.said()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["give", "resume"])
async def test_a_job_that_the_engine_cannot_even_look_at_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Its defect shows whatever is told, or as soon as its rows are there: no event is to blame."""
    pair = Pair(tmp_path)
    module, name = {"give": (tasks, "_give"), "resume": (tasks, "_open")}[where]
    inner: Any = getattr(module, name)

    def broken(world: World, *rest: Any) -> None:
        pair.fail(
            (next(each.job if isinstance(each, Task) else each.id for each in rest if isinstance(each, Task | Job)),)
        )
        inner(world, *rest)

    monkeypatch.setattr(module, name, broken)
    await pair.live()
    assert pair.row(pair.good).state == JobState.DONE
    assert 0 < pair.failed <= 2 * runner_module.MAX_ERRORS + 1
