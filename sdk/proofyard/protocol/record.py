"""The batch record: everything a settlement rests on, as one artifact whose CID is in the settlement's event.

With the chain and the artifacts, a record lets anyone recompute the plan, the verdicts and the payouts.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.merkle import root
from proofyard.protocol.seal import Bytes32, Opening, Reason, Salt
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    MAX_FAULTS,
    Fault,
    FaultReason,
    OperatorId,
    Payout,
    Settlement,
)
from proofyard.protocol.types import (
    Address,
    BatchId,
    Cid,
    Digest,
    JobId,
    SegmentIndex,
    Signature,
    TaskIndex,
    Wei,
)

MAX_RECORD_BYTES = 256 << 20
RECORD_VERSION = 2


class CommittedTask(msgspec.Struct, frozen=True):
    """A commitment with what it commits to. `operator` and `owner` are its worker's, also where it is no longer active.
    `audit_wad` is the probability (1e-18) that the draw was compared with, `drawn` how many segments it drew then."""

    commitment: Commitment
    signature: Signature
    trace: tuple[Cid, ...]
    operator: OperatorId
    owner: Address
    audit_wad: int
    drawn: int


class AuditVote(msgspec.Struct, frozen=True):
    """One auditor's sealed and opened answer; see `proofyard.protocol.seal.Opening`."""

    auditor: Address
    owner: Address
    seal: Bytes32
    signature: Signature
    after: Bytes32
    reason: Reason
    salt: Salt

    def opening(self) -> Opening:
        return Opening(self.after, self.reason, self.salt)


class AuditedSegment(msgspec.Struct, frozen=True):
    """`reason` says why a verdict stands without votes: the state before the segment was not delivered, or refused.

    `alike`, for workloads that are not exact: answers, each with the answer that it agrees with and is counted as."""

    task: TaskIndex
    segment: SegmentIndex
    votes: tuple[AuditVote, ...]
    verdict: str
    reason: str = ""
    alike: tuple[tuple[Bytes32, Bytes32], ...] = ()

    def answers(self) -> dict[Address, Digest]:
        """What each auditor's answer counts as, by owner."""
        counted = dict(self.alike)
        return {vote.owner: counted.get(vote.after, vote.after) for vote in self.votes}


class RecordedFault(msgspec.Struct, frozen=True):
    """`node` is the task's worker, or, where `segment` is given, an auditor whose answer to that segment was false."""

    task: TaskIndex
    node: Address
    kind: FaultReason
    reason: str
    segment: SegmentIndex | None = None


class RecordedPayout(msgspec.Struct, frozen=True):
    """What an operator earned in the batch, split by what for; amounts are decimal strings of base units.
    `valid` counts its audited tasks that were found right, `segments` those it audited."""

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


class RecordedOperator(msgspec.Struct, frozen=True):
    """An active node at the draw, as the Registry showed it: the plan and the shares are computed from these."""

    id: OperatorId
    node: Address
    owner: Address
    consecutive_valid: int


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`root` is the Merkle root of the commitments in `tasks`; `operators` the snapshot at `draw_block`. The job's
    `reward` and `audit_fee`, and what earlier batches paid of the latter, are decimal strings of base units."""

    version: int = RECORD_VERSION
    chain_id: int
    registry: Address
    batch: BatchId
    job: JobId
    manifest: Cid
    root: Digest
    verifier: Address
    seed: Digest
    draw_block: int
    auditors_per_segment: int
    segments_per_audit: int
    reward: str
    audit_fee: str
    audits_paid_before: str
    operators: tuple[RecordedOperator, ...]
    tasks: tuple[CommittedTask, ...]
    audits: tuple[AuditedSegment, ...]
    faults: tuple[RecordedFault, ...]
    payouts: tuple[RecordedPayout, ...]

    @property
    def traces(self) -> dict[TaskIndex, tuple[Cid, ...]]:
        return {task.commitment.task: task.trace for task in self.tasks}


def encode_record(record: BatchRecord) -> bytes:
    return encode(record)


def decode_record(data: bytes) -> BatchRecord:
    return decode(data, BatchRecord, max_bytes=MAX_RECORD_BYTES)


def claimed_answers(
    traces: Mapping[TaskIndex, Sequence[Cid]], audits: Iterable[AuditedSegment]
) -> dict[tuple[TaskIndex, SegmentIndex], Digest]:
    """The digests of the states that the workers committed to after the audited segments."""
    return {(a.task, a.segment): cid_digest(traces[a.task][a.segment + 1]) for a in audits}


def payouts_of(record: BatchRecord) -> tuple[Payout, ...]:
    """A record's payouts as the chain sees them."""
    return tuple(Payout(paid.operator, paid.amount, paid.valid, paid.segments) for paid in record.payouts)


def settlement_of(record: BatchRecord, cid: Cid) -> Settlement:
    """What goes on chain of the record `cid`: a pure function of it, so that anyone can compare.

    An operator's whole stake is at risk however many faults it has, so one fault, the first that costs stake, stands
    for all of them; `MAX_FAULTS` operators at most, the others go unpaid and keep their stake.
    """
    ids = {task.commitment.node: task.operator for task in record.tasks}
    ids |= {operator.node: operator.id for operator in record.operators}
    first: dict[Address, RecordedFault] = {}
    for fault in sorted(record.faults, key=lambda fault: fault.kind == FaultReason.DISAGREED):
        first.setdefault(fault.node, fault)
    return Settlement(
        payouts=payouts_of(record),
        faults=tuple(_on_chain(record, fault, ids[fault.node]) for fault in list(first.values())[:MAX_FAULTS]),
        audit_root=root([encode(audit) for audit in record.audits]) if record.audits else EMPTY_ROOT,
        record=cid,
    )


def faulty_audit(record: BatchRecord, task: TaskIndex) -> AuditedSegment | None:
    """The first of a task's audited segments that was found faulty; None where its result was, or nothing."""
    return next((a for a in record.audits if a.task == task and a.verdict == Verdict.FAULT), None)


def _on_chain(record: BatchRecord, fault: RecordedFault, operator: OperatorId) -> Fault:
    if fault.segment is not None:
        return Fault(operator, fault.task, fault.segment, fault.kind)
    audit = faulty_audit(record, fault.task)
    return Fault(operator, fault.task, audit.segment if audit else SegmentIndex(0), fault.kind)
