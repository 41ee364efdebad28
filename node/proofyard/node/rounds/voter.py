"""One voter's part in one round: the state machine (`machine`) with a disk, a clock and the other voters around it.

Whatever arrives waits in a queue and is worked off in order, beside the event loop: signatures take time. What a step
keeps is on the disk before anything that it says leaves; where the disk takes nothing, nothing leaves.
"""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proofyard.node.journal import Journal, JournalError
from proofyard.node.rounds.ballot import Ballot, delta_of
from proofyard.node.rounds.machine import Durable, RoundMachine, Step
from proofyard.node.rounds.messages import AskRound, Certified, Message, ShownDelta
from proofyard.node.rounds.outbox import Outbox
from proofyard.node.rounds.results import DeltaRefused, Reach, Results
from proofyard.protocol.certificate import Certificate, Delta, Deltas
from proofyard.protocol.messages import Ack
from proofyard.protocol.types import Address, Digest, ProofyardError, TaskIndex
from proofyard.runtime.service import run_together
from proofyard.transport import Connection, RequestFailed, TransportError
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger("proofyard.node")

Event = Callable[[float], Step]
"""What is done to the machine, at a time of the monotonic clock."""

MOST_WAITING = 8
"""Messages of one voter that wait."""
FALSE = (DeltaRefused, StateRefused)
"""What is wrong with a commitment, and not with the way that its result took."""
MOST_TRIED = 4
"""Commitments to one task whose results are fetched: who does it has one."""
KEEP_S = 5.0
"""Between two attempts to write down what could not be written."""
FIRST_SHOW_S, LAST_SHOW_S = 1.0, 30.0
"""Between two attempts to show a voter what it does not have yet."""
ANSWER_S = 10.0


