"""What the engine is told: by peers, by the chain, by the shell about an effect, by the clock.

The shell has checked what needs keys, bytes or the network (signatures, forms, sizes, first states); the engine decides
what it means. An event that does not fit the rows any more changes nothing and says so in its reply: everything may be
repeated, late or out of order.
"""

from dataclasses import dataclass

from proofyard.chain.events import Event as ChainNews
from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import ClosedRound
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.seal import Opening
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei

TaskKey = tuple[JobId, TaskIndex]
Place = tuple[JobId, TaskIndex, SegmentIndex]


@dataclass(frozen=True, slots=True)
class Now:
    """`chain`: Unix seconds that the next block will have at least (deadlines); `mono`: seconds of the monotonic clock
    (durations); `block`: the newest block."""

    chain: float
    mono: float
    block: int


# Peers


UNBOUND = 1 << 62
"""Bytes that nobody's work takes."""


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A registered node is connected, or said again what it offers. `tasks`, `audits`: how many it holds at a time;
    `memory_bytes`: the most that work for it may take; `subnet`: the part of the network that it is in, or the relay
    that carries it, empty where that is not known; `speed`: steps a second that it has shown, 0 where none."""

    node: Address
    owner: Address
    operator: int
    stake: Wei
    consecutive_valid: int
    workloads: frozenset[str]
    tasks: int
    audits: int
    memory_bytes: int = UNBOUND
    subnet: str = ""
    speed: int = 0


@dataclass(frozen=True, slots=True)
class NodeLeft:
    node: Address


@dataclass(frozen=True, slots=True)
class TaskAnswered:
    """How a node took a task offer. `declined`: it said no itself and was not merely busy. `lacks`: it has not got the
    data, which stays at home."""

    node: Address
    key: TaskKey
    taken: bool
    declined: bool = False
    reason: str = ""
    lacks: bool = False


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """Renews a lease. `text` empty: nothing to log."""

    node: Address
    key: TaskKey
    text: str = ""
    loss: float | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class TaskHandedBack:
    node: Address
    key: TaskKey
    reason: str


@dataclass(frozen=True, slots=True)
class WorkCommitted:
    """A checked commitment. `inputs` are those it was made of; `promised_until` what the receipt is to say; `decoy`:
    the submission holds one, which counts where it was ordered. `manifest`: of the job that it was checked against,
    whose number may be another one's by now."""

    node: Address
    key: TaskKey
    inputs: tuple[Cid, ...]
    submission: bytes
    leaf: Digest
    result: Cid
    promised_until: int
    manifest: Cid
    decoy: bool = False


@dataclass(frozen=True, slots=True)
class AuditAnswered:
    """How an auditor took an offer of the draw with this seed."""

    node: Address
    batch: BatchId
    place: Place
    seed: Digest
    taken: bool
    busy: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AuditProgressed:
    node: Address
    batch: BatchId
    place: Place
    seed: Digest


@dataclass(frozen=True, slots=True)
class AuditGivenUp:
    node: Address
    batch: BatchId
    place: Place
    seed: Digest
    reason: str


@dataclass(frozen=True, slots=True)
class AuditSealed:
    """A seal whose signature is its auditor's, of the draw with this seed."""

    node: Address
    batch: BatchId
    place: Place
    seed: Digest
    seal: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class SealAnswered:
    """What an auditor showed when its seal of the draw with this seed was to be opened; None: it gave no answer in
    time."""

    node: Address
    batch: BatchId
    place: Place
    seed: Digest
    opening: Opening | None
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Published:
    """An artifact that somebody may have waited for is here."""

    cid: Cid


# The chain


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event of the Registry or the Court in the canonical chain; `at` is its block's time, in Unix seconds."""

    news: ChainNews
    at: int


@dataclass(frozen=True, slots=True)
class JobRead:
    """What the chain says of a job now, asked for after a reorganisation. `verifier` 0: nobody's."""

    job: JobId
    manifest: Cid | None
    verifier: int
    closed_at: int
    units_open: int
    units_paid: int


@dataclass(frozen=True, slots=True)
class JobFreed:
    """The verifier that schedules a job was silent for so long that anybody may take it."""

    job: JobId


@dataclass(frozen=True, slots=True)
class JobBroken:
    """The verifier met errors of its own with this job again and again."""

    job: JobId
    reason: str


@dataclass(frozen=True, slots=True)
class Backed:
    """What this verifier's owner had at stake and open after a block; see `Account.exposed`."""

    stake: Wei
    exposed: int
    block: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """This verifier has taken over a batch that another one left, and has its member list."""

    chain_id: BatchId
    root: Digest
    members: bytes
    lines: tuple[tuple[JobId, int], ...]
    attempt: int
    commit_block: int


@dataclass(frozen=True, slots=True)
class Finalized:
    """The window of a settled batch has closed, and nothing of it is to be distributed any more. A batch that pays no
    fee and froze no stake has no event of the chain that says so."""

    batch: BatchId


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The chain is another one after block `to`: what rests on later blocks has not happened."""

    to: int


# Effects


@dataclass(frozen=True, slots=True)
class Expanded:
    """A job's manifest, read and checked. `specs`: its task graph."""

    job: JobId
    manifest: Cid
    workload: str
    exact: bool
    look_ahead: int
    specs: tuple[TaskSpec, ...]
    paid: tuple[tuple[TaskIndex, Address, Address, Cid], ...] = ()
    """(task, node, owner, result) of what settled records accept already: another verifier had the job before."""
    workers: int = 0
    """Tasks of a round, where rounds do not wait for everybody; 0 where they do."""
    voters: tuple[Address, ...] = ()
    """Whose shards these are, where nodes decide what a round takes."""
    round_tasks: int = 0
    """Tasks of a round, of which one owner may do no more than `caps` says."""
    caps: Caps | None = None


