"""What a worker's reputation is worth, and how an amount is shared: exactly, and to the last wei."""

from collections.abc import Sequence
from functools import lru_cache

from proofyard.protocol.types import Wei

WEIGHT_ONE = 10**18
FULL_WEIGHT_FROM = 1023
"""2**10 - 1 consecutive valid audits earn the full weight."""

_FRACTION_BITS = 64


@lru_cache(maxsize=FULL_WEIGHT_FROM + 1)
def payout_weight(consecutive_valid: int) -> int:
    """0.5 + 0.5 min(1, log2(1 + consecutive_valid) / 10) in units of 1e-18, the same to the unit as the contracts': a
    new node earns half of what a proven one does.

    The logarithm's fraction is found bit by bit, by squaring (Feynman's algorithm), 64 bits of it, rounded down."""
    x = 1 + consecutive_valid
    if x > FULL_WEIGHT_FROM:
        return WEIGHT_ONE
    whole = x.bit_length() - 1
    y, fraction = (x << 127) >> whole, 0
    for bit in range(1, _FRACTION_BITS + 1):
        y = (y * y) >> 127
        if y >= 1 << 128:
            y >>= 1
            fraction += 1 << (_FRACTION_BITS - bit)
    log2 = (whole << _FRACTION_BITS) + fraction
    return WEIGHT_ONE // 2 + WEIGHT_ONE * log2 // (20 << _FRACTION_BITS)


def share_by(amount: Wei, scores: Sequence[int]) -> list[Wei]:
    """Shares `amount` in proportion to `scores`, in the same order, adding up to it.

    Largest remainders get the wei that division leaves over; equal remainders go by position. Where no score is
    positive, nothing can be shared and `ValueError` is raised.
    """
    total = sum(scores)
    if total <= 0 or min(scores) < 0 or amount < 0:
        raise ValueError(f"cannot share {amount} wei by {list(scores)}")
    shares = [amount * score // total for score in scores]
    by_remainder = sorted(range(len(scores)), key=lambda i: (-(amount * scores[i] % total), i))
    for i in by_remainder[: amount - sum(shares)]:
        shares[i] += 1
    return [Wei(share) for share in shares]
