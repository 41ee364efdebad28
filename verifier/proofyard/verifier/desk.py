"""What nodes and requesters may ask of a verifier, request by request."""

import asyncio
import logging

import msgspec
from sqlmodel import Session, col, func, select

from proofyard.artifacts import cid_of_bytes, fetch
from proofyard.chain import ChainClient, NodeRecord, Role
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.mark import opens
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Ack,
    Announce,
    AuditFailed,
    AuditProgress,
    JobQuery,
    JobReport,
    LogLine,
    Publish,
    Receipt,
    SubmitCommitment,
    SubmitSeal,
    TaskFailed,
    TaskProgress,
)
from proofyard.protocol.seal import seal_struct_hash
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError, TaskIndex
from proofyard.protocol.validate import trace_is_usable
from proofyard.transport import Body, Connection
from proofyard.verifier.auditing import leave
from proofyard.verifier.context import Context, Member, now
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Job,
    JobState,
    Line,
    Log,
    Seat,
    SeatState,
    Segment,
    Task,
    TaskState,
    log,
    row_of,
    tasks_of,
)
from proofyard.verifier.delivery import MAX_STATE_BYTES, room
from proofyard.verifier.limits import Limiter
from proofyard.verifier.marks import objection_to_decoy
from proofyard.verifier.schedule import hand_back, inputs_of
from proofyard.workloads.workload import Inputs

logger = logging.getLogger(__name__)

MAX_PUBLISH_BYTES = 16 << 30
MAX_ARTIFACTS = 16
MIN_PROMISE_S = 30.0
"""A receipt that falls due sooner is not given: the chain may be away for a while."""
FIRST_STATES = 256
"""First states whose CIDs are kept: a commitment that is sent again is not computed again."""
LOG_PAGE = 500


class SubmissionRefused(ProofyardError):
    """A commitment does not fit the task, its inputs or its signature."""

    exit_code = 4


