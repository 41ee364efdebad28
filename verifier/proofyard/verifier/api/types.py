"""What the API says, one struct for each thing. Ids, amounts and work units are decimal strings (JSON's numbers end at
2^53), indices of tasks and segments and counts are numbers, digests are hex, times are Unix seconds of the chain's
clock, amounts are base units of CREDIT. What is not there is null.
"""

from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Out(msgspec.Struct, frozen=True, kw_only=True):
    """Something the API says."""


class Error(Out, frozen=True, kw_only=True):
    """Every answer that is not 2xx. `error` is for programs, `reason` for people."""

    error: str
    reason: str


class Health(Out, frozen=True, kw_only=True):
    """Whether the process is alive: its engine takes in events. `reasons` say why not."""

    alive: bool
    verifier: str
    nodes: int
    chain_id: str
    reasons: list[str]


class Check(Out, frozen=True, kw_only=True):
    """One condition of being ready, as of `seconds_ago`."""

    name: str
    holds: bool
    reason: str
    seconds_ago: float


class Ready(Out, frozen=True, kw_only=True):
    ready: bool
    checks: list[Check]


class Status(Out, frozen=True, kw_only=True):
    """Who this verifier is and what it is connected to."""

    verifier: str
    operator: str | None
    chain_id: str
    registry: str
    court: str
    block: int
    chain_time: float
    version: str
    nodes: int
    streams: int


class Job(Out, frozen=True, kw_only=True):
    id: str
    state: str
    reason: str
    workload: str
    manifest: str
    requester: str
    units: str
    units_open: str
    units_paid: str
    reward: str
    audit_fee: str
    verifier_fee: str
    auditors_per_segment: int
    segments_per_audit: int
    deadline: int
    look_ahead: int
    exact: bool
    tasks: int
    result: str | None
    opened_block: int
    taken_block: int
    closed_at: int
    gone: bool
    elsewhere: bool


class JobDetail(Out, frozen=True, kw_only=True):
    """A job with how many of its tasks are in which state, and its batches' numbers on chain (the last hundred)."""

    job: Job
    task_states: dict[str, int]
    batches: list[str]
    log_lines: int


class Task(Out, frozen=True, kw_only=True):
    """`deps`: the tasks whose results it takes in. `node` and `owner`: who has, or had last, the attempt that counts.
    `lost`, `refused`: how often nodes let it go, and how many owners could not finish it; `barred`: nodes that may not
    have it again."""

    job: str
    task: int
    label: str
    deps: list[int]
    state: str
    segments: int
    units: str
    reward: str
    attempt: int
    node: str | None
    owner: str | None
    undecided: int
    lost: int
    refused: int
    barred: list[str]


class Work(Out, frozen=True, kw_only=True):
    """One node's attempt at a task. `batch`: its number on chain. `outcome`: what the record of its batch says."""

    job: str
    task: int
    attempt: int
    node: str
    owner: str
    state: str
    outcome: str
    leaf: str | None
    result: str | None
    inputs: list[str]
    promised_until: int
    batch: str | None


class Line(Out, frozen=True, kw_only=True):
    job: str
    units: str


class Batch(Out, frozen=True, kw_only=True):
    """`row` is this verifier's own number of a batch, `batch` that on chain, null until it is committed. `record`: the
    CID of everything that its settlement rests on."""

    row: str
    batch: str | None
    state: str
    root: str
    lines: list[Line]
    commit_block: int
    opened_at: int
    drawn_at: int
    attempt: int
    seed: str | None
    record: str | None
    settled_block: int
    claimable_at: int
    reason: str


class Seat(Out, frozen=True, kw_only=True):
    """An auditor that was asked. `answer` is shown once the segment has its verdict: nobody is to copy it."""

    auditor: str
    state: str
    tries: int
    answer: str | None
    copied: bool
    reason: str


