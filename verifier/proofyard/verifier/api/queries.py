"""What the API reads from the database: listings, page by page, and single things. Read in threads."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    select,
    union,
)

from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.settlement import FaultReason
from proofyard.verifier.api import types as out
from proofyard.verifier.api.listing import Listing, statement_of
from proofyard.verifier.api.reading import Found, read, read_all
from proofyard.verifier.api.statements import shown_by
from proofyard.verifier.engine import rows
from proofyard.verifier.store.tables import TABLES, TOLD_OF_TASK

Row = Mapping[str, Any]

LISTED = 64
"""Auditors of a plan's list that are shown."""
BATCHES = 100
MAX_CELL_BYTES = 1 << 30

_JOB, _TASK, _WORK = TABLES[rows.Job], TABLES[rows.Task], TABLES[rows.Work]
_BATCH, _SEGMENT, _SEAT = TABLES[rows.Batch], TABLES[rows.Segment], TABLES[rows.Seat]
_FAULT, _LOG = TABLES[rows.Fault], TABLES[rows.Log]


def _is(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    return column == bindparam(name, type_=column.type)


# Jobs


def _job(row: Row) -> out.Job:
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

JOBS = Listing(select(_JOB), (_JOB.c.id,), _job, {"state": _is(_JOB.c.state, "state")}, newest_first=True)
"""The newest first."""

ONE_JOB = select(_JOB).where(_is(_JOB.c.id, "job"))
_COUNTS = select(_TASK.c.state, func.count().label("n")).where(_is(_TASK.c.job, "job")).group_by(_TASK.c.state)
_LINES = select(func.max(_LOG.c.seq).label("seq")).where(_is(_LOG.c.job, "job"))
_HELD = exists().where(_WORK.c.batch == _BATCH.c.id, _is(_WORK.c.job, "job"))
BATCHES_OF_JOB = (
    select(_BATCH.c.chain_id, _BATCH.c.record)
    .where(_BATCH.c.chain_id.is_not(None), _HELD)
    .order_by(_BATCH.c.chain_id.desc())
    .limit(BATCHES)
)
"""Those on chain that hold works of a job, the newest first."""


def job(engine: Engine, number: int) -> out.JobDetail | None:
    found, counts, batches, lines = read_all(engine, ONE_JOB, _COUNTS, BATCHES_OF_JOB, _LINES, job=number)
    if not found:
        return None
    return out.JobDetail(
        job=_job(found[0]),
        task_states={row["state"]: row["n"] for row in counts},
        batches=[str(row["chain_id"]) for row in reversed(batches)],
        log_lines=lines[0]["seq"] or 0,
    )


# Tasks and works


def _task(row: Row) -> out.Task:
    spec = decode(row["spec"], TaskSpec)
    return out.Task(
        job=str(row["job"]),
        task=row["index"],
        label=spec.label or spec.kind,
        deps=list(spec.deps),
        state=row["state"],
        segments=spec.segments,
        units=str(spec.work_units),
        reward=row["reward"],
        attempt=row["attempt"],
        node=row["node"],
        owner=row["owner"],
        undecided=row["undecided"],
        lost=len(_texts(row["lost_by"])),
        refused=len(_texts(row["refused_by"])),
        barred=_texts(row["barred"]),
    )


def _texts(cell: bytes) -> list[str]:
    return decode(cell, list[str], max_bytes=MAX_CELL_BYTES)


_SAME = and_(_WORK.c.job == _TASK.c.job, _WORK.c.task == _TASK.c.index, _WORK.c.attempt == _TASK.c.attempt)
TASKS = Listing(
    select(_TASK, _WORK.c.node, _WORK.c.owner).outerjoin_from(_TASK, _WORK, _SAME),
    (_TASK.c.index,),
    _task,
    {"job": _is(_TASK.c.job, "job"), "task": _is(_TASK.c.index, "task"), "state": _is(_TASK.c.state, "state")},
)
"""Of one job; each with who has the attempt that counts."""


def task(engine: Engine, number: int, index: int) -> out.Task | None:
    found = read(engine, statement_of(TASKS, ("job", "task"), limit=1), job=number, task=index)
    return _task(found[0]) if found else None


def _work(row: Row) -> out.Work:
    """As long as a work is not settled, what it was made of and what it gave is not told: held against member lists it
    would tell which commitments are decoys. Where a decoy is in a batch, the work is said to be."""
    settled = row["state"] == rows.WorkState.SETTLED
    hidden = row["decoy"] and row["decoy_batch"] and row["state"] == rows.WorkState.COMMITTED
    return out.Work(
        job=str(row["job"]),
        task=row["task"],
        attempt=row["attempt"],
        node=row["node"],
        owner=row["owner"],
        state=rows.WorkState.BATCHED if hidden else row["state"],
        outcome=row["outcome"],
        leaf=(row["leaf"].hex() or None) if settled else None,
        result=row["result"] if settled else None,
        inputs=_texts(row["inputs"]) if settled else [],
        promised_until=row["promised_until"],
        batch=_text(row["chain_id"]),
    )


_HOLDER = case((_WORK.c.decoy, _WORK.c.decoy_batch), else_=_WORK.c.batch)
_OF_WORK = [column for column in _WORK.c if column.name not in ("submission", "batch")]
_ITS_BATCH = [
    *(_BATCH.c.chain_id, _BATCH.c.record, _BATCH.c.seed),
    *(_BATCH.c.id.label("batch_row"), _BATCH.c.attempt.label("batch_attempt")),
]
WORKS = Listing(
    select(*_OF_WORK, *_ITS_BATCH).outerjoin_from(_WORK, _BATCH, _BATCH.c.id == _HOLDER),
    (_WORK.c.task, _WORK.c.attempt),
    _work,
    {"job": _is(_WORK.c.job, "job"), "task": _is(_WORK.c.task, "task")},
)
"""Of one job, every attempt."""


# Batches and audits


def _batch(row: Row) -> out.Batch:
    lines = decode(row["lines"], tuple[tuple[int, int], ...], max_bytes=MAX_CELL_BYTES)
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
_OF_BATCH = [_BATCH.c[name] for name in ("id", "chain_id", "root", "seed", "lines", *_BATCH_FIELDS)]
BATCHES_HERE = Listing(
    select(*_OF_BATCH), (_BATCH.c.id,), _batch, {"state": _is(_BATCH.c.state, "state")}, newest_first=True
)
"""The newest first."""
_ONE_BATCH = select(*_OF_BATCH).where(_is(_BATCH.c.chain_id, "batch")).order_by(_BATCH.c.id.desc()).limit(1)


def batch(engine: Engine, chain_id: int) -> out.Batch | None:
    """By its number on chain; the newest here, should several rows have had it."""
    found = read(engine, _ONE_BATCH, batch=chain_id)
    return _batch(found[0]) if found else None


def _audit(row: Row) -> out.Audit:
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
        auditors=_texts(row["auditors"])[:LISTED],
        seats=[_seat(seat, decided) for seat in row["seats"]],
        shown=shown_by(_text(row["chain_id"]), row["record"], f"{row['job']}:{row['task']}:{row['index']}"),
    )


