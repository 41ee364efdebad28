"""What nodes and requesters may ask of a verifier, request by request: checked here as far as bytes and keys go,
decided by the engine, answered once that lasts."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import msgspec
from sqlalchemy import func, select

from proofyard.artifacts import ArtifactError, cid_of_bytes
from proofyard.protocol.certificate import Delta
from proofyard.protocol.cid import RAW, cid_bytes, cid_codec, cid_digest, make_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment, receipt_struct_hash
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.mark import opens
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import (
    Ack,
    Acks,
    Announce,
    AuditFailed,
    AuditProgress,
    JobQuery,
    JobReport,
    LineProbe,
    LogLine,
    Publish,
    Receipt,
    Receipts,
    Refusal,
    Relays,
    RelaysQuery,
    SubmitCommitment,
    SubmitCommitments,
    SubmitSeal,
    SubmitSeals,
    TaskFailed,
    TaskProgress,
    Working,
)
from proofyard.protocol.routes import MAX_ROUTES
from proofyard.protocol.seal import seal_struct_hash
from proofyard.protocol.signature import SignatureInvalid, require_signer
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError, TaskIndex
from proofyard.protocol.validate import trace_is_usable
from proofyard.runtime.chance import chance
from proofyard.runtime.hops import SMALL_BYTES
from proofyard.runtime.recent import Recent
from proofyard.transport import Body, Connection, RequestFailed
from proofyard.verifier.context import Context, Member
from proofyard.verifier.delivery import MAX_STATE_BYTES, NotDelivered, owed_all, room
from proofyard.verifier.engine.events import (
    AuditGivenUp,
    AuditProgressed,
    AuditSealed,
    Event,
    Place,
    TaskHandedBack,
    TaskProgressed,
    WorkCommitted,
)
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Job,
    JobState,
    Log,
    SeatState,
    Task,
    TaskState,
    Work,
    WorkState,
)
from proofyard.verifier.limits import Limiter
from proofyard.verifier.lines import Lines
from proofyard.verifier.marks import objection_to_decoy
from proofyard.verifier.proving import Proofs
from proofyard.verifier.publications import OVER, Publications
from proofyard.verifier.standing import active_node, joined, leave
from proofyard.verifier.store.tables import TABLES
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.workload import Workload, begins, carried_by, carries, first_state, require_size, rounds_of

logger = logging.getLogger(__name__)

MIN_PROMISE_S = 30.0
"""A receipt that falls due sooner is not given: the chain may be away for a while."""
HELD_BACK_S = 5.0
"""What is handed in before anything can be promised for its job is answered once it can be, or after so long: half of
what a node waits for an answer. Told at once to come again, it would send all of it again and again."""
FIRST_STATES = 256
"""First states whose CIDs are kept: a round's are the same for many tasks."""
FASTEST = 1e12
"""Tokens a second that a node may say of itself; more are no number to show."""
RESULT_S = 20.0
"""How long a result that others start from is waited for; its node asks again, and what has come stays."""
KEPT = 256
"""Manifests of which it is kept which tasks others rest on."""
LOG_PAGE = 500
SESSION_S = 25.0
"""A node that was not heard of for so long is not there: it pings more often."""
REMEMBERED = 16_384
"""Nodes that were here: a crowd of strangers does not keep them from coming back."""
RECORD_S = 600.0
"""A node that announces itself again is read anew after so long at least; events say before when it has changed."""


FirstKey = tuple[Cid, TaskIndex, tuple[Cid, ...]]
"""What a first state follows from: the manifest, the task, and the results that it rests on."""


FORGED_POINTS = 10.0
"""Against who signs with another key than its own: no correct node does."""


class SubmissionRefused(ProofyardError):
    """A commitment does not fit the task, its inputs or its signature."""

    exit_code = 4


class NotYours(SubmissionRefused):
    """A commitment to a task that its sender does not hold."""


