"""Settling a judged batch: who earned what, the record of it all, the verifiers' signature, the transaction."""

import logging
from collections import Counter

from sqlmodel import Session, select

from proofyard.protocol import bls
from proofyard.protocol.audit import Verdict
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SealOpened, SubmitCommitment
from proofyard.protocol.payout import share_reward
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    CommittedTask,
    RecordedFault,
    RecordedOperator,
    RecordedPayout,
    encode_record,
)
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    BatchRef,
    Fault,
    FaultReason,
    Payout,
    Settlement,
    settlement_digest,
)
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.verifier import database
from proofyard.verifier.auditing import seats_of
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Batch, BatchState, Job, SeatState, Segment, log, tasks_of
from proofyard.verifier.membership import members_of, operators_of

logger = logging.getLogger(__name__)


async def settle(context: Context, batch: Batch) -> None:
    """Sign the batch's record and post it. Posting is skipped where the chain already has it settled."""
    with context.database.session() as session:
        record = build_record(session, context, batch)
    cid = context.store.put_bytes(encode_record(record))
    settlement = settlement_of(record, cid)
    ref = BatchRef(record.batch, record.root, record.seed)
    digest = settlement_digest(context.domain, ref, settlement)
    signature = bls.sign(context.wallet.bls_secret(), digest)
    await context.on_chain(
        lambda: context.chain.settle_batch(record.batch, settlement, [context.wallet.address], signature)
    )
    with context.database.session() as session:
        batch = session.merge(batch)
        batch.state, batch.record, batch.settled_at = BatchState.SETTLED, cid, now()
        batch.audits_paid = str(sum(int(payout.audits) for payout in record.payouts))
        paid = sum(payout.amount for payout in record.payouts)
        log(
            session, batch.job, "settled", f"batch {record.batch}: {paid / 1e18:.4f} to {len(record.payouts)} operators"
        )
        for fault in record.faults:
            log(session, batch.job, "slashed", f"stake frozen: {fault.reason}", task=fault.task, node=fault.node)


def build_record(session: Session, context: Context, batch: Batch) -> BatchRecord:
    """Everything the settlement rests on, from the database; the same record however often it is built."""
    job = session.get(Job, batch.job)
    assert job is not None
    operators = {operator.node: operator for operator in operators_of(batch)}
    members = members_of(batch)
    wads = [int(wad) for wad in decode(batch.audit_wads, list[str])]
    audits = _audits(session, batch, {node: operator.owner for node, operator in operators.items()})
    faults = session.exec(select(database.Fault).where(database.Fault.batch == batch.id)).all()
    return BatchRecord(
        chain_id=context.domain.chain_id,
        registry=context.domain.registry,
        batch=BatchId(batch.chain_id or 0),
        job=JobId(job.id),
        manifest=Cid(job.manifest),
        root=Digest(batch.root),
        verifier=context.wallet.address,
        seed=Digest(batch.seed or b""),
        draw_block=batch.draw_block,
        auditors_per_segment=job.auditors_per_segment,
        segments_per_audit=job.segments_per_audit,
        operators=tuple(operators.values()),
        tasks=tuple(
            CommittedTask(m.commitment, m.signature, m.trace, wad) for m, wad in zip(members, wads, strict=True)
        ),
        audits=audits,
        faults=tuple(RecordedFault(TaskIndex(f.task), Address(f.node), f.reason) for f in faults),
        payouts=_payouts(session, batch, job, operators, members, audits, {f.task for f in faults}),
    )


