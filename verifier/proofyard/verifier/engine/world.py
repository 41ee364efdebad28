"""What the parts of the engine share: the rows with their indexes, the nodes that are here, effects that are wanted,
timers, the log. No clock, no I/O, no randomness: the same events in the same order give the same rows and effects.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Digest, JobId
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.events import Now, Place, TaskKey
from proofyard.verifier.engine.rows import HELD, Batch, Fault, Job, Log, Row, Seat, Segment, Task, Work

M = TypeVar("M")

BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
ROWS = 1 << 40
"""Rows of batches that an engine numbers from its first one: those of another process may be among its own."""
HARMLESS = frozenset((FaultReason.DISAGREED, FaultReason.LATE))
"""Faults that cost no stake."""


@dataclass(frozen=True)
class Rules:
    """What the engine is told about itself and the network; never changes while it runs. Seconds, basis points,
    base units."""

    own: int
    """This verifier's operator."""
    first_row: int = 1
    """Rows of batches are numbered from here, so that several processes on one database do not meet."""
    process: str = ""
    lease_s: float = 60.0
    batch_s: float = 60.0
    """A commitment waits at most so long for its batch, `few_s` where few do."""
    few_tasks: int = 32
    """Fewer commitments are few: a batch costs gas, whatever is in it."""
    few_s: float = 300.0
    first_s: float = 30.0
    """A job of rounds whose first commitment has waited so long has a batch before its last round, where few wait and
    no worker is new."""
    batch_min_s: float = 1.0
    """Between two batches, so that what many jobs wait for at once goes into one."""
    company_s: float = 60.0
    """A job for which nobody has to work any more waits at most so long for others to come to that, while they do."""
    company_gap_s: float = 2.0
    """As long as the next one comes within this time of the last."""
    come_again_s: float = 4.0
    """Nodes that are told to come again, because nothing can be promised for their job yet, do so within this time."""
    batch_tasks: int = 4096
    """So many commitments make a batch."""
    first_tasks: int = 1024
    """So many do where no batch is on its way to its verdicts: who audits has something to do the sooner."""
    receipt_margin_s: float = 300.0
    """A receipt that falls due within this time is honoured now."""
    collusion_bps: int = 1000
    given_back_bps: int = 1500
    draw_delay: int = 2
    settle_time: int = 900
    settle_grace: int = 3600
    receipt_time: int = 600
    receipt_blocks: int = 0
    """So many blocks are on the one that took a job before anything is promised for it."""
    verifier_stake: int = 0
    exposure_bps: int = 0
    """What batches hold open is at most this share of the owner's stake, 0 for no bound; see `engine.backing`."""
    last_margin_s: float = 300.0
    """A batch that is not settled so long before the chain lets it be dropped takes what verdicts there are."""
    decoys_bps: int = 0
    """With so many works of exact workloads in 10,000 a decoy is ordered."""
    secret: bytes = b""
    """What draws those; known to nobody else."""
    blind: bool = False
    """Finds every audited answer right, on purpose (tests)."""


@dataclass
class Node:
    """A node that is connected. `tasks`, `audits`: how many of each it holds at a time; `memory_bytes`: the most that
    work for it may take."""

    node: Address
    owner: Address
    operator: int
    stake: int
    consecutive_valid: int
    workloads: frozenset[str]
    tasks: int
    audits: int
    memory_bytes: int
    subnet: str = ""
    speed: int = 0
    holds: set[TaskKey] = field(default_factory=set)


@dataclass(frozen=True)
class Step:
    """What one event came to: rows to write (and to delete), in one transaction, then effects to begin.

    `refusal`: why the event was not taken, for whoever sent it; empty if it was."""

    rows: tuple[Row, ...]
    deleted: tuple[Row, ...]
    effects: tuple[Effect, ...]
    refusal: str = ""


@dataclass
class _Wanted:
    effect: Effect
    tries: int = 0
    running: bool = False


