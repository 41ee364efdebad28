"""The node's work: accept what a verifier offers, execute it in the executor, commit or seal, and keep evidence.

One thing is executed at a time: first states that are asked for and were not kept, for which a running task is
interrupted; then audits, because they are short and everybody's pay waits for them; then tasks.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from proofyard.artifacts import BlockStore, cid_of_bytes, fetch
from proofyard.chain import Wallet
from proofyard.node.journal import Journal
from proofyard.node.links import VerifierLinks
from proofyard.node.receipts import keep_receipt
from proofyard.node.retention import Retention, Thinned
from proofyard.node.settings import NodeSettings
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Ack,
    AuditFailed,
    AuditOffer,
    AuditProgress,
    CancelTask,
    OpenSeal,
    PeerHint,
    Receipt,
    SealOpened,
    SubmitCommitment,
    SubmitSeal,
    TaskFailed,
    TaskOffer,
    TaskProgress,
)
from proofyard.protocol.seal import CANNOT_EXECUTE, plain_reason, seal_of, seal_struct_hash
from proofyard.protocol.types import Address, Cid, ProofyardError, SegmentIndex
from proofyard.transport import Body, Connection, Endpoint, RequestFailed, TransportError
from proofyard.workloads.errors import TaskStopped, WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Inputs, Progress, load_workload

logger = logging.getLogger("proofyard.node")

MAX_ARTIFACT_BYTES = 64 << 30
MAX_RESULT_BYTES = 8 << 30
MAX_QUEUE = 64
HEARTBEAT_S = 3.0
INTERRUPT_S = 1.0


@dataclass
class Work:
    """An accepted offer, or a state to make again, on its way through the node. `verifier` is whom it is owed to."""

    verifier: Address
    offer: TaskOffer | AuditOffer | Thinned
    submission: SubmitCommitment | None = None
    progress: Progress | None = None
    cancelled: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> tuple[object, ...]:
        if isinstance(self.offer, AuditOffer):
            return (self.verifier, "audit", self.offer.batch, self.offer.task.index, self.offer.segment)
        if isinstance(self.offer, Thinned):
            return (self.verifier, "state", self.offer.cid)
        return (self.verifier, "task", self.offer.job, self.offer.task.index)

    @property
    def name(self) -> str:
        if isinstance(self.offer, AuditOffer):
            return f"audit of job {self.offer.job} task {self.offer.task.index} segment {self.offer.segment}"
        if isinstance(self.offer, Thinned):
            task = self.offer.held.offer
            return f"state {self.offer.number} of job {task.job} task {task.task.index}"
        return f"job {self.offer.job} task {self.offer.task.index} ({self.offer.task.label})"

    @property
    def priority(self) -> int:
        """The lowest goes first."""
        return (Thinned, AuditOffer, TaskOffer).index(type(self.offer))


class Agent:
    """Handlers and the work loop of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        wallet: Wallet,
        domain: Domain,
        endpoint: Endpoint,
        links: VerifierLinks,
        store: BlockStore,
        executor: Executor,
        journal: Journal,
        retention: Retention,
    ) -> None:
        self._settings = settings
        self._wallet = wallet
        self._domain = domain
        self._endpoint = endpoint
        self._links = links
        self._store = store
        self._executor = executor
        self._journal = journal
        self._retention = retention
        self._accepted: dict[tuple[object, ...], Work] = {}
        self._queue: asyncio.PriorityQueue[tuple[int, int, Work]] = asyncio.PriorityQueue()
        self._count = itertools.count()
        self._current: Work | None = None
        self._background: set[asyncio.Task[None]] = set()
        endpoint.on(TaskOffer, self.offer_task)
        endpoint.on(AuditOffer, self.offer_audit)
        endpoint.on(CancelTask, self.cancel_task)
        endpoint.on(OpenSeal, self.open_seal)

    # Offers

    async def offer_task(self, connection: Connection, offer: TaskOffer, _body: Body) -> Ack:
        """Take one task at a time; one that is offered again after the verifier forgot is taken up where it is."""
        reason = self._refusal(connection)
        work = Work(connection.peer, offer)
        if not reason and work.key in self._accepted:
            return Ack()
        if not reason and any(isinstance(work.offer, TaskOffer) for work in self._accepted.values()):
            reason = "busy with another task"
        if reason:
            return Ack(False, reason)
        self._journal.accept_task(connection.peer, offer)
        self._enqueue(work)
        return Ack()

    async def offer_audit(self, connection: Connection, offer: AuditOffer, _body: Body) -> Ack:
        reason = self._refusal(connection)
        if not reason and len(self._accepted) >= MAX_QUEUE:
            reason = "busy with other audits"
        if reason:
            return Ack(False, reason)
        work = Work(connection.peer, offer)
        if work.key not in self._accepted:
            self._journal.accept_audit(connection.peer, offer)
            self._enqueue(work)
        return Ack()

    async def cancel_task(self, connection: Connection, message: CancelTask, _body: Body) -> Ack:
        work = self._accepted.get((connection.peer, "task", message.job, message.task))
        if work is not None:
            await self._cancel(work, message.reason)
        return Ack()

    async def open_seal(self, connection: Connection, message: OpenSeal, _body: Body) -> SealOpened:
        """Show the answer behind a seal that this verifier was given."""
        opening = self._journal.opening(connection.peer, message)
        if opening is None:
            raise RequestFailed("no-seal", f"no seal was given for task {message.task} segment {message.segment}")
        return opening

    def _refusal(self, connection: Connection) -> str:
        if self._links.connection(connection.peer) is None:
            return f"{connection.peer} is not a verifier this node has joined"
        return ""

    def _enqueue(self, work: Work) -> None:
        self._accepted[work.key] = work
        self._queue.put_nowait((work.priority, next(self._count), work))

    async def restore(self, thinned: Thinned) -> None:
        """Make a state again that a peer asks for, before anything else: it is owed within a published time."""
        work = Work(thinned.held.verifier, thinned)
        if work.key in self._accepted:
            return
        self._enqueue(work)
        while work.key in self._accepted and self._current is not None and isinstance(self._current.offer, TaskOffer):
            await self._executor.stop()
            await asyncio.sleep(INTERRUPT_S)

    async def _cancel(self, work: Work, reason: str) -> None:
        logger.info("%s is no longer wanted: %s", work.name, reason)
        work.cancelled = True
        if work is self._current:
            await self._executor.stop()

    # The loop

    async def run(self) -> None:
        """Take up what an earlier run left, then work until cancelled."""
        self._retention.restorer(self._restore_in_background)
        for verifier, offer, submission in self._journal.open_tasks():
            self._enqueue(Work(verifier, offer, submission))
        while True:
            _, _, work = await self._queue.get()
            if work.cancelled:
                del self._accepted[work.key]
                continue
            self._current, waits_again = work, False
            heartbeat = asyncio.create_task(self._heartbeat(work))
            try:
                await self._do(work)
            except TaskStopped as error:
                logger.info("%s: %s", work.name, error)
                waits_again = not work.cancelled
                if waits_again:
                    self._enqueue(work)
                else:
                    await self._hand_back(work, str(error))
            except ProofyardError as error:
                logger.warning("%s: %s", work.name, error)
                await self._hand_back(work, str(error))
            except Exception as error:
                logger.exception("%s failed", work.name)
                await self._hand_back(work, f"internal error: {type(error).__name__}")
            finally:
                heartbeat.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await heartbeat
                self._current = None
                if not waits_again:
                    self._accepted.pop(work.key, None)

    async def beat(self) -> None:
        """Renew the leases of what is accepted but has not begun."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for work in list(self._accepted.values()):
                await self._report(work)

    async def _heartbeat(self, work: Work) -> None:
        """Report every step of the work under way."""
        while True:
            await work.moved.wait()
            work.moved.clear()
            await self._report(work)

    async def _report(self, work: Work) -> None:
        offer = work.offer
        if isinstance(offer, Thinned):
            return
        message: TaskProgress | AuditProgress
        if isinstance(offer, AuditOffer):
            message = AuditProgress(offer.batch, offer.task.index, offer.segment)
        else:
            last, work.progress = work.progress, None
            message = TaskProgress(
                offer.job,
                offer.task.index,
                SegmentIndex(last.segment if last else 0),
                last.step if last else 0,
                last.loss if last else None,
                last.tokens_per_s if last else 0.0,
                last.rss_bytes if last else 0,
            )
        answer = await self._links.try_request(work.verifier, message, Ack)
        if answer is not None and not answer.proceed and not work.cancelled and work.submission is None:
            await self._cancel(work, answer.reason)

    async def _do(self, work: Work) -> None:
        if isinstance(work.offer, AuditOffer):
            await self._audit(work, work.offer)
        elif isinstance(work.offer, Thinned):
            await self._make_again(work.offer)
        else:
            if work.submission is None:
                work.submission = await self._execute(work, work.offer)
                self._retention.note_held()
            receipt = await self._links.deliver(work.verifier, work.submission, Receipt)
            folder = self._settings.data_dir / "receipts"
            keep_receipt(folder, work.verifier, work.submission.commitment, receipt, time.time())
            logger.info("%s committed; receipt until %s", work.name, receipt.deadline)
            self._journal.close_task(work.verifier, work.offer)

    async def _hand_back(self, work: Work, reason: str) -> None:
        """Say that the work will not be done here. The next holder loses nothing but time."""
        offer = work.offer
        if isinstance(offer, Thinned):
            return
        if isinstance(offer, TaskOffer):
            self._journal.drop_task(work.verifier, offer.job, offer.task.index)
        if work.cancelled:
            return
        message = (
            AuditFailed(offer.batch, offer.task.index, offer.segment, reason[:500])
            if isinstance(offer, AuditOffer)
            else TaskFailed(offer.job, offer.task.index, reason[:500])
        )
        await self._links.try_request(work.verifier, message, Ack)

    # Tasks and audits

    async def _execute(self, work: Work, offer: TaskOffer) -> SubmitCommitment:
        """Run a whole task and sign for it. States become artifacts before their names are given away."""
        manifest, inputs = await self._prepare(work.verifier, offer.manifest, offer.inputs, offer.providers)
        trace = await self._executor.run_task(manifest, offer.task, inputs, on_progress=self._progress_of(work))
        states, every = await asyncio.to_thread(self._retention.keep, trace)
        result = await asyncio.to_thread(self._store.put_file, trace.result)
        submission = self._sign(offer, states, result)
        size = max(path.stat().st_size for path in trace.states)
        self._journal.finish_task(work.verifier, submission, every=every, kept_bytes=size * len(states[::every]))
        await asyncio.to_thread(self._executor.forget, manifest, offer.task, inputs)
        return submission

    def _sign(self, offer: TaskOffer, states: tuple[Cid, ...], result: Cid) -> SubmitCommitment:
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
        )
        signature = self._wallet.sign_digest(self._domain.typed_digest(commitment.struct_hash()))
        return SubmitCommitment(commitment, signature, states)

    def _restore_in_background(self, thinned: Thinned) -> None:
        task = asyncio.create_task(self.restore(thinned))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _make_again(self, thinned: Thinned) -> None:
        """Compute a state that was not kept from the one before it that was."""
        offer, trace = thinned.held.offer, thinned.held.submission.trace
        manifest, inputs = await self._prepare(thinned.held.verifier, offer.manifest, offer.inputs, offer.providers)
        state = await asyncio.to_thread(self._store.get_bytes, trace[thinned.kept], max_bytes=MAX_RESULT_BYTES)
        state = await self._executor.advance(manifest, offer.task, inputs, state, thinned.kept, thinned.number)
        found = await asyncio.to_thread(self._store.put_bytes, state)
        if found != thinned.cid:
            logger.error(
                "state %s of job %s task %s comes out as %s, committed was %s: has this machine's software changed?",
                thinned.number,
                offer.job,
                offer.task.index,
                found,
                thinned.cid,
            )

    async def _audit(self, work: Work, offer: AuditOffer) -> None:
        """Re-execute one segment from the worker's state and seal the answer."""
        manifest, inputs = await self._prepare(work.verifier, offer.manifest, (), offer.providers)
        await self._fetch(work.verifier, offer.before, offer.providers, MAX_RESULT_BYTES)
        before = await asyncio.to_thread(self._store.get_bytes, offer.before, max_bytes=MAX_RESULT_BYTES)
        opening = await self._answer(work, offer, manifest, before, inputs)
        self._journal.seal(work.verifier, offer, opening)
        seal = seal_of(opening.opening(), self._wallet.address)
        struct_hash = seal_struct_hash(offer.batch, offer.task.index, offer.segment, self._wallet.address, seal)
        signature = self._wallet.sign_digest(self._domain.typed_digest(struct_hash))
        message = SubmitSeal(offer.batch, offer.job, offer.task.index, offer.segment, seal, signature)
        answer = await self._links.deliver(work.verifier, message, Ack)
        logger.info("%s sealed%s", work.name, "" if answer.proceed else f", but {answer.reason}")

    async def _reexecute(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> bytes:
        return await self._executor.run_segment(
            manifest, offer.task, offer.segment, before, inputs, on_progress=self._progress_of(work)
        )

    async def _answer(
        self, work: Work, offer: AuditOffer, manifest: Manifest, before: bytes, inputs: Inputs
    ) -> SealOpened:
        """The digest of this node's own state after the segment, or that nobody can execute it. Raises what stands
        between this machine and an answer."""
        workload, salt = load_workload(manifest.workload), secrets.token_bytes(32)
        try:
            await asyncio.to_thread(workload.check_state, manifest, offer.task, offer.segment, before)
            after = await self._reexecute(work, offer, manifest, before, inputs)
        except WorkloadError as error:
            if not error.defined:
                raise
            return SealOpened(CANNOT_EXECUTE, plain_reason(str(error)), salt)
        # A state is only ever asked for where answers are compared by more than their digests.
        name = cid_of_bytes if workload.exact else self._store.put_bytes
        return SealOpened(cid_digest(await asyncio.to_thread(name, after)), "", salt)

    def _progress_of(self, work: Work) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            work.progress = progress
            work.moved.set()

        return on_progress

    async def _prepare(
        self, verifier: Address, manifest_cid: Cid, inputs: tuple[Cid, ...], providers: tuple[PeerHint, ...]
    ) -> tuple[Manifest, Inputs]:
        """Everything a task needs, on this disk and checked against its CID."""
        await self._fetch(verifier, manifest_cid, providers, MAX_MANIFEST_BYTES)
        manifest = decode_manifest(self._store.get_bytes(manifest_cid, max_bytes=MAX_MANIFEST_BYTES))
        load_workload(manifest.workload).check(manifest)
        for cid in inputs:
            await self._fetch(verifier, cid, providers, MAX_RESULT_BYTES)
        results = [await asyncio.to_thread(self._store.get_bytes, cid, max_bytes=MAX_RESULT_BYTES) for cid in inputs]
        model = await self._on_disk(verifier, manifest.model, providers)
        data = await self._on_disk(verifier, manifest.data, providers)
        return manifest, Inputs(model, data, tuple(results))

    async def _on_disk(self, verifier: Address, cid: Cid | None, providers: tuple[PeerHint, ...]) -> Path | None:
        """A large input as a file or directory: used in place where the operator has it, else fetched."""
        if cid is None:
            return None
        local = self._store.local_path(cid)
        if local is not None:
            return local
        await self._fetch(verifier, cid, providers, MAX_ARTIFACT_BYTES)
        target = self._settings.data_dir / "inputs" / cid
        return await asyncio.to_thread(self._store.export, cid, target)

    async def _fetch(self, verifier: Address, cid: Cid, hints: tuple[PeerHint, ...], max_bytes: int) -> None:
        """From the hinted peers and the verifier; only what is not here yet."""
        if not await asyncio.to_thread(lambda: any(self._store.missing(cid))):
            return
        peers = await asyncio.gather(*(self._dial(hint) for hint in hints if hint.address != self._wallet.address))
        connections = [peer for peer in (*peers, self._links.connection(verifier)) if peer is not None]
        await fetch(self._store, cid, connections, max_bytes=max_bytes)

    async def _dial(self, hint: PeerHint) -> Connection | None:
        try:
            return await self._endpoint.connect(hint.host, hint.port, expect=hint.address)
        except TransportError as error:
            logger.info("%s at %s:%s cannot help: %s", hint.address, hint.host, hint.port, error)
            return None