def _seat(row: Row, decided: bool) -> out.Seat:
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


class Audits(Listing[out.Audit]):
    """Drawn segments with their seats."""

    def page(self, engine: Engine, cursor: str | None, limit: int, **only: Any) -> out.Page[out.Audit]:
        given = {name: value for name, value in only.items() if value is not None}
        segments = statement_of(self, tuple(sorted(given)), behind=cursor is not None)
        found, seats = read_all(engine, segments, seats_of(segments), limit=limit, **given, **self._behind(cursor))
        return self.shown(with_seats(found, seats), limit)


_OF_SEGMENT = [
    *(_SEGMENT.c.batch, _SEGMENT.c.job, _SEGMENT.c.task, _SEGMENT.c.index, _SEGMENT.c.worker, _SEGMENT.c.claimed),
    *(_SEGMENT.c.verdict, _SEGMENT.c.kind, _SEGMENT.c.reason, _SEGMENT.c.auditors),
]
_TASKS_BATCHES = (
    select(each).where(_is(_WORK.c.job, "job"), _is(_WORK.c.task, "task"))
    for each in (_WORK.c.batch, _WORK.c.decoy_batch)
)
AUDITS = Audits(
    select(*_OF_SEGMENT, _BATCH.c.chain_id, _BATCH.c.record).join_from(
        _SEGMENT, _BATCH, _BATCH.c.id == _SEGMENT.c.batch
    ),
    (_SEGMENT.c.batch, _SEGMENT.c.job, _SEGMENT.c.task, _SEGMENT.c.index),
    _audit,
    {
        "job": _is(_SEGMENT.c.job, "job"),
        "batch": _SEGMENT.c.batch.in_(select(_BATCH.c.id).where(_is(_BATCH.c.chain_id, "batch"))),
        # The primary key begins with the batch: those of a task are where its works are.
        "task": and_(_is(_SEGMENT.c.task, "task"), _SEGMENT.c.batch.in_(union(*_TASKS_BATCHES))),
    },
)
"""The drawn segments of a job or of a batch on chain, with their seats, by batch row, job, task and segment."""


