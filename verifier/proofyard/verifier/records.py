"""The record of a judged batch, built from the engine's rows: the same one however often it is built; and what a
settled record says to the engine."""

from collections.abc import Sequence

import msgspec

from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import make_cid
from proofyard.protocol.codec import decode
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import accepted, false_audits, guilty_owners, undecided_tasks
from proofyard.protocol.members import TaskKey
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.record import (
    AuditedSegment,
    AuditVote,
    BatchRecord,
    RecordedFault,
    RecordedJob,
    claimed_answer,
)
from proofyard.protocol.redress import redress_of
from proofyard.protocol.seal import plain_reason
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, Cid, SegmentIndex
from proofyard.protocol.validate import repeated_tasks, stale_tasks
from proofyard.protocol.view import BatchView
from proofyard.verifier.engine.decoys import salts_of
from proofyard.verifier.engine.effects import ReadRecord
from proofyard.verifier.engine.events import RecordSettled
from proofyard.verifier.engine.rows import Batch, Fault, Seat, SeatState, Segment
from proofyard.verifier.engine.world import Rows, place_of
from proofyard.verifier.evidence import Evidence
from proofyard.verifier.membership import batches_of


def build_record(rows: Rows, evidence: Evidence, batch: Batch) -> BatchRecord:
    """Everything the settlement rests on."""
    view, lists = evidence.view, evidence.lists
    members = lists.members[view.batch]
    tasks = {member.key: member for member in members}
    segments = list(rows.segments_of.get(batch.id, ()))
    seats = {place_of(segment): rows.seats.get((batch.id, place_of(segment)), {}) for segment in segments}
    order = {member.key: number for number, member in enumerate(members)}
    segments.sort(key=lambda segment: (order[segment.job, segment.task], segment.index))
    audits = tuple(_audit(segment, list(seats[place_of(segment)].values())) for segment in segments)
    results = [fault for fault in rows.faults.values() if fault.batch == batch.id]
    counted = {each: lists.cids[each] for each in sorted(batches_of(view)) if each in lists.cids}
    record = BatchRecord(
        chain_id=view.chain_id,
        registry=view.registry,
        batch=view.batch,
        attempt=view.attempt,
        leader=view.leader,
        jobs=tuple(RecordedJob(line.job, make_cid(view.jobs[line.job].manifest)) for line in view.header.lines),
        tasks=members,
        salts=salts_of(batch, members),
        counted=tuple(counted.items()),
        uncounted=tuple(lists.without(batches_of(view))),
        over=tuple(evidence.over),
        repeated=repeated_tasks(
            *(
                view,
                members,
                {each: lists.members[each] for each in counted},
                evidence.earlier.paid,
                dict(evidence.over),
            )
        ),
        audits=audits,
        faults=(),
        stale=(),
        redress=(),
        payouts=(),
    )
    workers = _worker_faults(record, {place_of(segment): segment for segment in segments}, results)
    faults = [*workers, *false_audits(view, tasks, audits, evidence.exact)]
    record = msgspec.structs.replace(record, faults=tuple(sorted(faults, key=lambda fault: fault.place)))
    record = msgspec.structs.replace(record, stale=stale_tasks(view, record, evidence.graphs, evidence.earlier.paid))
    redress = redress_of(view, record, evidence.manifests, evidence.graphs, evidence.earlier)
    record = msgspec.structs.replace(record, redress=redress)
    return msgspec.structs.replace(record, payouts=earnings(view, record, evidence.named).payouts)


def _audit(row: Segment, seats: Sequence[Seat]) -> AuditedSegment:
    opened = {seat.auditor: seat for seat in seats if seat.state == SeatState.OPENED}
    if row.unvoted:
        opened = {}
    last = max((number for number, auditor in enumerate(row.auditors) if auditor in opened), default=-1)
    # Who came after the last vote was not needed, unless nothing was decided.
    asked = row.auditors if row.verdict == Verdict.UNDECIDED else row.auditors[: last + 1]
    openings = {auditor: decode(seat.opening, SealOpened) for auditor, seat in opened.items()}
    votes = tuple(_vote(opened[auditor], openings[auditor]) for auditor in asked if auditor in opened)
    alike = {openings[a].after: s.answer for a, s in opened.items() if s.answer != openings[a].after}
    return AuditedSegment(
        row.job,
        row.task,
        SegmentIndex(row.index),
        votes=votes,
        absent=tuple(auditor for auditor in asked if auditor not in opened),
        verdict=Verdict(row.verdict),
        reason="" if votes else plain_reason(row.reason),
        copied=tuple(auditor for auditor in asked if auditor in opened and opened[auditor].copied),
        alike=tuple(sorted(alike.items())),
    )


