"""The batch record: everything a settlement rests on, as one artifact whose CID is in the settlement's event.

It holds evidence, what was signed and sealed, and what follows from it. With the chain's facts (`view.BatchView`) and
the artifacts that it names, `validate.validate_record` shows anyone whether all of it follows.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.audit import SegmentKey, Verdict
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import CidText, Key, decode, encode
from proofyard.protocol.mark import UNOPENED, Opened, opens
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.seal import Bytes32, Opening, Reason, Salt
from proofyard.protocol.settlement import RESULT, Cause, FaultReason, OperatorId, Payout
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei

MAX_RECORD_BYTES = 256 << 20
MAX_BATCHES, MAX_TASKS, MAX_AUDITS = 1 << 16, 1 << 18, 1 << 18
"""Of the batches, tasks and segments that a record can name: far more than fit into one that anybody would make."""
RECORD_VERSION = 6

CommittedTask = Member
"""A commitment in a record is what the member list says, signature and trace included."""


class RecordedJob(msgspec.Struct, frozen=True):
    """A job of the batch, in the order of its lines."""

    job: JobId
    manifest: CidText


class AuditVote(msgspec.Struct, frozen=True):
    """One auditor's sealed and opened answer, under the hot key that the plan drew; see `proofyard.protocol.seal`."""

    auditor: Address
    seal: Bytes32
    signature: Signature
    after: Bytes32
    keyed: Bytes32
    reason: Reason
    salt: Salt

    def opening(self) -> Opening:
        return Opening(self.after, self.keyed, self.reason, self.salt)


class AuditedSegment(msgspec.Struct, frozen=True):
    """A segment of the plan. `votes` and `absent` together are the first auditors of the plan's list, each in its
    order: whoever was asked and is not among the votes is named as absent, so that signers can ask it. `copied` are
    those among the voters whose keyed digest is not that of the state, which only whoever has its bytes can tell; they
    have no say.

    A fault without votes is one of the state before the segment: not delivered, or against a law of its workload; then
    `reason` says what, for people. `alike`, for workloads that are not exact: answers, each with the answer that it
    agrees with and is counted as."""

    job: JobId
    task: TaskIndex
    segment: SegmentIndex
    votes: tuple[AuditVote, ...]
    absent: tuple[Key, ...]
    verdict: Verdict
    reason: Reason = ""
    copied: tuple[Key, ...] = ()
    alike: tuple[tuple[Bytes32, Bytes32], ...] = ()

    @property
    def key(self) -> SegmentKey:
        return self.job, self.task, self.segment

    @property
    def task_key(self) -> TaskKey:
        return self.job, self.task

    def answers(self) -> dict[Address, Digest]:
        """What the answer of each auditor that has a say counts as."""
        counted = dict(self.alike)
        return {v.auditor: counted.get(v.after, v.after) for v in self.votes if v.auditor not in self.copied}


class RecordedFault(msgspec.Struct, frozen=True):
    """`node` is the hot key of the task's worker or, for `FALSE_AUDIT`, of an auditor of `segment`. A worker's fault
    has the first segment whose verdict is a fault, or None: then it lies in the result."""

    job: JobId
    task: TaskIndex
    node: Address
    kind: FaultReason
    reason: Reason
    segment: SegmentIndex | None = None

    @property
    def task_key(self) -> TaskKey:
        return self.job, self.task

    @property
    def place(self) -> tuple[JobId, TaskIndex, SegmentIndex, FaultReason, Address]:
        """By which the faults of a record are sorted."""
        segment = RESULT if self.segment is None else self.segment
        return self.job, self.task, segment, self.kind, self.node


class RecordedPayout(msgspec.Struct, frozen=True):
    """What an operator earned in the batch, split by what for; amounts are decimal strings of base units. `work` is for
    accepted tasks, and what stale ones are paid from the audit fee (`earnings`). `node` is its hot key at the draw.
    `valid` is what its reputation grows by, `segments` its share of the slash pool (`earnings`)."""

    operator: OperatorId
    node: Address
    owner: Address
    work: str
    audits: str
    valid: int
    segments: int

    @property
    def amount(self) -> Wei:
        return Wei(int(self.work) + int(self.audits))