class Desk:
    """Handlers for one verifier's endpoint."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._announcing = Limiter("announcements", per_s=1.0, burst=5)
        self._publishing = Limiter("publications", per_s=10.0, burst=100)
        self._signed = Limiter("signatures", per_s=20.0, burst=200)
        self._asking = Limiter("questions about jobs", per_s=10.0, burst=50)
        self._progress = Limiter("progress", per_s=2.0, burst=20)
        self._first_states: dict[object, Cid] = {}
        self._making = asyncio.Lock()
        endpoint = context.endpoint
        endpoint.on(Announce, self.announce)
        endpoint.on(TaskProgress, self.task_progress)
        endpoint.on(TaskFailed, self.task_failed)
        endpoint.on(SubmitCommitment, self.submit_commitment)
        endpoint.on(SubmitSeal, self.submit_seal)
        endpoint.on(AuditProgress, self.audit_progress)
        endpoint.on(AuditFailed, self.audit_failed)
        endpoint.on(Publish, self.publish)
        endpoint.on(JobQuery, self.job_query)

    async def announce(self, connection: Connection, message: Announce, _body: Body) -> Ack:
        """A registered node may join, and says again that it is there; anybody else is told why not."""
        self._announcing.take(connection.peer)
        chain = self._context.chain
        record = await self._context.on_chain(lambda: _active_node(chain, connection.peer))
        known = self._context.members.get(connection.peer)
        if record is None:
            self._context.members.pop(connection.peer, None)
            return Ack(False, f"{connection.peer} is not an active node; register it with `proofyard node register`")
        self._context.members[connection.peer] = Member(connection, message, record)
        if known is None or known.connection is not connection:
            self._context.changed()
        return Ack()

    def left(self, connection: Connection) -> None:
        """A connection ended. Leases run on: the node may come back in time."""
        member = self._context.members.get(connection.peer)
        if member is not None and member.connection is connection:
            del self._context.members[connection.peer]
            self._context.changed()

    async def task_progress(self, connection: Connection, message: TaskProgress, _body: Body) -> Ack:
        with self._context.database.session() as session:
            task = session.get(Task, (message.job, message.task))
            if task is None or task.state != TaskState.ASSIGNED or task.node != connection.peer:
                return Ack(False, "the task is no longer yours")
            task.lease_until = now() + self._context.settings.lease_s
            if message.loss is not None and self._progress.allows(connection.peer):
                text = f"step {message.step}, {message.tokens_per_s:.0f} tokens/s"
                log(
                    session,
                    message.job,
                    "progress",
                    text,
                    task=message.task,
                    node=connection.peer,
                    loss=message.loss,
                    step=message.step,
                )
        return Ack()

    async def task_failed(self, connection: Connection, message: TaskFailed, _body: Body) -> Ack:
        with self._context.database.session() as session:
            task = session.get(Task, (message.job, message.task))
            if task is not None and task.state == TaskState.ASSIGNED and task.node == connection.peer:
                text = f"task {task.index} handed back: {message.reason[:500]}"
                log(session, task.job, "failed", text, task=task.index, node=task.node)
                hand_back(session, task, message.reason[:500])
        self._context.changed()
        return Ack()

    async def submit_commitment(self, connection: Connection, message: SubmitCommitment, _body: Body) -> Receipt:
        """Check everything that can be checked without executing, what is cheap first, then sign a receipt. Safe to
        repeat: the same commitment gets the same receipt."""
        commitment = message.commitment
        deadline = self._promised(connection.peer, commitment)
        if deadline is None:
            self._check_form(connection.peer, message)
            self._signed.take(connection.peer)
            deadline = await self._deadline(commitment.job)
            leaf = await asyncio.to_thread(self._signed_leaf, message, connection.peer)
            first_state = await self._first_state(connection.peer, commitment)
            message = await asyncio.to_thread(self._with_decoy, message)
            with self._context.database.session() as session:
                task = session.get(Task, (commitment.job, commitment.task))
                self._check_holder(connection.peer, task, commitment)
                assert task is not None
                _check_first(message, first_state)
                message = message if task.decoy else msgspec.structs.replace(message, decoy=None)
                task.state, task.submission, task.leaf = TaskState.COMMITTED, encode(message), leaf
                task.result, task.promised_until = commitment.result, deadline
                task.decoy = message.decoy is not None
                text = f"committed to {commitment.segments + 1} states"
                log(session, task.job, "committed", text, task=task.index, node=task.node)
            self._context.changed()
        leaf = commitment.struct_hash()
        digest = self._context.domain.typed_digest(receipt_struct_hash(leaf, commitment.job, deadline))
        return Receipt(leaf, commitment.job, deadline, self._context.wallet.sign_digest(digest))

    def _promised(self, node: Address, commitment: Commitment) -> int | None:
        """Until when this very commitment was promised a batch before, None if it was not."""
        with self._context.database.session() as session:
            task = session.get(Task, (commitment.job, commitment.task))
            if task is None or task.node != node or task.leaf != commitment.struct_hash():
                return None
            return int(task.promised_until)

    def _check_form(self, node: Address, message: SubmitCommitment) -> None:
        """What needs no signature, no execution and no chain. Raises `SubmissionRefused`."""
        commitment, trace = message.commitment, message.trace
        with self._context.database.session() as session:
            job, task = session.get(Job, commitment.job), session.get(Task, (commitment.job, commitment.task))
            self._check_holder(node, task, commitment)
            assert job is not None and task is not None
            spec, manifest = decode(task.spec, TaskSpec), cid_digest(Cid(job.manifest))
        expected: dict[str, tuple[object, object]] = {
            "node": (commitment.node, node),
            "manifest": (commitment.manifest, manifest),
            "segments": (commitment.segments, spec.segments),
            "work units": (commitment.work_units, spec.work_units),
            "mark": (opens(commitment.mark, message.salt, decoy=False), True),
            "trace length": (len(trace), spec.segments + 1),
            "trace that names no states": (trace_is_usable((*trace, commitment.result)), True),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise SubmissionRefused(f"task {commitment.task}: the {name} is {found!r}, expected {wanted!r}")
        if commitment.trace_root != root([cid_bytes(cid) for cid in trace]):
            raise SubmissionRefused(f"task {commitment.task}: the trace root is not that of the trace")

    @staticmethod
    def _check_holder(node: Address, task: Task | None, commitment: Commitment) -> None:
        if task is None:
            raise SubmissionRefused(f"job {commitment.job} has no task {commitment.task}")
        if task.node != node or task.state != TaskState.ASSIGNED:
            raise SubmissionRefused(f"task {commitment.task} of job {commitment.job} is not yours")

    def _signed_leaf(self, message: SubmitCommitment, node: Address) -> Digest:
        leaf = message.commitment.struct_hash()
        digest = self._context.domain.typed_digest(leaf)
        require_signer(digest, message.signature, node, "the commitment's sender")
        return leaf

    def _with_decoy(self, message: SubmitCommitment) -> SubmitCommitment:
        """A submission with its decoy if that is one; it need not have any."""
        problem = objection_to_decoy(message, self._context.domain)
        if problem:
            name = f"task {message.commitment.task} of job {message.commitment.job}"
            logger.info("the decoy of %s is left out: %s", name, problem)
        return msgspec.structs.replace(message, decoy=None) if problem else message

    async def _deadline(self, job_id: JobId) -> int:
        """Until when a receipt that is signed now may promise a batch: within the Registry's time for receipts, and
        never later than a batch of the job can be committed. Raises `SubmissionRefused` where that is too soon."""
        receipt_time = (await self._context.params()).receipt_time
        with self._context.database.session() as session:
            job = session.get(Job, job_id)
            assert job is not None
            end = float(job.deadline + receipt_time)
        if job.state != JobState.RUNNING:
            record = await self._context.on_chain(lambda: self._context.chain.job(job_id))
            end = float(record.commits_end(receipt_time))
        at = self._context.chain_time()
        deadline = int(min(at + receipt_time, end)) - 1
        if deadline < at + min(MIN_PROMISE_S, receipt_time / 4):
            raise SubmissionRefused(f"job {job_id} takes no more work: it ends in {max(0, int(end - at))} s")
        return deadline

    async def _first_state(self, node: Address, commitment: Commitment) -> tuple[Cid, Digest]:
        """What the first state and the root of the inputs must be: pure functions of manifest and inputs."""
        with self._context.database.session() as session:
            job = session.get(Job, commitment.job)
            task = session.get(Task, (commitment.job, commitment.task))
            assert job is not None and task is not None
            manifest_cid, spec = Cid(job.manifest), decode(task.spec, TaskSpec)
            inputs = inputs_of(task, tasks_of(session, job.id))
        manifest = self._context.manifest(manifest_cid)
        key = (commitment.job, commitment.task, inputs)
        # One at a time: a manifest of a kilobyte may ask for a state of gigabytes, and every node may ask at once.
        async with self._making:
            if key not in self._first_states:
                sizes = [self._context.store.size(cid) for cid in inputs]
                async with room(self._context, *sizes):
                    self._first_states[key] = await asyncio.to_thread(self._make_first, manifest, spec, inputs)
                while len(self._first_states) > FIRST_STATES:
                    self._first_states.pop(next(iter(self._first_states)))
            first_state = self._first_states[key]
        return first_state, root([cid_bytes(manifest_cid), *map(cid_bytes, inputs)])

    def _make_first(self, manifest: Manifest, spec: TaskSpec, inputs: tuple[Cid, ...]) -> Cid:
        store, make = self._context.store, self._context.workload(manifest).initial_state
        data = tuple(store.get_bytes(cid, max_bytes=MAX_STATE_BYTES) for cid in inputs)
        return cid_of_bytes(make(manifest, spec, Inputs(results=data)))

    async def submit_seal(self, connection: Connection, message: SubmitSeal, _body: Body) -> Ack:
        """A sealed answer; its signature is checked only for a seat that waits for it."""
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is None or seat.state not in (SeatState.WORKING, SeatState.AWAY):
                return Ack(seat is not None, "" if seat is not None else "the seat is no longer yours")
        self._signed.take(connection.peer)
        place = (message.batch, message.job, message.task, message.segment)
        digest = self._context.domain.typed_digest(seal_struct_hash(*place, connection.peer, message.seal))
        await asyncio.to_thread(require_signer, digest, message.signature, connection.peer, "the seal's sender")
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is None:
                return Ack(False, "the seat is no longer yours")
            if seat.state in (SeatState.WORKING, SeatState.AWAY) and self._is_pending(session, seat):
                seat.state, seat.seal, seat.signature = SeatState.SEALED, message.seal, message.signature
                text = f"sealed its answer to task {message.task} segment {message.segment}"
                log(session, message.job, "sealed", text, task=message.task, node=connection.peer)
        self._context.changed()
        return Ack()

    async def audit_progress(self, connection: Connection, message: AuditProgress, _body: Body) -> Ack:
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is None or not self._is_pending(session, seat):
                return Ack(False, "the seat is no longer yours")
            if seat.state == SeatState.AWAY:
                # It fell silent and is at work after all: nobody else is needed.
                seat.state = SeatState.WORKING
            seat.lease_until = now() + self._context.settings.lease_s
        return Ack()

    async def audit_failed(self, connection: Connection, message: AuditFailed, _body: Body) -> Ack:
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is not None and seat.state == SeatState.WORKING:
                logger.warning("%s gives up a seat: %s", connection.peer, message.reason[:500])
                leave(seat)
        self._context.changed()
        return Ack()

    @staticmethod
    def _is_pending(session: Session, seat: Seat) -> bool:
        segment = session.get(Segment, (seat.batch, seat.job, seat.task, seat.segment))
        return segment is not None and segment.verdict == Verdict.PENDING

    @staticmethod
    def _seat(auditor: Address, message: SubmitSeal | AuditProgress | AuditFailed, session: Session) -> Seat | None:
        batch = row_of(session, message.batch)
        if batch is None:
            return None
        return session.get(Seat, (batch.id, message.job, message.task, message.segment, auditor))

    async def publish(self, connection: Connection, message: Publish, _body: Body) -> Ack:
        """Fetch what a requester has for its job, or a leader for its batch, over the connection it asked on."""
        self._publishing.take(connection.peer)
        if message.total_bytes > MAX_PUBLISH_BYTES:
            return Ack(False, f"{message.total_bytes} bytes are more than the {MAX_PUBLISH_BYTES} this verifier takes")
        if len(message.artifacts) > MAX_ARTIFACTS:
            return Ack(False, f"more than {MAX_ARTIFACTS} artifacts at once are not taken")
        left = message.total_bytes
        for cid in message.artifacts:
            await fetch(self._context.store, cid, [connection], max_bytes=max(0, left))
            left -= await asyncio.to_thread(self._context.store.size, cid)
        return Ack()

    async def job_query(self, connection: Connection, message: JobQuery, _body: Body) -> JobReport:
        self._asking.take(connection.peer)
        return report(self._context, message.job, message.since)


def _check_first(message: SubmitCommitment, first_state: tuple[Cid, Digest]) -> None:
    """The parts of a commitment that follow from manifest and inputs."""
    name = f"task {message.commitment.task}"
    if message.trace[0] != first_state[0]:
        raise SubmissionRefused(f"{name}: the first state is {message.trace[0]}, expected {first_state[0]}")
    if message.commitment.inputs != first_state[1]:
        raise SubmissionRefused(f"{name}: the root of its inputs is not that of the results it was given")


def _active_node(chain: ChainClient, key: Address) -> NodeRecord | None:
    """The node whose hot key `key` is, if it is in the active set."""
    operator = chain.operator_of(key)
    record = None if operator is None else chain.operator(operator)
    return record if record and record.active and (record.role, record.node) == (Role.NODE, key) else None


def report(context: Context, job_id: JobId, since: int) -> JobReport:
    """How a job is doing, with at most `LOG_PAGE` log lines after `since`."""
    with context.database.session() as session:
        job = session.get(Job, job_id)
        if job is None:
            return JobReport(job_id, JobState.WAITING, 0, 0, 0, None, "not seen on chain yet", ())
        valid = session.exec(
            select(func.count()).select_from(Task).where(Task.job == job_id, Task.state == TaskState.VALID)
        ).one()
        settled = session.exec(
            select(func.count())
            .select_from(Batch)
            .join(Line, col(Line.batch) == col(Batch.id))
            .where(Line.job == job_id, Batch.state == BatchState.SETTLED)
        ).one()
        lines = session.exec(
            select(Log).where(Log.job == job_id, col(Log.id) > since).order_by(col(Log.id)).limit(LOG_PAGE)
        )
        return JobReport(
            job=job_id,
            state=job.state,
            tasks=job.tasks,
            tasks_valid=valid,
            batches_settled=settled,
            result=Cid(job.result) if job.result else None,
            reason=job.reason,
            log=tuple(
                LogLine(
                    seq=line.id or 0,
                    at=line.at,
                    kind=line.kind,
                    text=line.text,
                    task=None if line.task is None else TaskIndex(line.task),
                    node=None if line.node is None else Address(line.node),
                    loss=line.loss,
                    step=line.step,
                )
                for line in lines
            ),
        )
