"""Settling a judged batch: the record of all its evidence, the same check of it that everybody runs, the verifiers'
signature, the transaction."""

import asyncio
import contextlib
import logging
from functools import partial

import msgspec
from sqlmodel import Session, select

from proofyard.chain.refusals import AlreadySettled
from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import make_cid
from proofyard.protocol.codec import decode
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import false_audits, withheld_by
from proofyard.protocol.mark import UNOPENED
from proofyard.protocol.members import TaskKey
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.record import (
    MAX_RECORD_BYTES,
    AuditedSegment,
    AuditVote,
    BatchRecord,
    RecordedFault,
    RecordedJob,
    decode_record,
    encode_record,
)
from proofyard.protocol.seal import plain_reason
from proofyard.protocol.settlement import FaultReason, settlement_digest
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex
from proofyard.protocol.validate import repeated_tasks
from proofyard.protocol.view import BatchView
from proofyard.verifier import database
from proofyard.verifier.auditing import seats_of
from proofyard.verifier.context import Context, now
from proofyard.verifier.database import Batch, BatchState, Seat, SeatState, Segment, jobs_of, log, log_batch
from proofyard.verifier.delivery import NotDelivered, owed
from proofyard.verifier.drawing import counted_lists
from proofyard.verifier.evidence import Evidence, gather_evidence
from proofyard.verifier.left_out import take_in
from proofyard.verifier.marks import find_salt, salts_of
from proofyard.verifier.membership import batches_of, gather_lists, members_of
from proofyard.verifier.outcomes import apply_record
from proofyard.verifier.quorum import NoQuorum, collect
from proofyard.verifier.signing import bound_to
from proofyard.workloads.errors import StateRefused

logger = logging.getLogger(__name__)

BLOCK_POLL_S = 0.3


async def settle(context: Context, batch: Batch) -> None:
    """Sign the batch's record and post it. Posting is skipped where the chain already has it settled."""
    view = await context.on_chain(partial(context.chain.view, BatchId(batch.chain_id or 0)))
    record, cid = await record_for(context, view, batch)
    with context.database.session() as session:
        session.merge(batch).record = cid
    while await context.on_chain(context.chain.block_number) <= view.draw_block:
        await context.wait(BLOCK_POLL_S)
    settlement = await asyncio.to_thread(settlement_of, record, view, cid)
    digest = settlement_digest(context.domain, view.ref, settlement)
    try:
        signers, signature = await collect(context, view, digest, cid)
    except NoQuorum as refused:
        if bound_to(context, view.batch, view.attempt) is None:
            await take_in(context, view, batch, refused.left_out)
            await _look_for_lists(context, view, batch)
            await _look_for_states(context, batch, record)
        raise
    with context.database.session() as session:
        apply_record(session, session.merge(batch), view, record)
    context.changed()
    with contextlib.suppress(AlreadySettled):
        await context.on_chain(lambda: context.chain.settle_batch(view.batch, settlement, signers, signature))
    with context.database.session() as session:
        note_settled(session, batch, record)


def note_settled(session: Session, batch: Batch, record: BatchRecord) -> None:
    """The settlement is on chain."""
    batch = session.merge(batch)
    batch.state, batch.settled_at, batch.reason = BatchState.SETTLED, now(), ""
    paid = sum(payout.amount for payout in record.payouts)
    text = f"batch {record.batch}: {paid / 1e18:.4f} to {len(record.payouts)} operators"
    log_batch(session, batch.id or 0, "settled", text)
    mine = set(jobs_of(session, batch.id or 0))
    for fault in {fault.node: fault for fault in reversed(record.faults)}.values():
        kind, cost = ("unpaid", "no pay") if fault.kind == FaultReason.DISAGREED else ("slashed", "stake frozen")
        if fault.job in mine:
            log(session, fault.job, kind, f"{cost}: {fault.reason}", task=fault.task, node=fault.node)


