"""Verifiers that lead, sign or hold back dishonestly, against verifiers that do what they are paid for."""

import math
from collections.abc import Iterator
from itertools import product

from bench_economics_court import NODE_STAKE, VERIFIER_STAKE, defend, prize, returned
from bench_economics_odds import JuryOdds, juries, pool
from bench_economics_setup import (
    AUDIT_FEE,
    COLLUDING,
    COURT,
    GAS,
    OWNERS,
    PARAMS,
    RECORD,
    VERIFIER_FEE,
    WORK,
    Bench,
    Cell,
    Where,
    share,
    tokens,
)
from bench_economics_workers import Draw, Situation, at_least_one, backed, dial, loss, offered

QUORUMS = (3, 9, 21)
"""Seats that count."""
BATCHES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""Rewards of a batch, or of all batches in one window."""
INVALID = (1e-2, 1e-3, 0.0)
"""Shares of the records handed to a co-signer that do not validate."""
EXPOSURE = share(PARAMS.exposure_bps)
"""Of a verifier's stake, what it may have open of budgets; 0 for no bound."""
SETTLE_PENALTY, RECEIPT_PENALTY = tokens(PARAMS.settle_penalty), tokens(COURT.receipt_penalty)
MAX_TASK_REWARD = 85.0
"""What nodes accept by default: a dropped receipt costs more."""


