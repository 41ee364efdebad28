"""Workers that fake, alone and with auditors and jurors of their own, against workers that execute.

Faking one segment of a task is taken to save all its work (a state that nothing can be executed from, an adapter that
stays as it is). What a worker has in flight is backed by its stake, or it is not offered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import expm1, log1p

from bench_economics_court import NODE_STAKE, accuse, defend, prize, returned
from bench_economics_odds import Pool, audit, juries, pool
from bench_economics_setup import (
    COLLUDING,
    COURT,
    FLIGHTS,
    OWNERS,
    PARAMS,
    REPUTATIONS,
    SEGMENTS,
    SEGMENTS_PER_AUDIT,
    STAKES,
    WORK,
    Bench,
    Cell,
    K,
    Where,
    share,
    tokens,
    wei,
)
from proofyard.protocol.audit import LISTED, Verdict
from proofyard.protocol.dial import WAD, AuditOdds, affordable_reward, audit_odds, stake_at_risk, tasks_alike
from proofyard.protocol.types import Wei

SPLITS = (1, 10, 100)
VERIFIERS = (1, 4, 16)
LATE_FINE = tokens(COURT.late_fine)


@dataclass(frozen=True)
class Draw:
    """`tasks` that each pay `reward`, and are drawn with the same odds."""

    tasks: int
    reward: float
    odds: AuditOdds


@dataclass(frozen=True)
class Situation:
    """An owner's stake, reputation and work, and who else there is. `everybody` counts it among the colluders."""

    stake: float
    reputation: int
    tasks: int
    reward: float
    owners: int
    colluding: float

    @property
    def pay(self) -> float:
        """What all tasks are paid, which the dial reckons with."""
        return self.tasks * self.reward

    @property
    def everybody(self) -> Pool:
        return pool(self.owners, max(self.colluding, 1 / self.owners))

    def where(self, **more: float) -> Where:
        return {
            "stake": self.stake,
            "reputation": self.reputation,
            "tasks": self.tasks,
            "reward": self.reward,
            "owners": self.owners,
            "colluding": self.colluding,
            **more,
        }

    def draws(self) -> list[Draw]:
        odds = dial(self.stake, self.reputation, self.pay, self.reward)
        return [Draw(self.tasks, self.reward, odds)]


def at_risk(stake: float) -> Wei:
    return stake_at_risk(wei(stake), PARAMS.given_back_bps)


@cache
def dial(stake: float, consecutive_valid: int, in_flight: float, reward: float) -> AuditOdds:
    """The odds of a task of `reward`, by the dial, where its owner has `in_flight` unsettled with it."""
    alike = tasks_alike(wei(in_flight), wei(reward))
    collusion = PARAMS.collusion_bps
    return audit_odds(consecutive_valid, at_risk(stake), alike, wei(in_flight), collusion, SEGMENTS, SEGMENTS_PER_AUDIT)