class RoundVoter:
    """`closes_s`: seconds after which this node does without what is not here; counted anew after a restart, since the
    clock of before is gone."""

    def __init__(
        self,
        ballot: Ballot,
        machine: RoundMachine,
        results: Results,
        outbox: Outbox,
        journal: Journal,
        reach: Reach,
        *,
        closes_s: float,
        ask_s: float,
    ) -> None:
        self.ballot = ballot
        self._machine, self._results, self._outbox, self._journal = machine, results, outbox, journal
        self._reach, self._closes_s, self._ask_s = reach, closes_s, ask_s
        self._others = tuple(voter.node for voter in ballot.roster.voters if voter.node != machine.node)
        self._events: asyncio.Queue[tuple[Address | None, Event]] = asyncio.Queue()
        self._waiting: Counter[Address] = Counter()
        self._unkept: Durable | None = None
        self._taking: dict[Delta, asyncio.Task[None]] = {}
        self._wanted: set[asyncio.Task[None]] = set()
        """Those of them that the view's proposal is waited for with."""
        self._view = machine.durable.view
        self._tried: defaultdict[TaskIndex, set[Digest]] = defaultdict(set)
        """Struct hashes of commitments."""
        self._false: set[Digest] = set()
        self._own: list[ShownDelta] = []
        self._shown = asyncio.Event()
        """Set for a moment when there is more to show."""
        self._decided = asyncio.Event()
        self.certificate: Certificate | None = machine.durable.decided
        """What the round took, once that is on this disk."""

    async def decided(self) -> Certificate:
        """Until the round is decided."""
        await self._decided.wait()
        assert self.certificate is not None
        return self.certificate

    async def run(self) -> None:
        """Until the round is decided."""
        if self.certificate is not None:
            self._decided.set()
            return
        for shown in await asyncio.to_thread(self._results.known):
            self._own += [shown] if shown.commitment.node == self._machine.node else []
            self._take_soon(shown)
        try:
            await run_together(self._work(), self._close(), self._ask(), *map(self._show, self._others))
        finally:
            tasks = list(self._taking.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What comes in

    def hear(self, sender: Address, message: Message) -> None:
        """What a voter says. Raises `RequestFailed` where too much of it waits."""
        if self._waiting[sender] >= MOST_WAITING:
            raise RequestFailed("busy", f"{MOST_WAITING} messages of yours wait in this round; say it again later")
        self._waiting[sender] += 1
        self._events.put_nowait((sender, partial(self._machine.receive, sender, message)))

    def heard(self, peer: Address, certificate: Certificate) -> None:
        """A voter has answered that the round is decided."""
        if self.certificate is None and self._waiting[peer] < MOST_WAITING:
            self.hear(peer, Certified(self.ballot.round.digest, certificate))

    def finish(self, shown: ShownDelta) -> None:
        """This node has done a task of its own: its bytes are in the store."""
        if self.certificate is not None:
            return
        if shown not in self._own:
            self._own.append(shown)
        self._take_soon(shown)
        self._shown.set()

    def show(self, connection: Connection, shown: ShownDelta) -> Ack:
        """A voter shows a result of its own, to be fetched from it. Raises `RequestFailed`."""
        delta = delta_of(shown)
        if self._results.has(delta.task):
            return Ack()
        if connection.peer != shown.commitment.node:
            raise RequestFailed("bad-delta", f"task {delta.task} is not yours to show")
        if delta in self._taking:
            return Ack(False, "busy: it is being fetched")
        if objection := self._objection(shown):
            raise RequestFailed("bad-delta", objection)
        self._take_soon(shown, connection)
        return Ack(False, "busy: it is being fetched")

    def _objection(self, shown: ShownDelta) -> str:
        """Why what a commitment is to is not fetched; empty where it is. Its signer alone could have made it false."""
        task = shown.commitment.task
        if objection := self.ballot.objection(shown):
            return objection
        leaf, tried = shown.commitment.struct_hash(), self._tried[task]
        if leaf in self._false:
            return f"that result of task {task} was none"
        if leaf not in tried and len(tried) >= MOST_TRIED:
            return f"{MOST_TRIED} other commitments to task {task} were shown before"
        tried.add(leaf)
        return ""

    def shown(self, delta: Delta) -> ShownDelta:
        """The commitment to a result that was found right here. Raises `RequestFailed`."""
        found = self._results.shown(delta)
        if found is None:
            raise RequestFailed("no-delta", f"that result of task {delta.task} is not here")
        return found

    async def obtain(self, deltas: Deltas) -> None:
        """Until what the round took is here, of whichever voter has it."""
        pause, lacking = FIRST_SHOW_S, list(deltas)
        while lacking := [delta for delta in lacking if not await self._obtain(delta)]:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_SHOW_S)

    async def _obtain(self, delta: Delta) -> bool:
        worker = self.ballot.worker(delta.task)
        for node in sorted(self._others, key=lambda node: node != worker):
            if await self._results.obtain(delta, node):
                return True
        return not self._others

    # The machine

    async def _work(self) -> None:
        while self.certificate is None:
            sender, event = await self._next()
            if sender is not None:
                self._waiting[sender] -= 1
            await self._carry_out(await asyncio.to_thread(event, self._now()))

    async def _next(self) -> tuple[Address | None, Event]:
        """What is done next. What time asks for comes first, however much is said."""
        wake = self._machine.next_wake
        if self._unkept is not None:
            wake = min(self._now() + KEEP_S, float("inf") if wake is None else wake)
        tick = None, self._machine.tick
        if wake is not None and wake <= self._now():
            return tick
        try:
            async with asyncio.timeout_at(wake):
                return await self._events.get()
        except TimeoutError:
            return tick

    async def _carry_out(self, step: Step) -> None:
        if step.keep is not None:
            self._unkept = step.keep
        if not await self._has_kept():
            return
        for receiver, message in step.sends:
            self._outbox.send(receiver, message)
        if self._machine.durable.view != self._view:
            self._view = self._machine.durable.view
            for task in self._wanted:
                task.cancel()
        for leader, delta in step.wanted:
            self._want(leader, delta)
        self.certificate = self._machine.durable.decided
        if self.certificate is not None:
            self._journal.forget_deltas(self.ballot.round.digest)
            self._decided.set()

    async def _has_kept(self) -> bool:
        """Whether all that the machine has signed is on the disk."""
        if self._unkept is None:
            return True
        each = self.ballot.round
        try:
            self._journal.keep_round(each.digest, each.job, self._unkept)
            await self._journal.lasting()
        except JournalError as error:
            logger.error("round %s of job %s: nothing is said: %s", each.number, each.job, error)
            return False
        self._unkept = None
        return True

    async def _close(self) -> None:
        await asyncio.sleep(self._closes_s)
        self._events.put_nowait((None, self._machine.close))
        await self._decided.wait()

    # Results

    def _take_soon(self, shown: ShownDelta, provider: Connection | None = None) -> None:
        if (delta := delta_of(shown)) not in self._taking:
            self._begin(delta, self._take(shown, provider))

    def _want(self, leader: Address, delta: Delta) -> None:
        if self._results.is_here(delta):
            self._deliver(delta)
        elif delta not in self._taking:
            task = self._begin(delta, self._fetch(leader, delta))
            self._wanted.add(task)
            task.add_done_callback(self._wanted.discard)

    def _begin(self, delta: Delta, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._taking[delta] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._taking.pop(delta, None))
        return task

    async def _fetch(self, leader: Address, delta: Delta) -> None:
        try:
            shown, connection = await self._results.ask(leader, delta)
        except ProofyardError as error:
            logger.info("%s does not show what it proposed for task %s: %s", leader, delta.task, error)
            return
        if objection := self._objection(shown):
            logger.info("what %s proposed for task %s is not fetched: %s", leader, delta.task, objection)
            return
        await self._take(shown, connection)

    async def _take(self, shown: ShownDelta, provider: Connection | None) -> None:
        try:
            delta = await self._results.take(shown, provider)
        except ProofyardError as error:
            if isinstance(error, FALSE):
                self._false.add(shown.commitment.struct_hash())
            logger.info("a result of task %s is not taken: %s", shown.commitment.task, error)
            return
        self._deliver(delta)

    def _deliver(self, delta: Delta) -> None:
        self._events.put_nowait((None, partial(self._machine.deliver, delta)))

    async def _show(self, peer: Address) -> None:
        """Show one voter this node's own results until it has them all."""
        taken, pause = 0, FIRST_SHOW_S
        while True:
            if taken == len(self._own):
                self._shown.clear()
                await self._shown.wait()
            try:
                connection = await self._reach(peer)
                while taken < len(self._own):
                    if not (await connection.request(self._own[taken], reply=Ack, timeout=ANSWER_S)).proceed:
                        break
                    taken, pause = taken + 1, FIRST_SHOW_S
            except TransportError as error:
                logger.debug("%s is not shown this node's results: %s", peer, error)
            if taken < len(self._own):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_SHOW_S)

    async def _ask(self) -> None:
        """Whoever was away, or comes later, learns that a round is decided."""
        while self._others:
            for peer in self._others:
                self._outbox.send(peer, AskRound(self.ballot.round.digest))
                await asyncio.sleep(self._ask_s)
        await self._decided.wait()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
