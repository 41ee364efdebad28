"""Between the engine and the world: events in, rows to the database, then effects out and answers to whoever asked.

What has come together is taken in one go and written in one transaction; nothing leaves before it lasts. Steps are
written in their order, and the next ones are computed meanwhile. An effect runs as a task of its own, at most one for
each key; it tells the engine what came of it by an event.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from proofyard.protocol.types import JobId, ProofyardError
from proofyard.verifier.engine.blame import Subject, effect_of, subject_of
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.events import EffectFailed, Event, JobBroken, Now, RolledBack, Tick
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Job, Log, Row
from proofyard.verifier.engine.world import Rules, Step
from proofyard.verifier.store.database import Database, DatabaseError

logger = logging.getLogger(__name__)

BURST = 512
"""Events that are taken in one go at most: answers to peers do not wait for longer."""
IN_FLIGHT = 8
"""Transactions that wait for the database before no more events are taken in."""
TICK_S = 1.0
MAX_ERRORS = 3
"""An effect that meets an internal error so often is given up, and what it belongs to with it; a job with which the
engine does is stopped."""
HARSH_S, MAX_HARSH_S = 0.1, 5.0
"""How long the engine waits before it begins anew, the first time and after many in a row."""
MAX_BLAMED = 10_000
"""Subjects of errors that are counted; after so many the counts begin anew."""
STOP_S = 2.0
"""How long what was computed already may take to last when the verifier stops."""

INTERNAL = "this verifier met an internal error"

Perform = Callable[[Effect], Awaitable[float | None]]
"""Does an effect. What it returns is how many seconds its outcome may take to come as an event, None for none."""
OnLog = Callable[[Log], None]


@dataclass
class _Item:
    """Events that are taken in one after the other and last together."""

    events: tuple[Event, ...]
    cursor: bytes | None
    answer: asyncio.Future[list[str]] | None


class _Changes:
    """What several steps come to: the last word on each row."""

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._deleted: dict[int, Row] = {}
        self._effects: list[Effect] = []

    def take(self, step: Step) -> None:
        for row in step.deleted:
            self._rows.pop(id(row), None)
            self._deleted[id(row)] = row
        for row in step.rows:
            self._rows[id(row)] = row
        self._effects += step.effects

    def step(self) -> Step:
        return Step(tuple(self._rows.values()), tuple(self._deleted.values()), tuple(self._effects))


class Runner:
    """Runs one engine. `perform` does an effect; `clock` gives the chain's time and its newest block."""

    def __init__(
        self,
        rules: Rules,
        database: Database,
        perform: Perform,
        clock: Callable[[], tuple[float, int]],
        *,
        process: str = "",
    ) -> None:
        self.rules = rules
        self.database = database
        self.listeners: list[OnLog] = []
        """Told of every line of every log, once it lasts."""
        self.recall: list[Callable[[], Iterable[Event]]] = []
        """What an engine that begins is told that no row says: who is connected, what others have in flight."""
        self.effects_running: dict[tuple[object, ...], asyncio.Task[None]] = {}
        self._process = process
        self._perform = perform
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._writes: set[asyncio.Task[None]] = set()
        self._unwritten = 0
        """Steps that were computed and do not last yet."""
        self._stopped = False
        self._reloads: list[asyncio.Future[None]] = []
        """Who waits for the engine to begin anew."""
        self._broken = False
        """A step could not be written: the engine knows what the database does not."""
        self._errors: dict[tuple[object, ...], int] = {}
        self._in_a_row = 0
        self._events_blamed: Counter[Subject] = Counter()
        self._jobs_blamed: Counter[JobId] = Counter()
        self._to_stop: dict[JobId, str] = {}
        """Jobs that are stopped because of errors, and what they are told."""
        self.engine = Engine(rules)

    def now(self) -> Now:
        chain, block = self._clock()
        return Now(chain, time.monotonic(), block)

    # Events

    def post(self, event: Event) -> None:
        """Tell the engine of something; nobody waits for what comes of it."""
        self._add(_Item((event,), None, None))

    async def tell(self, event: Event) -> str:
        """Tell the engine of something, and return once what follows from it lasts: why it was not taken, or empty."""
        return (await self.tell_all([event]))[0]

    async def tell_all(self, events: Iterable[Event], cursor: bytes | None = None) -> list[str]:
        """The same of several, in their order and without others between them. All of it lasts, with `cursor`, or
        nothing does; where there is nothing to tell, all that was told before lasts on return.

        Raises `InternalError` where the engine fails: the same may be told again.
        """
        item = _Item(tuple(events), cursor, asyncio.get_running_loop().create_future())
        self._add(item)
        assert item.answer is not None
        return await item.answer

    async def reload(self) -> None:
        """Have the engine begin anew: its rows were changed by others than itself."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reloads.append(begun)
        self._news.set()
        await begun

    def _add(self, item: _Item) -> None:
        if self._stopped:
            if item.answer is not None:
                item.answer.cancel()
            return
        self._items.append(item)
        self._news.set()

    @property
    def waiting(self) -> int:
        """How much was told and not taken in yet."""
        return len(self._items)

    # The loop

    async def run(self) -> None:
        """Until cancelled. Begins with what the database says is due."""
        try:
            await self._begin()
            while True:
                if self._broken or self._reloads:
                    waiting, self._reloads = self._reloads, []
                    await self._begin_again([])
                    for future in waiting:
                        if not future.done():
                            future.set_result(None)
                await self._take_in()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """Who waits for an answer gets none, unless what it follows from comes to last in time."""
        if self._writes:
            await asyncio.wait(list(self._writes), timeout=STOP_S)
        left = [*self._writes, *self.effects_running.values()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=STOP_S)
        self._stopped = True
        for item in self._items:
            if item.answer is not None:
                item.answer.cancel()

    async def _begin(self) -> None:
        """A new engine from the rows that last, and from what no row says."""
        self._broken = False
        while (step := await self._resumed()) is None:
            await self._rest()
        known = [event for recall in self.recall for event in recall()]
        known += [JobBroken(job, reason) for job, reason in self._to_stop.items()]
        self._items.extendleft(_Item((event,), None, None) for event in reversed(known))
        await self._emit(step, [], None)

    async def _resumed(self) -> Step | None:
        """What follows from the rows; None where the engine fails at them."""
        rows = await asyncio.to_thread(self.database.load, self._process)
        last = await asyncio.to_thread(self.database.last_batch, self.rules.first_row)
        self.engine = Engine(self.rules, [row for row in rows if not self._is_aside(row)], last)
        logged = await asyncio.to_thread(self.database.logged, list(self.engine.world.rows.jobs))
        for job, seq in logged.items():
            self.engine.world.logged(job, seq)
        try:
            return self.engine.resume(self.now())
        except Exception as error:
            logger.exception("the engine met an internal error with its rows")
            self._blame(None, error)
            return None

    def _is_aside(self, row: Row) -> bool:
        """Whether a row is of a job that cannot even be stopped: nothing is done for it until the next start."""
        job = row.id if isinstance(row, Job) else getattr(row, "job", None)
        return self._jobs_blamed[job] >= 2 * MAX_ERRORS if job is not None else False

    async def _take_in(self) -> None:
        await self._wait()
        await self._room.acquire()
        if self._broken:
            self._room.release()
            return
        taken: list[tuple[_Item, list[str]]] = []
        changes = _Changes()
        cursor: bytes | None = None
        items = self._burst() or [_Item((Tick(),), None, None)]
        now = self.now()
        for item in items:
            refusals = []
            for event in item.events:
                try:
                    if self._events_blamed and self._fails_at(event):
                        self._without(event, now, changes)
                        refusals.append(INTERNAL)
                        continue
                    step = self.engine.handle(event, now)
                except Exception as error:
                    logger.exception("the engine met an internal error with %s; it begins anew from its rows", event)
                    self._blame(event, error)
                    self._room.release()
                    await self._begin_again(items)
                    return
                changes.take(step)
                refusals.append(step.refusal)
            cursor = item.cursor or cursor
            taken.append((item, refusals))
        self._in_a_row = 0
        write = asyncio.create_task(self._written(changes.step(), taken, cursor))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.sleep(0)

    def _burst(self) -> list[_Item]:
        """What is taken in in one go: what was told together stays together."""
        items: list[_Item] = []
        count = 0
        while self._items and count < BURST:
            items.append(self._items.popleft())
            count += len(items[-1].events)
        return items

    async def _wait(self) -> None:
        if self._items:
            return
        self._news.clear()
        wake = self.engine.next_wake
        seconds = TICK_S if wake is None else max(0.0, min(TICK_S, wake - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _begin_again(self, items: Sequence[_Item]) -> None:
        """Nothing of a burst in which the engine failed was written: it is forgotten, and its senders ask again."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        _fail(items)
        for task in list(self.effects_running.values()):
            task.cancel()
        await asyncio.gather(*self.effects_running.values(), return_exceptions=True)
        await self._rest()
        await self._begin()

    async def _rest(self) -> None:
        self._in_a_row += 1
        await asyncio.sleep(min(MAX_HARSH_S, HARSH_S * 2.0 ** min(self._in_a_row - 1, 16)))

    # Whose error it is

    def blame(self, job: JobId, error: Exception) -> None:
        """An error of this verifier's own was met with a job. Again and again, it is stopped and says why."""
        if len(self._jobs_blamed) > MAX_BLAMED:
            self._jobs_blamed.clear()
        self._jobs_blamed[job] += 1
        if self._jobs_blamed[job] >= MAX_ERRORS:
            self._to_stop[job] = _own(error)
            self.post(JobBroken(job, _own(error)))
        if self._jobs_blamed[job] == 2 * MAX_ERRORS:
            logger.error("job %s is set aside: this verifier fails at it", job)

    def _blame(self, event: Event | None, error: Exception) -> None:
        """The engine failed at an event, or at the jobs that it was looking at. What one peer says stops no job: it is
        what several say, or nobody."""
        world = self.engine.world
        jobs, peer, told = world.about, "", False
        if event is not None and world.takes_in and not isinstance(event, RolledBack | Tick):
            if len(self._events_blamed) > MAX_BLAMED:
                self._events_blamed.clear()
            subject = subject_of(world.rows, event)
            self._events_blamed[subject] += 1
            peer, told = subject[2], True
            if peer and self._events_blamed[subject] != MAX_ERRORS:
                jobs = ()
        for job in jobs:
            if not told or self._jobs_blamed[job] < MAX_ERRORS:
                self.blame(job, error)

    def _without(self, event: Event, now: Now, changes: "_Changes") -> None:
        """Go on without an event that the engine fails at: what it answers has failed."""
        logger.error("the engine goes on without %s, at which it fails", event)
        for key in self.engine.world.wanted_like(effect_of(event)):
            changes.take(self.engine.handle(EffectFailed(key, INTERNAL, retry=False, own=True), now))

    def _fails_at(self, event: Event) -> bool:
        """Whether the engine failed at the like of it again and again; of the chain's and its own, after its jobs were
        stopped as well."""
        subject = subject_of(self.engine.world.rows, event)
        return self._events_blamed[subject] >= MAX_ERRORS + (not subject[2])

    async def _written(self, step: Step, taken: list[tuple[_Item, list[str]]], cursor: bytes | None) -> None:
        """Let a step last and what follows from it leave; where that cannot be, the engine begins anew."""
        try:
            await self._emit(step, taken, cursor)
        except asyncio.CancelledError:
            for item, _ in taken:
                if item.answer is not None:
                    item.answer.cancel()
            raise
        except Exception as error:
            known = isinstance(error, DatabaseError)
            logger.error("a step was not written (%s); the engine begins anew from its rows", error, exc_info=not known)
            self._broken = True
            _fail([item for item, _ in taken])
            self._news.set()
        finally:
            self._room.release()

    async def _emit(self, step: Step, taken: list[tuple[_Item, list[str]]], cursor: bytes | None) -> None:
        # A step without rows follows from those before it: it leaves after they last.
        if step.rows or step.deleted or cursor is not None or self._unwritten:
            self._unwritten += 1
            try:
                await self.database.write(step, cursor)
            finally:
                self._unwritten -= 1
        if self._broken:
            raise DatabaseError("an earlier step was not written")
        for effect in step.effects:
            self._start(effect)
        for item, refusals in taken:
            if item.answer is not None and not item.answer.done():
                item.answer.set_result(refusals)
        if self.listeners:
            for row in step.rows:
                if isinstance(row, Log):
                    for listener in self.listeners:
                        listener(row)

    def _start(self, effect: Effect) -> None:
        key = effect.key
        running = self.effects_running.get(key)
        if running is not None and not running.done():
            return
        task = asyncio.create_task(self._do(effect))
        self.effects_running[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: tuple[object, ...], task: asyncio.Task[None]) -> None:
        if self.effects_running.get(key) is task:
            del self.effects_running[key]

    async def _do(self, effect: Effect) -> None:
        try:
            seconds = await self._perform(effect)
            self._errors.pop(effect.key, None)
            if seconds is not None:
                late = EffectFailed(effect.key, "its event has not come; it is looked at again")
                asyncio.get_running_loop().call_later(seconds, self.post, late)
        except Permanent as error:
            self.post(EffectFailed(effect.key, str(error), retry=False))
        except (ProofyardError, OSError) as error:
            logger.info("%s: %s; tried again", type(effect).__name__, error)
            self.post(EffectFailed(effect.key, str(error)))
        except Exception as error:
            errors = self._errors[effect.key] = self._errors.get(effect.key, 0) + 1
            logger.exception("%s met an internal error", type(effect).__name__)
            lasts = errors >= MAX_ERRORS
            self.post(EffectFailed(effect.key, _own(error), retry=not lasts, own=lasts))


def _own(error: Exception) -> str:
    """An error of this verifier's own, for those whom it is no use to show a traceback."""
    return f"this verifier met an internal error ({type(error).__name__}); see its log"


def _fail(items: Iterable[_Item]) -> None:
    for item in items:
        if item.answer is not None and not item.answer.done():
            item.answer.set_exception(InternalError())


class Permanent(ProofyardError):
    """An effect that will never succeed; what it belongs to ends with this reason."""


class InternalError(ProofyardError):
    """The verifier met an error of its own; the same may be asked again."""

    def __init__(self) -> None:
        super().__init__(f"{INTERNAL}; ask again")
