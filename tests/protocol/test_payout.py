import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.payout import WEIGHT_ONE, payout_weight, share_reward
from proofyard.protocol.types import Wei

work = st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 5000)), min_size=1, max_size=50)


def test_the_weight_grows_from_a_half_to_one() -> None:
    assert payout_weight(0) == WEIGHT_ONE // 2
    assert payout_weight(1) == WEIGHT_ONE * 55 // 100
    assert payout_weight(1023) == payout_weight(10**6) == WEIGHT_ONE
    assert all(payout_weight(n) < payout_weight(n + 1) for n in range(1023))
    assert all(math.isclose(payout_weight(n) / WEIGHT_ONE, 0.5 + math.log2(1 + n) / 20) for n in range(1024))


@given(st.integers(0, 10**30).map(Wei), work)
def test_the_whole_reward_is_paid_and_nobody_is_a_wei_off(reward: Wei, rows: list[tuple[int, int]]) -> None:
    shares = share_reward(reward, rows)
    assert sum(shares) == reward
    scores = [units * payout_weight(valid) for units, valid in rows]
    for share, score in zip(shares, scores, strict=True):
        assert abs(share * sum(scores) - reward * score) < sum(scores)


def test_equal_work_shares_equally_and_leftover_wei_go_by_position() -> None:
    rows = [(1, 0)] * 3
    assert share_reward(Wei(100), rows) == [34, 33, 33]


def test_a_reward_without_work_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        share_reward(Wei(1), [(0, 5)])
