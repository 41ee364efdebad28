"""Between the engine and the world: what leaves, what lasts, in which order. Engine and database are real."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from proofyard.chain.events import JobOpened, Position
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError, Wei
from proofyard.verifier import runner as runner_module
from proofyard.verifier.engine import world
from proofyard.verifier.engine.effects import Effect, Expand
from proofyard.verifier.engine.events import ChainEvent, Event, NodeJoined, Published, RolledBack
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Job, JobState, Log
from proofyard.verifier.engine.world import Rules, Step
from proofyard.verifier.runner import BURST, IN_FLIGHT, InternalError, Permanent, Runner
from proofyard.verifier.store import database as database_module
from proofyard.verifier.store.database import Database
from proofyard.verifier.store.tables import Cursor

ADDRESS = Address("0x" + "aa" * 20)
MANIFEST = raw_cid(b"manifest")
DEADLINE = 4_000_000_000


def opened(number: int, **terms: Any) -> ChainEvent:
    """A job on chain: one row, one log line, and a manifest to be read."""
    usual: dict[str, Any] = {
        "job": JobId(number),
        "requester": ADDRESS,
        "manifest": cid_digest(MANIFEST),
        "reward": Wei(1),
        "audit_fee": Wei(1),
        "verifier_fee": Wei(1),
        "units": 1,
        "deadline": DEADLINE,
        "auditors_per_segment": 2,
        "segments_per_audit": 1,
        "workload": 0,
    }
    return ChainEvent(JobOpened(Position(1, Digest(bytes(32)), number), **usual | terms), 1)


class Shell:
    """A runner with its database, and what it was asked to do. `act` is what an effect does."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'verifier.db'}"
        self.database = Database(self.url)
        self.begun: list[Effect] = []
        self.act: Callable[[Effect], Any] = lambda _: None
        self.runner = Runner(Rules(own=1), self.database, self._perform, lambda: (time.time(), 1))
        self._task: asyncio.Task[None] | None = None

    async def _perform(self, effect: Effect) -> float | None:
        self.begun.append(effect)
        found = self.act(effect)
        return await found if asyncio.iscoroutine(found) else found

    def stored(self) -> set[int]:
        """Jobs in the database, as somebody else reads it."""
        other = Database(self.url)
        try:
            return {row.id for row in other.rows(Job) if isinstance(row, Job)}
        finally:
            other.close()

    def cursor(self) -> bytes:
        with Session(self.database.engine) as session:
            row = session.get(Cursor, 1)
            return b"" if row is None else row.state

    def expands(self) -> list[int]:
        return [effect.job for effect in self.begun if isinstance(effect, Expand)]

    def state(self, job: int) -> tuple[str, str]:
        row = self.runner.engine.world.rows.jobs[JobId(job)]
        return row.state, row.reason

    def start(self) -> None:
        self._task = asyncio.create_task(self.runner.run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.database.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Shell]:
    monkeypatch.setattr(database_module, "RETRY_S", 0.01)
    monkeypatch.setattr(runner_module, "HARSH_S", 0.001)
    monkeypatch.setattr(runner_module, "TICK_S", 0.05)
    monkeypatch.setattr(world, "BACKOFF_S", 0.01)
    made = Shell(tmp_path)
    yield made
    await made.stop()


class Gate:
    """A database that commits nothing until it is let; `sizes` has how many steps came in each group."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, self._commit = threading.Event(), database._commit
        self.sizes: list[int] = []
        monkeypatch.setattr(database, "_commit", self._held)

    def _held(self, group: Any) -> Any:
        self.sizes.append(len(group.waiting))
        self._open.wait(60)
        return self._commit(group)

    def open(self) -> None:
        self._open.set()


# What leaves lasts


async def test_nothing_leaves_before_it_lasts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an effect, nor an answer, nor a log line: not even of steps that write nothing themselves."""
    gate = Gate(shell.database, monkeypatch)
    seen: list[set[int]] = []
    lines: list[Log] = []
    shell.act = lambda _: seen.append(shell.stored())
    shell.runner.listeners.append(lines.append)
    shell.start()
    first = asyncio.create_task(shell.runner.tell(opened(1)))
    await until(lambda: gate.sizes)
    nothing = asyncio.create_task(shell.runner.tell(Published(raw_cid(b"of nobody"))))
    everything = asyncio.create_task(shell.runner.tell_all([]))
    await until(lambda: not shell.runner.waiting)
    await asyncio.sleep(0.05)
    assert not (first.done() or nothing.done() or everything.done() or shell.begun or lines)
    gate.open()
    assert (await first, await nothing, await everything) == ("", "", [])
    await until(lambda: seen)
    assert all(1 in jobs for jobs in seen)


