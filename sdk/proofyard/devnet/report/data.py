"""What the page shows, as plain values; names are those people see, such as `node-3`."""

from dataclasses import dataclass

from proofyard.protocol.types import Address, Cid, Wei


@dataclass(frozen=True)
class LossPoint:
    """A training loss as a node reported it. `at`: seconds since the run's start."""

    node: str
    task: str
    at: float
    loss: float


@dataclass(frozen=True)
class Span:
    """What a node was busy with. `kind`: that of its task, or audit. `outcome`: ok, fault or lost.

    `start`, `end`: seconds since the run's start.
    """

    node: str
    kind: str
    label: str
    start: float
    end: float
    outcome: str = "ok"


@dataclass(frozen=True)
class Mark:
    """Something that happened on the chain, `at` seconds since the run's start."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True)
class Audit:
    """One audited segment. `answers`: auditor's name to what it answered, in words."""

    task: str
    segment: int
    worker: str
    answers: dict[str, str]
    verdict: str
    reason: str


@dataclass(frozen=True)
class Balance:
    """A participant's tokens before and after, in base units: what it holds plus what it has staked. Verifiers are paid
    into their stake."""

    name: str
    role: str
    address: Address
    before: Wei
    after: Wei
    note: str


@dataclass(frozen=True)
class Slash:
    node: str
    owner: Address
    amount: Wei
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A run, complete. `seconds`: the whole run. `refundable`: what goes back to the requester later, in base units, as
    is what the verifiers earned. `gas_per_task`: of committing and settling the batches. `result_bytes`: of the results
    of the last tasks, on average."""

    title: str
    started: str
    model: str
    seed: int
    seconds: float
    peak_rss_bytes: int
    loss_before: float
    loss_after: float
    sample_prompt: str
    sample_before: str
    sample_after: str
    adapter_cid: Cid
    adapter_dir: str
    conserved: bool
    supply: Wei
    refundable: Wei
    verifiers_earned: Wei
    batches: int
    gas_per_task: int
    result_bytes: int
    nodes: tuple[str, ...]
    losses: tuple[LossPoint, ...]
    spans: tuple[Span, ...]
    marks: tuple[Mark, ...]
    audits: tuple[Audit, ...]
    balances: tuple[Balance, ...]
    slashes: tuple[Slash, ...]