def backed(stake: float, tasks: int, reward: float) -> int:
    """How many of `tasks` an owner is offered: no more than its stake backs."""
    return min(tasks, affordable_reward(at_risk(stake), PARAMS.collusion_bps) // wei(reward))


def listed(odds: AuditOdds, owners: int) -> int:
    """How many auditors are on the list of each drawn segment, with the least it gets from the deck."""
    return min(LISTED, max(0, owners - 1) // odds.segments)


def offered(situation: Situation) -> bool:
    """Whether a verifier offers such work: the stake backs a task, and there are auditors for each segment."""
    return situation.tasks > 0 and all(_can_be_audited(d.odds, situation.owners) for d in situation.draws())


def _can_be_audited(odds: AuditOdds, owners: int) -> bool:
    """Whether k + 1 owners can agree on each segment whatever a minority says; a job's own m may have fewer."""
    return listed(odds, owners) >= (K + 1 if odds.segments <= SEGMENTS_PER_AUDIT else 2 * K + 1)


def shown(odds: AuditOdds, *, every: bool) -> float:
    """The probability that a fake in one task is audited, where one or `every` one of its segments is faked."""
    audited = odds.wad / WAD
    return audited if every else audited * min(1.0, odds.segments / SEGMENTS)


def at_least_one(draws: Sequence[Draw], per_fake: float, *, every: bool = False) -> float:
    """The probability that among all tasks a fake is audited and, with `per_fake` each, noticed."""
    missed = sum(draw.tasks * log1p(-min(1 - 1e-15, shown(draw.odds, every=every) * per_fake)) for draw in draws)
    return -expm1(missed)


def loss(
    draws: Sequence[Draw], stake: float, everybody: Pool, *, pay: float | None = None, every: bool = False
) -> float:
    """What an owner that fakes every task of `draws` expects to lose of its stake and pay, and its colluders of
    theirs.

    `pay` is all that it has in flight, if it does not fake all of that. The least over the ways in which the
    colluders can vote, and over whether the worker contests its fault in court."""
    ways = ("follow", "cautious") if everybody.colluding > 1 else ("honest",)
    return min(loss_by(way, draws, stake, everybody, pay, every=every) for way in ways)


def loss_by(
    way: str, draws: Sequence[Draw], stake: float, everybody: Pool, pay: float | None = None, *, every: bool = False
) -> float:
    """The same for one way to vote; `lazy` auditors follow, without being the worker's: what they lose is not its
    loss."""
    auditors, lazy = everybody.without(colluding=1), way == "lazy"
    way = "follow" if lazy else way
    length = min(listed(draw.odds, auditors.honest + auditors.colluding + 1) for draw in draws)
    outcomes = audit(auditors, false_claim=True, strategy=way, listed=length)
    fault = sum(odds for how, odds in outcomes if how.verdict == Verdict.FAULT)
    outvoted = sum(odds for how, odds in outcomes if how.verdict == Verdict.VALID and how.honest)
    liars = sum(odds * how.colluding for how, odds in outcomes if how.verdict == Verdict.FAULT and way == "follow")
    undecided = sum(odds for how, odds in outcomes if how.verdict == Verdict.UNDECIDED)
    # Such a task is done again by somebody else, and not paid.
    unpaid = undecided * sum(draw.tasks * draw.reward * shown(draw.odds, every=every) for draw in draws)
    if fault + outvoted == 0:
        return unpaid
    in_flight = sum(draw.tasks * draw.reward for draw in draws) if pay is None else pay
    at_fault = fault * _fault_costs(stake, in_flight, auditors) + (0.0 if lazy else liars * NODE_STAKE)
    in_court = outvoted * _outvoted_costs(stake + in_flight, 0.0 if lazy else (K + 1) * NODE_STAKE, auditors)
    return unpaid + at_least_one(draws, fault + outvoted, every=every) * (at_fault + in_court) / (fault + outvoted)


def stake_lost(stake: float, auditors: Pool) -> float:
    """What a fault at settlement takes for good, where the requester, the workers whose work it made
    worthless and some of the batch's auditors collude."""
    own = auditors.colluding / max(1, auditors.honest + auditors.colluding)
    friends = share(PARAMS.slash_requester_bps) + share(PARAMS.slash_redress_bps)
    back = friends + share(PARAMS.slash_auditor_bps) * own
    return stake - min(stake, NODE_STAKE) * back


def _fault_costs(stake: float, pay: float, auditors: Pool) -> float:
    """A fault costs stake and pay, less what contesting it in court is worth: won, the accusers pay as well."""
    lost = stake_lost(stake, auditors) + pay
    odds = juries(auditors.without(honest=K + 1))
    return lost - max(0.0, accuse(odds, lost + prize((K + 1) * NODE_STAKE)))


def _outvoted_costs(worker: float, accusers: float, auditors: Pool) -> float:
    """Colluders carried the verdict, but an honest auditor was outvoted, and contests its own fault, with the segment
    that it is about. If it wins, the worker loses `worker`, its stake and pay, and those who carried the verdict
    `accusers`, their stakes."""
    lost = worker + accusers
    return defend(juries(auditors.without(honest=1)), lost - returned(lost, requester=True))


def situations(bench: Bench) -> Iterator[Situation]:
    shapes = product(bench.corners(STAKES), bench.corners(REPUTATIONS), bench.corners(FLIGHTS))
    networks = list(product(bench.corners(OWNERS), bench.corners(COLLUDING)))
    for (stake, reputation, (asked, reward)), (owners, colluding) in product(shapes, networks):
        situation = Situation(stake, reputation, backed(stake, asked, reward), reward, owners, colluding)
        if offered(situation):
            yield situation


def cells(bench: Bench) -> Iterator[Cell]:
    for situation in situations(bench):
        yield from _fakes(situation)
        yield from _splits(situation)
        yield from _verifiers(situation)
        yield from _states(situation)
    yield from _milks(bench)


def _cell(strategy: str, where: Where, lost: float, saved: float, takes: str = "") -> Cell:
    """`lost` against the work that was `saved`, both in tokens."""
    return Cell("worker", strategy, where, lost - saved, lost / saved, takes)


def _fakes(of: Situation) -> Iterator[Cell]:
    draws = of.draws()
    lost = loss(draws, of.stake, of.everybody)
    yield _cell("fakes one segment of every task", of.where(), lost, WORK * of.pay)
    takes = "a higher collusionBps: less reward in flight for a stake, or more audits"
    yield _cell("fakes where work costs all that it pays", of.where(), lost, of.pay, takes)
    yield _cell("fakes all segments", of.where(), loss(draws, of.stake, of.everybody, every=True), WORK * of.pay)
    for fakes in sorted({1, of.tasks // 4, of.tasks // 2} - {0, of.tasks}):
        some = [Draw(fakes, draws[0].reward, draws[0].odds)]
        lost = loss(some, of.stake, of.everybody, pay=of.pay)
        yield _cell("fakes some of its tasks", of.where(fakes=fakes), lost, WORK * fakes * of.reward)


def _splits(of: Situation) -> Iterator[Cell]:
    """Nodes of one owner are reckoned together; owners each need a stake, and are reckoned apart."""
    for parts in SPLITS[1:]:
        if of.stake < parts * NODE_STAKE or of.tasks < parts:
            continue
        lost = loss(of.draws(), of.stake, of.everybody)
        yield _cell("fakes, split over nodes", of.where(nodes=parts), lost, WORK * of.pay)
        if parts > 0.4 * of.owners:
            continue
        part = Situation(
            of.stake / parts,
            of.reputation,
            of.tasks // parts,
            of.reward,
            of.owners,
            max(of.colluding, parts / of.owners),
        )
        lost = parts * loss(part.draws(), part.stake, part.everybody)
        yield _cell("fakes, split over owners", of.where(splits=parts), lost, WORK * parts * part.pay)


def _verifiers(of: Situation) -> Iterator[Cell]:
    """Batches of several verifiers, drawn one after the other: each counts what is in flight when it is drawn. The
    worker may begin to fake with any of them."""
    for count in VERIFIERS[1:]:
        if of.tasks < count:
            continue
        each = of.tasks // count
        draws = [
            Draw(each, of.reward, dial(of.stake, of.reputation, (i + 1) * each * of.reward, of.reward))
            for i in range(count)
        ]
        for first in sorted({0, count // 2, count - 1}):
            faked = draws[first:]
            lost = loss(faked, of.stake, of.everybody, pay=count * draws[0].tasks * draws[0].reward)
            saved = WORK * len(faked) * each * of.reward
            yield _cell("fakes with several verifiers", of.where(verifiers=count, honest_batches=first), lost, saved)


def _states(of: Situation) -> Iterator[Cell]:
    """Answers other than a digest are tallied like one; what no auditor can be handed is a fault without votes."""
    draws, auditors = of.draws(), of.everybody.without(colluding=1)
    lost = loss(draws, of.stake, of.everybody)
    yield _cell("commits states that nobody can execute", of.where(), lost, WORK * of.pay)
    costs = stake_lost(of.stake, auditors) + of.pay
    odds = juries(auditors)
    contested = costs - max(0.0, accuse(odds, costs))
    yield _cell("fakes, and withholds what is drawn", of.where(), at_least_one(draws, 1.0) * contested, WORK * of.pay)
    # Accusing itself instead, in an earlier batch, brings back the winner's, the requester's and its jurors' share.
    own = auditors.colluding / (auditors.honest + auditors.colluding)
    back = returned(of.stake, winner=True, requester=True) + own * returned(of.stake, jury=True)
    lost = min(lost, at_least_one(draws, 1.0) * (of.stake - back + of.pay))
    yield _cell("fakes, and accuses itself before it is caught", of.where(), lost, WORK * of.pay)
    # States that were withheld and are right reach the jury in its voting time: a fine.
    if of.colluding:
        lost = loss_by("lazy", draws, of.stake, of.everybody)
        yield _cell("publishes fake states for lazy auditors", of.where(), lost, WORK * of.pay)
    audited = at_least_one(draws, 1.0, every=True)
    yield Cell("worker", "works, and delivers only to the jury", of.where(), audited * LATE_FINE)


def _milks(bench: Bench) -> Iterator[Cell]:
    """An honest record until trust is as high as it gets, then a lie in everything that the stake backs."""
    for stake, owners, colluding in product(bench.corners(STAKES), bench.corners(OWNERS), bench.corners(COLLUDING)):
        for reward in (0.1, 1.0, 10.0):
            of = Situation(stake, 1_000_000, backed(stake, 10_000, reward), reward, owners, colluding)
            if offered(of):
                lost = loss(of.draws(), of.stake, of.everybody)
                yield _cell("earns trust, then fakes all that its stake backs", of.where(), lost, WORK * of.pay)