async def test_an_effect_of_a_step_without_rows_waits_for_the_rows_before_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.start()
    await shell.runner.tell(opened(1))
    await until(shell.expands)
    gate = Gate(shell.database, monkeypatch)
    asked = shell.runner.engine.handle

    def handle(event: Event, now: Any) -> Step:
        if isinstance(event, Published):
            return Step((), (), (Expand(JobId(9), MANIFEST),))
        return asked(event, now)

    monkeypatch.setattr(shell.runner.engine, "handle", handle)
    shell.runner.post(opened(2))
    await until(lambda: gate.sizes)
    shell.runner.post(Published(MANIFEST))
    await until(lambda: not shell.runner.waiting)
    await asyncio.sleep(0.02)
    assert shell.expands() == [1]
    gate.open()
    await until(lambda: len(shell.expands()) == 3)
    assert shell.expands() == [1, 2, 9]


async def test_what_is_told_together_lasts_together_with_its_cursor(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a burst, and the last one of them fails the engine: nothing of it has happened."""
    handle = Engine.handle

    def failing(engine: Engine, event: Event, now: Any) -> Step:
        if isinstance(event, RolledBack):
            raise ZeroDivisionError("in the engine")
        return handle(engine, event, now)

    monkeypatch.setattr(Engine, "handle", failing)
    shell.start()
    events: list[Event] = [opened(number) for number in range(1, BURST + 10)]
    with pytest.raises(InternalError):
        await shell.runner.tell_all([*events, RolledBack(0)], b"too far")
    assert (shell.stored(), shell.cursor()) == (set(), b"")
    assert await shell.runner.tell_all(events, b"here") == [""] * len(events)
    assert (len(shell.stored()), shell.cursor()) == (len(events), b"here")


async def test_the_last_word_on_a_row_is_what_is_written(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several steps in one transaction, in their order: what was made and deleted is not there, what was deleted and
    made again is."""
    rows = [
        Log(job=JobId(1), seq=number, at=1.0, kind="k", text=text)
        for number, text in ((1, "old"), (2, "old"), (2, "new"), (3, "short-lived"))
    ]
    await shell.database.write(Step((rows[0], rows[1]), (), ()))
    steps = iter(
        [
            Step((rows[3],), (rows[1],), ()),
            Step((rows[2],), (rows[3],), ()),
            Step((), (rows[0],), ()),
        ]
    )
    shell.start()
    await shell.runner.tell_all([])
    monkeypatch.setattr(shell.runner.engine, "handle", lambda *_: next(steps))
    await shell.runner.tell_all([Published(MANIFEST)] * 3)
    assert [(row.seq, row.text) for row in shell.database.rows(Log) if isinstance(row, Log)] == [(2, "new")]


# Effects


async def test_an_effect_runs_at_most_once_at_a_time(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, running, most = asyncio.Event(), 0, 0

    async def act(_: Effect) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await wait.wait()
        running -= 1

    shell.act = act
    shell.start()
    await shell.runner.tell(opened(1))
    await until(shell.expands)
    again = Step((), (), (Expand(JobId(1), MANIFEST),))
    monkeypatch.setattr(shell.runner.engine, "handle", lambda *_: again)
    for _ in range(5):
        await shell.runner.tell(Published(MANIFEST))
    assert (most, shell.expands()) == (1, [1])
    wait.set()
    await until(lambda: not shell.runner.effects_running)
    await shell.runner.tell(Published(MANIFEST))
    await until(lambda: shell.expands() == [1, 1])
    assert most == 1


async def test_an_effect_that_fails_is_asked_for_again_and_one_that_never_can_ends_what_it_is_of(shell: Shell) -> None:
    class Away(ProofyardError):
        pass

    async def act(effect: Effect) -> None:
        assert isinstance(effect, Expand)
        if effect.job == 1:
            raise Permanent("it is no manifest")
        if shell.expands().count(effect.job) == 1:
            raise Away("not now")

    shell.act = act
    shell.start()
    await shell.runner.tell_all([opened(1), opened(2)])
    await until(lambda: shell.state(1)[0] == JobState.FAILED and shell.expands().count(2) == 2)
    assert shell.state(1) == (JobState.FAILED, "it is no manifest")
    assert shell.state(2)[0] == JobState.WAITING


async def test_an_error_of_this_verifiers_own_is_tried_again_and_not_for_ever(shell: Shell) -> None:
    def act(_: Effect) -> None:
        raise ZeroDivisionError("a slip")

    shell.act = act
    shell.start()
    await shell.runner.tell(opened(1))
    await until(lambda: shell.state(1)[0] == JobState.FAILED)
    assert shell.expands() == [1, 1, 1]
    assert "internal error (ZeroDivisionError)" in shell.state(1)[1]


async def test_an_event_that_does_not_come_in_time_is_looked_for_again(shell: Shell) -> None:
    shell.act = lambda _: 0.01
    shell.start()
    await shell.runner.tell(opened(1))
    await until(lambda: len(shell.expands()) >= 2)


# Errors


async def test_an_engine_that_fails_begins_anew_from_its_rows(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts goes on, what does not was never said; who is connected is told again."""
    handle = Engine.handle

    def failing(engine: Engine, event: Event, now: Any) -> Step:
        if event == opened(3):
            raise ZeroDivisionError("in the engine")
        return handle(engine, event, now)

    monkeypatch.setattr(Engine, "handle", failing)
    node = NodeJoined(ADDRESS, ADDRESS, 1, 1, 0, frozenset(), 1, 1)
    shell.runner.recall.append(lambda: [node])
    shell.start()
    await shell.runner.tell(opened(1))
    assert ADDRESS in shell.runner.engine.world.nodes
    before = shell.runner.engine
    together = [asyncio.create_task(shell.runner.tell(opened(number))) for number in (2, 3)]
    assert all(isinstance(each, InternalError) for each in await asyncio.gather(*together, return_exceptions=True))
    await shell.runner.tell(opened(4))
    assert shell.runner.engine is not before
    assert shell.stored() == set(shell.runner.engine.world.rows.jobs) == {1, 4}
    assert ADDRESS in shell.runner.engine.world.nodes
    await until(lambda: shell.expands().count(1) == 2)


async def test_what_the_database_refuses_for_good_has_not_happened(shell: Shell) -> None:
    """A number that no column holds: the engine forgets it, and what it computed meanwhile with it."""
    shell.start()
    await shell.runner.tell(opened(1))
    too_far = [asyncio.create_task(shell.runner.tell(opened(n, deadline=2**70))) for n in (2, 3)]
    assert all(isinstance(each, InternalError) for each in await asyncio.gather(*too_far, return_exceptions=True))
    await shell.runner.tell(opened(4))
    assert shell.stored() == set(shell.runner.engine.world.rows.jobs) == {1, 4}


# A slow database


async def test_a_slow_database_holds_events_back(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "BURST", 1)
    shell.start()
    await shell.runner.tell_all([])
    gate = Gate(shell.database, monkeypatch)
    asked = [asyncio.create_task(shell.runner.tell(opened(number))) for number in range(1, 4 * IN_FLIGHT)]
    rows = shell.runner.engine.world.rows
    held = (IN_FLIGHT, len(asked) - IN_FLIGHT)
    await until(lambda: (len(rows.jobs), shell.runner.waiting) == held)
    await asyncio.sleep(0.05)
    assert (len(rows.jobs), shell.runner.waiting) == held
    gate.open()
    assert await asyncio.gather(*asked) == [""] * len(asked)
    assert sum(gate.sizes[:2]) >= IN_FLIGHT, "what has come together is committed together"


async def test_a_database_that_is_away_is_waited_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    write, troubles = shell.database._write, iter(range(3))

    def away(*call: Any) -> None:
        for _ in troubles:
            raise OperationalError("INSERT", {}, Exception("the disk is full"))
        write(*call)

    monkeypatch.setattr(shell.database, "_write", away)
    shell.start()
    assert await shell.runner.tell(opened(1)) == ""
    assert next(troubles, None) is None and shell.stored() == {1}


# The end


@asynccontextmanager
async def within(seconds: float) -> AsyncGenerator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.mark.parametrize("moment", ["at once", "idle", "effects run", "the database hangs", "the database is away"])
async def test_a_verifier_stops_within_seconds_whatever_it_is_at(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """And nobody is told of what does not last."""
    from sqlalchemy.exc import OperationalError

    async def stubborn(_: Effect) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise

    def away(*_: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("gone"))

    gate = None
    if moment == "effects run":
        shell.act = stubborn
    elif moment == "the database hangs":
        gate = Gate(shell.database, monkeypatch)
    elif moment == "the database is away":
        monkeypatch.setattr(shell.database, "_write", away)
    shell.start()
    asked = asyncio.create_task(shell.runner.tell(opened(1)))
    if moment == "at once":
        await asyncio.sleep(0)
    else:
        await until(lambda: 1 in shell.runner.engine.world.rows.jobs)
        await asyncio.sleep(0.02)
    async with within(15):
        await shell.stop()
    lasting = moment in ("idle", "effects run")
    assert (await asyncio.gather(asked, return_exceptions=True) == [""]) == lasting
    if lasting:
        assert shell.stored() == {1}
    if gate is not None:
        gate.open()
