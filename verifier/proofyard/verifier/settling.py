"""Settling a judged batch: who earned what, the record of it all, the verifiers' signature, the transaction."""

import contextlib
import logging

import msgspec
from sqlmodel import Session, select

from proofyard.chain.refusals import AlreadySettled
from proofyard.protocol.codec import decode
from proofyard.protocol.earnings import earnings
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    CommittedTask,
    RecordedFault,
    encode_record,
    settlement_of,
)
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.verifier import database
from proofyard.verifier.auditing import seats_of
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Batch, BatchState, Job, SeatState, Segment, log, tasks_of
from proofyard.verifier.membership import members_of, odds_of, operators_of
from proofyard.verifier.quorum import collect

logger = logging.getLogger(__name__)

BLOCK_POLL_S = 0.3


async def settle(context: Context, batch: Batch) -> None:
    """Sign the batch's record and post it. Posting is skipped where the chain already has it settled."""
    with context.database.session() as session:
        record = build_record(session, context, batch)
    cid = context.store.put_bytes(encode_record(record))
    while await context.on_chain(context.chain.block_number) <= record.draw_block:
        await context.wait(BLOCK_POLL_S)
    signers, signature = await collect(context, record, cid)
    settlement = settlement_of(record, cid)
    with contextlib.suppress(AlreadySettled):
        await context.on_chain(lambda: context.chain.settle_batch(record.batch, settlement, signers, signature))
    with context.database.session() as session:
        batch = session.merge(batch)
        batch.state, batch.record, batch.settled_at = BatchState.SETTLED, cid, now()
        batch.audits_paid = str(sum(int(payout.audits) for payout in record.payouts))
        paid = sum(payout.amount for payout in record.payouts)
        log(
            session, batch.job, "settled", f"batch {record.batch}: {paid / 1e18:.4f} to {len(record.payouts)} operators"
        )
        for fault in {fault.node: fault for fault in reversed(record.faults)}.values():
            kind, cost = ("unpaid", "no pay") if fault.kind == FaultReason.DISAGREED else ("slashed", "stake frozen")
            log(session, batch.job, kind, f"{cost}: {fault.reason}", task=fault.task, node=fault.node)


def build_record(session: Session, context: Context, batch: Batch) -> BatchRecord:
    """Everything the settlement rests on, from the database; the same record however often it is built."""
    job = session.get(Job, batch.job)
    assert job is not None
    operators = {operator.node: operator for operator in operators_of(batch)}
    members = members_of(batch)
    specs = [decode(task.spec, TaskSpec) for task in tasks_of(session, job.id)]
    paid = session.exec(select(Batch.audits_paid).where(Batch.job == job.id, Batch.id != batch.id)).all()
    faults = session.exec(select(database.Fault).where(database.Fault.batch == batch.id)).all()
    record = BatchRecord(
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
            CommittedTask(m.commitment, m.signature, m.trace, odds.operator, odds.owner, odds.audit_wad, odds.drawn)
            for m, odds in zip(members, odds_of(batch), strict=True)
        ),
        audits=audits_of(session, batch),
        reward=job.reward,
        audit_fee=job.audit_fee,
        audits_paid_before=str(sum(int(amount) for amount in paid)),
        faults=tuple(
            RecordedFault(
                TaskIndex(f.task),
                Address(f.node),
                FaultReason(f.kind),
                f.reason,
                None if f.segment is None else SegmentIndex(f.segment),
            )
            for f in faults
        ),
        payouts=(),
    )
    return msgspec.structs.replace(record, payouts=earnings(record, specs))


def audits_of(session: Session, batch: Batch) -> tuple[AuditedSegment, ...]:
    """The batch's audited segments with their opened votes, as its record has them."""
    owners = {operator.node: operator.owner for operator in operators_of(batch)}
    rows = session.exec(select(Segment).where(Segment.batch == batch.id).order_by(Segment.task, Segment.index))  # type: ignore[arg-type]
    audits = []
    for row in rows:
        votes, alike = [], {}
        for seat in seats_of(session, row.batch, row.task, row.index):
            if seat.state != SeatState.OPENED:
                continue
            opening, auditor = decode(seat.opening or b"", SealOpened), Address(seat.auditor)
            seal, signature = Digest(seat.seal or b""), Signature(seat.signature or b"")
            votes.append(
                AuditVote(auditor, owners[auditor], seal, signature, opening.after, opening.reason, opening.salt)
            )
            if seat.answer != opening.after:
                alike[opening.after] = Digest(seat.answer or b"")
        place = TaskIndex(row.task), SegmentIndex(row.index)
        audits.append(AuditedSegment(*place, tuple(votes), row.verdict, row.reason, tuple(sorted(alike.items()))))
    return tuple(audits)
