"""A batch with everything around it: owners and nodes, jobs, states that follow from one another, and auditors of every
kind; and the record that an honest leader makes of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, TypeVar

import msgspec
from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey

from proofyard.protocol import merkle
from proofyard.protocol.audit import SegmentAudit, Verdict, tally
from proofyard.protocol.cid import cid_bytes, cid_digest, raw_cid
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import false_audits
from proofyard.protocol.manifest import Manifest, TaskSpec, encode_manifest
from proofyard.protocol.mark import UNOPENED, mark_of
from proofyard.protocol.members import Member, TaskKey, encode_members, members_root
from proofyard.protocol.plan import plan_of
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    RecordedFault,
    RecordedJob,
    claimed_answer,
    faulty_audit,
)
from proofyard.protocol.redress import Earlier, Ruin, redress_of
from proofyard.protocol.seal import CANNOT_EXECUTE, Opening, keyed_digest, keyed_is_checked, seal_of, seal_struct_hash
from proofyard.protocol.settlement import Cause, FaultReason, Header, Line, OperatorId, draw_seed, header_hash
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.validate import inputs_root, repeated_tasks, stale_tasks, validate_record
from proofyard.protocol.view import BatchView, JobFacts, OpenBatch, OperatorFacts, Seat
from proofyard.protocol.workload_bits import workload_bit

TOKEN = 10**18
REWARD, AUDIT_FEE, VERIFIER_FEE = Wei(100 * TOKEN), Wei(10 * TOKEN), Wei(5 * TOKEN)
STAKE = Wei(10_000 * TOKEN)
REGISTRY = Address("0x00000000000000000000000000000000005EfE57")
DOMAIN = Domain(31337, REGISTRY)
BATCH = BatchId(10)
LEADER = OperatorId(1)
DRAWN_AT = 1_800_000_000
LATE = DRAWN_AT + 10_000
SEATS = 3


@cache
def key(name: str) -> PrivateKey:
    return PrivateKey(keccak(name.encode()))


def address(name: str) -> Address:
    return Address(key(name).public_key.to_checksum_address())


@cache
def sign(name: str, digest: Digest) -> Signature:
    raw = key(name).sign_msg_hash(digest).to_bytes()
    return Signature(raw[:64] + bytes((raw[64] + 27,)))


@dataclass(frozen=True)
class Job:
    """`segments` of each of its tasks; `units` are their work units, all alike if not given; `deps` what each rests on,
    nothing if not given."""

    id: JobId
    segments: tuple[int, ...]
    units: tuple[int, ...] = ()
    k: int = 2
    m: int = 1
    reward: Wei = REWARD
    audit_fee: Wei = AUDIT_FEE
    verifier_fee: Wei = VERIFIER_FEE
    exact: bool = True
    named: frozenset[str] | None = None
    """Owners, by name, from whom alone its auditors are drawn."""
    deps: tuple[tuple[int, ...], ...] = ()
    look_ahead: int = 2

    @cached_property
    def manifest(self) -> Manifest:
        workload = "lora" if self.exact else "third-party"
        return Manifest(workload=workload, params={"job": self.id}, look_ahead=self.look_ahead)

    @cached_property
    def cid(self) -> Cid:
        return raw_cid(encode_manifest(self.manifest))

    @cached_property
    def graph(self) -> tuple[TaskSpec, ...]:
        units = self.units or tuple(10 for _ in self.segments)
        deps = self.deps or ((),) * len(self.segments)
        return tuple(
            TaskSpec(index=TaskIndex(i), kind="t", segments=n, work_units=u, deps=tuple(map(TaskIndex, d)))
            for i, (n, u, d) in enumerate(zip(self.segments, units, deps, strict=True))
        )

    @property
    def facts(self) -> JobFacts:
        return JobFacts(
            manifest=cid_digest(self.cid),
            requester=address(f"requester-{self.id}"),
            reward=self.reward,
            audit_fee=self.audit_fee,
            verifier_fee=self.verifier_fee,
            units=sum(spec.work_units for spec in self.graph),
            auditors_per_segment=self.k,
            segments_per_audit=self.m,
            workload=workload_bit(self.manifest.workload),
            deadline=DRAWN_AT + 10**6,
        )


@dataclass(frozen=True)
class Node:
    name: str
    owner: str
    valid: int = 0
    stake: Wei = STAKE
    active: bool = True
    old_key: bool = False
    """It signed with a key that it has not any more."""


@dataclass(frozen=True)
class Work:
    """A task in the batch: who did it, and how it cheats: `fake` segments lead to a made-up state, `hollow` ones start
    from a state that nothing can be executed from; `withheld`: the states it does not deliver are all; `lawless`: they
    break a law; `bad_result`: its result does (True), or is withheld (False). It was given the results that `paid` has,
    or else those in the same batch; `given` names others, by task."""

    job: int
    task: int
    node: str
    fake: tuple[int, ...] = ()
    hollow: tuple[int, ...] = ()
    withheld: bool = False
    lawless: bool = False
    bad_result: bool | None = None
    given: tuple[tuple[int, Cid], ...] = ()
    decoy: bool = False
    """Its commitment is marked as false on purpose."""
    unopened: bool = False
    """Its worker gives nobody what opens its mark."""


def step(state: bytes) -> bytes | None:
    """What executing a segment makes of a state; None where it cannot be executed."""
    return None if state.startswith(b"hollow") else b"state" + hashlib.sha256(state).digest()


def states_of(work: Work, segments: int) -> list[bytes]:
    states = [f"first {work.job} {work.task}".encode()]
    for segment in range(segments):
        after = step(states[-1]) or b"after nothing"
        if segment in work.fake:
            after = b"fake" + after
        if segment + 1 in work.hollow:
            after = b"hollow" + after
        states.append(after)
    return states


@dataclass
class World:
    """`auditors` says of nodes by name what they answer: honest (the default), liar (a digest of its own), friend
    (always the worker's, without executing), mob (one wrong answer, all the same), cannot, absent."""

    jobs: list[Job]
    nodes: list[Node]
    work: list[Work]
    auditors: dict[str, str] = field(default_factory=dict)
    others: dict[int, list[Work]] = field(default_factory=dict)
    """Further open batches, those below `BATCH` claimed before it."""
    hidden: set[int] = field(default_factory=set)
    """Those of them whose member list nobody can deliver."""
    paid: dict[TaskKey, Cid] = field(default_factory=dict)
    ruins: tuple[Ruin, ...] = ()
    redressed: frozenset[tuple[Cause, TaskKey]] = frozenset()
    """What earlier records found faulty, and paid for it."""
    over: dict[int, Cid | None] = field(default_factory=dict)
    scarce: Wei | None = None
    """The budget of every line, if it is not the usual."""
    tag: int = 0
    """Makes another seed."""
    now: int | None = LATE
    attempt: int = 0

    # ------------------------------------------------------------------ facts

    @cached_property
    def by_job(self) -> dict[int, Job]:
        return {int(job.id): job for job in self.jobs}

    def keys_of(self, node: Node) -> str:
        return f"old {node.name}" if node.old_key else node.name

    @cached_property
    def node_names(self) -> dict[Address, str]:
        return {address(node.name): node.name for node in self.nodes}

    def salt_of(self, work: Work) -> bytes:
        return bytes(keccak(f"salt {work}".encode()))

    def member(self, work: Work) -> Member:
        job = self.by_job[work.job]
        spec = job.graph[work.task]
        trace = tuple(raw_cid(state) for state in states_of(work, spec.segments))
        signer = next(self.keys_of(node) for node in self.nodes if node.name == work.node)
        commitment = Commitment(
            job=job.id,
            task=TaskIndex(work.task),
            node=address(signer),
            manifest=cid_digest(job.cid),
            inputs=inputs_root(job.cid, self.given_to(work)),
            trace_root=merkle.root([cid_bytes(cid) for cid in trace]),
            segments=spec.segments,
            result=self.result_of(work),
            work_units=spec.work_units,
            mark=mark_of(self.salt_of(work), decoy=work.decoy),
        )
        return Member(commitment, sign(signer, DOMAIN.typed_digest(commitment.struct_hash())), trace)

    def result_of(self, work: Work) -> Cid:
        last = states_of(work, self.by_job[work.job].graph[work.task].segments)[-1]
        return raw_cid(b"result" + cid_bytes(raw_cid(last)))

    def given_to(self, work: Work) -> list[Cid]:
        """The results that a task was computed from."""
        here = {other.task: self.result_of(other) for other in self.work if other.job == work.job}
        settled = {task: cid for (job, task), cid in self.paid.items() if job == work.job}
        known = here | settled | dict(work.given)
        return [known.get(dep, raw_cid(b"nothing")) for dep in self.by_job[work.job].graph[work.task].deps]

    @cached_property
    def members(self) -> dict[BatchId, tuple[Member, ...]]:
        lists = {BATCH: self.work, **{BatchId(batch): works for batch, works in self.others.items()}}
        return {batch: tuple(map(self.member, lists[batch])) for batch in sorted(lists) if batch not in self.hidden}

    def header_of(self, batch: BatchId, *, fresh: bool = False) -> Header:
        works = self.work if batch == BATCH else self.others[batch]
        members = tuple(map(self.member, works))
        lines = []
        for job in sorted({work.job for work in works}):
            facts = self.by_job[job].facts
            units = sum(m.commitment.work_units for m in members if m.commitment.job == job)
            total = facts.reward + facts.audit_fee + facts.verifier_fee
            budget = self.scarce if self.scarce is not None else Wei(-(-total * units // facts.units))
            lines.append(Line(JobId(job), units, Wei(0) if fresh else budget))
        digest = cid_digest(raw_cid(encode_members(members)))
        return Header(members_root(members), len(members), digest, tuple(lines))

    @cached_property
    def view(self) -> BatchView:
        operators = tuple(
            OperatorFacts(OperatorId(100 + i), address(n.name), address(n.owner), n.valid, n.stake, n.active, n.active)
            for i, n in enumerate(self.nodes)
        )
        owners = {o.node: (o.id, o.owner) for o in operators}
        for i, node in enumerate(self.nodes):
            owners[address(f"old {node.name}")] = (OperatorId(100 + i), address(node.owner))
        header = self.header_of(BATCH)
        batches = sorted({BATCH, *map(BatchId, self.others)})
        open_batches = tuple(OpenBatch(batch, self.header_of(batch)) for batch in batches)
        ours = {line.job for line in header.lines}
        claimed = [b for b in open_batches if b.batch < BATCH and ours & {line.job for line in b.header.lines}]
        return BatchView(
            chain_id=31337,
            registry=REGISTRY,
            batch=BATCH,
            attempt=self.attempt,
            leader=LEADER,
            header=header,
            quorum=tuple(Seat(i, OperatorId(1 + i), address(f"verifier-owner-{i}")) for i in range(SEATS)),
            commit_block=500,
            draw_block=502,
            drawn_at=DRAWN_AT,
            seed=draw_seed(keccak(b"block %d" % self.tag), BATCH, header_hash(header)),
            jobs={job.id: job.facts for job in self.jobs},
            operators=operators,
            owners=owners,
            open_batches=open_batches,
            claimed_before=tuple(claimed),
            settled_before=(),
            collusion_bps=1000,
            slash_requester_bps=500,
            slash_auditor_bps=1000,
            slash_redress_bps=4000,
        )

    # ----------------------------------------------------------------- leader

    @cached_property
    def record(self) -> BatchRecord:
        """What an honest leader makes of it."""
        tasks, view = self.members[BATCH], self.view
        works = {(work.job, work.task): work for work in self.work}
        by_key = {task.key: task for task in tasks}
        audits = tuple(
            self._audit(planned, works[planned.job, planned.task], by_key[planned.job, planned.task])
            for planned in plan_of(view, self.members, self.named).audits
        )
        batches = sorted({b.batch for b in (*view.open_batches, *view.claimed_before)})
        record = BatchRecord(
            chain_id=view.chain_id,
            registry=view.registry,
            batch=view.batch,
            attempt=view.attempt,
            leader=view.leader,
            jobs=tuple(RecordedJob(line.job, self.by_job[line.job].cid) for line in view.header.lines),
            tasks=tasks,
            salts=tuple(UNOPENED if work.unopened else self.salt_of(work) for work in self.work),
            counted=tuple((b, raw_cid(encode_members(self.members[b]))) for b in batches if b in self.members),
            uncounted=tuple(b for b in batches if b not in self.members),
            over=tuple(sorted((BatchId(batch), cid) for batch, cid in self.over.items())),
            repeated=repeated_tasks(view, tasks, self.members, self.paid, set(map(BatchId, self.over))),
            audits=audits,
            faults=(),
            stale=(),
            redress=(),
            payouts=(),
        )
        record = changed(record, faults=self.faults_of(record))
        record = changed(record, stale=stale_tasks(view, record, self.graphs, self.paid))
        return self.paying(changed(record, redress=redress_of(view, record, self.manifests, self.graphs, self.earlier)))

    def paying(self, record: BatchRecord) -> BatchRecord:
        """The record with the payouts that follow from the rest of it."""
        return changed(record, payouts=earnings(self.view, record, self.named).payouts)

    def faults_of(self, record: BatchRecord) -> tuple[RecordedFault, ...]:
        works = {(work.job, work.task): work for work in self.work}
        faults = list(false_audits(self.view, record.by_key, record.audits, self.exact))
        for task in record.tasks:
            work, audit = works[task.key], faulty_audit(record, task.key)
            if (work.decoy and not work.unopened) or (audit is None and work.bad_result is None):
                continue
            if audit and work.unopened:
                faults.append(RecordedFault(*task.key, task.commitment.node, FaultReason.WITHHELD, "because"))
                continue
            withheld = work.withheld if audit else not work.bad_result
            wrong = FaultReason.MISMATCH if self.exact[task.key[0]] else FaultReason.DISAGREED
            kind = FaultReason.WITHHELD if withheld and not (audit and audit.votes) else wrong
            faults.append(
                RecordedFault(*task.key, task.commitment.node, kind, "because", audit.segment if audit else None)
            )
        return tuple(sorted(faults, key=lambda fault: fault.place))

    def _audit(self, planned: SegmentAudit, work: Work, task: Member) -> AuditedSegment:
        states = states_of(work, task.commitment.segments)
        if work.withheld or work.lawless:
            return AuditedSegment(*planned.key, (), (), Verdict.FAULT, "no state")
        votes: list[AuditVote] = []
        absent: list[Address] = []
        decoy = work.decoy and not work.unopened
        segment = AuditedSegment(*planned.key, (), (), Verdict.PENDING)
        for auditor in planned.auditors:
            if self.auditors.get(self.node_names[auditor]) == "absent":
                absent.append(auditor)
            else:
                votes.append(self.vote(planned, auditor, states))
            segment = self.judged(planned, task, tuple(votes), tuple(absent), exhausted=False, decoy=decoy)
            enough = len(votes) >= self.by_job[planned.job].k and len(absent) <= len(votes)
            if segment.verdict != Verdict.PENDING and enough:
                return segment
        return self.judged(planned, task, tuple(votes), tuple(absent), exhausted=True, decoy=decoy)

    def judged(
        self,
        planned: SegmentAudit,
        task: Member,
        votes: tuple[AuditVote, ...],
        absent: tuple[Address, ...],
        *,
        exhausted: bool,
        decoy: bool = False,
    ) -> AuditedSegment:
        segment = AuditedSegment(*planned.key, votes, absent, Verdict.PENDING)
        claimed = claimed_answer({task.key: task}, segment)
        leaf = task.commitment.struct_hash()
        if self.exact[planned.job] and keyed_is_checked(self.view.seed, leaf, planned.segment):
            copied = tuple(v.auditor for v in votes if v.after == claimed and v.reason == "copied")
            segment = changed(segment, copied=copied)
        k = self.by_job[planned.job].k
        verdict = tally(tuple(segment.answers().values()), claimed, k, exhausted=exhausted, decoy=decoy)
        return changed(segment, verdict=verdict)

    def vote(self, planned: SegmentAudit, auditor: Address, states: Sequence[bytes]) -> AuditVote:
        name = self.node_names[auditor]
        before, claimed = states[planned.segment], states[planned.segment + 1]
        after = step(before)
        match self.auditors.get(name, "honest"):
            case "liar":
                return self.seal(planned, name, b"lie of " + name.encode())
            case "mob":
                return self.seal(planned, name, b"what the mob says" + before)
            case "friend":
                return self.seal(planned, name, claimed, keyed=Digest(keccak(name.encode())), reason="copied")
            case "cannot":
                return self.seal(planned, name, None, before)
            case _:
                return self.seal(planned, name, after, before)

    def seal(
        self,
        planned: SegmentAudit | AuditedSegment,
        name: str,
        after: bytes | None,
        before: bytes = b"",
        *,
        keyed: Digest | None = None,
        reason: str = "",
    ) -> AuditVote:
        """A vote with its seal; `after` None says that it cannot be executed."""
        auditor = address(name)
        answer = CANNOT_EXECUTE if after is None else cid_digest(raw_cid(after))
        key_ = keyed or keyed_digest(self.view.seed, auditor, before if after is None else after)
        opening = Opening(answer, key_, reason, bytes(32))
        sealed = seal_of(opening, auditor)
        digest = DOMAIN.typed_digest(seal_struct_hash(BATCH, *planned.key, self.view.seed, auditor, sealed))
        return AuditVote(auditor, sealed, sign(name, digest), opening.after, opening.keyed, reason, opening.salt)

    # ------------------------------------------------------------------ check

    @property
    def earlier(self) -> Earlier:
        return Earlier(self.paid, self.ruins, self.redressed)

    @cached_property
    def manifests(self) -> dict[JobId, Manifest]:
        return {job.id: job.manifest for job in self.jobs}

    @cached_property
    def graphs(self) -> dict[JobId, tuple[TaskSpec, ...]]:
        return {job.id: job.graph for job in self.jobs}

    @cached_property
    def exact(self) -> dict[JobId, bool]:
        return {job.id: job.exact for job in self.jobs}

    @cached_property
    def named(self) -> dict[JobId, frozenset[Address]]:
        return {job.id: frozenset(map(address, job.named)) for job in self.jobs if job.named is not None}

    def check(
        self,
        record: BatchRecord | None = None,
        view: BatchView | None = None,
        now: int | None = -1,
        graphs: Mapping[JobId, Sequence[TaskSpec]] | None = None,
        named: Mapping[JobId, frozenset[Address]] | None = None,
    ) -> None:
        validate_record(
            view or self.view,
            record or self.record,
            self.manifests,
            graphs or self.graphs,
            self.members,
            earlier=self.earlier,
            exact=self.exact,
            now=self.now if now == -1 else now,
            named=self.named if named is None else named,
        )


Struct = TypeVar("Struct", bound=msgspec.Struct)


def changed(struct: Struct, **changes: Any) -> Struct:
    return msgspec.structs.replace(struct, **changes)


def with_audit(record: BatchRecord, place: int, **changes: Any) -> BatchRecord:
    audits = list(record.audits)
    audits[place] = changed(audits[place], **changes)
    return changed(record, audits=tuple(audits))


def network(owners: int, *, nodes: int = 1, **facts: Any) -> list[Node]:
    """`nodes` nodes of each of `owners` owners, named n0, n1, ... by turns of owners."""
    return [Node(f"n{i}", f"owner-{i % owners}", **facts) for i in range(owners * nodes)]


def simple(**changes: Any) -> World:
    """Two jobs of three tasks each in one batch, ten owners, all of them new: every task is audited."""
    jobs = [Job(JobId(1), (4, 4, 4)), Job(JobId(2), (2, 3, 1), k=3, m=2)]
    work = [Work(1 + i // 3, i % 3, f"n{i}") for i in range(6)]
    world = World(jobs, network(10), work)
    return replace(world, **changes)
