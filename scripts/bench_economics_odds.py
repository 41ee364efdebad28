"""How often colluders carry an audit or a jury: exact, over every order in which seats can be drawn.

An audit is decided by `proofyard.protocol.audit.tally`, vote by vote; owners are drawn without replacement.
"""

from dataclasses import dataclass
from functools import cache
from math import comb

from bench_economics_setup import COURT, K
from proofyard.protocol.audit import LISTED, Verdict, tally
from proofyard.protocol.types import Digest

CLAIMED, OTHER = Digest(b"\x01" * 32), Digest(b"\x02" * 32)


@dataclass(frozen=True)
class Pool:
    """Owners that can be drawn: honest ones, and those that act as one."""

    honest: int
    colluding: int

    def without(self, honest: int = 0, colluding: int = 0) -> "Pool":
        return Pool(max(0, self.honest - honest), max(0, self.colluding - colluding))


def pool(owners: int, fraction: float) -> Pool:
    """`fraction` of `owners` collude, in whole owners; all others are honest."""
    colluding = round(owners * fraction)
    return Pool(owners - colluding, colluding)


@dataclass(frozen=True)
class Outcome:
    """How an audit ends: the verdict, and how many honest and colluding auditors voted."""

    verdict: Verdict
    honest: int
    colluding: int


Outcomes = dict[Outcome, float]
Strategy = str
"""How colluders vote: `follow` (all give the answer that suits the strategist), `cautious` (they do so only where all k
first seats are theirs, which they can tell each other, and execute honestly otherwise), or `honest`."""


@cache
def verdict_of(claimed: int, other: int, exhausted: bool) -> Verdict:
    """`tally` of so many votes for the worker's answer and for one other answer."""
    return tally([CLAIMED] * claimed + [OTHER] * other, CLAIMED, K, exhausted=exhausted)


@cache
def audit(
    drawn_from: Pool, *, false_claim: bool, strategy: Strategy, listed: int = LISTED
) -> tuple[tuple[Outcome, float], ...]:
    """The ways in which the audit of one segment can end, with their probabilities.

    With a `false_claim` honest auditors contradict the worker and colluders support it; with a true one colluders
    accuse it. Seats are filled k at once and then one by one, as the verifier does; `listed` owners are on the
    segment's list."""
    total = drawn_from.honest + drawn_from.colluding
    if min(total, listed) < K:
        return ((Outcome(Verdict.UNDECIDED, 0, 0), 1.0),)
    result: Outcomes = {}
    for own in range(min(K, drawn_from.colluding) + 1):
        if K - own > drawn_from.honest:
            continue
        odds = comb(drawn_from.colluding, own) * comb(drawn_from.honest, K - own) / comb(total, K)
        attacks = strategy == "follow" or (strategy == "cautious" and own == K)
        _fill(_Audit(drawn_from, min(listed, total), attacks, false_claim), K - own, own, odds, result)
    return tuple(result.items())


@dataclass(frozen=True)
class _Audit:
    pool: Pool
    listed: int
    attacks: bool
    false_claim: bool


def _fill(of: _Audit, honest: int, colluding: int, odds: float, result: Outcomes) -> None:
    """Seat auditors until there is a verdict; add the probability of each end to `result`."""
    left = of.pool.without(honest, colluding)
    liars = colluding if of.attacks else 0
    truthful = honest + colluding - liars
    claimed, other = (liars, truthful) if of.false_claim else (truthful, liars)
    verdict = verdict_of(claimed, other, honest + colluding == of.listed)
    if verdict != Verdict.PENDING:
        outcome = Outcome(verdict, honest, colluding)
        result[outcome] = result.get(outcome, 0.0) + odds
        return
    total = left.honest + left.colluding
    if left.honest:
        _fill(of, honest + 1, colluding, odds * left.honest / total, result)
    if left.colluding:
        _fill(of, honest, colluding + 1, odds * left.colluding / total, result)


@dataclass(frozen=True)
class JuryOdds:
    """How often colluders hold a majority: of the first jury, of the jury of an appeal."""

    first: float
    last: float


@cache
def juries(drawn_from: Pool) -> JuryOdds:
    return JuryOdds(majority(drawn_from, COURT.jury_size), majority(drawn_from, COURT.appeal_jury_size))


@cache
def majority(drawn_from: Pool, size: int) -> float:
    """The probability that more than half of `size` owners drawn collude; of all owners where there are fewer."""
    total = drawn_from.honest + drawn_from.colluding
    size = min(size, total)
    ways = sum(
        comb(drawn_from.colluding, own) * comb(drawn_from.honest, size - own)
        for own in range(size // 2 + 1, min(size, drawn_from.colluding) + 1)
    )
    return ways / comb(total, size)