async def record_for(context: Context, view: BatchView, batch: Batch) -> tuple[BatchRecord, Cid]:
    """The batch's record: the one that this verifier is bound to by its signature, else a new one, checked as everybody
    checks it. Raises `RecordInvalid` where the evidence does not hold."""
    bound = bound_to(context, view.batch, view.attempt)
    if bound is not None:
        data = await asyncio.to_thread(context.store.get_bytes, bound[1], max_bytes=MAX_RECORD_BYTES)
        return decode_record(data), bound[1]
    lists = await counted_lists(context, view, batch)
    missing = lists.without(batches_of(view))
    if missing and view.attempt > 0:
        # Another attempt may have more batches before it than the plan was drawn with.
        more = await gather_lists(context, view)
        lists.members.update({each: more.members[each] for each in missing if each in more.members})
        lists.cids.update({each: more.cids[each] for each in missing if each in more.cids})
    evidence = await gather_evidence(context, view, lists)
    with context.database.session() as session:
        record = build_record(session, evidence, batch)
    if not context.settings.blind:
        clock = await context.on_chain(context.chain.now)
        await asyncio.to_thread(partial(evidence.check, record, now=clock))
    return record, await asyncio.to_thread(context.store.put_bytes, encode_record(record))


async def _look_for_lists(context: Context, view: BatchView, batch: Batch) -> None:
    """Signers may have member lists that nobody had at the draw: then the plan is drawn again with them."""
    counted = await counted_lists(context, view, batch)
    missing = counted.without(batches_of(view))
    if missing:
        found = await gather_lists(context, view)
        if any(each in found.members for each in missing):
            with context.database.session() as session:
                session.merge(batch).state = BatchState.COMMITTED


async def _look_for_states(context: Context, batch: Batch, record: BatchRecord) -> None:
    """Signers may reach a worker that this verifier did not: what it delivers to anybody is not withheld."""
    for key in record.unopened:
        if await find_salt(context, record.by_key[key], patience_s=0) != UNOPENED:
            with context.database.session() as session:
                session.merge(batch).state = BatchState.AUDITING
    for fault in record.faults:
        if fault.kind != FaultReason.WITHHELD:
            continue
        try:
            for cid in withheld_by(record, fault):
                await owed(context, fault.node, cid, "it", patience_s=0)
        except NotDelivered:
            continue
        except StateRefused as error:
            logger.info("task %s of job %s: %s", fault.task, fault.job, error)
        with context.database.session() as session:
            row = session.merge(batch)
            row.state = BatchState.AUDITING
            _take_back(session, row, fault)


def _take_back(session: Session, batch: Batch, fault: RecordedFault) -> None:
    """A fault that turned out to be none: what it was about is judged again."""
    found = session.get(database.Fault, (batch.id, fault.job, fault.task, fault.node))
    if found is not None and found.segment is None:
        session.delete(found)
    segment = session.get(Segment, (batch.id, fault.job, fault.task, fault.segment or 0))
    if fault.segment is not None and segment is not None:
        segment.verdict, segment.kind, segment.reason, segment.unvoted = Verdict.PENDING, 0, "", False


def build_record(session: Session, evidence: Evidence, batch: Batch) -> BatchRecord:
    """Everything the settlement rests on, from database and chain; the same record however often it is built."""
    view, lists = evidence.view, evidence.lists
    members = lists.members[view.batch]
    tasks = {member.key: member for member in members}
    audits = audits_of(session, view, batch)
    counted = {each: lists.cids[each] for each in sorted(batches_of(view)) if each in lists.cids}
    record = BatchRecord(
        chain_id=view.chain_id,
        registry=view.registry,
        batch=view.batch,
        attempt=view.attempt,
        leader=view.leader,
        jobs=tuple(RecordedJob(line.job, make_cid(view.jobs[line.job].manifest)) for line in view.header.lines),
        tasks=members,
        salts=salts_of(batch),
        counted=tuple(counted.items()),
        uncounted=tuple(lists.without(batches_of(view))),
        repeated=repeated_tasks(view, members, {each: lists.members[each] for each in counted}, evidence.paid),
        audits=audits,
        faults=(),
        payouts=(),
    )
    faults = [*_worker_faults(session, batch, record), *false_audits(view, tasks, audits, evidence.exact)]
    record = msgspec.structs.replace(record, faults=tuple(sorted(faults, key=lambda fault: fault.place)))
    return msgspec.structs.replace(record, payouts=earnings(view, record).payouts)


