"""What the economics bench reckons with: shipped parameters, stated costs, and what a cell is.

Amounts are tokens (10**18 base units) as floats: nobody has to agree on them. What parties must agree on (odds,
verdicts, shares) is computed by `proofyard.protocol` in integers.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from proofyard.chain.records import CourtParams, Params
from proofyard.protocol.types import Wei

ROOT = Path(__file__).parent.parent
SEED = 20261126
TOKEN = 10**18
BPS = 10_000

PARAMS = Params()
COURT: CourtParams = PARAMS.court

K = 2
"""Auditors of a segment (k), the least that a Registry takes."""
SEGMENTS, SEGMENTS_PER_AUDIT = 64, 1
SEATS = 9
"""Seats of the quorum, where it matters; 2/3 of them sign."""


@dataclass(frozen=True)
class Cost:
    amount: float
    unit: str
    words: str


COSTS = {
    "work": Cost(0.9, "of a task's reward", "executing it (electricity, wear); another tenth is earned"),
    "audit_fee": Cost(0.1, "of the job's reward", "what a requester offers for audits, as in the SDK's example"),
    "verifier_fee": Cost(0.05, "of the job's reward", "what a requester offers its verifiers"),
    "gas": Cost(0.001, "tokens", "one transaction"),
    "bandwidth": Cost(0.0001, "tokens per MiB", "moving bytes, paid by whoever receives them"),
    "state": Cost(6.0, "MiB", "a state of a training task"),
    "record": Cost(0.02, "tokens", "fetching and validating the record of a batch"),
}
"""Everything that the protocol does not fix. Where a cell turns on one of these, its break-even is in the table."""

WORK, AUDIT_FEE, VERIFIER_FEE, GAS, RECORD = (
    COSTS[name].amount for name in ("work", "audit_fee", "verifier_fee", "gas", "record")
)
FETCH = COSTS["bandwidth"].amount * COSTS["state"].amount

T = TypeVar("T")
Where = Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """One strategy in one situation. `margin`: what the honest reply gains above the strategy, in tokens and on
    average (of a simulated cell the lower bound of a 99.9% interval). `safety`: how many times what the strategy
    saves or can win it has to fear, where that can be said; 1 breaks even. `takes`: what winning a lost cell takes."""

    role: str
    strategy: str
    where: Where
    margin: float
    safety: float | None = None
    takes: str = ""
    simulated: bool = False

    @property
    def name(self) -> str:
        where = ", ".join(f"{key} {value:,g}" for key, value in self.where.items())
        return f"{self.role} {self.strategy}" + (f": {where}" if where else "")

    @property
    def lost(self) -> bool:
        return not self.margin > 0


@dataclass(frozen=True)
class Bench:
    """`quick` takes corners of every range only."""

    quick: bool = False
    seed: int = SEED

    def corners(self, values: tuple[T, ...]) -> tuple[T, ...]:
        return (values[0], values[-1]) if self.quick and len(values) > 2 else values


OWNERS = (30, 100, 1_000)
"""Owners of nodes in the network, the strategist's among them."""
COLLUDING = (0.0, 0.1, 0.25, 0.4)
"""Fraction of them that act as one with the strategist."""
STAKES = (100.0, 1_000.0, 10_000.0)
REPUTATIONS = (0, 10, 100, 10_000)
FLIGHTS = ((1, 0.01), (1, 10.0), (8, 1.0), (8, 25.0), (100, 0.1), (100, 3.0), (10_000, 0.01))
"""Tasks in flight and the reward of each."""


def wei(tokens: float) -> Wei:
    return Wei(round(tokens * 10**9) * 10**9)


def tokens(amount: int) -> float:
    return amount / TOKEN


def share(bps: int) -> float:
    return bps / BPS


def say(*words: object) -> None:
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)