class Shown(Out, frozen=True, kw_only=True):
    """Where a statement can be checked: a batch's record, and the command that replays it. Empty where only this
    verifier knows."""

    batch: str | None
    record: str | None
    replay: str


class Audit(Out, frozen=True, kw_only=True):
    """A segment that the plan of a batch drew. `fault`: of what kind, empty for none. `claimed`: the digest of the
    worker's state after it, shown once it has its verdict; `auditors`: the plan's order, the first 64."""

    row: str
    batch: str | None
    job: str
    task: int
    segment: int
    worker: str
    claimed: str | None
    verdict: str
    fault: str
    reason: str
    auditors: list[str]
    seats: list[Seat]
    shown: Shown


class Fault(Out, frozen=True, kw_only=True):
    """`segment` null: of the result."""

    batch: str | None
    job: str
    task: int
    segment: int | None
    node: str
    owner: str
    operator: str
    kind: str
    reason: str
    shown: Shown


class LogLine(Out, frozen=True, kw_only=True):
    """`kind` is one of docs/protocol.md's event kinds. `loss` is null where a node said no number."""

    job: str
    seq: int
    at: float
    kind: str
    text: str
    task: int | None
    node: str | None
    loss: float | None
    step: int | None


class Node(Out, frozen=True, kw_only=True):
    """A node that is connected. `in_flight`: its owner's reward that is not settled, here and with other verifiers;
    `faults`: what costs its owner stake, as far as this verifier has it; `lost`: tasks that it let go in jobs that
    run. `holds`: its tasks, as job:task; `room`, `audits`: how many tasks and audits it takes at a time.
    `tokens_per_s`: what it says of the task under way, null where it says nothing.
    `memory_bytes`: the most that its work may take; `claimed_bytes`, `device`, `steps_per_s`: what it claims of its
    machine, with nothing as 0 or ""; `shown_bytes`, of them what it has shown, at `checked_at` (Unix seconds, 0 for
    never), and `proven` the same in words."""

    address: str
    owner: str
    operator: str
    workloads: list[str]
    software: str
    stake: str
    consecutive_valid: int
    holds: list[str]
    room: int
    audits: int
    in_flight: str
    faults: int
    lost: int
    tokens_per_s: float | None
    memory_bytes: str
    claimed_bytes: str
    shown_bytes: str
    device: str
    steps_per_s: int
    checked_at: int
    proven: str


class Dispute(Out, frozen=True, kw_only=True):
    """A challenge, as the Court has it."""

    id: str
    kind: str
    phase: str
    batch: str
    job: str
    task: int
    segment: int
    accused: str
    challenger: str
    bond: str
    opened_at: int
    until: int
    votes_wrong: int
    votes_right: int


class Because(Out, frozen=True, kw_only=True):
    """One statement of an explanation: `about` is its topic (given, waits, node, result, drawn, audit, fault, slashed,
    settled, paid, fees), `facts` the numbers behind `text`."""

    about: str
    text: str
    task: int | None
    node: str | None
    facts: dict[str, str]
    shown: Shown


class Explanation(Out, frozen=True, kw_only=True):
    """`cut`: there is more than is shown."""

    job: str
    task: int | None
    state: str
    because: list[Because]
    cut: bool


class Page(Out, Generic[T], frozen=True, kw_only=True):
    """`next` is the cursor of the page behind this one, null for the last."""

    items: list[T]
    next: str | None


SAID = (
    *(Error, Health, Ready, Status, JobDetail, Task, Batch, Explanation, Node, LogLine, Page[Job], Page[Task]),
    *(Page[Work], Page[Batch], Page[Audit], Page[Fault], Page[LogLine], Page[Node], Page[Dispute]),
)
"""What routes answer."""


def schemas() -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """For the OpenAPI document: the schema of each of `SAID`, and those that they refer to by name."""
    found, components = msgspec.json.schema_components(SAID, ref_template="#/components/schemas/{name}")
    return dict(zip(SAID, found, strict=True)), components
