"""Amounts of the network's token as people write them."""

from decimal import Decimal
from fractions import Fraction

from proofyard.protocol.amounts import DECIMALS, read_amount
from proofyard.protocol.types import Wei
from proofyard.sdk.errors import BadAmount


def credits(amount: float | Decimal | str) -> Wei:
    """An amount of the network's token in base units: `credits("1.5")` is 1.5 * 10**18. Raises `BadAmount` for what is
    no amount, is negative or has more than 18 decimals."""
    try:
        if isinstance(amount, str):
            return read_amount(amount)
        base = Fraction(str(amount)) * 10**DECIMALS
    except ValueError:
        base = Fraction(-1)
    if base < 0 or base.denominator != 1:
        raise BadAmount(f"{amount!r} is not an amount of CREDIT; give one like 12, 0.5 or '1,250', at most 18 decimals")
    return Wei(base.numerator)