class Rows:
    """All live rows by key, and which of them were touched since the last step."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.tasks: dict[TaskKey, Task] = {}
        self.works: dict[tuple[JobId, int, int], Work] = {}
        self.batches: dict[int, Batch] = {}
        self.segments: dict[tuple[int, Place], Segment] = {}
        self.seats: dict[tuple[int, Place], dict[Address, Seat]] = defaultdict(dict)
        self.faults: dict[tuple[object, ...], Fault] = {}
        self.guilty: Counter[Address] = Counter()
        """Owners with faults that cost stake, and how many: none of their nodes gets work."""
        self.absolutions = 0
        """How often an owner stopped being guilty."""
        self.tasks_of: dict[JobId, list[Task]] = defaultdict(list)
        self.batches_of: dict[JobId, list[Batch]] = defaultdict(list)
        """Batches with a line of a job."""
        self.segments_of: dict[int, list[Segment]] = defaultdict(list)
        self.works_of: dict[int, list[Work]] = defaultdict(list)
        """Works by the row of their batch; those without one under 0 are not kept here."""
        self.decoys_in: dict[int, list[Work]] = defaultdict(list)
        """Works by the row of the batch that holds their decoy."""
        self.by_chain_id: dict[BatchId, Batch] = {}
        self._touched: dict[int, Row] = {}
        self._deleted: dict[int, Row] = {}
        for row in rows:
            self._enter(row)

    def add(self, row: Row) -> None:
        self._enter(row)
        self.touch(row)

    def current(self, task: Task) -> Work | None:
        """The work that counts for a task now."""
        return self.works[task.job, task.index, task.attempt] if task.state in HELD else None

    def touch(self, row: Row) -> None:
        """Note that a row of these was changed."""
        self._touched[id(row)] = row

    def delete(self, row: Row) -> None:
        self._leave(row)
        self._touched.pop(id(row), None)
        self._deleted[id(row)] = row

    def forget(self, job: JobId, works: Iterable[Work]) -> None:
        """A job that is over leaves the memory with these works, all that it has; the store keeps it."""
        gone = {id(work): work for work in works}
        for work in gone.values():
            del self.works[work.job, work.task, work.attempt]
        held = {work.batch for work in gone.values()}, {work.decoy_batch for work in gone.values()}
        for works_in, batches in zip((self.works_of, self.decoys_in), held, strict=True):
            for batch in batches - {0}:
                works_in[batch] = [work for work in works_in[batch] if id(work) not in gone]
                if not works_in[batch]:
                    del works_in[batch]
        for task in self.tasks_of.pop(job, ()):
            del self.tasks[job, task.index]

    def forget_batch(self, batch: Batch) -> None:
        """A batch that is final leaves the memory with its segments and seats; the store keeps it."""
        for segment in self.segments_of.pop(batch.id, ()):
            place = segment.batch, place_of(segment)
            del self.segments[place]
            self.seats.pop(place, None)
        for works_in in (self.works_of, self.decoys_in):
            if not works_in.get(batch.id):
                works_in.pop(batch.id, None)
        self._leave(batch)

    def delete_tasks(self, job: JobId, works: Iterable[Work]) -> None:
        """The job is not what it was: its tasks, and these works, all that it has, are deleted."""
        works = list(works)
        for row in (*self.tasks_of.get(job, ()), *works):
            self._touched.pop(id(row), None)
            self._deleted[id(row)] = row
        self.forget(job, works)

    def emit(self, line: Log) -> None:
        """A row that is written and not kept."""
        self._touched[id(line)] = line

    def changes(self) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Rows touched and rows deleted since the last call."""
        found = tuple(self._touched.values()), tuple(self._deleted.values())
        self._touched, self._deleted = {}, {}
        return found

    def bind(self, batch: Batch, chain_id: BatchId | None) -> None:
        """The batch has this number on chain now, or none any more."""
        if batch.chain_id is not None and self.by_chain_id.get(batch.chain_id) is batch:
            del self.by_chain_id[batch.chain_id]
        batch.chain_id = chain_id
        if chain_id is not None:
            self.by_chain_id[chain_id] = batch
        self.touch(batch)

    def put_into(self, work: Work, batch: int) -> None:
        """The work is in this batch now, 0 for none."""
        if work.batch and work in self.works_of.get(work.batch, ()):
            self.works_of[work.batch].remove(work)
        work.batch = batch
        if batch:
            self.works_of[batch].append(work)
        self.touch(work)

    def put_decoy_into(self, work: Work, batch: int) -> None:
        """The work's decoy is in this batch now."""
        work.decoy_batch = batch
        self.decoys_in[batch].append(work)
        self.touch(work)

    def _enter(self, row: Row) -> None:
        match row:
            case Job():
                self.jobs[row.id] = row
            case Task():
                self.tasks[row.job, row.index] = row
                self.tasks_of[row.job].append(row)
            case Work():
                self.works[row.job, row.task, row.attempt] = row
                if row.batch:
                    self.works_of[row.batch].append(row)
                if row.decoy_batch:
                    self.decoys_in[row.decoy_batch].append(row)
            case Batch():
                self.batches[row.id] = row
                for job, _ in row.lines:
                    self.batches_of[job].append(row)
                if row.chain_id is not None:
                    self.by_chain_id[row.chain_id] = row
            case Segment():
                self.segments[row.batch, place_of(row)] = row
                self.segments_of[row.batch].append(row)
            case Seat():
                self.seats[row.batch, seat_place(row)][row.auditor] = row
            case Fault():
                if row.key in self.faults:
                    self._absolve(self.faults[row.key])
                self.faults[row.key] = row
                if row.kind not in HARMLESS:
                    self.guilty[row.owner] += 1

    def _leave(self, row: Row) -> None:
        match row:
            case Job():
                del self.jobs[row.id]
            case Task():
                del self.tasks[row.job, row.index]
                self.tasks_of[row.job].remove(row)
            case Work():
                del self.works[row.job, row.task, row.attempt]
                if row.batch:
                    self.works_of[row.batch].remove(row)
                if row.decoy_batch:
                    self.decoys_in[row.decoy_batch].remove(row)
            case Batch():
                del self.batches[row.id]
                for job, _ in row.lines:
                    self.batches_of[job].remove(row)
                    if not self.batches_of[job]:
                        del self.batches_of[job]
                if row.chain_id is not None and self.by_chain_id.get(row.chain_id) is row:
                    del self.by_chain_id[row.chain_id]
            case Segment():
                del self.segments[row.batch, place_of(row)]
                self.segments_of[row.batch].remove(row)
            case Seat():
                seats = self.seats[row.batch, seat_place(row)]
                del seats[row.auditor]
                if not seats:
                    del self.seats[row.batch, seat_place(row)]
            case Fault():
                self._absolve(self.faults.pop(row.key))

    def _absolve(self, fault: Fault) -> None:
        if fault.kind not in HARMLESS:
            self.guilty[fault.owner] -= 1
            if not self.guilty[fault.owner]:
                del self.guilty[fault.owner]
                self.absolutions += 1


