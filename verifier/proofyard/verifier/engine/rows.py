"""What a verifier remembers, as the engine holds it: plain rows with a key each, nothing that knows a database.

A row is changed only by the engine, which reports every row it touched; the store writes them, all of one step in one
transaction (`proofyard.verifier.shell.store`). What follows from other rows is not kept: leases, back-offs, queues and
who is connected live in the engine's memory and begin anew with a restart.

Amounts are decimal strings of base units, times are Unix seconds of the chain's clock, blocks are block numbers.
"""

from enum import StrEnum
from typing import ClassVar

import msgspec

from proofyard.protocol.caps import Caps
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex


class JobState(StrEnum):
    """waiting (for its manifest) -> taking (its transaction is on the way) -> running -> packing (all is accepted and
    settled) -> done; failed from anywhere, with its reason. What was promised is committed and settled all the same."""

    WAITING = "waiting"
    TAKING = "taking"
    RUNNING = "running"
    PACKING = "packing"
    DONE = "done"
    FAILED = "failed"


class TaskState(StrEnum):
    """waiting for its inputs -> ready -> given (a node holds it) -> committed (it waits for verdicts) -> accepted.

    Back to ready or waiting when the holder is lost, when its work is found faulty or undecided, or when what it rests
    on is. dropped: nobody has committed to it in time, and no round takes it any more."""

    WAITING = "waiting"
    READY = "ready"
    GIVEN = "given"
    COMMITTED = "committed"
    ACCEPTED = "accepted"
    DROPPED = "dropped"


HELD = frozenset((TaskState.GIVEN, TaskState.COMMITTED, TaskState.ACCEPTED))
"""Somebody's work counts for these."""


class WorkState(StrEnum):
    """One node's attempt at a task: given -> committed (a receipt is out) -> batched -> settled; lost where it ended
    before a commitment. What is committed is put into a batch whatever became of its task."""

    GIVEN = "given"
    COMMITTED = "committed"
    BATCHED = "batched"
    SETTLED = "settled"
    LOST = "lost"


class BatchState(StrEnum):
    """formed (here only) -> sent (its transaction is on the way) -> committed (on chain) -> auditing (the plan is
    drawn) -> judged -> signed (the record is, its transaction is on the way) -> settled -> final.

    taken: another verifier leads it, and its settlement is waited for. dropped: nobody settled it in time, or the chain
    does not take it."""

    FORMED = "formed"
    SENT = "sent"
    COMMITTED = "committed"
    AUDITING = "auditing"
    JUDGED = "judged"
    SIGNED = "signed"
    SETTLED = "settled"
    FINAL = "final"
    TAKEN = "taken"
    DROPPED = "dropped"


class SeatState(StrEnum):
    """working -> sealed -> opened; away: it gave no answer, and is asked again later."""

    WORKING = "working"
    SEALED = "sealed"
    OPENED = "opened"
    AWAY = "away"


class Row(msgspec.Struct):
    """`table` names it in the database; `keys` are the fields that identify it."""

    table: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.keys)


class Job(Row, kw_only=True):
    """A job is its number, its manifest and the block it was opened in: after a reorganisation the same number may be
    another job."""

    table: ClassVar[str] = "job"
    keys: ClassVar[tuple[str, ...]] = ("id",)
    id: JobId
    manifest: Cid
    requester: Address
    opened_block: int
    opened_hash: bytes
    units: int
    reward: str
    audit_fee: str
    verifier_fee: str
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    workload: int
    """Its bit in the operators' bitmaps."""
    workload_name: str = ""
    look_ahead: int = 0
    exact: bool = True
    tasks: int = 0
    workers: int = 0
    """Tasks of a round, where rounds do not wait for everybody; 0 where they do."""
    round_tasks: int = 0
    """Tasks of a round, where one owner may not do as many of them as it likes; 0 where it may."""
    owner_cap: int = 0
    subnet_cap: int = 0
    state: JobState = JobState.WAITING
    reason: str = ""
    """Why it failed, or what it waits for."""
    result: Cid | None = None
    units_open: int = 0
    units_paid: int = 0
    """Of the batches on chain, as its events say."""
    closed_at: int = 0
    taken_block: int = 0
    gone: bool = False
    """Its block went in a reorganisation and it is not told again yet: nothing is given out or promised."""
    elsewhere: bool = False
    """Another verifier schedules it."""
    claimed_by: str = ""
    """The process that has it, where several share the database."""

    @property
    def caps(self) -> Caps:
        """How many of a round's `round_tasks` tasks are one owner's, and one subnet's, at most."""
        return Caps(owner=self.owner_cap, subnet=self.subnet_cap)

    @property
    def is_asked(self) -> bool:
        """Whether it was opened for this verifier, which has not begun it: it need not. A job that is taken is so in a
        block after the one that it rests on."""
        begun = self.tasks or self.units_open or self.units_paid
        return self.taken_block == self.opened_block and not begun


class Task(Row, kw_only=True):
    table: ClassVar[str] = "task"
    keys: ClassVar[tuple[str, ...]] = ("job", "index")
    job: JobId
    index: TaskIndex
    spec: bytes
    """msgpack of the `TaskSpec`; without `deps` while its round is not open."""
    reward: str
    """Its part of the job's reward, rounded down."""
    state: TaskState = TaskState.WAITING
    attempt: int = 0
    """The number of the `Work` that counts now, 0 before the first."""
    undecided: int = 0
    barred: tuple[Address, ...] = ()
    """Nodes that may not have it again."""
    lost_by: tuple[Address, ...] = ()
    """Nodes that fell silent with it, declined it or handed it back, once for each time."""
    refused_by: tuple[Address, ...] = ()
    """Owners whose nodes began it and could not finish it."""


