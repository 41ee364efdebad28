"""Requesters that want work for nothing, or reputation for money, against requesters that want their results."""

from collections.abc import Iterator
from functools import cache
from itertools import product

from bench_economics_court import prize
from bench_economics_odds import juries, pool
from bench_economics_setup import (
    AUDIT_FEE,
    COLLUDING,
    GAS,
    OWNERS,
    STAKES,
    Bench,
    Cell,
    Where,
    tokens,
)
from bench_economics_verifiers import BATCHES, QUORUMS, budget, most_to_steal, steal
from bench_economics_workers import weight
from proofyard.protocol.dial import TRUST_FROM
from proofyard.protocol.earnings import REPUTATION_PRICE
from proofyard.protocol.payout import FULL_WEIGHT_FROM

CAREERS = (10.0, 100.0, 1_000.0, 10_000.0)
"""What the tasks that a node does later are worth, in tokens; of that it is paid half to all, by its reputation."""


def cells(bench: Bench) -> Iterator[Cell]:
    for reward in BATCHES:
        # What is committed stays reserved, what receipts promise can still be committed: nothing comes back.
        yield Cell("requester", "closes its job once results are in", {"reward": reward}, GAS)
        yield Cell("requester", "closes its job between receipt and commit", {"reward": reward}, GAS)
    ranges = (bench.corners(OWNERS), COLLUDING, bench.corners(QUORUMS), bench.corners(BATCHES))
    for owners, fraction, seats, reward in product(*ranges):
        odds = juries(pool(owners, fraction).without(honest=1))
        where: Where = {"owners": owners, "colluding": fraction, "seats": seats, "reward in a window": reward}
        value = steal(budget(reward), seats, odds)
        takes = "more seats or a larger jury of appeal, so that 2/3 of the seats are worth more than a window's budgets"
        limit = most_to_steal(seats, odds) / budget(reward)
        yield Cell("requester", "pays nothing with a quorum", where, -value, limit, takes)
    for stake, fraction in product(STAKES, COLLUDING):
        # At most all shares come back: winner's, requester's, jury's.
        yield Cell("requester", "accuses its own node", {"stake": stake, "colluding": fraction}, stake - prize(stake))
    yield from _reputation(bench)


def _reputation(bench: Bench) -> Iterator[Cell]:
    for career, fraction, reward in product(CAREERS, bench.corners(COLLUDING), (0.1, 1.0, 10.0)):
        gain, bought = best_purchase(career, fraction, reward)
        where: Where = {"earned later": career, "colluding": fraction, "task reward": reward, "bought": bought}
        takes = (
            f"a price of {worth(career, reward, bought) / max(1, bought) / (1 - fraction):.2g} an audit instead of "
            f"{tokens(REPUTATION_PRICE):g}, or equal pay for old and new nodes"
        )
        yield Cell("requester", "farms its node's reputation with worthless jobs", where, -gain, takes=takes)


def price(bought: int, fraction: float) -> float:
    """What a reputation costs whoever is its own requester: what others are paid for auditing it."""
    return bought * tokens(REPUTATION_PRICE) * (1 - fraction) + GAS


@cache
def worth(career: float, reward: float, bought: int) -> float:
    """What a node that begins with a bought reputation earns more than one that begins with none, in tasks of `reward`
    worth `career` in all. Audits of either raise its reputation as the dial draws them, and as they are paid for."""
    tasks = max(1, round(career / reward))
    step = min(1.0, AUDIT_FEE * reward / tokens(REPUTATION_PRICE))
    return reward * (_weights(bought, tasks, step) - _weights(0, tasks, step))


def _weights(valid: int, tasks: int, step: float) -> float:
    """The sum of the payout weights over `tasks` tasks. A task is audited with p_trust, which raises a reputation by
    `step`."""
    total, reputation, left = 0.0, valid, float(tasks)
    while left > 0 and reputation < FULL_WEIGHT_FROM:
        stay = min(left, (reputation if reputation >= TRUST_FROM else 1) / step)
        total += stay * weight(reputation)
        left -= stay
        reputation += 1
    return total + left


def best_purchase(career: float, fraction: float, reward: float) -> tuple[float, int]:
    """The most that buying a reputation gains, and how many audits are bought."""
    choices = (1, 3, 10, 31, 100, 316, FULL_WEIGHT_FROM)
    return max((worth(career, reward, n) - price(n, fraction), n) for n in choices)
