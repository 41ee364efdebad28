"""What the API reads from the database, page by page: each query is answered from an index, takes at most `limit` rows
and runs in a thread. A cursor is the key of the last row that was shown.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, Select, and_, case, func, select, tuple_

from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.settlement import FaultReason
from proofyard.verifier import api_types as out
from proofyard.verifier.engine import rows
from proofyard.verifier.store.tables import TABLES, row_of

Key = tuple[int, ...]
LISTED = 64
"""Auditors of a plan's list that are shown."""
BATCHES = 100

_JOB, _TASK, _WORK = TABLES[rows.Job], TABLES[rows.Task], TABLES[rows.Work]
_BATCH, _SEGMENT, _SEAT = TABLES[rows.Batch], TABLES[rows.Segment], TABLES[rows.Seat]
_FAULT, _LOG = TABLES[rows.Fault], TABLES[rows.Log]
_SHOWN = [column for column in _BATCH.c if column.name not in ("members", "counted", "results_due")]


def cursor_of(key: Sequence[object]) -> str:
    return ".".join(map(str, key))


def read(engine: Engine, query: Select[Any]) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


# Jobs


def jobs(engine: Engine, after: Key | None, limit: int, state: str | None) -> out.JobPage:
    """The newest first."""
    query = select(_JOB).order_by(_JOB.c.id.desc()).limit(limit)
    if after:
        query = query.where(_JOB.c.id < after[0])
    if state:
        query = query.where(_JOB.c.state == state)
    found = read(engine, query)
    return out.JobPage(items=[_job(row) for row in found], next=_next(found, limit, "id"))


def job(engine: Engine, number: int) -> out.JobDetail | None:
    found = read(engine, select(_JOB).where(_JOB.c.id == number))
    if not found:
        return None
    counts = select(_TASK.c.state, func.count().label("n")).where(_TASK.c.job == number).group_by(_TASK.c.state)
    own = select(_WORK.c.batch).where(_WORK.c.job == number, _WORK.c.batch != 0)
    held = select(_BATCH.c.chain_id).where(_BATCH.c.id.in_(own), _BATCH.c.chain_id.is_not(None))
    held = held.order_by(_BATCH.c.chain_id.desc()).limit(BATCHES)
    lines = select(func.max(_LOG.c.seq).label("seq")).where(_LOG.c.job == number)
    return out.JobDetail(
        job=_job(found[0]),
        task_states={row["state"]: row["n"] for row in read(engine, counts)},
        batches=[str(row["chain_id"]) for row in reversed(read(engine, held))],
        log_lines=read(engine, lines)[0]["seq"] or 0,
    )


def _job(row: Mapping[str, Any]) -> out.Job:
    return out.Job(
        id=str(row["id"]),
        workload=row["workload_name"],
        units=str(row["units"]),
        units_open=str(row["units_open"]),
        units_paid=str(row["units_paid"]),
        **{name: row[name] for name in _JOB_FIELDS},
    )


_JOB_FIELDS = [
    *("state", "reason", "manifest", "requester", "reward", "audit_fee", "verifier_fee", "auditors_per_segment"),
    *("segments_per_audit", "deadline", "look_ahead", "exact", "tasks", "result", "opened_block", "taken_block"),
    *("closed_at", "gone", "elsewhere"),
]


# Tasks and works


def tasks(engine: Engine, number: int, after: Key | None, limit: int, state: str | None) -> out.TaskPage:
    query = _tasks(number).order_by(_TASK.c.index).limit(limit)
    if after:
        query = query.where(_TASK.c.index > after[0])
    if state:
        query = query.where(_TASK.c.state == state)
    found = read(engine, query)
    return out.TaskPage(items=[_task(row) for row in found], next=_next(found, limit, "index"))


def task(engine: Engine, number: int, index: int) -> out.Task | None:
    found = read(engine, _tasks(number).where(_TASK.c.index == index))
    return _task(found[0]) if found else None


def _tasks(number: int) -> Select[Any]:
    """Each with who has the attempt that counts."""
    same = and_(_WORK.c.job == _TASK.c.job, _WORK.c.task == _TASK.c.index, _WORK.c.attempt == _TASK.c.attempt)
    return select(_TASK, _WORK.c.node, _WORK.c.owner).outerjoin_from(_TASK, _WORK, same).where(_TASK.c.job == number)


def _task(row: dict[str, Any]) -> out.Task:
    node, owner = row.pop("node"), row.pop("owner")
    found = row_of(rows.Task, row)
    assert isinstance(found, rows.Task)
    spec = decode(found.spec, TaskSpec)
    return out.Task(
        job=str(found.job),
        task=found.index,
        label=spec.label or spec.kind,
        state=found.state,
        segments=spec.segments,
        units=str(spec.work_units),
        reward=found.reward,
        attempt=found.attempt,
        node=node,
        owner=owner,
        undecided=found.undecided,
        lost=len(found.lost_by),
        refused=len(found.refused_by),
        barred=list(found.barred),
    )


