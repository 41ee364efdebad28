"""How an amount is shared: exactly, and to the last wei."""

from collections.abc import Sequence

from proofyard.protocol.types import Wei


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