class Work(Row, kw_only=True):
    table: ClassVar[str] = "work"
    keys: ClassVar[tuple[str, ...]] = ("job", "task", "attempt")
    job: JobId
    task: TaskIndex
    attempt: int
    node: Address
    owner: Address
    state: WorkState = WorkState.GIVEN
    inputs: tuple[Cid, ...] = ()
    """The results that it was given, in the order of the task's dependencies: what it rests on."""
    submission: bytes = b""
    """msgpack of the `SubmitCommitment` as it came."""
    leaf: Digest = Digest(b"")
    result: Cid | None = None
    promised_until: int = 0
    batch: int = 0
    """Row of the batch that holds it, 0 for none."""
    decoy: bool = False
    """Its node is asked for a decoy as well; once committed: it has given one that has not had its batch."""
    decoy_batch: int = 0
    """Row of the batch that holds its decoy, 0 for none."""
    subnet: str = ""
    """Where its node was when it was given it; see `NodeJoined`."""
    outcome: str = ""
    """accepted, repeated, stale, faulty, undecided, unpaid (its owner was caught, or nobody opens its mark); what its
    batch's record says."""


class Batch(Row, kw_only=True):
    """A batch that this verifier leads, led, or took over."""

    table: ClassVar[str] = "batch"
    keys: ClassVar[tuple[str, ...]] = ("id",)
    id: int
    state: BatchState = BatchState.FORMED
    root: Digest
    members: bytes
    """The member list that the commit names (`proofyard.protocol.members`), frozen when the batch is formed."""
    lines: tuple[tuple[JobId, int], ...]
    """(job, work units), ascending by job."""
    salts: bytes = b""
    """msgpack of what opens the members' marks, in their order, `mark.UNOPENED` where nobody gives it; empty for a
    batch that was taken over and whose workers have not been asked yet."""
    chain_id: BatchId | None = None
    commit_block: int = 0
    opened_at: int = 0
    drawn_at: int = 0
    attempt: int = 0
    seed: Digest = Digest(b"")
    """What its audits were drawn with."""
    counted: bytes = b""
    """msgpack of [(batch, CID)]: the member lists that the plan reckons with."""
    results_due: tuple[tuple[JobId, TaskIndex], ...] = ()
    """Members whose results are not looked at yet."""
    record: Cid | None = None
    settled_block: int = 0
    claimable_at: int = 0
    reason: str = ""
    claimed_by: str = ""


class Segment(Row, kw_only=True):
    """A segment that the plan audits; `kind` and `reason` of a fault, `unvoted` where it was found without votes."""

    table: ClassVar[str] = "segment"
    keys: ClassVar[tuple[str, ...]] = ("batch", "job", "task", "index")
    batch: int
    job: JobId
    task: TaskIndex
    index: int
    auditors: tuple[Address, ...]
    """The plan's order."""
    seats: int
    """Auditors that a first verdict takes (k)."""
    claimed: Digest
    """The worker's answer: the digest of its state after the segment."""
    worker: Address
    workload: str = ""
    exact: bool = True
    decoy: bool = False
    """What its worker committed to is false on purpose: who agrees is outvoted, and nobody's answer finds it right."""
    weigh: bool = False
    """Whether what its auditors open takes the states' bytes to count."""
    looked: bool = False
    """The state before it is at hand and may be executed: auditors can be seated."""
    verdict: str = "pending"
    kind: int = 0
    unvoted: bool = False
    reason: str = ""


class Seat(Row, kw_only=True):
    table: ClassVar[str] = "seat"
    keys: ClassVar[tuple[str, ...]] = ("batch", "job", "task", "segment", "auditor")
    batch: int
    job: JobId
    task: TaskIndex
    segment: int
    auditor: Address
    state: SeatState = SeatState.WORKING
    tries: int = 0
    seal: Digest = Digest(b"")
    signature: Signature = Signature(b"")
    opening: bytes = b""
    """msgpack of the `SealOpened` as it came."""
    answer: Digest = Digest(b"")
    """What the opened answer counts as: itself, unless the workload is not exact and finds it alike to another."""
    copied: bool = False
    """Its keyed digest is not that of the state: the answer has no say."""


class Fault(Row, kw_only=True):
    """What a settled or judged batch holds against a node. Where it costs stake its owner gets no further work here."""

    table: ClassVar[str] = "fault"
    keys: ClassVar[tuple[str, ...]] = ("batch", "job", "task", "node")
    batch: int
    job: JobId
    task: TaskIndex
    node: Address
    owner: Address
    operator: int
    segment: int = -1
    """-1: of the result."""
    kind: int
    reason: str


class Log(Row, kw_only=True):
    """What happened to a job, in order: the source of its report, timeline, live events and explanations."""

    table: ClassVar[str] = "log"
    keys: ClassVar[tuple[str, ...]] = ("job", "seq")
    job: JobId
    seq: int
    at: float
    kind: str
    text: str
    task: int = -1
    node: str = ""
    loss: float | None = None
    step: int | None = None


LIVE: tuple[type[Row], ...] = (Job, Task, Work, Batch, Segment, Seat, Fault)
"""Rows that the engine loads; of jobs and batches that are over only what others rest on."""