def works(engine: Engine, number: int, after: Key | None, limit: int, index: int | None) -> out.WorkPage:
    """By task and attempt. As long as a work is not settled, what it was made of and what it gave is not told: held
    against member lists it would tell which commitments are decoys. Where a decoy is in a batch, the work is said to
    be."""
    holder = case((_WORK.c.decoy, _WORK.c.decoy_batch), else_=_WORK.c.batch)
    query = select(_WORK, _BATCH.c.chain_id).outerjoin_from(_WORK, _BATCH, _BATCH.c.id == holder)
    query = query.where(_WORK.c.job == number).order_by(_WORK.c.task, _WORK.c.attempt).limit(limit)
    if index is not None:
        query = query.where(_WORK.c.task == index)
    if after:
        query = query.where(tuple_(_WORK.c.task, _WORK.c.attempt) > after)
    found = read(engine, query)
    return out.WorkPage(items=[_work(row) for row in found], next=_next(found, limit, "task", "attempt"))


def _work(row: Mapping[str, Any]) -> out.Work:
    batch = row["chain_id"]
    found = row_of(rows.Work, {name: value for name, value in row.items() if name != "chain_id"})
    assert isinstance(found, rows.Work)
    settled = found.state == rows.WorkState.SETTLED
    hidden = found.decoy and found.decoy_batch and found.state == rows.WorkState.COMMITTED
    return out.Work(
        job=str(found.job),
        task=found.task,
        attempt=found.attempt,
        node=found.node,
        owner=found.owner,
        state=rows.WorkState.BATCHED if hidden else found.state,
        outcome=found.outcome,
        leaf=(found.leaf.hex() or None) if settled else None,
        result=found.result if settled else None,
        inputs=list(found.inputs) if settled else [],
        promised_until=found.promised_until,
        batch=_text(batch),
    )


# Batches and audits


def batches(engine: Engine, after: Key | None, limit: int, state: str | None) -> out.BatchPage:
    """The newest first."""
    query = select(*_SHOWN).order_by(_BATCH.c.id.desc()).limit(limit)
    if after:
        query = query.where(_BATCH.c.id < after[0])
    if state:
        query = query.where(_BATCH.c.state == state)
    found = read(engine, query)
    return out.BatchPage(items=[_batch(row) for row in found], next=_next(found, limit, "id"))


def batch(engine: Engine, chain_id: int) -> out.Batch | None:
    """By its number on chain; the newest here, should several rows have had it."""
    query = select(*_SHOWN).where(_BATCH.c.chain_id == chain_id).order_by(_BATCH.c.id.desc()).limit(1)
    found = read(engine, query)
    return _batch(found[0]) if found else None


def _batch(row: Mapping[str, Any]) -> out.Batch:
    lines = decode(row["lines"], tuple[tuple[int, int], ...], max_bytes=1 << 30)
    return out.Batch(
        row=str(row["id"]),
        batch=_text(row["chain_id"]),
        root=row["root"].hex(),
        seed=row["seed"].hex() or None,
        lines=[out.Line(job=str(job), units=str(units)) for job, units in lines],
        **{name: row[name] for name in _BATCH_FIELDS},
    )


_BATCH_FIELDS = [
    *("state", "commit_block", "opened_at", "drawn_at", "attempt", "record", "settled_block", "claimable_at", "reason")
]


def audits(
    engine: Engine, *, job: int | None, batch: int | None, after: Key | None, limit: int, index: int | None = None
) -> out.AuditPage:
    """The drawn segments of a job or of a batch on chain, with their seats, by batch row, job, task and segment."""
    place = (_SEGMENT.c.batch, _SEGMENT.c.job, _SEGMENT.c.task, _SEGMENT.c.index)
    query = select(_SEGMENT, _BATCH.c.chain_id).join_from(_SEGMENT, _BATCH, _BATCH.c.id == _SEGMENT.c.batch)
    query = query.order_by(*place).limit(limit)
    if job is not None:
        query = query.where(_SEGMENT.c.job == job)
    if batch is not None:
        query = query.where(_SEGMENT.c.batch.in_(select(_BATCH.c.id).where(_BATCH.c.chain_id == batch)))
    if index is not None:
        query = query.where(_SEGMENT.c.task == index)
    if after:
        query = query.where(tuple_(*place) > after)
    found = read(engine, query)
    seats = _seats(engine, found)
    items = [_audit(row, seats.get(_place(row), [])) for row in found]
    return out.AuditPage(items=items, next=_next(found, limit, "batch", "job", "task", "index"))