@dataclass(frozen=True)
class _Held:
    """A work that its node may commit to, and until when its receipt promises a batch."""

    work: Work
    deadline: int


class Desk:
    """Handlers for one verifier's endpoint."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._announcing = Limiter("announcements", per_s=1.0, burst=5)
        self._signed = Limiter("signatures", per_s=50.0, burst=1000)
        # A node that was away says once of everything it held; whoever goes on only makes us look.
        self._futile = Limiter("what you have no part in", per_s=5.0, burst=500)
        self._unknown = Limiter("announcements of wallets that are not here", per_s=50.0, burst=1000)
        self._were_here: Recent[Address, bool] = Recent(REMEMBERED)
        self._asking = Limiter("questions about jobs", per_s=10.0, burst=50)
        self._progress = Limiter("progress", per_s=2.0, burst=20)
        self._first_states: OrderedDict[FirstKey, Cid] = OrderedDict()
        self._needed: OrderedDict[Cid, frozenset[TaskIndex]] = OrderedDict()
        self._making = asyncio.Lock()
        self._held_back: set[Address] = set()
        """Nodes whose commitments wait for blocks: one message of each, or they would fill the memory."""
        self.proofs = Proofs(context)
        context.runner.recall.append(self._here)
        endpoint = context.endpoint
        endpoint.on(Announce, self.announce)
        endpoint.on(Working, self.working)
        endpoint.on(TaskFailed, self.task_failed)
        endpoint.on(SubmitCommitments, self.submit_commitments)
        endpoint.on(SubmitSeals, self.submit_seals)
        endpoint.on(AuditFailed, self.audit_failed)
        endpoint.on(Publish, Publications(context).publish)
        endpoint.on(JobQuery, self.job_query)
        endpoint.on(LineProbe, Lines().probe)
        endpoint.on(RelaysQuery, self.relays_query)

    # Who is here

    async def announce(self, connection: Connection, message: Announce, _body: Body) -> Ack:
        """A registered node may join, and says again that it is there; anybody else is told why not."""
        self._announcing.take(connection.peer)
        context, known = self._context, self._context.members.get(connection.peer)
        fresh = known is not None and time.monotonic() - known.read_at < RECORD_S
        if known is not None and known.connection is connection and known.announce == message and fresh:
            if known.subnet != connection.subnet:
                # It has moved, or shown where it is only now.
                known.subnet = connection.subnet
                context.runner.post(joined(known))
            return Ack()
        if known is not None and _runs_elsewhere(known, connection, message):
            host, port = known.connection.remote
            return Ack(False, f"{connection.peer} runs already, at {host}:{port} with other files; stop one of the two")
        if known is None and self._were_here.get(connection.peer) is None:
            self._unknown.take("all of them together")
        read_at = time.monotonic()
        record = await context.on_chain(lambda: active_node(context.chain, connection.peer))
        if connection.closed.is_set():
            return Ack(False, "the connection has ended")
        if record is None:
            leave(context, connection.peer)
            return Ack(False, f"{connection.peer} is not an active node; register it with `proofyard node register`")
        connection.vouch()
        proven = self.proofs.take(connection.peer, message)
        member = context.members[connection.peer] = Member(
            connection, message, record, read_at, proven, subnet=connection.subnet
        )
        self._were_here.put(connection.peer, True)
        context.runner.post(joined(member))
        return Ack()

    def _here(self) -> list[Event]:
        """Who is connected, for an engine that begins anew."""
        return list(map(joined, self._context.members.values()))

    def left(self, connection: Connection) -> None:
        """A connection ended. Leases run on: the node may come back in time."""
        member = self._context.members.get(connection.peer)
        if member is not None and member.connection is connection:
            leave(self._context, connection.peer)

    async def relays_query(self, connection: Connection, _message: RelaysQuery, _body: Body) -> Relays:
        """Nodes that relay, for one that nobody reaches."""
        self._announcing.take(connection.peer)
        others = [member.relay for node, member in self._context.members.items() if node != connection.peer]
        known = [relay for relay in others if relay is not None]
        return Relays(tuple(chance.sample(known, min(MAX_ROUTES, len(known)))))

    # Work

    async def working(self, connection: Connection, message: Working, _body: Body) -> Acks:
        node = connection.peer
        events: list[Event] = [self._progressed(node, each) for each in message.tasks]
        events += [AuditProgressed(node, each.batch, _place(each), each.seed) for each in message.audits]
        refusals = await self._context.runner.tell_all(events)
        self._count_futile(connection, sum(map(bool, refusals)))
        return Acks(tuple(Ack(not refusal, refusal) for refusal in refusals))

    def _count_futile(self, connection: Connection, count: int) -> None:
        """So much that a peer asked or told was about nothing of its own."""
        over = self._futile.over(connection.peer, count) if count else 0
        if over:
            connection.penalise(float(over), "it goes on about tasks and seats that are not its own")

    def _progressed(self, node: Address, message: TaskProgress) -> TaskProgressed:
        key, member = (message.job, message.task), self._context.members.get(node)
        if member is not None and 0 <= message.tokens_per_s < FASTEST:
            member.tokens_per_s = message.tokens_per_s
        if message.loss is None or not self._progress.allows(node):
            return TaskProgressed(node, key)
        text = f"step {message.step}, {message.tokens_per_s:.0f} tokens/s"
        return TaskProgressed(node, key, text, message.loss, message.step)

    async def task_failed(self, connection: Connection, message: TaskFailed, _body: Body) -> Ack:
        key, rows = (message.job, message.task), self._context.rows
        task = rows.tasks.get(key)
        work = None if task is None else rows.works.get((*key, task.attempt))
        if work is None or work.node != connection.peer:
            self._count_futile(connection, 1)
            return Ack()
        await self._context.runner.tell(TaskHandedBack(connection.peer, key, message.reason[:500]))
        return Ack()

    async def submit_commitments(self, connection: Connection, message: SubmitCommitments, _body: Body) -> Receipts:
        """Check everything that can be checked without executing, what is cheap first, then sign receipts. Safe to
        repeat: the same commitment gets the same receipt."""
        checked = await self._checked(connection, message.works, message.blocks)
        fresh = [each for each in checked if isinstance(each, WorkCommitted)]
        # What was committed before is waited for as well: its receipt leaves when it lasts.
        refusals = dict(zip(map(id, fresh), await self._context.runner.tell_all(fresh), strict=True))
        answers: list[Receipt | Refusal] = []
        for work, outcome in zip(message.works, checked, strict=True):
            if isinstance(outcome, Refusal):
                answers.append(outcome)
                continue
            if isinstance(outcome, WorkCommitted):
                refusal, deadline = refusals[id(outcome)], outcome.promised_until
            else:
                refusal, deadline = "", outcome
            answers.append(Refusal("refused", refusal) if refusal else self._receipt(work.commitment, deadline))
        return Receipts(tuple(answers))

    async def _checked(
        self, connection: Connection, works: Sequence[SubmitCommitment], blocks: Sequence[bytes]
    ) -> list[WorkCommitted | Refusal | int]:
        """Of each commitment the event, if it holds; until when it was promised a batch before; or why it is
        refused."""
        node = connection.peer
        await self._until_promisable(node, works)
        looked = [await self._looked_at(connection, message) for message in works]
        due = [message for message, found in zip(works, looked, strict=True) if isinstance(found, _Held)]
        signed = await asyncio.to_thread(self._looked_through, due, blocks, node)
        self._hold_against(connection, signed)
        held = [found for found in looked if isinstance(found, _Held)]
        events = iter(await asyncio.gather(*(self._event(node, *each) for each in zip(due, held, signed, strict=True))))
        return [next(events) if isinstance(found, _Held) else found for found in looked]

    async def _until_promisable(self, node: Address, works: Sequence[SubmitCommitment]) -> None:
        """Until a receipt can be promised for what a node hands in of its works, but not for long."""
        young = {
            each.commitment.job for each in works if self._is_young(each.commitment.job) and self._is_given(node, each)
        }
        if not young or node in self._held_back:
            return
        self._held_back.add(node)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HELD_BACK_S):
                    while any(map(self._is_young, young)):
                        await self._context.next_block()
        finally:
            self._held_back.discard(node)

    def _is_given(self, node: Address, message: SubmitCommitment) -> bool:
        try:
            return self._held(node, message.commitment).state == WorkState.GIVEN
        except NotYours:
            return False

    def _is_young(self, number: JobId) -> bool:
        """Whether a job may still turn out to be another verifier's."""
        job = self._context.rows.jobs.get(number)
        return job is not None and (
            not job.taken_block or self._context.clock()[1] < job.taken_block + self._context.settings.receipt_blocks
        )

    def _looked_through(
        self, works: Sequence[SubmitCommitment], blocks: Sequence[bytes], node: Address
    ) -> list[Digest | ProofyardError]:
        """What `_signed_leaf` says of each, with what came with them in the store."""
        if works and blocks:
            self._keep(works, blocks)
        return [self._signed_leaf(message, node) for message in works]

    def _keep(self, works: Sequence[SubmitCommitment], blocks: Sequence[bytes]) -> None:
        """Have in the store what came with commitments, as far as these name it."""
        named = {cid_digest(cid): cid for work in works for cid in (work.commitment.result, *work.trace)}
        found = [(cid, data) for data in blocks if (cid := named.get(Digest(sha256(data).digest())))]
        try:
            self._context.store.put_blocks((cid, data) for cid, data in found if cid_codec(cid) == RAW)
        except ArtifactError as error:
            logger.warning("what came with commitments is not kept, and asked for later: %s", error)

    def _hold_against(self, connection: Connection, checked: Sequence[object]) -> None:
        """Signatures that were looked at, some of them in vain."""
        forged = sum(isinstance(each, SignatureInvalid) for each in checked)
        if forged:
            connection.penalise(FORGED_POINTS * forged, "it signs with a key that is not its own")

    async def _looked_at(self, connection: Connection, message: SubmitCommitment) -> "_Held | Refusal | int":
        """What needs neither signature nor bytes."""
        node, context = connection.peer, self._context
        try:
            work = self._held(node, message.commitment)
            if work.state != WorkState.GIVEN:
                return work.promised_until
            if self._is_young(work.job):
                # Its lease is not to end because of that.
                context.runner.post(TaskProgressed(node, (work.job, work.task)))
                raise RequestFailed("busy", f"job {work.job} is being taken; try again in a moment")
            self._check_form(node, message)
            self._signed.take(node)
            return _Held(work, await self._deadline(message.commitment.job))
        except ProofyardError as error:
            if isinstance(error, NotYours):
                self._count_futile(connection, 1)
            return _refusal(error)

    async def _event(
        self, node: Address, message: SubmitCommitment, held: "_Held", leaf: Digest | ProofyardError
    ) -> WorkCommitted | Refusal:
        commitment = message.commitment
        try:
            if isinstance(leaf, ProofyardError):
                raise leaf
            _check_first(message, await self._first_state(held.work))
            await self._check_result(node, message)
        except ProofyardError as error:
            return _refusal(error)
        if message.certificate is not None:
            message = self._with_certificate(message)
        if message.decoy is not None:
            message = await asyncio.to_thread(self._with_decoy, message, ordered=held.work.decoy)
        return WorkCommitted(
            node,
            (commitment.job, commitment.task),
            held.work.inputs,
            encode(message),
            leaf,
            commitment.result,
            held.deadline,
            make_cid(commitment.manifest),
            decoy=message.decoy is not None,
        )

    async def _check_result(self, node: Address, message: SubmitCommitment) -> None:
        """Look at a result on which others may start before there is a verdict: one that does not follow from the
        task's last state, or is larger than any, would be given to all of them. Raises `SubmissionRefused`, and
        `RequestFailed` where the node does not deliver it now."""
        context, commitment = self._context, message.commitment
        job = context.rows.jobs[commitment.job]
        if not job.look_ahead:
            return
        manifest, graph = await context.job_of(job.manifest)
        if commitment.task not in self._rested_on(job.manifest, graph):
            return
        workload, spec, last = context.workload(manifest), graph[commitment.task], message.trace[-1]
        named = {commitment.result: "the result", last: "the last state"}
        try:
            sizes = await owed_all(context, node, named, patience_s=RESULT_S)
            for what, size in zip(named.values(), sizes, strict=True):
                require_size(workload, manifest, spec, size, what)
            async with room(context, *sizes):
                await asyncio.to_thread(self._follows, workload, manifest, spec, message)
        except StateRefused as error:
            raise SubmissionRefused(f"task {commitment.task}: {error}") from None
        except NotDelivered as error:
            raise RequestFailed("deadline", str(error)) from None

    def _follows(self, workload: Workload, manifest: Manifest, spec: TaskSpec, message: SubmitCommitment) -> None:
        read, trace = self._context.store.get_bytes, message.trace
        result, last = (read(cid, max_bytes=MAX_STATE_BYTES) for cid in (message.commitment.result, trace[-1]))
        workload.check_result(manifest, spec, result, last, trace)

    def _rested_on(self, manifest: Cid, graph: Sequence[TaskSpec]) -> frozenset[TaskIndex]:
        """The tasks whose results others start from."""
        if manifest not in self._needed:
            self._needed[manifest] = frozenset(dep for spec in graph for dep in spec.deps)
            while len(self._needed) > KEPT:
                self._needed.popitem(last=False)
        return self._needed[manifest]

    def _receipt(self, commitment: Commitment, deadline: int) -> Receipt:
        leaf = commitment.struct_hash()
        digest = self._context.domain.typed_digest(receipt_struct_hash(leaf, commitment.job, deadline))
        return Receipt(leaf, commitment.job, deadline, self._context.wallet.sign_digest(digest))

    def _held(self, node: Address, commitment: Commitment) -> Work:
        """The node's work that a commitment is to: the one that was committed to already, or the one it holds now."""
        rows, key = self._context.rows, (commitment.job, commitment.task)
        task = rows.tasks.get(key)
        if task is None:
            raise NotYours(f"job {commitment.job} has no task {commitment.task}")
        leaf = commitment.struct_hash()
        for attempt in range(task.attempt, 0, -1):
            work = rows.works.get((*key, attempt))
            if work is not None and work.node == node and work.leaf == leaf and work.state != WorkState.LOST:
                return work
        work = rows.works.get((*key, task.attempt))
        if work is None or work.node != node or (task.state, work.state) != (TaskState.GIVEN, WorkState.GIVEN):
            raise NotYours(f"task {commitment.task} of job {commitment.job} is not yours")
        return work

    def _check_form(self, node: Address, message: SubmitCommitment) -> None:
        """What needs no signature, no execution and no chain. Raises `SubmissionRefused`."""
        commitment, trace = message.commitment, message.trace
        rows = self._context.rows
        spec = decode(rows.tasks[commitment.job, commitment.task].spec, TaskSpec)
        expected: dict[str, tuple[object, object]] = {
            "node": (commitment.node, node),
            "manifest": (commitment.manifest, cid_digest(rows.jobs[commitment.job].manifest)),
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

    def _signed_leaf(self, message: SubmitCommitment, node: Address) -> Digest | ProofyardError:
        """The leaf of a commitment that its node signed, or what is wrong with it."""
        leaf = message.commitment.struct_hash()
        try:
            digest = self._context.domain.typed_digest(leaf)
            require_signer(digest, message.signature, node, "the commitment's sender")
        except ProofyardError as error:
            return error
        return leaf

    def _with_decoy(self, message: SubmitCommitment, *, ordered: bool) -> SubmitCommitment:
        """A submission with its decoy if that is one that was ordered; it need not have any."""
        problem = objection_to_decoy(message, self._context.domain) if ordered else "nobody has ordered it"
        if problem and message.decoy is not None:
            name = f"task {message.commitment.task} of job {message.commitment.job}"
            logger.info("the decoy of %s is left out: %s", name, problem)
        return msgspec.structs.replace(message, decoy=None) if problem else message

    def _with_certificate(self, message: SubmitCommitment) -> SubmitCommitment:
        """A submission with its certificate where that is to say what a round took, and has the task in it. Whether
        voters have signed it everybody looks who counts it."""
        context, commitment = self._context, message.commitment
        manifest = context.manifest(context.rows.jobs[commitment.job].manifest)
        rounds = rounds_of(context.workload(manifest), manifest)
        assert message.certificate is not None
        voted = rounds is not None and bool(rounds.closing.voters)
        fits = voted and Delta(commitment.task, commitment.result) in message.certificate.deltas
        return message if fits else msgspec.structs.replace(message, certificate=None)

    async def _deadline(self, number: JobId) -> int:
        """Until when a receipt that is signed now may promise a batch: within the Registry's time for receipts, and
        never later than a batch of the job can be committed. Raises `SubmissionRefused` where that is too soon."""
        receipt_time = (await self._context.params()).receipt_time
        job = self._context.rows.jobs[number]
        end = float((min(job.closed_at, job.deadline) if job.closed_at else job.deadline) + receipt_time)
        at = self._context.chain_time()
        deadline = int(min(at + receipt_time, end)) - 1
        if deadline < at + min(MIN_PROMISE_S, receipt_time / 4):
            raise SubmissionRefused(f"job {number} takes no more work: it ends in {max(0, int(end - at))} s")
        return deadline

    async def _first_state(self, work: Work) -> tuple[Cid, Digest]:
        """What the first state and the root of the inputs must be: pure functions of manifest and inputs."""
        context = self._context
        cid = context.rows.jobs[work.job].manifest
        spec = decode(context.rows.tasks[work.job, work.task].spec, TaskSpec)
        manifest, inputs = context.manifest(cid), root([cid_bytes(cid), *map(cid_bytes, work.inputs)])
        workload = context.workload(manifest)
        begins_with = manifest.adapter if begins(workload, manifest, spec) else None
        if not (work.inputs or begins_with) and workload.max_bytes(manifest, spec) <= SMALL_BYTES:
            return await context.hops.run(partial(self._make_first, manifest, spec, ())), inputs
        key = cid, work.task, work.inputs
        # One at a time: a manifest of a kilobyte may ask for a state of gigabytes, and every node may ask at once.
        async with self._making:
            if key not in self._first_states:
                given = work.inputs if begins_with is None else (begins_with,)
                for result in given:
                    await context.have(result, None, max_bytes=MAX_STATE_BYTES)
                named: tuple[Cid, ...] = ()
                if carries(workload, manifest):
                    named = await asyncio.to_thread(self._carried, manifest, spec, work.inputs)
                for artifact in named:
                    await context.have(artifact, None, max_bytes=MAX_STATE_BYTES)
                needed = (*given, *named)
                sizes = [await asyncio.to_thread(context.store.size, result) for result in needed]
                async with room(context, *sizes):
                    make = partial(self._make_first, manifest, spec, work.inputs, named, begins_with)
                    self._first_states[key] = await asyncio.to_thread(make)
                while len(self._first_states) > FIRST_STATES:
                    self._first_states.popitem(last=False)
            return self._first_states[key], inputs

    def _make_first(
        self,
        manifest: Manifest,
        spec: TaskSpec,
        inputs: tuple[Cid, ...],
        named: tuple[Cid, ...] = (),
        begins_with: Cid | None = None,
    ) -> Cid:
        """`named`: the artifacts that the inputs name, and that the first state is made from as well; `begins_with`:
        the manifest's adapter, where it is."""
        start = self._contents((begins_with,))[0] if begins_with else None
        given = self._contents(inputs), self._contents(named), start
        return cid_of_bytes(first_state(self._context.workload(manifest), manifest, spec, *given))

    def _carried(self, manifest: Manifest, spec: TaskSpec, inputs: tuple[Cid, ...]) -> tuple[Cid, ...]:
        return carried_by(self._context.workload(manifest), manifest, spec, self._contents(inputs))

    def _contents(self, cids: tuple[Cid, ...]) -> tuple[bytes, ...]:
        return tuple(self._context.store.get_bytes(cid, max_bytes=MAX_STATE_BYTES) for cid in cids)

    # Audits

    async def submit_seals(self, connection: Connection, message: SubmitSeals, _body: Body) -> Acks:
        """Sealed answers; a signature is checked only for a seat that waits for it. Raises `RequestFailed` for more
        than a peer may ask for at a time, of which none is looked at."""
        asked = [(seal, self._seat_state(connection.peer, seal)) for seal in message.seals]
        for _, state in asked:
            if state in (SeatState.WORKING, SeatState.AWAY):
                self._signed.take(connection.peer)
        self._count_futile(connection, sum(state is None for _, state in asked))
        found = await asyncio.to_thread(
            lambda: [self._checked_seal(connection.peer, seal, state) for seal, state in asked]
        )
        self._hold_against(connection, found)
        checked = [Ack(False, str(each)[:500]) if isinstance(each, ProofyardError) else each for each in found]
        events = [each for each in checked if isinstance(each, AuditSealed)]
        # What was sealed before is waited for as well: who is told that its seal is here stops asking.
        refusals = iter(await self._context.runner.tell_all(events))
        return Acks(tuple(Ack(not (why := next(refusals)), why) if isinstance(e, AuditSealed) else e for e in checked))

    def _checked_seal(
        self, node: Address, seal: SubmitSeal, state: SeatState | None
    ) -> AuditSealed | Ack | ProofyardError:
        """The event of a seal that is its auditor's, the answer, or what is wrong with its signature."""
        if state is None:
            return Ack(False, "the seat is no longer yours")
        if state not in (SeatState.WORKING, SeatState.AWAY):
            return Ack()
        place = (seal.batch, seal.job, seal.task, seal.segment)
        digest = self._context.domain.typed_digest(seal_struct_hash(*place, seal.seed, node, seal.seal))
        try:
            require_signer(digest, seal.signature, node, "the seal's sender")
        except ProofyardError as error:
            return error
        return AuditSealed(node, seal.batch, _place(seal), seal.seed, seal.seal, seal.signature)

    def _seat_state(self, auditor: Address, seal: SubmitSeal | AuditFailed) -> SeatState | None:
        batch = self._context.rows.by_chain_id.get(seal.batch)
        if batch is None:
            return None
        seat = self._context.rows.seats.get((batch.id, _place(seal)), {}).get(auditor)
        return None if seat is None else SeatState(seat.state)

    async def audit_failed(self, connection: Connection, message: AuditFailed, _body: Body) -> Ack:
        if self._seat_state(connection.peer, message) is None:
            self._count_futile(connection, 1)
            return Ack()
        logger.warning("%s gives up a seat: %s", connection.peer, message.reason[:500])
        event = AuditGivenUp(connection.peer, message.batch, _place(message), message.seed, message.reason[:500])
        await self._context.runner.tell(event)
        return Ack()

    # Requesters

    async def job_query(self, connection: Connection, message: JobQuery, _body: Body) -> JobReport:
        self._asking.take(connection.peer)
        job = self._context.rows.jobs.get(message.job)
        if job is not None and job.requester == connection.peer and job.state not in OVER:
            connection.vouch()
        return await asyncio.to_thread(report, self._context, message.job, message.since)


def _runs_elsewhere(known: Member, connection: Connection, message: Announce) -> bool:
    """Whether the wallet that announces itself is at work on other files; one that fell silent is not."""
    same = known.connection is connection or known.announce.session == message.session
    return not same and not known.connection.closed.is_set() and known.connection.silent_s < SESSION_S


def _refusal(error: ProofyardError) -> Refusal:
    kind = SubmissionRefused if isinstance(error, NotYours) else type(error)
    return Refusal(error.code if isinstance(error, RequestFailed) else kind.__name__, str(error)[:500])


def _place(message: SubmitSeal | AuditProgress | AuditFailed) -> Place:
    return message.job, message.task, message.segment


def _check_first(message: SubmitCommitment, first_state: tuple[Cid, Digest]) -> None:
    """The parts of a commitment that follow from manifest and inputs."""
    name = f"task {message.commitment.task}"
    if message.trace[0] != first_state[0]:
        raise SubmissionRefused(f"{name}: the first state is {message.trace[0]}, expected {first_state[0]}")
    if message.commitment.inputs != first_state[1]:
        raise SubmissionRefused(f"{name}: the root of its inputs is not that of the results it was given")


def report(context: Context, number: JobId, since: int) -> JobReport:
    """How a job is doing, with at most `LOG_PAGE` log lines after `since`."""
    table = TABLES[Log]
    query = select(table).where(table.c.job == number, table.c.seq > since).order_by(table.c.seq).limit(LOG_PAGE)
    with context.database.engine.connect() as connection:
        lines = connection.execute(query).mappings().all()
    job = context.rows.jobs.get(number) or next(iter(context.database.rows(Job, TABLES[Job].c.id == number)), None)
    if not isinstance(job, Job):
        return JobReport(number, JobState.WAITING, 0, 0, 0, None, "not seen on chain yet", ())
    tasks = list(context.rows.tasks_of.get(number, ()))
    return JobReport(
        job=number,
        state=job.state,
        tasks=job.tasks,
        tasks_valid=_valid(context, job, tasks),
        batches_settled=_settled(context, job),
        result=job.result,
        reason=job.reason,
        log=tuple(
            LogLine(
                seq=line["seq"],
                at=line["at"],
                kind=line["kind"],
                text=line["text"],
                task=None if line["task"] < 0 else TaskIndex(line["task"]),
                node=Address(line["node"]) if line["node"] else None,
                loss=line["loss"],
                step=line["step"],
            )
            for line in lines
        ),
    )


def _settled(context: Context, job: Job) -> int:
    """How many batches of a job are settled; what is final has left the memory."""
    states = (BatchState.SETTLED, BatchState.FINAL)
    known = sum(batch.state in states for batch in list(context.rows.batches_of.get(job.id, ())))
    batches, works = TABLES[Batch], TABLES[Work]
    own = select(works.c.batch).where(works.c.job == job.id)
    query = select(func.count()).where(batches.c.id.in_(own), batches.c.state.in_([state.value for state in states]))
    with context.database.engine.connect() as connection:
        return max(known, connection.execute(query).scalar_one())


def _valid(context: Context, job: Job, tasks: Sequence[Task]) -> int:
    """How many tasks are accepted; of a job that is done and has left the memory, too."""
    if job.state != JobState.DONE:
        return sum(task.state == TaskState.ACCEPTED for task in tasks)
    if not job.workers:
        return job.tasks
    table = TABLES[Task]
    query = select(func.count()).where(table.c.job == job.id, table.c.state == TaskState.ACCEPTED.value)
    with context.database.engine.connect() as connection:
        return connection.execute(query).scalar_one()