def _audits(session: Session, batch: Batch, owners: dict[Address, Address]) -> tuple[AuditedSegment, ...]:
    rows = session.exec(select(Segment).where(Segment.batch == batch.id).order_by(Segment.task, Segment.index))  # type: ignore[arg-type]
    audits = []
    for row in rows:
        votes = []
        for seat in seats_of(session, row.batch, row.task, row.index):
            if seat.state != SeatState.OPENED or seat.opening is None:
                continue
            opening = decode(seat.opening, SealOpened)
            auditor = Address(seat.auditor)
            votes.append(
                AuditVote(
                    auditor=auditor,
                    owner=owners[auditor],
                    seal=Digest(seat.seal or b""),
                    signature=Signature(seat.signature or b""),
                    sketch=opening.sketch,
                    after=opening.after,
                    salt=opening.salt,
                    distance=seat.distance or 0.0,
                    match=bool(seat.match),
                )
            )
        audits.append(
            AuditedSegment(TaskIndex(row.task), SegmentIndex(row.index), tuple(votes), row.verdict, row.reason)
        )
    return tuple(audits)


def _payouts(
    session: Session,
    batch: Batch,
    job: Job,
    operators: dict[Address, RecordedOperator],
    members: list[SubmitCommitment],
    audits: tuple[AuditedSegment, ...],
    faulty: set[int],
) -> tuple[RecordedPayout, ...]:
    """Work by units and weight, audits by the segment; an operator at fault anywhere in the batch gets nothing."""
    guilty = {m.commitment.node for m in members if m.commitment.task in faulty}
    paid_work = [m.commitment for m in members if m.commitment.node not in guilty]
    specs = [decode(task.spec, TaskSpec) for task in tasks_of(session, job.id)]
    units, total = sum(c.work_units for c in paid_work), sum(spec.work_units for spec in specs)
    work: Counter[Address] = Counter()
    if units:
        reward = Wei(int(job.reward) * units // total)
        shares = share_reward(reward, [(c.node, c.work_units, operators[c.node].consecutive_valid) for c in paid_work])
        for commitment, share in zip(paid_work, shares, strict=True):
            work[commitment.node] += share
    valid = Counter(c.node for c in paid_work if any(a.task == c.task and a.verdict == Verdict.VALID for a in audits))
    segments = Counter(
        vote.auditor
        for audit in audits
        for vote in audit.votes
        if audit.verdict == (Verdict.VALID if vote.match else Verdict.FAULT) and vote.auditor not in guilty
    )
    price = _price_per_segment(session, batch, job, specs, sum(segments.values()))
    return tuple(
        RecordedPayout(
            operator=operators[node].id,
            node=node,
            owner=operators[node].owner,
            work=str(work[node]),
            audits=str(segments[node] * price),
            valid=valid[node],
            segments=segments[node],
        )
        for node in sorted(set(work) | set(segments))
    )


def _price_per_segment(session: Session, batch: Batch, job: Job, specs: list[TaskSpec], segments: int) -> Wei:
    """The fee of one audited segment: the job's audit fee over all seats its plan can have; less only when
    audits of repeated tasks would exceed what is left of it."""
    seats = sum(min(spec.segments, job.segments_per_audit) for spec in specs) * job.auditors_per_segment
    paid = session.exec(select(Batch.audits_paid).where(Batch.job == job.id, Batch.id != batch.id)).all()
    left = int(job.audit_fee) - sum(int(amount) for amount in paid)
    return Wei(min(int(job.audit_fee) // seats, left // segments) if segments else 0)


def settlement_of(record: BatchRecord, cid: Cid) -> Settlement:
    """What goes on chain of a record: a pure function of it, so that anyone can compare."""
    ids = {operator.node: operator.id for operator in record.operators}
    faults = []
    for fault in record.faults:
        audit = next((a for a in record.audits if a.task == fault.task and a.verdict == Verdict.FAULT), None)
        silent = audit is not None and not audit.votes
        faults.append(
            Fault(
                ids[fault.node],
                fault.task,
                audit.segment if audit else SegmentIndex(0),
                FaultReason.WITHHELD if silent else FaultReason.MISMATCH,
            )
        )
    return Settlement(
        payouts=tuple(Payout(p.operator, p.amount, p.valid, p.segments) for p in record.payouts),
        faults=tuple(faults),
        audit_root=root([encode(audit) for audit in record.audits]) if record.audits else EMPTY_ROOT,
        record=cid,
    )