def _vote(seat: Seat, opening: SealOpened) -> AuditVote:
    return AuditVote(
        auditor=seat.auditor,
        seal=seat.seal,
        signature=seat.signature,
        after=opening.after,
        keyed=opening.keyed,
        reason=opening.reason,
        salt=opening.salt,
    )


def _worker_faults(
    record: BatchRecord, rows: dict[tuple[int, int, int], Segment], results: Sequence[Fault]
) -> list[RecordedFault]:
    """One fault for each faulty task that is no decoy: that of its first faulty segment, else that of its result."""
    found: dict[TaskKey, RecordedFault] = {}
    nodes = {task.key: task.commitment.node for task in record.tasks if task.key not in record.decoys}
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
    for fault in results:
        key = (fault.job, fault.task)
        ours = key in nodes and fault.kind != FaultReason.FALSE_AUDIT and fault.segment < 0 and fault.node == nodes[key]
        if ours and key not in found:
            kind, reason = FaultReason(fault.kind), plain_reason(fault.reason)
            found[key] = RecordedFault(*key, node=nodes[key], kind=kind, reason=reason)
    return list(found.values())


def told(
    view: BatchView, record: BatchRecord, cid: Cid, effect: ReadRecord, settled_block: int, claimable_at: int
) -> RecordSettled:
    """What a settled record means for its members. A task that it does not pay is done again whatever the reason,
    unless an earlier batch has paid it."""
    paid, undecided, guilty = accepted(view, record), undecided_tasks(record), guilty_owners(view, record)
    faults = {fault.task_key: fault.reason for fault in record.faults if fault.kind != FaultReason.FALSE_AUDIT}
    stale = set(record.stale)
    outcomes = []
    for member in record.tasks:
        key = member.key
        if key in record.decoys and view.owners[member.commitment.node][1] not in guilty:
            outcomes.append((key, "decoy", ""))
        elif key in paid:
            outcomes.append((key, "accepted", ""))
        elif key in record.repeated:
            outcomes.append((key, "repeated", ""))
        elif key in faults:
            outcomes.append((key, "faulty", faults[key]))
        elif key in stale:
            outcomes.append((key, "stale", "what it rests on was found wrong: done again"))
        elif key in undecided:
            outcomes.append((key, "undecided", "its audits came to no verdict; done again"))
        elif key in record.unopened:
            outcomes.append((key, "unpaid", "nobody opens its mark: done again"))
        else:
            outcomes.append((key, "unpaid", "its node's owner was caught in this batch: done again"))
    return RecordSettled(
        batch=effect.batch,
        fork=effect.fork,
        record=cid,
        outcomes=tuple(outcomes),
        dissenters=tuple((key, _dissenters(record, key)) for key in sorted(undecided)),
        faults=tuple(_told_fault(view, fault) for fault in record.faults),
        settled_block=settled_block,
        claimable_at=claimable_at,
        paid=sum(payout.amount for payout in record.payouts),
        operators=len(record.payouts),
    )


def _told_fault(view: BatchView, fault: RecordedFault) -> tuple[TaskKey, Address, Address, int, int, int, str]:
    operator, owner = view.owners[fault.node]
    segment = -1 if fault.segment is None else fault.segment
    return fault.task_key, fault.node, owner, operator, segment, fault.kind, fault.reason


def _dissenters(record: BatchRecord, key: TaskKey) -> tuple[Address, ...]:
    """Who made a task undecidable by contradicting its worker, if anybody did: these, and the worker itself."""
    tasks = record.by_key
    found: set[Address] = set()
    for audit in (a for a in record.audits if a.task_key == key and a.verdict == Verdict.UNDECIDED):
        claimed = claimed_answer(tasks, audit)
        found |= {auditor for auditor, answer in audit.answers().items() if answer != claimed} | set(audit.copied)
    return tuple(sorted(found | {tasks[key].commitment.node} if found else found))
