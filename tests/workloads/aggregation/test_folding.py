"""Stacked factors are exact; where fewer are kept, the product is the nearest one of that rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.workloads.aggregation.folding import Factors, fold, orthogonal, product, rotated, stack


def factors(seed, out, rank, inside, scale=1.0):
    rng = np.random.default_rng(seed)
    return Factors(scale * rng.standard_normal((out, rank)), rng.standard_normal((rank, inside)))


def matrix(each):
    return each.b @ each.a


def test_stacked_factors_have_the_sum_of_the_products_and_what_adds_nothing_is_left_out():
    one, other = factors(1, 9, 3, 7), factors(2, 9, 2, 7)
    empty = Factors(np.zeros((9, 4)), np.ones((4, 7)))
    both = stack([one, empty, other])
    assert both.rank == 5
    np.testing.assert_allclose(matrix(both), matrix(one) + matrix(other), rtol=1e-12)


def test_factors_that_fit_are_not_touched():
    some = factors(1, 9, 3, 7)
    kept = fold(some, 6)
    assert kept.rank == 6 and kept.b[:, :3].tobytes() == some.b.tobytes() and not kept.b[:, 3:].any()


@pytest.mark.parametrize(("out", "inside"), [(5, 8), (8, 5), (6, 6)])
def test_as_many_as_the_layer_has_features_lose_nothing(out, inside):
    some = factors(3, out, 40, inside)
    kept = fold(some, min(out, inside))
    assert kept.rank == min(out, inside)
    np.testing.assert_allclose(matrix(kept), matrix(some), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    out=st.integers(3, 30),
    inside=st.integers(3, 30),
    stacked=st.integers(2, 45),
    rank=st.integers(1, 8),
    scale=st.sampled_from([1.0, 1e-20, 1e30]),
)
def test_fewer_are_the_nearest_product_of_that_rank(seed, out, inside, stacked, rank, scale):
    """As numpy's singular values have it (Eckart and Young)."""
    some = factors(seed, out, stacked, inside, scale)
    kept = fold(some, rank)
    assert kept.b.shape == (out, rank) and kept.a.shape == (rank, inside)
    values = np.linalg.svd(matrix(some), compute_uv=False)
    lost = np.linalg.norm(matrix(some) - matrix(kept))
    assert lost <= np.linalg.norm(values[rank:]) * 1.001 + 1e-9 * values[0]


def test_degenerate_factors_fold():
    same = Factors(np.ones((6, 9)), np.ones((9, 7)))
    np.testing.assert_allclose(matrix(fold(same, 2)), matrix(same), rtol=1e-9)
    tiny = Factors(np.full((6, 9), 1e-300), np.full((9, 7), 1e-300))
    assert np.isfinite(fold(tiny, 2).b).all()
    huge = factors(4, 12, 9, 11, 1.0)
    huge = Factors(huge.b * 2.0**115, huge.a * 2.0**115)
    kept = fold(huge, 3)
    assert np.abs(kept.b).max() < 2.0**127 and np.abs(kept.a).max() < 2.0**127


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_decompositions_multiply_back(seed, rows, columns):
    some = np.random.default_rng(seed).standard_normal((rows, columns))
    q, r = orthogonal(some)
    np.testing.assert_allclose(q @ r, some, atol=1e-12)
    u, v = rotated(some)
    np.testing.assert_allclose(u @ v.T, some, atol=1e-12)
    gram = u.T @ u
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6)
    np.testing.assert_allclose(product(some, some.T), some @ some.T, rtol=1e-12)