def audits_of(session: Session, view: BatchView, batch: Batch) -> tuple[AuditedSegment, ...]:
    """The batch's audited segments with their opened votes, in the order of the plan."""
    order = {member.key: number for number, member in enumerate(members_of(batch))}
    rows = session.exec(select(Segment).where(Segment.batch == batch.id)).all()
    rows = sorted(rows, key=lambda row: (order[JobId(row.job), TaskIndex(row.task)], row.index))
    return tuple(_audit(row, seats_of(session, row.batch, _place(row))) for row in rows)


def _place(row: Segment) -> tuple[JobId, TaskIndex, SegmentIndex]:
    return JobId(row.job), TaskIndex(row.task), SegmentIndex(row.index)


def _audit(row: Segment, seats: list[Seat]) -> AuditedSegment:
    opened = {Address(seat.auditor): seat for seat in seats if seat.state == SeatState.OPENED}
    listed = [Address(auditor) for auditor in row.auditors.split()]
    if row.unvoted:
        opened = {}
    last = max((number for number, auditor in enumerate(listed) if auditor in opened), default=-1)
    # Who came after the last vote was not needed, unless nothing was decided.
    asked = listed if row.verdict == Verdict.UNDECIDED else listed[: last + 1]
    openings = {auditor: decode(seat.opening or b"", SealOpened) for auditor, seat in opened.items()}
    votes = tuple(_vote(opened[auditor], openings[auditor]) for auditor in asked if auditor in opened)
    alike = {openings[a].after: Digest(s.answer or b"") for a, s in opened.items() if s.answer != openings[a].after}
    return AuditedSegment(
        *_place(row),
        votes=votes,
        absent=tuple(auditor for auditor in asked if auditor not in opened),
        verdict=Verdict(row.verdict),
        reason="" if votes else plain_reason(row.reason),
        copied=tuple(auditor for auditor in asked if auditor in opened and opened[auditor].copied),
        alike=tuple(sorted(alike.items())),
    )


def _vote(seat: Seat, opening: SealOpened) -> AuditVote:
    return AuditVote(
        auditor=Address(seat.auditor),
        seal=Digest(seat.seal or b""),
        signature=Signature(seat.signature or b""),
        after=opening.after,
        keyed=opening.keyed,
        reason=opening.reason,
        salt=opening.salt,
    )


def _worker_faults(session: Session, batch: Batch, record: BatchRecord) -> list[RecordedFault]:
    """One fault for each faulty task that is no decoy: that of its first faulty segment, else that of its result."""
    found: dict[TaskKey, RecordedFault] = {}
    nodes = {task.key: task.commitment.node for task in record.tasks if task.key not in record.decoys}
    rows = {_place(row): row for row in session.exec(select(Segment).where(Segment.batch == batch.id))}
    for audit in record.audits:
        key = audit.task_key
        if audit.verdict != Verdict.FAULT or key in found or key not in nodes:
            continue
        if key in record.unopened:
            found[key] = RecordedFault(*key, nodes[key], FaultReason.WITHHELD, "nobody is given what opens its mark")
        else:
            row = rows[audit.key]
            kind, reason = FaultReason(row.kind), plain_reason(row.reason)
            found[key] = RecordedFault(*key, nodes[key], kind, reason, audit.segment)
    query = select(database.Fault).where(
        database.Fault.batch == batch.id, database.Fault.kind != FaultReason.FALSE_AUDIT
    )
    for fault in session.exec(query):
        key = (JobId(fault.job), TaskIndex(fault.task))
        if key not in found and fault.segment is None and fault.node == nodes.get(key):
            kind, reason = FaultReason(fault.kind), plain_reason(fault.reason)
            found[key] = RecordedFault(*key, node=nodes[key], kind=kind, reason=reason)
    return list(found.values())