class RecordedRedress(msgspec.Struct, frozen=True):
    """What a stale task is paid out of what a fault took: number `fault` of the settlement of `attempt` at `batch`.
    `amount` is its price, `prices` that of all work that may rest on the faulty tasks (`redress.redress_of`)."""

    job: JobId
    task: TaskIndex
    operator: OperatorId
    node: Address
    owner: Address
    batch: BatchId
    attempt: int
    fault: int
    amount: str
    prices: str

    @property
    def task_key(self) -> TaskKey:
        return self.job, self.task

    @property
    def cause(self) -> Cause:
        return Cause(self.batch, self.attempt, self.fault)


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """`tasks` are the batch's member list, `salts` what opens their marks, in the same order; `UNOPENED` where a worker
    gives it to nobody. `repeated` are those of them that an earlier batch holds or has paid, which
    are not paid here. `counted`: the member lists of every batch that was open at the draw, or holds tasks of these
    jobs (`view.open_batches`, `view.claimed_before`), this one's among them; `uncounted`: those whose list nobody could
    deliver, which each signer tries itself. `over`: what has become of batches of `view.claimed_before` since then, the
    record of a settlement, or None for one that was dropped; signers let a leader overlook settlements that are younger
    than `settleTime`. `audits` are in the order of the plan, `faults` of
    `RecordedFault.place`. `stale` are those of `tasks` that were not computed from the accepted results of what they
    rest on (`validate.stale_tasks`), `redress` what faults that made them worthless pay for these. `payouts` are in
    the order of operators."""

    version: int = RECORD_VERSION
    chain_id: int
    registry: Address
    batch: BatchId
    attempt: int
    leader: OperatorId
    jobs: tuple[RecordedJob, ...]
    tasks: tuple[CommittedTask, ...]
    salts: tuple[Opened, ...]
    counted: tuple[tuple[BatchId, CidText], ...]
    uncounted: Annotated[tuple[BatchId, ...], Meta(max_length=MAX_BATCHES)]
    over: Annotated[tuple[tuple[BatchId, CidText | None], ...], Meta(max_length=MAX_BATCHES)]
    repeated: Annotated[tuple[TaskKey, ...], Meta(max_length=MAX_TASKS)]
    audits: Annotated[tuple[AuditedSegment, ...], Meta(max_length=MAX_AUDITS)]
    faults: Annotated[tuple[RecordedFault, ...], Meta(max_length=MAX_AUDITS)]
    stale: Annotated[tuple[TaskKey, ...], Meta(max_length=MAX_TASKS)]
    redress: Annotated[tuple[RecordedRedress, ...], Meta(max_length=MAX_TASKS)]
    payouts: Annotated[tuple[RecordedPayout, ...], Meta(max_length=MAX_AUDITS)]

    @cached_property
    def by_key(self) -> dict[TaskKey, CommittedTask]:
        return {task.key: task for task in self.tasks}

    def salt_of(self, key: TaskKey) -> bytes:
        """What opens a task's mark; `UNOPENED` where the record does not. Raises `KeyError`."""
        return self._salts_by_key[key]

    @cached_property
    def _salts_by_key(self) -> dict[TaskKey, bytes]:
        return {task.key: salt for task, salt in zip(self.tasks, self.salts, strict=False)}

    @cached_property
    def decoys(self) -> frozenset[TaskKey]:
        """The tasks whose commitment here is false on purpose, as its worker has sealed."""
        marked = zip(self.tasks, self.salts, strict=False)
        return frozenset(task.key for task, salt in marked if opens(task.commitment.mark, salt, decoy=True))

    @cached_property
    def unopened(self) -> frozenset[TaskKey]:
        """The tasks of which nobody can tell whether they are decoys."""
        return frozenset(task.key for task, salt in zip(self.tasks, self.salts, strict=False) if salt == UNOPENED)


def encode_record(record: BatchRecord) -> bytes:
    return encode(record)


def decode_record(data: bytes | memoryview) -> BatchRecord:
    return decode(data, BatchRecord, max_bytes=MAX_RECORD_BYTES)


def claimed_answer(tasks: Mapping[TaskKey, CommittedTask], audit: AuditedSegment) -> Digest:
    """The digest of the state that the worker committed to after an audited segment."""
    return cid_digest(tasks[audit.task_key].trace[audit.segment + 1])


def payouts_of(record: BatchRecord) -> tuple[Payout, ...]:
    """A record's payouts as the chain sees them: what the batch pays, then what faults pay."""
    return (
        *(Payout(paid.operator, paid.amount, paid.valid, paid.segments) for paid in record.payouts),
        *(
            Payout(paid.operator, Wei(int(paid.amount)), cause=paid.cause, prices=Wei(int(paid.prices)))
            for paid in record.redress
        ),
    )


def faulty_audit(record: BatchRecord, key: TaskKey) -> AuditedSegment | None:
    """The first of a task's audited segments that was found faulty; None where its result was, or nothing."""
    return next((a for a in record.audits if a.task_key == key and a.verdict == Verdict.FAULT), None)