@dataclass(frozen=True, slots=True)
class RoundsClosed:
    """The rounds of a job that are closed by what the chain says now. `voters` as in `Expanded`, `key_rounds` as in
    `closing.Rounds`."""

    job: JobId
    closed: tuple[ClosedRound, ...]
    voters: tuple[Address, ...] = ()
    key_rounds: int = 1


@dataclass(frozen=True, slots=True)
class DrawnSegment:
    """`auditors` in the plan's order, `seats` is k, `claimed` the worker's answer; `weigh`: what its auditors open
    takes the states' bytes to count (the drawn share of keyed digests, a workload that is not `exact`)."""

    place: Place
    auditors: tuple[Address, ...]
    seats: int
    claimed: Digest
    worker: Address
    weigh: bool
    workload: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch's plan. `counted`: msgpack of the member lists' CIDs that it reckons with; `drawn_at`, `opened_at`: times
    of its draw block and of its opening, on the chain's clock; `fork` is that of the effect."""

    batch: int
    fork: int
    seed: Digest
    segments: tuple[DrawnSegment, ...]
    counted: bytes
    skipped: int
    commit_block: int
    drawn_at: int
    opened_at: int


@dataclass(frozen=True, slots=True)
class StateLooked:
    """The state before a drawn segment was looked at; a fault with its reason, kind 0 for none."""

    batch: int
    place: Place
    kind: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResultLooked:
    """A member's result was looked at; a fault with its reason, kind 0 for none."""

    batch: int
    key: TaskKey
    kind: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AnswersWeighed:
    """Opened answers of a segment, to the draw with this seed, as they count: an inexact workload's likeness, and who
    has a wrong keyed digest."""

    batch: int
    place: Place
    seed: Digest
    answers: tuple[tuple[Address, Digest], ...]
    copied: frozenset[Address] = frozenset()
    withheld: str = ""
    """The worker withheld what weighing them takes."""


@dataclass(frozen=True, slots=True)
class RecordSettled:
    """What the settled record of a batch, as `fork` has it, says: `outcome` by task, as in `rows.Work` or "decoy", who
    made a task undecidable, and its faults. Told by the shell once it has read and checked the record of a
    `BatchSettled`."""

    batch: int
    fork: int
    record: Cid
    outcomes: tuple[tuple[TaskKey, str, str], ...]
    """(task, outcome, reason)."""
    dissenters: tuple[tuple[TaskKey, tuple[Address, ...]], ...]
    faults: tuple[tuple[TaskKey, Address, Address, int, int, int, str], ...]
    """(task, node, owner, operator, segment or -1, kind, reason)."""
    settled_block: int
    claimable_at: int
    paid: int = 0
    """What it pays in all, in base units, to so many `operators`."""
    operators: int = 0


@dataclass(frozen=True, slots=True)
class Signed:
    """A batch's record has its quorum; the transaction is on the way."""

    batch: int
    record: Cid


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer whose auditor signed it, for the draw with this seed, and showed it to another verifier; its seal, and
    the opening, msgpack of `SealOpened`."""

    place: Place
    auditor: Address
    seed: Digest
    seal: Digest
    signature: Signature
    opening: bytes


@dataclass(frozen=True, slots=True)
class LooksDue:
    """Signers know more than this verifier did: member lists (`redraw`), states or results that were called withheld,
    what opens marks (`marks`), or answers of auditors that were called absent."""

    batch: int
    redraw: bool
    places: tuple[Place, ...] = ()
    results: tuple[TaskKey, ...] = ()
    marks: bool = False
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordRefused:
    """The record that this verifier forms of a judged batch does not hold: it does not sign it."""

    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class MarksTold:
    """What opens the marks of a batch's members, in their order, `mark.UNOPENED` where nobody gives it."""

    batch: int
    salts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A job's result for people is in the store."""

    job: JobId
    result: Cid


@dataclass(frozen=True, slots=True)
class EffectFailed:
    """An effect came to nothing. `retry` false: it never will (`effects.Effect.key` names it). `own`: this verifier met
    an error of its own, again and again."""

    key: tuple[object, ...]
    reason: str
    retry: bool = True
    own: bool = False


# The clock


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What each owner has in flight with other verifiers and other processes, in base units."""

    exposure: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class JobSized:
    """The memory that the work of a job takes at least."""

    job: JobId
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class NodesListed:
    """All nodes that the Registry lists, connected or not: (node, owner, bitmap of workloads) each. What only some of
    them cannot do is not impossible."""

    nodes: tuple[tuple[Address, Address, int], ...]


Event = (
    NodeJoined
    | NodeLeft
    | TaskAnswered
    | TaskProgressed
    | TaskHandedBack
    | WorkCommitted
    | AuditAnswered
    | AuditProgressed
    | AuditGivenUp
    | AuditSealed
    | SealAnswered
    | Published
    | ChainEvent
    | JobRead
    | JobFreed
    | JobBroken
    | Backed
    | Adopted
    | Finalized
    | RolledBack
    | Expanded
    | RoundsClosed
    | Drawn
    | StateLooked
    | ResultLooked
    | AnswersWeighed
    | RecordSettled
    | RecordRefused
    | Signed
    | LooksDue
    | MarksTold
    | Packed
    | EffectFailed
    | Tick
    | Elsewhere
    | NodesListed
    | JobSized
)