class World:
    """See the module's docstring."""

    def __init__(self, rules: Rules, rows: Rows, last_row: int = 0) -> None:
        self.rules = rules
        self.rows = rows
        self.nodes: dict[Address, Node] = {}
        self.elsewhere: dict[Address, int] = {}
        self.refusal = ""
        self.about: tuple[JobId, ...] = ()
        """The jobs that are looked at: where the engine fails, these are to blame (`blame`)."""
        self.takes_in = False
        """Whether it looks at them because of the event that is taken in."""
        self.forks = 0
        """How often the chain went back: what was asked for before answers for another chain."""
        self._memory: dict[type[object], object] = {}
        self._wanted: dict[tuple[object, ...], _Wanted] = {}
        self._begun: list[Effect] = []
        self._withdrawn: dict[int, Effect] = {}
        self._timers: list[tuple[float, int, tuple[object, ...]]] = []
        self._timer = 0
        self._logged: dict[JobId, int] = {}
        own = [row for row in rows.batches if rules.first_row <= row < rules.first_row + ROWS]
        self._next_row = max([rules.first_row - 1, last_row, *own]) + 1

    def memory(self, kind: type[M]) -> M:
        """What a part remembers beside the rows: made anew when the engine is."""
        found = self._memory.get(kind)
        if found is None:
            found = self._memory[kind] = kind()
        return cast(M, found)

    # Effects

    def want(self, effect: Effect) -> None:
        """Have an effect done; nothing where it is wanted already."""
        if effect.key not in self._wanted:
            self._wanted[effect.key] = _Wanted(effect, running=True)
            self._begun.append(effect)

    def done(self, key: tuple[object, ...]) -> bool:
        """An effect is over, or not wanted any more; whether it was wanted. What this step wanted is not begun."""
        wanted = self._wanted.pop(key, None)
        if wanted is not None and self._begun:
            self._withdrawn[id(wanted.effect)] = wanted.effect
        return wanted is not None

    def wanted(self, key: tuple[object, ...]) -> bool:
        return key in self._wanted

    def wanted_like(self, prefix: Sequence[object]) -> list[tuple[object, ...]]:
        """Keys of wanted effects that begin so; looks at all of them."""
        return [key for key in self._wanted if prefix and key[: len(prefix)] == tuple(prefix)]

    def failed(self, key: tuple[object, ...], now: Now) -> Effect | None:
        """An effect came to nothing. It is begun again after a back-off; returned instead, and not wanted any more,
        where it was tried as often as it may."""
        wanted = self._wanted.get(key)
        if wanted is None:
            return None
        wanted.tries, wanted.running = wanted.tries + 1, False
        limit = type(wanted.effect).retries
        if limit is not None and wanted.tries > limit:
            return self._wanted.pop(key).effect
        self.wake_at(now.mono + backoff(wanted.tries), ("effect", *key))
        return None

    def retry(self, key: tuple[object, ...]) -> None:
        """The back-off of an effect is over."""
        wanted = self._wanted.get(key)
        if wanted is not None and not wanted.running:
            wanted.running = True
            self._begun.append(wanted.effect)

    def send(self, effect: Effect) -> None:
        """Have a message sent whose answer the rows wait for themselves (a lease, a seat): it is not tried again."""
        self._begun.append(effect)

    # Timers

    def wake_at(self, mono: float, key: tuple[object, ...]) -> None:
        """Have the part that `key` names look again at a time; a part checks whether it is still due."""
        self._timer += 1
        heapq.heappush(self._timers, (mono, self._timer, key))

    def due(self, now: Now) -> Iterator[tuple[object, ...]]:
        while self._timers and self._timers[0][0] <= now.mono:
            yield heapq.heappop(self._timers)[2]

    @property
    def next_wake(self) -> float | None:
        """When there is something to do without news, by the monotonic clock."""
        return self._timers[0][0] if self._timers else None

    # Rows

    def new_row(self) -> int:
        self._next_row += 1
        return self._next_row - 1

    def log(
        self,
        job: JobId,
        now: Now,
        kind: str,
        text: str,
        *,
        task: int = -1,
        node: str = "",
        loss: float | None = None,
        step: int | None = None,
    ) -> None:
        """A line of the log of a job that this verifier knows. Its number is that of the store's last line of the job
        plus one: see `logged`."""
        if job not in self.rows.jobs:
            return
        seq = self._logged.get(job, 0) + 1
        self._logged[job] = seq
        self.rows.emit(
            Log(job=job, seq=seq, at=now.chain, kind=kind, text=text, task=task, node=node, loss=loss, step=step)
        )

    def logged(self, job: JobId, seq: int) -> None:
        """How many lines of a job are in the store."""
        self._logged[job] = seq

    def forget(self, job: JobId) -> None:
        """A job without tasks leaves the memory; the store keeps it."""
        self.rows.jobs.pop(job, None)
        self._logged.pop(job, None)

    def step(self) -> Step:
        """What has come together since the last call."""
        rows, deleted = self.rows.changes()
        effects = tuple(effect for effect in self._begun if id(effect) not in self._withdrawn)
        refusal = self.refusal
        self._begun, self._withdrawn, self.refusal = [], {}, ""
        return Step(rows, deleted, effects, refusal)


def place_of(segment: Segment) -> Place:
    return segment.job, segment.task, segment.index  # type: ignore[return-value]


def seat_place(seat: Seat) -> Place:
    return seat.job, seat.task, seat.segment  # type: ignore[return-value]


def backoff(tries: int) -> float:
    """Seconds until what failed `tries` times is tried again."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(max(tries - 1, 0), 16))


__all__ = ["Digest", "Node", "Rows", "Rules", "Step", "World", "backoff", "place_of", "seat_place"]