@cache
def seats_of(segments: Select[Any]) -> Select[Any]:
    """The seats of the segments that a query finds."""
    page = segments.with_only_columns(*AUDITS.key).subquery()
    same = and_(*(seat == page.c[name] for seat, name in zip(_PLACE, ("batch", "job", "task", "index"), strict=True)))
    return select(_SEAT).join_from(page, _SEAT, same).order_by(*_PLACE, _SEAT.c.auditor)


_PLACE = (_SEAT.c.batch, _SEAT.c.job, _SEAT.c.task, _SEAT.c.segment)


def with_seats(segments: Found, seats: Found) -> Found:
    of: dict[tuple[int, ...], Found] = {}
    for seat in seats:
        of.setdefault((seat["batch"], seat["job"], seat["task"], seat["segment"]), []).append(seat)
    return [row | {"seats": of.get((row["batch"], row["job"], row["task"], row["index"]), [])} for row in segments]


def _fault(row: Row) -> out.Fault:
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
        shown=shown_by(_text(row["chain_id"]), row["record"], _place_of(row)),
    )


def _place_of(fault: Row) -> str:
    return "" if fault["segment"] < 0 else f"{fault['job']}:{fault['task']}:{fault['segment']}"


FAULTS = Listing(
    select(_FAULT, _BATCH.c.chain_id, _BATCH.c.record).outerjoin_from(_FAULT, _BATCH, _BATCH.c.id == _FAULT.c.batch),
    (_FAULT.c.batch, _FAULT.c.job, _FAULT.c.task, _FAULT.c.node),
    _fault,
    {"job": _is(_FAULT.c.job, "job"), "task": _is(_FAULT.c.task, "task")},
)
"""By batch row, job, task and node."""


def fault_name(kind: int) -> str:
    try:
        return FaultReason(kind).name.lower().replace("_", "-")
    except ValueError:
        return str(kind)


# The log


def line(row: Row) -> out.LogLine:
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


LOG = Listing(
    select(_LOG),
    (_LOG.c.seq,),
    line,
    # With the words of the index: a database does not take parameters for them.
    {"job": _is(_LOG.c.job, "job"), "task": and_(_is(_LOG.c.task, "task"), TOLD_OF_TASK)},
)
"""The lines of a job, oldest first; of a task those alone that say who got it and lost it."""


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
