"""Requesters that want work for nothing, or reputation for money, against requesters that want their results."""

from collections.abc import Iterator
from itertools import product

from bench_economics_court import prize
from bench_economics_odds import juries, pool
from bench_economics_setup import (
    COLLUDING,
    GAS,
    OWNERS,
    STAKES,
    Bench,
    Cell,
    Where,
    tokens,
)
from bench_economics_verifiers import BATCHES, QUORUMS, most_to_steal, steal, stealable
from proofyard.protocol.earnings import REPUTATION_PRICE

BOUGHT = (1, 10, 1_000)
"""Audits that a requester pays for, to raise its own node's reputation."""


def cells(bench: Bench) -> Iterator[Cell]:
    for reward in BATCHES:
        # What is committed stays reserved, what receipts promise can still be committed: nothing comes back.
        yield Cell("requester", "closes its job once results are in", {"reward": reward}, GAS)
        yield Cell("requester", "closes its job between receipt and commit", {"reward": reward}, GAS)
    ranges = (bench.corners(OWNERS), COLLUDING, bench.corners(QUORUMS), bench.corners(BATCHES))
    for owners, fraction, seats, reward in product(*ranges):
        odds = juries(pool(owners, fraction).without(honest=1))
        where: Where = {"owners": owners, "colluding": fraction, "seats": seats, "reward in a window": reward}
        value = steal(stealable(reward, seats), seats, odds)
        takes = (
            "open budgets bounded by stakes, or more seats, so that 2/3 of them are worth more than what they can take"
        )
        limit = most_to_steal(seats, odds) / stealable(reward, seats)
        yield Cell("requester", "pays nothing with a quorum", where, -value, limit, takes)
    for stake, fraction in product(STAKES, COLLUDING):
        # At most all shares come back: winner's, requester's, jury's.
        yield Cell("requester", "accuses its own node", {"stake": stake, "colluding": fraction}, stake - prize(stake))
    yield from _reputation(bench)


def _reputation(bench: Bench) -> Iterator[Cell]:
    """Old and new nodes are paid alike, and a bought trust makes no lie pay (`earns trust, then fakes`): what is spent
    is lost."""
    for bought, fraction in product(BOUGHT, bench.corners(COLLUDING)):
        where: Where = {"bought": bought, "colluding": fraction}
        strategy = "farms its node's reputation with worthless jobs"
        yield Cell("requester", strategy, where, price(bought, fraction))


def price(bought: int, fraction: float) -> float:
    """What a reputation costs whoever is its own requester: what others are paid for auditing it."""
    return bought * tokens(REPUTATION_PRICE) * (1 - fraction) + GAS
