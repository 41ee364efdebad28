"""Between the engine and the world: events in, rows to the database, then effects out and answers to whoever asked.

What has come together is taken in one go and written in one transaction; nothing leaves before it lasts. Steps are
written in their order, and the next ones are computed meanwhile. An effect runs as a task of its own, at most one for
each key; it tells the engine what came of it by an event.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.events import EffectFailed, Event, Now, Tick
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Log, Row
from proofyard.verifier.engine.world import Rules, Step
from proofyard.verifier.store.database import Database

logger = logging.getLogger(__name__)

BURST = 512
"""Events that are taken in one go at most: answers to peers do not wait for longer."""
IN_FLIGHT = 8
"""Transactions that wait for the database before no more events are taken in."""
TICK_S = 1.0
MAX_ERRORS = 3
"""An effect that meets an internal error so often is given up, and what it belongs to with it."""
HARSH_S = 0.1

Perform = Callable[[Effect], Awaitable[float | None]]
"""Does an effect. What it returns is how many seconds its outcome may take to come as an event, None for none."""
OnLog = Callable[[Log], None]


@dataclass
class _Item:
    event: Event
    cursor: bytes | None
    answer: asyncio.Future[str] | None


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
        self.effects_running: dict[tuple[object, ...], asyncio.Task[None]] = {}
        self._process = process
        self._perform = perform
        self._clock = clock
        self._items: deque[_Item] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._writes: set[asyncio.Task[None]] = set()
        self._errors: dict[tuple[object, ...], int] = {}
        self.engine = Engine(rules)

    def now(self) -> Now:
        chain, block = self._clock()
        return Now(chain, time.monotonic(), block)

    # Events

    def post(self, event: Event) -> None:
        """Tell the engine of something; nobody waits for what comes of it."""
        self._items.append(_Item(event, None, None))
        self._news.set()

    async def tell(self, event: Event, cursor: bytes | None = None) -> str:
        """Tell the engine of something, and return once what follows from it lasts: why it was not taken, or empty."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._items.append(_Item(event, cursor, answer))
        self._news.set()
        return await answer

    async def tell_all(self, events: Iterable[Event], cursor: bytes | None = None) -> list[str]:
        """The same of several, in their order and without others between them."""
        answers: list[asyncio.Future[str]] = []
        for event in events:
            answers.append(asyncio.get_running_loop().create_future())
            self._items.append(_Item(event, None, answers[-1]))
        if cursor is not None:
            answers.append(asyncio.get_running_loop().create_future())
            self._items.append(_Item(Tick(), cursor, answers[-1]))
        self._news.set()
        return [await answer for answer in answers][: len(answers) - (cursor is not None)]

    @property
    def waiting(self) -> int:
        """Events that were not taken in yet."""
        return len(self._items)

    # The loop

    async def run(self) -> None:
        """Until cancelled. Begins with what the database says is due."""
        try:
            await self._begin()
            while True:
                await self._take_in()
        finally:
            for task in list(self.effects_running.values()):
                task.cancel()
            await asyncio.gather(*self.effects_running.values(), *self._writes, return_exceptions=True)
            for item in self._items:
                if item.answer is not None and not item.answer.done():
                    item.answer.cancel()

    async def _begin(self) -> None:
        """A new engine from the rows that last."""
        rows = await asyncio.to_thread(self.database.load, self._process)
        self.engine = Engine(self.rules, rows)
        logged = await asyncio.to_thread(self.database.logged, list(self.engine.world.rows.jobs))
        for job, seq in logged.items():
            self.engine.world.logged(job, seq)
        await self._emit(self.engine.resume(self.now()), [], None)

    async def _take_in(self) -> None:
        await self._wait()
        await self._room.acquire()
        taken: list[tuple[_Item, str]] = []
        rows: dict[int, Row] = {}
        deleted: dict[int, Row] = {}
        effects: list[Effect] = []
        cursor: bytes | None = None
        items = [self._items.popleft() for _ in range(min(BURST, len(self._items)))] or [_Item(Tick(), None, None)]
        now = self.now()
        for item in items:
            try:
                step = self.engine.handle(item.event, now)
            except Exception:
                logger.exception("the engine met an internal error with %s; it begins anew from its rows", item.event)
                self._room.release()
                await self._begin_again(items)
                return
            rows.update({id(row): row for row in step.rows})
            deleted.update({id(row): row for row in step.deleted})
            effects += step.effects
            cursor = item.cursor or cursor
            taken.append((item, step.refusal))
        step = Step(tuple(rows.values()), tuple(deleted.values()), tuple(effects))
        write = asyncio.create_task(self._emit(step, taken, cursor, room=True))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.sleep(0)

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

    async def _begin_again(self, items: list[_Item]) -> None:
        """Nothing of a burst in which the engine failed was written: it is forgotten, and its senders ask again."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        for item in items:
            if item.answer is not None and not item.answer.done():
                item.answer.set_exception(InternalError())
        for task in list(self.effects_running.values()):
            task.cancel()
        await asyncio.gather(*self.effects_running.values(), return_exceptions=True)
        await asyncio.sleep(HARSH_S)
        await self._begin()

    async def _emit(
        self, step: Step, taken: list[tuple[_Item, str]], cursor: bytes | None, *, room: bool = False
    ) -> None:
        if step.rows or step.deleted or cursor is not None:
            await self.database.write(step, cursor)
        if room:
            self._room.release()
        for effect in step.effects:
            self._start(effect)
        for item, refusal in taken:
            if item.answer is not None and not item.answer.done():
                item.answer.set_result(refusal)
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
        task.add_done_callback(lambda done: self.effects_running.pop(key, None))

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
            reason = f"this verifier met an internal error ({type(error).__name__}); see its log"
            self.post(EffectFailed(effect.key, reason, retry=errors < MAX_ERRORS))


class Permanent(ProofyardError):
    """An effect that will never succeed; what it belongs to ends with this reason."""


class InternalError(ProofyardError):
    """The verifier met an error of its own; the same may be asked again."""

    def __init__(self) -> None:
        super().__init__("this verifier met an internal error; ask again")
