import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.payout import share_by
from proofyard.protocol.types import Wei

scores = st.lists(st.integers(0, 10**30), min_size=1, max_size=50).filter(any)


@given(st.integers(0, 10**30).map(Wei), scores)
def test_the_whole_amount_is_shared_and_nobody_is_a_wei_off(amount: Wei, parts: list[int]) -> None:
    shares = share_by(amount, parts)
    assert sum(shares) == amount
    for share, score in zip(shares, parts, strict=True):
        assert abs(share * sum(parts) - amount * score) < sum(parts)


def test_equal_parts_are_equal_and_leftover_wei_go_by_position() -> None:
    assert share_by(Wei(100), [1, 1, 1]) == [34, 33, 33]


def test_an_amount_cannot_be_shared_by_nothing() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        share_by(Wei(1), [0])