def signers(seats: int) -> int:
    return -(-2 * seats // 3)


def budget(reward: float) -> float:
    return reward * (1 + AUDIT_FEE + VERIFIER_FEE)


def leader_fee(reward: float, seats: int) -> float:
    """The leader's part of the verifiers' fee, its part as a signer included."""
    return VERIFIER_FEE * reward * share(PARAMS.leader_bps) + signer_fee(reward, seats)


def signer_fee(reward: float, seats: int) -> float:
    return VERIFIER_FEE * reward * (1 - share(PARAMS.leader_bps)) / signers(seats)


def drop_penalty(reward: float) -> float:
    """What a leader pays whose batch is dropped: its budget, which its stake covers where open budgets are bounded."""
    return min(math.inf if EXPOSURE else VERIFIER_STAKE, max(SETTLE_PENALTY, budget(reward)))


def stealable(reward: float, seats: int) -> float:
    """What two thirds of the seats can have open of the budgets of one window."""
    return min(budget(reward), EXPOSURE * signers(seats) * VERIFIER_STAKE if EXPOSURE else math.inf)


def framed(stakes: float, budgets: float) -> float:
    """What friends of a quorum have of stakes that it takes for faults that are none. What they have for work that the
    faults make worthless is within the budgets of the batches that hold it, as settlements have it."""
    worthless = min(share(PARAMS.slash_redress_bps) * stakes, budgets)
    return (share(PARAMS.slash_requester_bps) + share(PARAMS.slash_auditor_bps)) * stakes + worthless


def steal(gain: float, seats: int, odds: JuryOdds) -> float:
    """What a quorum expects that settles what does not validate, to gain `gain`, where one honest party challenges."""
    stakes = signers(seats) * VERIFIER_STAKE
    return gain - defend(odds, gain + stakes - returned(stakes, requester=True))


def most_to_steal(seats: int, odds: JuryOdds) -> float:
    """The gain from which on a quorum that shares the jury's owners would do it."""
    low, high = 0.0, 1e12
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if steal(middle, seats, odds) < 0 else (low, middle)
    return low


def cells(bench: Bench) -> Iterator[Cell]:
    yield from _quorums(bench)
    yield from _leaders(bench)
    yield from _dropping(bench)
    yield from _signers(bench)


def _quorums(bench: Bench) -> Iterator[Cell]:
    ranges = (bench.corners(OWNERS), COLLUDING, bench.corners(QUORUMS), bench.corners(BATCHES))
    for owners, fraction, seats, reward in product(*ranges):
        odds = juries(pool(owners, fraction).without(honest=1))
        where: Where = {"owners": owners, "colluding": fraction, "seats": seats, "reward in a window": reward}
        honest = VERIFIER_FEE * reward - signers(seats) * RECORD
        stolen = stealable(reward, seats)
        limit = most_to_steal(seats, odds)
        takes = (
            "open budgets bounded by stakes, or more seats, so that 2/3 of them are worth more than what they can take"
        )
        for strategy, gain in (
            ("quorum invents a record", stolen),
            ("quorum withholds its record", stolen),
            ("quorum pays its requester instead of the workers", stolen),
            ("quorum frames every worker", framed(NODE_STAKE * owners * (1 - fraction), stolen)),
        ):
            value = steal(gain, seats, odds)
            yield Cell("verifier", strategy, where, max(honest, 0.0) - value, limit / gain, takes)
        stakes = signers(seats) * VERIFIER_STAKE
        yield Cell(
            "verifier", "quorum signs nonsense and accuses itself", where, max(honest, 0.0) + stakes - prize(stakes)
        )


def _leaders(bench: Bench) -> Iterator[Cell]:
    for seats, reward in product(bench.corners(QUORUMS), BATCHES):
        where: Where = {"seats": seats, "reward": reward}
        earned = leader_fee(reward, seats) - RECORD - 3 * GAS
        fee = "a verifier fee above the cost of a batch, or larger batches"
        # Without a quorum nothing is settled: another takes the batch over, and is paid the penalty.
        yield Cell("verifier", "invents a record without two thirds", where, earned + SETTLE_PENALTY + GAS)
        # Whoever co-signs asks those that a record names absent.
        strategy = "calls honest auditors absent without two thirds"
        yield Cell("verifier", strategy, where, earned + SETTLE_PENALTY + GAS)
        yield Cell("verifier", "never settles", where, earned + SETTLE_PENALTY)
        yield Cell("verifier", "commits junk", where, earned + drop_penalty(reward) + GAS)
        yield Cell("verifier", "takes jobs and holds them", where, earned + GAS, takes=fee)
        equivocation = VERIFIER_STAKE - returned(VERIFIER_STAKE, winner=True)
        yield Cell("verifier", "equivocates", where, earned + equivocation)
        # With the requester: results without pay, at the price of the budget.
        saved = budget(reward) - drop_penalty(reward)
        takes = "what a verifier has open of budgets bounded by its stake"
        strategy = "lets a batch be dropped, for its requester"
        yield Cell("verifier", strategy, where, earned - saved, drop_penalty(reward) / budget(reward), takes)
        # Whoever committed a batch pays for its drop, though another leader took it over, who pays its part as well.
        strategy = "lets a second verifier of its own take the batch over and drop it"
        second = drop_penalty(reward) + SETTLE_PENALTY
        yield Cell("verifier", strategy, where, earned + second - budget(reward), second / budget(reward), takes)
    for reward in (0.01, 1.0, 10.0, MAX_TASK_REWARD):
        saved = reward * (1 + AUDIT_FEE)
        strategy = "drops a commitment with a receipt, for its requester"
        yield Cell("verifier", strategy, {"reward": reward}, RECEIPT_PENALTY - saved, RECEIPT_PENALTY / saved)


def _dropping(bench: Bench) -> Iterator[Cell]:
    """A worker fakes, and its leader keeps the member list back, so that nobody else could settle what was hit.

    A co-signer signs nothing whose list it did not hold at the draw: with a third of honest seats such a batch is
    dropped whatever was drawn. Where two thirds of the seats collude they may commit again until the draw is kind."""
    for stake, (asked, reward), colluding in product((100.0, 1_000.0), ((8, 1.0), (8, 25.0), (100, 3.0)), (0.0, 0.4)):
        of = Situation(stake, 100, backed(stake, asked, reward), reward, 100, colluding)
        if not offered(of):
            continue
        where = of.where()
        penalty = drop_penalty(of.pay)
        yield Cell("verifier", "hides a list until the draw is known", where, penalty + (1 - WORK) * of.pay)
        hit = at_least_one(of.draws(), 1.0)
        lost = min(loss(of.draws(), of.stake, of.everybody), penalty * hit / (1 - hit))
        takes = f"a penalty of {WORK * of.pay * (1 - hit) / hit:,.0f} for a batch that is dropped"
        strategy = "quorum hides lists, and commits again until the draw is kind"
        yield Cell("verifier", strategy, where, lost - WORK * of.pay, lost / (WORK * of.pay), takes)
        # Two colluders of a list of 32 agree, the others are named absent. Those that were there look, and challenge.
        odds = juries(of.everybody.without(honest=1, colluding=1))
        convicted = of.stake - returned(of.stake, requester=True) + of.pay
        lost = hit * defend(odds, convicted)
        takes = "auditors that look at the segments of records which name them absent"
        strategy = "quorum calls honest auditors absent, for a faking worker"
        yield Cell("verifier", strategy, where, lost - WORK * of.pay, lost / (WORK * of.pay), takes)
        for count in (4, 16):
            if of.tasks < count or not colluding:
                continue
            each = of.tasks // count
            alone = dial(of.stake, of.reputation, each * of.reward, of.reward)
            lost = loss([Draw(each * count, of.reward, alone)], of.stake, of.everybody)
            saved = WORK * each * count * of.reward
            strategy = "quorum hides lists, so that a faking worker's exposure is not counted"
            yield Cell("verifier", strategy, of.where(batches=count), lost - saved, lost / saved, takes)


def _signers(bench: Bench) -> Iterator[Cell]:
    for invalid, colluding in product(INVALID, bench.corners(COLLUDING)):
        odds = juries(pool(100, colluding))
        lost = invalid * (1 - odds.last) * (VERIFIER_STAKE - returned(VERIFIER_STAKE, requester=True))
        needed = RECORD / ((1 - odds.last) * VERIFIER_STAKE)
        takes = f"one record in {1 / needed:,.0f} that does not validate"
        where: Where = {"invalid": invalid, "colluding": colluding}
        yield Cell("verifier", "signs records unseen", where, lost - RECORD, lost / RECORD, takes)
    for seats, reward in product(bench.corners(QUORUMS), BATCHES):
        earned = signer_fee(reward, seats)
        takes = "a verifier fee above the cost of validating, or larger batches"
        yield Cell(
            "verifier", "co-signs nothing", {"seats": seats, "reward": reward}, earned - RECORD, earned / RECORD, takes
        )
