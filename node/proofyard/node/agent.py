"""The node's work: accept what a verifier offers, execute it in the executor, commit or seal, and keep evidence.

Work goes through three stages that do not wait for each other: what it needs is gathered, in a lane for each verifier;
it is executed, one thing at a time, in the order of the `Agenda`; and it is delivered (`Courier`), again for each
verifier by itself. So a verifier that goes away or never answers holds up its own work alone.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.chain import ChainClient, JobRecord, Wallet
from proofyard.node.agenda import Agenda
from proofyard.node.aside import aside
from proofyard.node.decoys import Decoys
from proofyard.node.delivery import COMMITMENTS, LINGER_S, MOST_LINGER_S, SEALS, Courier, Kind, Parcel
from proofyard.node.holding import SecondHolder
from proofyard.node.journal import Journal, same_question
from proofyard.node.keeping import Keeping, small_artifacts
from proofyard.node.links import VerifierLinks
from proofyard.node.offers import Offers
from proofyard.node.receipts import check_receipt
from proofyard.node.repair import Workshop
from proofyard.node.retention import Retention
from proofyard.node.settings import NodeSettings
from proofyard.node.supplies import Supplies
from proofyard.node.tally import Tally
from proofyard.node.work import Owed, Work
from proofyard.protocol.audit import UNDECIDED_AFTER_S
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.mark import SALT_BYTES, mark_of
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    MAX_ITEMS,
    Ack,
    Acks,
    AuditFailed,
    AuditOffer,
    AuditOffers,
    AuditProgress,
    CancelTasks,
    Decoy,
    OpenSeal,
    OpenSeals,
    PeerHint,
    Receipt,
    SealOpened,
    SealsOpened,
    SubmitCommitment,
    SubmitSeal,
    TaskFailed,
    TaskOffer,
    TaskOffers,
    TaskProgress,
    Working,
)
from proofyard.protocol.seal import (
    CANNOT_EXECUTE,
    keyed_digest,
    plain_reason,
    salt_struct_hash,
    seal_of,
    seal_struct_hash,
)
from proofyard.protocol.types import (
    Address,
    BatchId,
    Cid,
    Digest,
    JobId,
    ProofyardError,
    SegmentIndex,
    Signature,
)
from proofyard.runtime.times import moment
from proofyard.transport import Body, Connection, Endpoint, RequestFailed
from proofyard.transport.guard import Allowance
from proofyard.workloads.errors import TaskStopped, TimeLimit, WorkloadError
from proofyard.workloads.executor import Executor, TaskTrace
from proofyard.workloads.workload import Inputs, Progress, is_exact, load_workload

logger = logging.getLogger("proofyard.node")

MAX_QUEUE = 64
"""Deliveries that wait for one verifier."""
AUDITS_HELD = 32
"""Audits that are held for one verifier at a time."""
PROGRESS_S = 0.5
"""Between two reports of the work under way."""
BEATS = 5
"""Reports in the time of a lease."""
LEAST_BEAT_S, MOST_BEAT_S = 1.0, 60.0
SHORT_S = 1.0
"""Work that takes less is delivered together with more of its kind that is under way."""
MOST_WANTED_S = 3600.0
INTERRUPT_S = 1.0
AGAIN_S = 600.0
STRANGE_PER_S, STRANGE_AT_ONCE = 10.0, 300.0
"""Answers that are looked up for peers that are no verifiers of this node's: each is a look into the journal."""
LAST_S = 2.0
"""What a stop may take beyond the time that it gives a segment: for the step under way once that is given up, and for
what it has made to be delivered."""
LOOK_S = 8.0
"""How long an offer is looked at before it is answered."""


class NotDone(ProofyardError):
    """A task that this node owes nobody is not done now."""


