"""What nodes and requesters may ask of a verifier, request by request."""

import asyncio
import logging

from sqlmodel import Session, col, func, select

from proofyard.artifacts import cid_of_bytes, fetch
from proofyard.chain import ChainClient, NodeRecord, Role
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.manifest import TaskSpec
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
from proofyard.protocol.replay import unusable
from proofyard.protocol.seal import seal_struct_hash
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError, TaskIndex
from proofyard.transport import Body, Connection
from proofyard.verifier.context import Context, Member, now
from proofyard.verifier.database import (
    Batch,
    BatchState,
    Job,
    JobState,
    Log,
    Seat,
    SeatState,
    Task,
    TaskState,
    log,
    tasks_of,
)
from proofyard.verifier.delivery import MAX_STATE_BYTES
from proofyard.verifier.schedule import hand_back, inputs_of
from proofyard.workloads.workload import Inputs

logger = logging.getLogger(__name__)

MAX_PUBLISH_BYTES = 16 << 30
RECEIPT_S = 600
LOG_PAGE = 500


class SubmissionRefused(ProofyardError):
    """A commitment does not fit the task, its inputs or its signature."""

    exit_code = 4


class Desk:
    """Handlers for one verifier's endpoint."""

    def __init__(self, context: Context) -> None:
        self._context = context
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
            if message.loss is not None:
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
                hand_back(session, self._context, task, message.reason[:500])
        self._context.changed()
        return Ack()

    async def submit_commitment(self, connection: Connection, message: SubmitCommitment, _body: Body) -> Receipt:
        """Check everything that can be checked without executing, then sign a receipt. Safe to repeat."""
        commitment = message.commitment
        leaf = commitment.struct_hash()
        require_signer(
            self._context.domain.typed_digest(leaf), message.signature, connection.peer, "the commitment's sender"
        )
        first_state = await self._first_state(connection.peer, commitment)
        deadline = int(now()) + RECEIPT_S
        with self._context.database.session() as session:
            task = session.get(Task, (commitment.job, commitment.task))
            if task is None:
                raise SubmissionRefused(f"job {commitment.job} has no task {commitment.task}")
            if task.leaf != leaf:
                self._check_submission(connection.peer, task, message, first_state)
                task.state, task.submission, task.leaf = TaskState.COMMITTED, encode(message), leaf
                task.result, task.promised_until = commitment.result, deadline
                text = f"committed to {commitment.segments + 1} states"
                log(session, task.job, "committed", text, task=task.index, node=task.node)
        self._context.changed()
        digest = self._context.domain.typed_digest(receipt_struct_hash(leaf, deadline))
        return Receipt(leaf, deadline, self._context.wallet.sign_digest(digest))

    async def _first_state(self, node: Address, commitment: Commitment) -> tuple[Cid, bytes]:
        """What the first state and the root of the inputs must be: pure functions of manifest and inputs."""
        with self._context.database.session() as session:
            job = session.get(Job, commitment.job)
            task = session.get(Task, (commitment.job, commitment.task))
            if job is None or task is None or task.node != node:
                raise SubmissionRefused(f"task {commitment.task} of job {commitment.job} is not yours")
            manifest_cid, spec = Cid(job.manifest), decode(task.spec, TaskSpec)
            inputs = inputs_of(task, tasks_of(session, job.id))
        if commitment.manifest != cid_digest(manifest_cid):
            raise SubmissionRefused("the commitment names another manifest")
        manifest = self._context.manifest(manifest_cid)
        data = tuple(self._context.store.get_bytes(cid, max_bytes=MAX_STATE_BYTES) for cid in inputs)
        state = await asyncio.to_thread(
            self._context.workload(manifest).initial_state, manifest, spec, Inputs(results=data)
        )
        return cid_of_bytes(state), root([cid_bytes(manifest_cid), *map(cid_bytes, inputs)])

    def _check_submission(
        self, node: Address, task: Task, message: SubmitCommitment, first_state: tuple[Cid, bytes]
    ) -> None:
        commitment, trace = message.commitment, message.trace
        spec = decode(task.spec, TaskSpec)
        expected: dict[str, tuple[object, object]] = {
            "node": (commitment.node, node),
            "holder": (task.node, node),
            "task state": (task.state, TaskState.ASSIGNED),
            "segments": (commitment.segments, spec.segments),
            "work units": (commitment.work_units, spec.work_units),
            "trace length": (len(trace), spec.segments + 1),
            "trace that nobody can tell from a failure": (unusable(trace), False),
            "first state": (trace[0] if trace else None, first_state[0]),
            "inputs": (commitment.inputs, first_state[1]),
            "trace root": (commitment.trace_root, root([cid_bytes(cid) for cid in trace] or [b""])),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise SubmissionRefused(f"task {task.index}: the {name} is {found!r}, expected {wanted!r}")

    async def submit_seal(self, connection: Connection, message: SubmitSeal, _body: Body) -> Ack:
        struct_hash = seal_struct_hash(message.batch, message.task, message.segment, connection.peer, message.seal)
        require_signer(
            self._context.domain.typed_digest(struct_hash), message.signature, connection.peer, "the seal's sender"
        )
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is None:
                return Ack(False, "the seat is no longer yours")
            if seat.state == SeatState.WORKING:
                seat.state, seat.seal, seat.signature = SeatState.SEALED, message.seal, message.signature
                text = f"sealed its answer to task {message.task} segment {message.segment}"
                log(session, message.job, "sealed", text, task=message.task, node=connection.peer)
        self._context.changed()
        return Ack()

    async def audit_progress(self, connection: Connection, message: AuditProgress, _body: Body) -> Ack:
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is None or seat.state == SeatState.FAILED:
                return Ack(False, "the seat is no longer yours")
            seat.lease_until = now() + self._context.settings.lease_s
        return Ack()

    async def audit_failed(self, connection: Connection, message: AuditFailed, _body: Body) -> Ack:
        with self._context.database.session() as session:
            seat = self._seat(connection.peer, message, session)
            if seat is not None and seat.state == SeatState.WORKING:
                logger.warning("%s gives up a seat: %s", connection.peer, message.reason[:500])
                seat.state = SeatState.FAILED
        self._context.changed()
        return Ack()

    def _seat(
        self, auditor: Address, message: SubmitSeal | AuditProgress | AuditFailed, session: Session
    ) -> Seat | None:
        batch = session.exec(select(Batch).where(Batch.chain_id == message.batch)).one_or_none()
        if batch is None:
            return None
        return session.get(Seat, (batch.id, message.task, message.segment, auditor))

    async def publish(self, connection: Connection, message: Publish, _body: Body) -> Ack:
        """Fetch what a requester has for its job, over the connection it asked on."""
        if message.total_bytes > MAX_PUBLISH_BYTES:
            return Ack(False, f"{message.total_bytes} bytes are more than the {MAX_PUBLISH_BYTES} this verifier takes")
        for cid in message.artifacts:
            await fetch(self._context.store, cid, [connection], max_bytes=MAX_PUBLISH_BYTES)
        return Ack()

    async def job_query(self, _connection: Connection, message: JobQuery, _body: Body) -> JobReport:
        return report(self._context, message.job, message.since)


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
        states = session.exec(select(Task.state).where(Task.job == job_id)).all()
        settled = session.exec(
            select(func.count()).select_from(Batch).where(Batch.job == job_id, Batch.state == BatchState.SETTLED)
        ).one()
        lines = session.exec(
            select(Log).where(Log.job == job_id, col(Log.id) > since).order_by(col(Log.id)).limit(LOG_PAGE)
        )
        return JobReport(
            job=job_id,
            state=job.state,
            tasks=job.tasks,
            tasks_valid=states.count(TaskState.VALID),
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
