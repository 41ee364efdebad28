"""Amounts as people read and type them, exact in both directions."""

import re

from proofyard.protocol.types import Wei

DECIMALS = 18
MOST = (1 << 96) - 1
"""Base units that the contracts can count."""
MOST_DIGITS = 12
_TYPED = re.compile(r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?)(?:\.([0-9]{1,18}))?")


def format_amount(amount: int, unit: str = "CREDIT") -> str:
    """An amount in base units as people read it, such as `1,250.5 CREDIT`. Exact: no digit is rounded away."""
    whole, rest = divmod(abs(amount), 10**DECIMALS)
    fraction = f".{rest:018d}".rstrip("0") if rest else ""
    return f"{'-' if amount < 0 else ''}{whole:,}{fraction} {unit}"


def read_amount(text: str, unit: str = "CREDIT") -> Wei:
    """Base units of an amount typed by a person: `12`, `0.5`, `1,250.5 CREDIT`. Commas stand between groups of three
    digits and nowhere else. Raises `ValueError` with what to type instead."""
    found = _TYPED.fullmatch(text.strip().removesuffix(unit).rstrip())
    if found is None or not (found[1] or found[2]):
        raise ValueError(f"{text!r} is not an amount of {unit}; write it like 12, 0.5 or 1,250, at most 18 decimals")
    whole, fraction = found[1].replace(",", ""), found[2] or ""
    amount = int(whole[-MOST_DIGITS:] or "0") * 10**DECIMALS + int(fraction.ljust(DECIMALS, "0"))
    if len(whole.lstrip("0")) > MOST_DIGITS or amount > MOST:
        raise ValueError(f"{text[:40]!r} is more {unit} than there can be ({MOST // 10**DECIMALS:,}); correct it")
    return Wei(amount)