class Agent:
    """Handlers and the work loop of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        wallet: Wallet,
        chain: ChainClient,
        endpoint: Endpoint,
        links: VerifierLinks,
        store: BlockStore,
        executor: Executor,
        journal: Journal,
        retention: Retention,
    ) -> None:
        self._settings = settings
        self._wallet = wallet
        self._chain = chain
        self._domain = Domain(chain.chain_id, chain.registry)
        self._links = links
        self._store = store
        self._executor = executor
        self._journal = journal
        self._retention = retention
        self._supplies = Supplies(settings, wallet, endpoint, links, store)
        self._offers = Offers(settings, chain, self._supplies)
        self.decoys = Decoys(settings, chain, store, journal, retention)
        self._courier = Courier(links, self._secure, self._linger_s, self._beside)
        self._second = SecondHolder(settings, endpoint, store)
        self._workshop = Workshop(store, executor)
        self._accepted: dict[tuple[object, ...], Work] = {}
        self._lanes: dict[tuple[Address, str], asyncio.Queue[Work]] = {}
        self._agenda = Agenda()
        self._added = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None
        self._count = itertools.count()
        self._current: Work | None = None
        self.tally = Tally()
        self.votes_in: Callable[[JobId], bool] = lambda _: False
        """Whether this node decides with others what a job's rounds take."""
        self.voted: Callable[[TaskOffer, Manifest], Awaitable[SubmitCommitment | None] | None] = lambda *_: None
        """Of a task that is this node's as a voter, what becomes of it: the commitment that a round has taken, or None
        where it is to be done like any other. None for another's."""
        self.on_turn: Callable[[Work | None], None] = lambda _: None
        """Hears what is executed from now on, None for nothing."""
        self.on_accepted: Callable[[], None] = lambda: None
        """Hears that there is something more to do."""
        self._closed = ""
        """Why nothing new is taken; begins with \"busy\", so that nobody counts it as a refusal."""
        self._stopping = False
        self._rests = asyncio.Event()
        """While nothing is executed."""
        self._rests.set()
        self._border = (0, 0.0)
        self._reporting: set[Address] = set()
        self._reported: dict[Address, float] = {}
        self._hopeless: dict[Cid, float] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._strange = Allowance(STRANGE_PER_S, STRANGE_AT_ONCE)
        endpoint.on(TaskOffers, self.offer_tasks)
        endpoint.on(AuditOffers, self.offer_audits)
        endpoint.on(CancelTasks, self.cancel_tasks)
        endpoint.on(OpenSeals, self.open_seals)
        endpoint.on(OpenSeal, self.open_seal)

    # Offers

    async def offer_tasks(self, connection: Connection, message: TaskOffers, body: Body) -> Acks:
        return Acks(tuple([await self.offer_task(connection, offer, body) for offer in message.offers]))

    async def offer_audits(self, connection: Connection, message: AuditOffers, body: Body) -> Acks:
        answers: list[Ack] = []
        wanted: list[Cid] = []
        for offer in message.offers:
            answer = await self.offer_audit(connection, msgspec.structs.replace(offer, state=b""), body)
            answers.append(answer)
            if answer.proceed and not self._supplies.given(offer.before, offer.state):
                wanted.append(offer.before)
        if wanted:
            self._spawn(self._supplies.expect(connection.peer, wanted))
        return Acks(tuple(answers))

    async def offer_task(self, connection: Connection, offer: TaskOffer, _body: Body) -> Ack:
        """Take a few tasks at a time, one after the other; one that is offered again after the verifier forgot is
        taken up where it is."""
        work = Work(connection.peer, offer)
        if not self._has_joined(connection):
            return Ack(False, f"{connection.peer} is not a verifier this node has joined")
        if self._has(work):
            return Ack()
        finished = self._journal.submission(connection.peer, offer)
        if finished is not None:
            self._deliver_commitment(connection.peer, offer, finished)
            return Ack()
        reason = self._closed or self._busy(connection.peer, offer)
        reason = reason or await self._looked_at(self._offers.check_task(connection.peer, offer))
        if not reason and not self._has(work):
            reason = self._busy(connection.peer, offer)
            if not reason:
                self._journal.accept_task(connection.peer, offer)
                self._enqueue(work)
        if reason:
            self.tally.refuse(work.name, reason, time.time())
        return Ack(not reason, reason)

    async def offer_audit(self, connection: Connection, offer: AuditOffer, _body: Body) -> Ack:
        """Take audits as they come. What is sealed already is not executed again: it has one seal."""
        verifier, work = connection.peer, Work(connection.peer, offer)
        if not self._has_joined(connection):
            return Ack(False, f"{verifier} is not a verifier this node has joined")
        while (known := self._accepted.get(work.key)) is not None and not known.cancelled:
            assert isinstance(known.offer, AuditOffer)
            if same_question(known.offer, offer):
                return Ack()
            if reason := await self._looked_at(self._offers.check_drawn(offer)):
                return Ack(False, reason)
            await self._cancel(known, "its batch is another one, or was drawn anew")
        if self._closed and self._journal.sealed(offer) is None:
            return Ack(False, self._closed)
        audits = [other for other in self._wanted() if isinstance(other.offer, AuditOffer)]
        if sum(other.verifier == verifier for other in audits) >= AUDITS_HELD:
            return Ack(False, "busy with other audits")
        sealed = self._journal.sealed(offer)
        reason = await self._looked_at(self._offers.check_leader(verifier, offer.batch)) if sealed else ""
        if reason:
            return Ack(False, reason)
        self._journal.accept_audit(verifier, offer)
        if sealed is None:
            self._enqueue(work)
        else:
            self._journal.seal(verifier, offer, sealed, time.time())
            self._deliver_seal(verifier, offer, sealed)
        return Ack()

    async def cancel_tasks(self, connection: Connection, message: CancelTasks, _body: Body) -> Acks:
        for job, task in message.tasks:
            work = self._accepted.get((connection.peer, "task", job, task))
            if work is not None:
                await self._cancel(work, message.reason)
        return Acks((Ack(),) * len(message.tasks))

    async def open_seals(self, connection: Connection, message: OpenSeals, body: Body) -> SealsOpened:
        answers: list[SealOpened | None] = []
        for seal in message.seals:
            try:
                answers.append(await self.open_seal(connection, seal, body))
            except RequestFailed:
                answers.append(None)
        return SealsOpened(tuple(answers))

    async def open_seal(self, connection: Connection, message: OpenSeal, _body: Body) -> SealOpened:
        """Show the answer behind a seal to the verifier that was given it; to others, who ask whether it was left out,
        once that one has seen it or has had time enough to ask."""
        joined = self._has_joined(connection)
        if not joined and not self._strange.take(asyncio.get_running_loop().time()):
            raise RequestFailed("busy", f"more than {STRANGE_PER_S:g} a second of peers that this node has not joined")
        opening = self._journal.opening(connection.peer, message)
        if opening is None and joined:
            opening = self._journal.opened(message, time.time() - UNDECIDED_AFTER_S)
        if opening is None:
            raise RequestFailed("no-seal", f"no seal was given for task {message.task} segment {message.segment}")
        return opening

    def _linger_s(self, verifier: Address, kind: Kind) -> float:
        """How long a delivery waits for more of what the verifier waits for: not at all where that is nothing, longer
        where it comes in a moment."""
        offer_type = TaskOffer if kind is COMMITMENTS else AuditOffer
        others = [work.offer for work in self._accepted.values() if work.verifier == verifier]
        alike = [offer for offer in others if isinstance(offer, offer_type)]
        if len(alike) < 2:
            return 0.0
        segment_s = self._agenda.segment_s(alike[1])
        if segment_s is None:
            return LINGER_S
        soon = segment_s * (alike[1].task.segments if kind is COMMITMENTS else 1) < SHORT_S
        return MOST_LINGER_S if soon else LINGER_S

    def _beside(self, kind: Kind, works: Sequence[SubmitCommitment]) -> tuple[bytes, ...]:
        """What a verifier asks for next, where it is small: states and results of what is committed to."""
        return small_artifacts(self._store, works) if kind is COMMITMENTS else ()

    def _has_joined(self, connection: Connection) -> bool:
        return self._links.connection(connection.peer) is not None

    def _wanted(self) -> list[Work]:
        """What is accepted and not called off: who called it off counts on its place from that moment."""
        return [work for work in self._accepted.values() if not work.cancelled]

    def _has(self, work: Work) -> bool:
        """Whether the same is accepted already. What was called off and is offered again is another piece of work."""
        known = self._accepted.get(work.key)
        return known is not None and not known.cancelled

    # Taking no more

    def leave_for_later(self, waits: Callable[[JobRecord], str]) -> None:
        """Take no job that `waits` has a reason for."""
        self._offers.waits = waits

    def find_by(self, nearby: Callable[[Cid], Awaitable[list[Connection]]], have: Callable[[Cid], object]) -> None:
        """Fetch from the peers that `nearby` finds before the verifier, and tell `have` what is here."""
        self._supplies.nearby, self._supplies.have = nearby, have

    @property
    def closed(self) -> str:
        """Why nothing new is taken; empty where it is."""
        return self._closed

    @property
    def works(self) -> list[Work]:
        """What is accepted, what is under way first."""
        return sorted(self._wanted(), key=lambda work: (work is not self._current, work.number))

    @property
    def current(self) -> Work | None:
        """What is executed now."""
        return self._current

    async def close(self, reason: str, *, at_once: bool) -> list[str]:
        """Take nothing new, and give back the tasks that have not begun; `at_once` also audits and what is under way.
        What only waits for the round that takes it is kept. Returns the names of what was given back. What is owed is
        made whatever the reason is."""
        self._closed = f"busy: {reason}"
        given_back = [work for work in self._wanted() if work.waits is None and (at_once or _can_wait(work))]
        for work in given_back:
            await self._give_back(work, reason)
        if at_once:
            self._spawn(self._let_go())
        return [work.name for work in given_back]

    async def _let_go(self) -> None:
        """Free the executor's memory once nothing is executed, unless work is taken again by then."""
        await self._rests.wait()
        if self._closed:
            await self._executor.rest()

    def open(self) -> bool:
        """Take work again; whether it does, which it does not where it is stopping."""
        if not self._stopping:
            self._closed = ""
        return not self._stopping

    async def wind_down(self, within_s: float) -> list[str]:
        """Before this process ends: give back what has not begun, and let the segment under way end within so many
        seconds. Returns what became of each piece of work, in words."""
        self._stopping = True
        said = [f"{name} is given back" for name in await self.close("this node is stopping", at_once=False)]
        for work in self._wanted():
            if isinstance(work.offer, AuditOffer) and work is not self._current:
                await self._give_back(work, "this node is stopping")
                said.append(f"{work.name} is given back")
        current = self._current
        if current is None:
            return said
        clock = asyncio.get_running_loop().time
        until = clock() + within_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._rests.wait()
        late = not self._rests.is_set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(clock(), until) + LAST_S):
                if late:
                    await self._executor.stop()
                    await self._rests.wait()
                if current.finished.is_set():
                    # A verifier that answers nothing is not waited for: the journal has what is left.
                    await self._courier.answered(current.verifier)
        return [_left(current, within_s if late else None), *said]

    async def _give_back(self, work: Work, reason: str) -> None:
        if isinstance(work.offer, Owed):
            return
        logger.info("%s is given back: %s", work.name, reason)
        self._hand_back(work, reason)
        await self._call_off(work)

    def _busy(self, verifier: Address, offer: TaskOffer) -> str:
        """Why a task is not taken now. One whose inputs are still gathered keeps none of another verifier's away; what
        this node does anyway, as a voter, keeps away nothing."""
        tasks = [work for work in self._wanted() if isinstance(work.offer, TaskOffer) and work.waits is None]
        held = sum(work.ready or work.verifier == verifier for work in tasks)
        if held >= self._settings.tasks_held and not self.votes_in(offer.job):
            return "busy with other tasks"
        waiting = self._courier.waiting(verifier)
        return f"{waiting} deliveries to {verifier} are not answered" if waiting >= MAX_QUEUE else ""

    async def _looked_at(self, check: Coroutine[Any, Any, object]) -> str:
        """Why an offer is refused; empty where it is not."""
        try:
            async with asyncio.timeout(LOOK_S):
                await check
        except TimeoutError:
            return f"the job cannot be looked up within {LOOK_S:.0f} s"
        except ProofyardError as error:
            return str(error)[:500]
        return ""

    def _enqueue(self, work: Work) -> None:
        now = asyncio.get_running_loop().time()
        if self._accepted.get(work.key) is not work:
            self._accepted[work.key] = work
            self.on_accepted()
            work.number = next(self._count)
            if isinstance(work.offer, AuditOffer):
                wanted_s = work.offer.wanted_s
                work.wanted_at = now + (min(wanted_s, MOST_WANTED_S) if wanted_s > 0 else 0.0)
            self._reported.setdefault(work.verifier, now)
        self._added.set()
        if work.ready:
            self._agenda.add(work)
            self._consider()
            return
        if work.lane not in self._lanes:
            self._lanes[work.lane] = asyncio.Queue()
            self._spawn(self._gather_in_turn(self._lanes[work.lane]))
        self._lanes[work.lane].put_nowait(work)

    async def mend(self, owed: Owed) -> None:
        """Make something again that is owed and lost; returns once that has been tried."""
        await self.owe(owed).finished.wait()

    def owe(self, owed: Owed) -> Work:
        """Begin to make something again, before anything else: it is owed within a published time. What did not come
        out is not tried again at once, however often it is asked for."""
        work = Work(owed.held.verifier, owed)
        known = self._accepted.get(work.key)
        if known is None and asyncio.get_running_loop().time() < self._hopeless.get(owed.cid, 0.0):
            work.finished.set()
        elif known is None:
            self._enqueue(work)
            self._spawn(self._make_way(work))
        return known or work

    async def _make_way(self, work: Work) -> None:
        """Interrupt a running task for what is owed."""
        while not work.finished.is_set():
            if work.ready and self._current is not None and isinstance(self._current.offer, TaskOffer):
                await self._executor.stop()
            await asyncio.sleep(INTERRUPT_S)

    def _consider(self, *, at_border: bool = False) -> None:
        """Interrupt the task under way, if audits are due; else look again when they are."""
        now = asyncio.get_running_loop().time()
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._current is None:
            return
        if self._agenda.interrupts(self._current, now, at_border=at_border):
            self._spawn(self._executor.stop())
        elif (due := self._agenda.due_at()) < math.inf:
            self._due = asyncio.get_running_loop().call_at(max(due, now + LEAST_BEAT_S), self._consider)

    async def _cancel(self, work: Work, reason: str) -> None:
        logger.info("%s is no longer wanted: %s", work.name, reason)
        await self._call_off(work)

    async def _call_off(self, work: Work) -> None:
        work.cancelled = True
        if work.waits is not None:
            work.waits.cancel()
            self._drop(work)
        elif work is self._current:
            await self._executor.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # The loops

    async def run(self) -> None:
        """Take up what an earlier run left, then work until cancelled."""
        for verifier, offer, submission in self._journal.open_tasks():
            if verifier == self._wallet.address:
                continue  # its course asks for it again
            if submission is None:
                self._enqueue(Work(verifier, offer))
            else:
                self._deliver_commitment(verifier, offer, submission)
        for verifier, audit, opening in self._journal.open_audits():
            self._deliver_seal(verifier, audit, opening)
        try:
            while True:
                self._added.clear()
                work = None if self._stopping else self._agenda.next(asyncio.get_running_loop().time())
                if work is None:
                    await self._added.wait()
                else:
                    await self._work(work)
        finally:
            if self._due is not None:
                self._due.cancel()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self._courier.close()
            await self._second.close()

    async def _gather_in_turn(self, lane: "asyncio.Queue[Work]") -> None:
        """Have what the work of one lane needs on this disk, one after the other."""
        while True:
            work = await lane.get()
            gathered = not work.cancelled and await self._attempt(work, self._gather(work))
            if work.cancelled or not gathered:
                self._drop(work)
                continue
            work.ready = work.waits is None
            if work.ready:
                self._enqueue(work)

    async def _work(self, work: Work) -> None:
        if work.cancelled:
            self._drop(work)
            return
        self._current, work.begun = work, True
        self._rests.clear()
        self.on_turn(work)
        self._border = 0, asyncio.get_running_loop().time()
        self._consider()
        try:
            await self._attempt(work, self._do(work))
        finally:
            self._current = None
            self._rests.set()
            self.on_turn(None)
            if self._accepted.get(work.key) is work and not work.again:
                self._forget(work)
            elif work.again:
                work.again = False
                self._enqueue(work)

    async def _attempt(self, work: Work, step: Coroutine[Any, Any, None]) -> bool:
        """Do a step of the work; where it fails, say so to whom the work is owed."""
        try:
            await step
        except TaskStopped as error:
            logger.info("%s: %s", work.name, error)
            work.again = not work.cancelled
            if work.cancelled:
                self._hand_back(work, str(error))
        except ProofyardError as error:
            logger.warning("%s: %s", work.name, error)
            self._hand_back(work, str(error))
        except Exception as error:
            logger.exception("%s failed", work.name)
            self._hand_back(work, f"internal error: {type(error).__name__}")
        else:
            return True
        return False

    def _drop(self, work: Work) -> None:
        """Nothing will be done about it any more; a restart does not take up what was cancelled."""
        if work.cancelled:
            self._hand_back(work, "cancelled")
        self._forget(work)

    def _forget(self, work: Work) -> None:
        if self._accepted.get(work.key) is work:
            del self._accepted[work.key]
        work.finished.set()

    # Signs of life

    async def beat(self) -> None:
        """Renew the leases of what is accepted; a verifier that does not answer delays no other's."""
        while True:
            while not self._accepted:
                self._reported.clear()
                self._added.clear()
                await self._added.wait()
            await asyncio.sleep(LEAST_BEAT_S)
            now = asyncio.get_running_loop().time()
            told = {work.verifier for work in self._accepted.values()} - {self._wallet.address}
            for verifier in told - self._reporting:
                if now - self._reported.setdefault(verifier, now) >= self._beat_s(verifier):
                    self._spawn(self._report_all(verifier))

    def _beat_s(self, verifier: Address) -> float:
        """How often a verifier is told of what it waits for, so that no lease of it lapses."""
        offers = [work.offer for work in self._accepted.values() if work.verifier == verifier]
        leases = [offer.lease_s for offer in offers if not isinstance(offer, Owed)]
        return max(LEAST_BEAT_S, min(MOST_BEAT_S, *(lease / BEATS for lease in leases), MOST_BEAT_S))

    async def _report_all(self, verifier: Address) -> None:
        self._reporting.add(verifier)
        self._reported[verifier] = asyncio.get_running_loop().time()
        try:
            await self._report([work for work in self._wanted() if work.verifier == verifier])
        finally:
            self._reporting.discard(verifier)

    async def _tell_progress(self, work: Work) -> None:
        """Report the last step of the work under way, and after a moment those that came meanwhile."""
        while work.moved:
            work.moved = False
            await self._report([work])
            await asyncio.sleep(PROGRESS_S)
        work.telling = False

    async def _report(self, works: Sequence[Work]) -> None:
        """Tell one verifier what is being worked on for it; what it does not want any more ends."""
        tasks = [work for work in works if isinstance(work.offer, TaskOffer)][:MAX_ITEMS]
        audits = [work for work in works if isinstance(work.offer, AuditOffer)][:MAX_ITEMS]
        if not tasks and not audits:
            return
        message = Working(tuple(map(_task_progress, tasks)), tuple(map(_audit_progress, audits)))
        found = await self._links.try_request(works[0].verifier, message, Acks)
        if found is None or len(found.answers) != len(tasks) + len(audits):
            return
        for work, answer in zip((*tasks, *audits), found.answers, strict=True):
            if not answer.proceed and not work.cancelled:
                await self._cancel(work, answer.reason)

    def _hand_back(self, work: Work, reason: str) -> None:
        """Say that the work will not be done here. The next holder loses nothing but time."""
        offer = work.offer
        if isinstance(offer, Owed) or self._accepted.get(work.key, work) is not work:
            return
        if isinstance(offer, TaskOffer):
            self._journal.drop_task(work.verifier, offer)
        else:
            self._journal.drop_audit(work.verifier, offer)
        if work.cancelled or work.verifier == self._wallet.address:
            return
        self.tally.give_back(work.name, reason, time.time())
        message = (
            AuditFailed(*offer.place, offer.seed, reason[:500])
            if isinstance(offer, AuditOffer)
            else TaskFailed(offer.job, offer.task.index, reason[:500])
        )
        self._spawn(self._tell(work.verifier, message))

    async def _tell(self, verifier: Address, message: TaskFailed | AuditFailed) -> None:
        await self._links.try_request(verifier, message, Ack)

    # Steps

    async def _gather(self, work: Work) -> None:
        """The first step: everything that the work needs, fetched and held against the chain."""
        offer, verifier = work.offer, work.verifier
        if isinstance(offer, AuditOffer):
            manifest = await self._offers.check_audit(verifier, offer)
            await self._supplies.inputs(verifier, manifest, (), offer.providers, audited=offer.task)
            limit = self._settings.max_state_bytes
            await self._supplies.fetch(verifier, offer.before, offer.providers, limit, "the state")
        else:
            task = offer if isinstance(offer, TaskOffer) else offer.held.offer
            if isinstance(offer, TaskOffer) and verifier != self._wallet.address:
                manifest = await self._offers.check_task(verifier, offer, accepted=True)
                coming = None if work.alone else self.voted(offer, manifest)
                if coming is not None:
                    work.waits = self._spawn(self._as_voter(work, offer, coming))
                    return
            await self._prepare(verifier, task.manifest, task.inputs, task.providers, task.task)

    async def _do(self, work: Work) -> None:
        """The second step. What comes of it is delivered in the background."""
        if isinstance(work.offer, AuditOffer):
            await self._audit(work, work.offer)
        elif isinstance(work.offer, Owed):
            await self._make_again(work.offer)
        else:
            start = asyncio.get_running_loop().time()
            submission = await self._execute(work, work.offer)
            if self._agenda.segment_s(work.offer) is None:
                self._agenda.took(work.offer, asyncio.get_running_loop().time() - start, work.offer.task.segments)
            await self._retention.note_finished(work.verifier, work.offer)
            self.tally.tasks += 1
            if work.verifier == self._wallet.address:
                await self._keep(work, submission)
            elif not work.cancelled:
                self._deliver_commitment(work.verifier, work.offer, submission, work)

    # As a voter

    async def check_own(self, offer: TaskOffer) -> None:
        """Raise `OfferRefused` for a task that this node is not to do as a voter, and `LeftForLater`."""
        manifest = await self._supplies.manifest(self._wallet.address, offer.manifest, ())
        await self._offers.check_own(offer, manifest)

    async def do(self, offer: TaskOffer) -> SubmitCommitment:
        """Execute a task that no verifier has given out, because this node votes in its job. What it did before it
        returns again. Raises `NotDone`, and what stands between this machine and the task."""
        own = self._wallet.address
        done = self._journal.submission(own, offer)
        if done is not None:
            return done
        if self._closed:
            raise NotDone(self._closed)
        await self.check_own(offer)
        self._journal.accept_task(own, offer)
        work = Work(own, offer)
        self._enqueue(work)
        try:
            await work.finished.wait()
        finally:
            if not work.finished.is_set():
                await self._cancel(work, "its round does without it")
        done = self._journal.submission(own, offer)
        if done is None:
            raise NotDone(f"{work.name} came to nothing here")
        return done

    async def _keep(self, work: Work, submission: SubmitCommitment) -> None:
        """Have what this node did unasked on the disk itself."""
        assert isinstance(work.offer, TaskOffer)
        artifacts = {submission.commitment.result, *submission.trace} - work.lasting
        await asyncio.to_thread(self._store.sync, *artifacts, missing_ok=True)
        self._journal.close_task(work.verifier, work.offer)
        await self._journal.lasting()
        if work.leftovers is not None:
            await asyncio.to_thread(work.leftovers)

    async def _as_voter(self, work: Work, offer: TaskOffer, coming: Awaitable[SubmitCommitment | None]) -> None:
        if not await self._attempt(work, self._hand_over(work, offer, coming)):
            self._drop(work)

    async def _hand_over(self, work: Work, offer: TaskOffer, coming: Awaitable[SubmitCommitment | None]) -> None:
        """Give a verifier what this node has done unasked, once a round has taken it. What is to be made of other
        results than that was, because of a fault that was found meanwhile, is done like any other task."""
        submission = await coming
        work.waits = None
        if submission is None:
            work.alone = True
            self._enqueue(work)
            return
        self._journal.hand_over(self._wallet.address, work.verifier, offer, submission)
        await self._retention.note_finished(work.verifier, offer)
        self._deliver_commitment(work.verifier, offer, submission, work)
        self._forget(work)

    # What is executed

    async def _execute(self, work: Work, offer: TaskOffer) -> SubmitCommitment:
        """Run a whole task and sign for it. The signature leaves once the states are on the disk."""
        manifest, inputs = await self._prepare(work.verifier, offer.manifest, offer.inputs, offer.providers, offer.task)
        async with Keeping(self._retention, offer.task.segments) as keeping:
            trace = await self._run(work, offer, manifest, inputs, keeping)
            states, result, every, state_bytes = await keeping.finish(trace)
            kept = (*states[::every], result)
            false = await self.decoys.make(work.verifier, manifest, offer, trace, states)
            if false is not None:
                kept += (*false[0], false[1])
            submission = self._sign(offer, states, result)
            if false is not None:
                submission = msgspec.structs.replace(submission, decoy=self._sign_decoy(offer, *false))
            kept_bytes = state_bytes * (len(kept) - 1)
            self._journal.finish_task(work.verifier, offer, submission, every=every, kept_bytes=kept_bytes)
            work.lasting = keeping.lasting
        self._second.take(kept, work.name)
        work.leftovers = partial(self._executor.forget, manifest, offer.task, inputs)
        return submission

    async def _run(
        self, work: Work, offer: TaskOffer, manifest: Manifest, inputs: Inputs, keeping: Keeping
    ) -> TaskTrace:
        seconds = self._settings.max_task_s

        def keep(number: int, path: Path) -> None:
            work.states = number
            keeping.take(number, path)

        try:
            async with asyncio.timeout(seconds):
                return await self._executor.run_task(
                    manifest, offer.task, inputs, on_progress=self._progress_of(work), on_state=keep
                )
        except TimeoutError:
            raise TimeLimit(f"the task took longer than this node's max_task_s of {seconds:.0f} s") from None

    def _sign_decoy(self, offer: TaskOffer, states: tuple[Cid, ...], result: Cid) -> Decoy:
        signed = self._sign(offer, states, result, decoy=True)
        return Decoy(signed.commitment, signed.signature, states, signed.salt)

    def _sign(self, offer: TaskOffer, states: tuple[Cid, ...], result: Cid, *, decoy: bool = False) -> SubmitCommitment:
        salt = secrets.token_bytes(SALT_BYTES)
        commitment = Commitment(
            job=offer.job,
            task=offer.task.index,
            node=self._wallet.address,
            manifest=cid_digest(offer.manifest),
            inputs=root([cid_bytes(offer.manifest), *map(cid_bytes, offer.inputs)]),
            trace_root=root([cid_bytes(cid) for cid in states]),
            segments=offer.task.segments,
            result=result,
            work_units=offer.task.work_units,
            mark=mark_of(salt, decoy=decoy),
        )
        signature = self._wallet.sign_digest(self._domain.typed_digest(commitment.struct_hash()))
        return SubmitCommitment(commitment, signature, states, salt)

    async def _make_again(self, owed: Owed) -> None:
        """Compute a state that was not kept, or was lost, from an earlier one that is whole."""
        offer = owed.held.offer
        self._hopeless[owed.cid] = asyncio.get_running_loop().time() + AGAIN_S
        verifier = owed.held.verifier
        manifest, inputs = await self._prepare(verifier, offer.manifest, offer.inputs, offer.providers, offer.task)
        if await self._workshop.make(owed, manifest, inputs):
            del self._hopeless[owed.cid]
            logger.info("%s of job %s task %s is here again", owed.cid, offer.job, offer.task.index)

    async def _audit(self, work: Work, offer: AuditOffer) -> None:
        """Re-execute one segment from the worker's state and seal the answer."""
        manifest = await self._supplies.manifest(work.verifier, offer.manifest, offer.providers)
        inputs = await self._supplies.inputs(work.verifier, manifest, (), offer.providers, audited=offer.task)
        limit = self._settings.max_state_bytes
        before = await self._supplies.bytes_of(work.verifier, offer.before, offer.providers, limit, "the state")
        start = asyncio.get_running_loop().time()
        opening = await self._answer(work, offer, manifest, before, inputs)
        self._agenda.took(offer, asyncio.get_running_loop().time() - start)
        if work.cancelled:
            raise TaskStopped("it is no longer wanted")
        opening = msgspec.structs.replace(opening, signature=self._signed_seal(offer, opening))
        self._journal.seal(work.verifier, offer, opening, time.time())
        self.tally.audits += 1
        self._deliver_seal(work.verifier, offer, opening)

    async def _reexecute(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> bytes:
        return await self._executor.run_segment(
            manifest, offer.task, offer.segment, before, inputs, on_progress=self._progress_of(work)
        )

    async def _answer(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> SealOpened:
        """The digest of this node's own state after the segment, or that nobody can execute it; keyed with the batch's
        seed and this node's address, so that it is of use to nobody else. Raises what stands between this machine and
        an answer."""
        workload = load_workload(manifest.workload)
        try:
            await aside(len(before), workload.check_state, manifest, offer.task, offer.segment, before)
            after = await self._reexecute(work, offer, manifest, before, inputs)
        except WorkloadError as error:
            if not error.defined:
                raise
            reason = plain_reason(str(error))
            salt = self._salt(offer, CANNOT_EXECUTE, reason)
            return SealOpened(CANNOT_EXECUTE, self._keyed(offer, before), reason, salt)
        # A state is only ever asked for where answers are compared by more than their digests.
        name = cid_of_bytes if is_exact(workload, manifest) else self._store.put_bytes
        digest = cid_digest(await aside(len(after), name, after))
        keyed = await aside(len(after), self._keyed, offer, after)
        return SealOpened(digest, keyed, "", self._salt(offer, digest, ""))

    def _keyed(self, offer: AuditOffer, state: bytes) -> Digest:
        return keyed_digest(offer.seed, self._wallet.address, state)

    def _salt(self, offer: AuditOffer, after: Digest, reason: str) -> bytes:
        struct_hash = salt_struct_hash(*offer.place, offer.seed, after, reason)
        return self._wallet.salt_for(self._domain.typed_digest(struct_hash))

    def _progress_of(self, work: Work) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            work.progress = progress
            work.moved = True
            if not work.telling:
                work.telling = True
                self._spawn(self._tell_progress(work))
            if progress.segment != self._border[0]:
                self._passed(work, progress.segment)

        return on_progress

    def _passed(self, work: Work, segment: int) -> None:
        """A segment of the work under way has ended."""
        now = asyncio.get_running_loop().time()
        (before, since), self._border = self._border, (segment, now)
        if segment == before + 1 and isinstance(work.offer, TaskOffer):
            self._agenda.took(work.offer, now - since)
        if self._stopping and segment > before and isinstance(work.offer, TaskOffer):
            self._spawn(self._executor.stop())
        self._consider(at_border=True)

    async def _prepare(
        self,
        verifier: Address,
        manifest_cid: Cid,
        inputs: tuple[Cid, ...],
        providers: tuple[PeerHint, ...],
        task: TaskSpec,
    ) -> tuple[Manifest, Inputs]:
        """Everything a task needs, on this disk and checked against its CID."""
        if verifier == self._wallet.address:
            verifier = next((connection.peer for connection in self._links.live()), verifier)
        manifest = await self._supplies.manifest(verifier, manifest_cid, providers)
        return manifest, await self._supplies.inputs(verifier, manifest, inputs, providers, task)

    # Deliveries

    async def _secure(self, parcels: Sequence[Parcel]) -> None:
        """Have what these parcels promise on the disk; what is not kept is made again on demand."""
        if artifacts := [cid for parcel in parcels for cid in parcel.rests_on]:
            await asyncio.to_thread(self._store.sync, *artifacts, missing_ok=True)
        await self._journal.lasting()
        if leftovers := [parcel.leftovers for parcel in parcels if parcel.leftovers is not None]:
            await asyncio.to_thread(lambda: [delete() for delete in leftovers])

    def _deliver_commitment(
        self,
        verifier: Address,
        offer: TaskOffer,
        submission: SubmitCommitment,
        work: Work | None = None,
    ) -> None:
        """Bring a commitment to its verifier, as long as it can be in a batch at all."""
        leaf = submission.commitment.struct_hash().hex()[:8]
        name = f"the commitment {leaf} to job {offer.job} task {offer.task.index}"

        def taken(receipt: Receipt) -> None:
            check_receipt(self._domain, verifier, submission.commitment, receipt)
            self._journal.close_task(verifier, offer, receipt)
            logger.info("%s is delivered; its receipt holds until %s", name, moment(receipt.deadline))

        def given_up(reason: str) -> None:
            # It may have arrived all the same, so its states stay until nothing can come of it.
            self._journal.close_task(verifier, offer)

        over = partial(asyncio.to_thread, self._commits_over, offer.job)
        decoy = submission.decoy
        promised = (submission.commitment.result, *submission.trace)
        promised += (decoy.commitment.result, *decoy.trace) if decoy is not None else ()
        if work is not None:
            promised = tuple(cid for cid in promised if cid not in work.lasting)
        leftovers = None if work is None else work.leftovers
        self._courier.send(verifier, Parcel(name, COMMITMENTS, submission, taken, given_up, over, promised, leftovers))

    def _signed_seal(self, offer: AuditOffer, opening: SealOpened) -> Signature:
        own = self._wallet.address
        struct_hash = seal_struct_hash(*offer.place, offer.seed, own, seal_of(opening.opening(), own))
        return self._wallet.sign_digest(self._domain.typed_digest(struct_hash))

    def _deliver_seal(self, verifier: Address, offer: AuditOffer, opening: SealOpened) -> None:
        """Bring a seal to its verifier, as long as the batch is not settled."""
        seal = seal_of(opening.opening(), self._wallet.address)
        name = Work(verifier, offer).name
        parcel = f"{name}, drawn by {offer.seed.hex()[:8]}"

        def taken(answer: Ack) -> None:
            self._journal.submitted(verifier, offer)
            logger.info("%s sealed%s", name, "" if answer.proceed else f", but {answer.reason}")

        def given_up(reason: str) -> None:
            self._journal.submitted(verifier, offer)

        over = partial(asyncio.to_thread, self._batch_over, offer.batch)
        self._courier.send(
            verifier,
            Parcel(parcel, SEALS, SubmitSeal(*offer.place, offer.seed, seal, opening.signature), taken, given_up, over),
        )

    def _commits_over(self, job: JobId) -> str:
        """Why nothing of a job can be committed any more; empty while it can."""
        record, params = self._chain.job(job), self._chain.params()
        if record.units_paid >= record.units:
            return f"job {job} is paid"
        ended = self._chain.now() > record.commits_end(params.receipt_time)
        return f"nothing of job {job} can be committed any more" if ended else ""

    def _batch_over(self, batch: BatchId) -> str:
        state = self._chain.batch(batch)
        return f"batch {batch} is settled" if state.settled_at else f"batch {batch} is dropped" if state.dropped else ""


def _can_wait(work: Work) -> bool:
    """A task that nobody loses more than time by, if it is given to another."""
    return isinstance(work.offer, TaskOffer) and not work.begun


def _left(work: Work, within_s: float | None) -> str:
    """How the work that was under way is left; `within_s` where its segment did not end in that time."""
    if work.finished.is_set():
        return f"{work.name} is finished"
    given_up = f"was given up after {within_s:.0f} s" if within_s is not None else ""
    if not isinstance(work.offer, TaskOffer):
        return f"{work.name} {given_up or 'has ended'}"
    segment, all_of_them = work.states + bool(given_up), work.offer.task.segments
    lease_s = work.offer.lease_s
    back = f"if this node is back within {lease_s:.0f} s, else another node does it" if lease_s else "once it is back"
    return f"{work.name}: segment {segment} of {all_of_them} {given_up or 'has ended'}; it goes on from there {back}"


def _task_progress(work: Work) -> TaskProgress:
    assert isinstance(work.offer, TaskOffer)
    last, work.progress = work.progress, None
    return TaskProgress(
        work.offer.job,
        work.offer.task.index,
        SegmentIndex(last.segment if last else 0),
        last.step if last else 0,
        last.loss if last else None,
        last.tokens_per_s if last else 0.0,
        last.rss_bytes if last else 0,
    )


def _audit_progress(work: Work) -> AuditProgress:
    offer = work.offer
    assert isinstance(offer, AuditOffer)
    return AuditProgress(*offer.place, offer.seed)