def _place(row: Mapping[str, Any]) -> Key:
    return row["batch"], row["job"], row["task"], row["index"]


def _seats(engine: Engine, segments: Sequence[Mapping[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    found: dict[Key, list[dict[str, Any]]] = {}
    place = tuple_(_SEAT.c.batch, _SEAT.c.job, _SEAT.c.task, _SEAT.c.segment)
    for start in range(0, len(segments), 100):
        part = [_place(row) for row in segments[start : start + 100]]
        for row in read(engine, select(_SEAT).where(place.in_(part)).order_by(_SEAT.c.auditor)):
            found.setdefault((row["batch"], row["job"], row["task"], row["segment"]), []).append(row)
    return found


def _audit(row: Mapping[str, Any], seats: Sequence[Mapping[str, Any]]) -> out.Audit:
    auditors = decode(row["auditors"], tuple[str, ...], max_bytes=1 << 30)
    decided = row["verdict"] != "pending"
    return out.Audit(
        row=str(row["batch"]),
        batch=_text(row["chain_id"]),
        job=str(row["job"]),
        task=row["task"],
        segment=row["index"],
        worker=row["worker"],
        claimed=row["claimed"].hex() if decided else None,
        verdict=row["verdict"],
        fault=fault_name(row["kind"]) if row["kind"] else "",
        reason=row["reason"],
        auditors=list(auditors[:LISTED]),
        seats=[_seat(seat, decided) for seat in seats],
    )


def _seat(row: Mapping[str, Any], decided: bool) -> out.Seat:
    shown = decided and row["answer"]
    why = decode(row["opening"], SealOpened).reason if shown and row["answer"] == CANNOT_EXECUTE else ""
    return out.Seat(
        auditor=row["auditor"],
        state=row["state"],
        tries=row["tries"],
        answer=row["answer"].hex() if shown else None,
        copied=bool(decided and row["copied"]),
        reason=why,
    )


def faults(
    engine: Engine, *, job: int | None, after: tuple[int, int, int, str] | None, limit: int, index: int | None = None
) -> out.FaultPage:
    """By batch row, job, task and node."""
    place = (_FAULT.c.batch, _FAULT.c.job, _FAULT.c.task, _FAULT.c.node)
    query = select(_FAULT, _BATCH.c.chain_id).outerjoin_from(_FAULT, _BATCH, _BATCH.c.id == _FAULT.c.batch)
    query = query.order_by(*place).limit(limit)
    if job is not None:
        query = query.where(_FAULT.c.job == job)
    if index is not None:
        query = query.where(_FAULT.c.task == index)
    if after:
        query = query.where(tuple_(*place) > after)
    found = read(engine, query)
    return out.FaultPage(items=[_fault(row) for row in found], next=_next(found, limit, "batch", "job", "task", "node"))


def _fault(row: Mapping[str, Any]) -> out.Fault:
    return out.Fault(
        batch=_text(row["chain_id"]),
        job=str(row["job"]),
        task=row["task"],
        segment=None if row["segment"] < 0 else row["segment"],
        node=row["node"],
        owner=row["owner"],
        operator=str(row["operator"]),
        kind=fault_name(row["kind"]),
        reason=row["reason"],
    )


def fault_name(kind: int) -> str:
    try:
        return FaultReason(kind).name.lower().replace("_", "-")
    except ValueError:
        return str(kind)


# The log


def log(engine: Engine, number: int, after: int, limit: int, index: int | None = None) -> out.LogPage:
    """The lines of a job after one of them, oldest first."""
    query = select(_LOG).where(_LOG.c.job == number, _LOG.c.seq > after).order_by(_LOG.c.seq).limit(limit)
    if index is not None:
        query = query.where(_LOG.c.task == index)
    found = read(engine, query)
    return out.LogPage(items=[line(row) for row in found], next=_next(found, limit, "seq"))


def line(row: Mapping[str, Any]) -> out.LogLine:
    loss = row["loss"]
    return out.LogLine(
        job=str(row["job"]),
        seq=row["seq"],
        at=row["at"],
        kind=row["kind"],
        text=row["text"],
        task=None if row["task"] < 0 else row["task"],
        node=row["node"] or None,
        # A node says what its loss is; JSON has no infinity.
        loss=loss if loss is not None and math.isfinite(loss) else None,
        step=row["step"],
    )


def line_of(row: rows.Log) -> out.LogLine:
    return line({name: getattr(row, name) for name in rows.Log.__struct_fields__})


def _next(found: Sequence[Mapping[str, Any]], limit: int, *names: str) -> str | None:
    """The cursor behind a page, None where it is the last."""
    return cursor_of([found[-1][name] for name in names]) if len(found) == limit else None


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
