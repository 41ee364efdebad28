"""Who gets what of a claim."""

from types import SimpleNamespace
from typing import Any

from proofyard.cli.claim import MOST_SHARES, shares_of


def due(owner: str, amount: int) -> Any:
    return SimpleNamespace(owner=owner, amount=amount)


def test_each_owner_is_told_once_the_largest_share_first() -> None:
    assert list(shares_of([due("0xb", 2), due("0xa", 2), due("0xc", 5), due("0xb", 1)]).items()) == [
        ("0xc", 5),
        ("0xb", 3),
        ("0xa", 2),
    ]


def test_not_all_owners_of_a_large_network_are_told() -> None:
    assert len(shares_of([due(f"0x{n:040x}", 1) for n in range(100)])) == MOST_SHARES
