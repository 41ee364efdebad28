"""Explanations of a job or a task: `statements` about what the database, the chain and what the engine knows say.

Called in threads. An explanation is one step of the database; what takes longer (records, slashes, the numbers of a
dial) never changes once it is there, and is kept.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from sqlalchemy import Engine

from proofyard.artifacts import BlockStore
from proofyard.protocol.codec import decode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.record import MAX_AUDITS, MAX_TASKS, RecordedPayout, RecordedRedress
from proofyard.protocol.types import Cid, ProofyardError
from proofyard.runtime.recent import Recent
from proofyard.verifier.api import queries, wire
from proofyard.verifier.api import types as out
from proofyard.verifier.api.listing import statement_of
from proofyard.verifier.api.reading import Found, read_all
from proofyard.verifier.api.statements import (
    NODES,
    Dial,
    Fees,
    Here,
    Kind,
    Slashed,
    because,
    credits_of,
    of_audit,
    of_dial,
    of_fault,
    of_fees,
    of_nodes,
    of_payout,
    of_redress,
    shown_by,
)
from proofyard.verifier.engine import rows
from proofyard.verifier.store.tables import row_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

Asks = Callable[[wire.Question, Any], Any]
"""What the verifier answers to a question, as what kind. Raises `ProofyardError`."""

ATTEMPTS, SEGMENTS, BATCHES, LINES = 20, 50, 10, 500
"""So many of each an explanation shows at most."""
MAX_RECORD_BYTES = 32 << 20
"""A larger record is not read for an explanation: the replay command reads any."""
KEPT_BATCHES, KEPT_DIALS = 32, 4096

_JOB_FAULTS = statement_of(queries.FAULTS, ("job",), limit=SEGMENTS)
_WORKS = statement_of(queries.WORKS, ("job", "task"), limit=ATTEMPTS)
_AUDITS = statement_of(queries.AUDITS, ("job", "task"), limit=SEGMENTS)
_FAULTS = statement_of(queries.FAULTS, ("job", "task"), limit=SEGMENTS)
_LINES = statement_of(queries.LOG, ("job", "task"), limit=LINES)
_TASK = statement_of(queries.TASKS, ("job", "task"), limit=1)
_OF_TASK = (queries.ONE_JOB, _TASK, _WORKS, _AUDITS, queries.seats_of(_AUDITS), _FAULTS, _LINES)


class _Paid(msgspec.Struct):
    """Of a record what it pays; the rest is passed over."""

    redress: Annotated[tuple[RecordedRedress, ...], msgspec.Meta(max_length=MAX_TASKS)]
    payouts: Annotated[tuple[RecordedPayout, ...], msgspec.Meta(max_length=MAX_AUDITS)]

    def said(self, nodes: set[str] | None, task: int | None, shown: out.Shown) -> list[out.Because]:
        """What these nodes were paid, or all: `NODES` of each kind at most."""
        chosen = [each for each in self.payouts if nodes is None or each.node in nodes]
        thrown = [each for each in self.redress if nodes is None or each.node in nodes]
        return [
            *(of_payout(each, task, shown) for each in chosen[:NODES]),
            *(of_redress(each, shown) for each in thrown[:NODES]),
        ]


class _Once(Generic[T]):
    """What was loaded, `limit` things of it; one thing is loaded at a time."""

    def __init__(self, limit: int) -> None:
        self._values: Recent[Hashable, T] = Recent(limit)
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        found = self._known(key)
        if found is None:
            with self._loading:
                found = self._known(key)
                if found is None:
                    found = load()
                    with self._lock:
                        self._values.put(key, found)
        return found

    def _known(self, key: Hashable) -> T | None:
        with self._lock:
            return self._values.get(key)


class Explainer:
    """Explanations for one verifier; what only that knows is asked of it."""

    def __init__(self, engine: Engine, store: BlockStore, ask: Asks) -> None:
        self._engine, self._store, self._ask = engine, store, ask
        self._records: _Once[_Paid] = _Once(KEPT_BATCHES)
        self._said_of_pay: _Once[list[out.Because]] = _Once(KEPT_BATCHES)
        self._slashes: _Once[list[Slashed]] = _Once(KEPT_BATCHES)
        self._dials: _Once[Dial | None] = _Once(KEPT_DIALS)

    def job(self, number: int, here: Here) -> out.Explanation | None:
        """Why a job is where it is, who gets work of it, and who was paid in its last batches."""
        jobs, faults, batches = read_all(self._engine, queries.ONE_JOB, _JOB_FAULTS, queries.BATCHES_OF_JOB, job=number)
        if not jobs:
            return None
        job = _job(jobs)
        records = {row["chain_id"]: row["record"] for row in batches}
        found = [because("state", f"job {number} is {job.state}" + (f": {job.reason}" if job.reason else ""))]
        for kind in here.kinds:
            if kind.ready:
                text = f"{kind.ready} tasks of {kind.segments} segments and {credits_of(kind.reward)} wait for a node"
                found.append(because("waits", text, ready=kind.ready, task_reward=kind.reward))
        if job.state not in (rows.JobState.DONE, rows.JobState.FAILED):
            waiting = [kind for kind in here.kinds if kind.ready]
            found += of_nodes(here, job, waiting[0] if waiting else None, (), None)
        found += [self._fault(row) for row in faults]
        for batch in sorted(records)[-BATCHES:]:
            found += self._paid(batch, records[batch])
        found += self._fees(number, records)
        cut = len(records) > BATCHES or len(faults) == SEGMENTS or len(here.nodes) >= NODES
        return out.Explanation(job=str(number), task=None, state=job.state, because=found, cut=cut)

    def task(self, number: int, index: int, here: Here) -> out.Explanation | None:
        """Everything about one task: who had it and why, what it waits for, its audits, faults and pay."""
        jobs, tasks, works, segments, seats, faults, lines = read_all(self._engine, *_OF_TASK, job=number, task=index)
        if not jobs or not tasks:
            return None
        audits = queries.AUDITS.shown(queries.with_seats(segments, seats), SEGMENTS).items
        found = list(_given(index, works, queries.LOG.shown(lines, LINES).items))
        found += _waiting(_job(jobs), tasks[0], here)
        for row in works:
            if row["chain_id"] is not None:
                found += self._judged(row, [audit for audit in audits if audit.batch == str(row["chain_id"])])
        found += [self._fault(row) for row in faults]
        for batch in dict.fromkeys(row["chain_id"] for row in works if row["chain_id"] is not None):
            of_batch = [row for row in works if row["chain_id"] == batch]
            nodes = {row["node"] for row in of_batch}
            nodes |= {seat.auditor for audit in audits if audit.batch == str(batch) for seat in audit.seats}
            found += self._paid(batch, of_batch[0]["record"], nodes, index)
        cut = len(works) == ATTEMPTS or len(segments) == SEGMENTS
        return out.Explanation(job=str(number), task=index, state=tasks[0]["state"], because=found, cut=cut)

    # Parts

    def _judged(self, work: Any, audits: Sequence[out.Audit]) -> Iterator[out.Because]:
        """The draw of a committed work and its audits."""
        batch, record, task, node = str(work["chain_id"]), work["record"], work["task"], work["node"]
        try:
            dial = self._dial(work)
        except (ProofyardError, LookupError, ValueError) as error:
            text = f"what the dial reckoned with cannot be read now: {str(error)[:200]}"
            yield because("drawn", text, task=task, node=node, shown=shown_by(batch, record))
            dial = None
        if dial is not None:
            yield of_dial(dial, len(audits), task, node, shown_by(batch, record))
        for audit in audits:
            yield of_audit(audit)

    def _fault(self, row: Any) -> out.Because:
        fault, batch, record = queries.FAULTS.item(row), row["chain_id"], row["record"]
        slashed: Sequence[Slashed] = ()
        if record is not None and batch is not None:
            try:
                slashed = self._slashes_of(batch, record)
            except ProofyardError as error:
                logger.info("the slashes of batch %s cannot be read: %s", batch, error)
        return of_fault(fault, slashed)

    def _paid(
        self, batch: int, record: str | None, nodes: set[str] | None = None, task: int | None = None
    ) -> list[out.Because]:
        """What was paid in a batch to these nodes, or to all: `NODES` of them at most."""
        if record is None:
            return [because("settled", f"batch {batch} is not settled yet: nothing is paid", task=task)]
        shown = shown_by(str(batch), record)
        try:
            paid = self._paid_by(Cid(record))
        except (ProofyardError, OSError) as error:
            text = f"the record of batch {batch} is not read here ({str(error)[:200]}); the command reads it"
            return [because("settled", text, task=task, shown=shown)]
        if nodes is None:
            return self._said_of_pay.get((batch, record), lambda: paid.said(None, task, shown))
        return paid.said(nodes, task, shown)

    def _fees(self, number: int, records: dict[int, str | None]) -> list[out.Because]:
        """What the verifiers share of a job's batches, as their last settlements on chain say."""
        try:
            earned = self._ask(wire.Fees(number), list[Fees])
        except ProofyardError as error:
            logger.info("the settlements of job %s cannot be read: %s", number, error)
            return []
        return [of_fees(each, records.get(each.batch)) for each in earned]

    # What does not change

    def _paid_by(self, cid: Cid) -> _Paid:
        def load() -> _Paid:
            data = self._store.get_bytes(cid, max_bytes=MAX_RECORD_BYTES)
            return decode(data, _Paid, max_bytes=MAX_RECORD_BYTES)

        return self._records.get(cid, load)

    def _slashes_of(self, batch: int, record: str) -> list[Slashed]:
        return self._slashes.get((batch, record), lambda: self._ask(wire.Slashes(batch), list[Slashed]))

    def _dial(self, work: Any) -> Dial | None:
        """Of a work in a batch that is drawn. Raises `ProofyardError` where chain or member lists cannot be had."""
        if not work["seed"]:
            return None
        asked = wire.DialOf(work["batch_row"], work["chain_id"], work["batch_attempt"], work["job"], work["task"])
        return self._dials.get((work["seed"], asked), lambda: self._ask(asked, Dial | None))


