"""How a batch's reward is shared: by `work_units * weight(node)`, exactly and to the last wei."""

from collections.abc import Sequence
from decimal import Context, Decimal
from functools import lru_cache

from proofyard.protocol.types import Address, Wei

WEIGHT_ONE = 10**18
FULL_WEIGHT_FROM = 1023
"""2**10 - 1 consecutive valid audits earn the full weight."""

_CONTEXT = Context(prec=40)


@lru_cache(maxsize=FULL_WEIGHT_FROM + 1)
def _weight(consecutive_valid: int) -> int:
    ctx = _CONTEXT
    log2 = ctx.divide(ctx.ln(Decimal(1 + consecutive_valid)), ctx.ln(Decimal(2)))
    return WEIGHT_ONE // 2 + int(ctx.multiply(log2, Decimal(WEIGHT_ONE // 20)).to_integral_value())


def weight_parts(consecutive_valid: int) -> int:
    """`payout_weight` in units of 1e-18, the integer that shares are computed with; the same on every platform."""
    return _weight(min(max(consecutive_valid, 0), FULL_WEIGHT_FROM))


def payout_weight(consecutive_valid: int) -> float:
    """0.5 + 0.5 min(1, log2(1 + consecutive_valid) / 10): a new node earns half of what a proven one does."""
    return weight_parts(consecutive_valid) / WEIGHT_ONE


def share_reward(reward: Wei, work: Sequence[tuple[Address, int, int]]) -> list[Wei]:
    """Shares `reward` over (node, work_units, consecutive_valid), in the same order, adding up to `reward`.

    Largest remainders get the wei that division leaves over; equal remainders go by position. Where all the work
    units are 0, nothing can be shared and `ValueError` is raised.
    """
    scores = [units * weight_parts(consecutive_valid) for _, units, consecutive_valid in work]
    total = sum(scores)
    if total <= 0 or min(scores) < 0 or reward < 0:
        raise ValueError(f"cannot share {reward} wei over work units {[units for _, units, _ in work]}")
    shares = [reward * score // total for score in scores]
    by_remainder = sorted(range(len(scores)), key=lambda i: (-(reward * scores[i] % total), i))
    for i in by_remainder[: reward - sum(shares)]:
        shares[i] += 1
    return [Wei(share) for share in shares]
