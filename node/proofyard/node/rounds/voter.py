"""One voter's part in one round: the state machine (`machine`) with a disk, a clock and the other voters around it.

Whatever arrives waits in a queue and is worked off in order, beside the event loop: signatures take time. What a step
keeps is on the disk before anything that it says leaves; where the disk takes nothing, nothing leaves.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from proofyard.node.journal import Journal, JournalError
from proofyard.node.rounds.ballot import Ballot
from proofyard.node.rounds.gathering import Gathering
from proofyard.node.rounds.machine import Durable, RoundMachine, Step
from proofyard.node.rounds.messages import AskRound, Certified, Message, ShownDelta
from proofyard.node.rounds.outbox import Outbox
from proofyard.node.rounds.results import Reach, Results
from proofyard.protocol.certificate import Certificate, Delta, Deltas
from proofyard.protocol.messages import Ack
from proofyard.protocol.types import Address, TaskIndex
from proofyard.runtime.service import run_together
from proofyard.transport import Connection, RequestFailed, TransportError

logger = logging.getLogger("proofyard.node")

Event = Callable[[float], Step]
"""What is done to the machine, at a time of the monotonic clock."""

MOST_WAITING = 8
"""Messages of one voter that wait."""
KEEP_S = 5.0
"""Between two attempts to write down what could not be written."""
FIRST_TOLD_S, LAST_TOLD_S = 60.0, 3600.0
"""Between two lines of the log that say what a round waits for whose time is up."""
FIRST_SHOW_S, LAST_SHOW_S = 1.0, 30.0
"""Between two attempts to show a voter what it does not have yet."""
ANSWER_S = 10.0
MOST_NAMED = 4
"""Voters that such a line names."""


class RoundVoter:
    """`closes_s`: seconds after which this node does without what is not here."""

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
        self._gathering = Gathering(ballot, results, self._deliver)
        self._view = machine.durable.view
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
            self._gathering.take(shown)
        try:
            await run_together(self._work(), self._close(), self._tell(), self._ask(), *map(self._show, self._others))
        finally:
            await self._gathering.close()

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
        self._gathering.take(shown)
        self._shown.set()

    def show(self, connection: Connection, shown: ShownDelta) -> Ack:
        """A voter shows a result of its own, to be fetched from it. Raises `RequestFailed`."""
        return Ack() if self.certificate is not None else self._gathering.show(connection, shown)

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
            self._gathering.give_up_wanted()
        for leader, delta in step.wanted:
            self._gathering.want(leader, delta)
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
            self._journal.keep_round(each.digest, self._unkept)
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

    async def _tell(self) -> None:
        """Say in the log what a round waits for that is not decided when its time is up."""
        await asyncio.sleep(self._closes_s)
        pause, each = FIRST_TOLD_S, self.ballot.round
        while True:
            await asyncio.sleep(pause)
            unreached = self._unreached()
            terms, level = self.ballot.terms, logging.WARNING if unreached else logging.INFO
            here = sum(map(self._results.has, map(TaskIndex, terms.tasks)))
            results = f"{here} of its {len(terms.tasks)} results are here, {terms.least} are enough"
            told = each.job, each.number, results, unreached
            logger.log(level, "job %s: round %s is not decided, its time is up: %s%s", *told)
            pause = min(2 * pause, LAST_TOLD_S)

    def _unreached(self) -> str:
        """Which voters this node did not reach the last time, and what to do; empty where there are none."""
        away = {node: why for node in self._others if (why := self._outbox.unreached.get(node))}
        if not away:
            return ""
        roster = self.ballot.roster
        reasons = "; ".join(f"{node}: {why}" for node, why in list(away.items())[:MOST_NAMED])
        return (
            f"; voters with {roster.weight(away)} of {roster.total} votes are not reached ({reasons}): if they run, "
            "name them or a peer that has met them in peers, or use a relay or verifier of theirs"
        )

    # What goes out

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