def _job(found: Found) -> rows.Job:
    job = row_of(rows.Job, found[0])
    assert isinstance(job, rows.Job)
    return job


def _given(index: int, works: Found, lines: Sequence[out.LogLine]) -> Iterator[out.Because]:
    """Each attempt, with what the log says of why its node got it, and what came of it."""
    said = iter([line for line in lines if line.kind == "assigned"])
    for row in works:
        work = queries.WORKS.item(row)
        line = next((each for each in said if each.node == work.node), None)
        why = f": {line.text}" if line else ""
        outcome = f", {work.outcome}" if work.outcome else ""
        yield because(
            "given",
            f"attempt {work.attempt} went to {work.node}{why}; it is {work.state}{outcome}",
            task=index,
            node=work.node,
            shown=shown_by(work.batch, row["record"]),
            owner=work.owner,
            attempt=work.attempt,
            **({"log_line": line.seq} if line else {}),
        )
    for line in lines:
        if line.kind in ("lost", "failed", "undone"):
            yield because("given", line.text, task=index, node=line.node, log_line=line.seq)


def _waiting(job: rows.Job, task: Any, here: Here) -> list[out.Because]:
    """Why nobody has it."""
    index, spec = task["index"], decode(task["spec"], TaskSpec)
    if task["state"] == rows.TaskState.DROPPED:
        return [because("waits", "nobody waits for it: no round takes it any more", task=index)]
    if task["state"] == rows.TaskState.WAITING and not spec.deps:
        return [because("waits", "it waits until the round before its own has closed", task=index)]
    if task["state"] == rows.TaskState.WAITING:
        text = f"it waits for the results of tasks {', '.join(map(str, spec.deps[:20]))}"
        return [because("waits", text, task=index)]
    if task["state"] != rows.TaskState.READY:
        return []
    barred = decode(task["barred"], list[str], max_bytes=queries.MAX_CELL_BYTES)
    reason = job.reason or "every node that may have it is at work"
    return [
        because("waits", f"it is ready: {reason}", task=index),
        *of_nodes(here, job, Kind(int(task["reward"]), spec.segments, 1), barred, index),
    ]
