"""What docs/exact.md claims of its arithmetic, on the reference."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.workloads.exact import reference
from proofyard.workloads.exact.backend import AdamStep, AttentionShape, LossShape
from proofyard.workloads.exact.golden import PRECISIONS, awkward, calm
from proofyard.workloads.exact.reference import Reference

F32 = npt.NDArray[np.float32]
Floats = npt.NDArray[Any]

B = Reference()
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


def drawn(seed: int, *shape: int) -> F32:
    """Ordinary numbers."""
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape).astype(np.float32)


def scattered(seed: int, *shape: int) -> F32:
    """Numbers over 40 powers of two, a fifth of them zeros."""
    rng = np.random.Generator(np.random.Philox(seed + 1))
    powers = np.ldexp(np.float32(1), rng.integers(-20, 20, shape)).astype(np.float32)
    return drawn(seed, *shape) * powers * (rng.random(shape) < 0.8).astype(np.float32)


def same(a: F32, b: F32) -> bool:
    """Equal numbers, any NaN being as good as another."""
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def relative(found: F32, expected: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# -- sums ----------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 70), st.integers(0, 200))
def test_a_tree_does_not_see_zeros_behind(seed: int, size: int, zeros: int) -> None:
    x = scattered(seed, 3, size)
    longer = np.concatenate([x, np.zeros((3, zeros), np.float32)], axis=1)
    assert same(reference.tree(x), reference.tree(longer))


def test_a_tree_adds_halves() -> None:
    x = np.array([1.0, 2.0**-24, 2.0**-24, 2.0**-24], np.float32)
    assert reference.tree(x) == np.float32(1.0 + 2.0**-23)  # (1 + tiny) + (tiny + tiny), each rounded
    assert reference.tree(np.array([1.0, 2.0**-24, 2.0**-24], np.float32)) == 1  # (1 + tiny) + (tiny + 0)
    assert math.copysign(1, reference.tree(np.full(4, -0.0, np.float32))) == 1


# -- slices and products -------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 40))
def test_slices_are_7_bits_and_near_the_number(seed: int, columns: int) -> None:
    x = scattered(seed, 4, columns)
    s = reference.slice_rows(x)
    assert np.abs(s.high).max() <= 63
    assert np.abs(s.low).max() <= 64
    found = s.scale.astype(float)[:, None] * (s.high + s.low / 64)
    # e is at most one more than the exponent of the largest: half a unit of the low slice, or a clamped number.
    assert (np.abs(found - x) <= np.abs(x).max(axis=1, keepdims=True) * 2.0**-11 + 2.0**-110).all()


def test_a_number_just_below_a_power_of_two_is_clamped() -> None:
    s = reference.slice_rows(np.array([[np.nextafter(np.float32(1), np.float32(0))]]))
    assert (s.high.item(), s.low.item(), s.scale.item()) == (63, 64, 2.0**-6)


@pytest.mark.parametrize("columns", [1, 63, 64, 576, 4097, 9000])
def test_products_are_near_those_of_float64(columns: int) -> None:
    x, w = drawn(columns, 17, columns), drawn(columns + 1, 33, columns)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    assert relative(B.product(x, w), exact) < 1e-3
    assert relative(B.product_over_rows(x, np.ascontiguousarray(w.T)), exact) < 1e-3
    assert relative(B.sum_rows(np.ascontiguousarray(x.T), np.ascontiguousarray(w.T), [columns]), exact) < 1e-3


@given(SEEDS, st.integers(1, 9), st.integers(1, 80), st.sampled_from(PRECISIONS))
def test_a_row_does_not_depend_on_its_batch(seed: int, rows: int, columns: int, precision: str) -> None:
    x, weight = scattered(seed, rows, columns), B.freeze(scattered(seed + 2, 11, columns), precision)
    g = scattered(seed + 4, rows, 11)
    together = B.linear(B.slice(x), weight), B.linear_back(g, weight)
    for row in range(rows):
        one = slice(row, row + 1)
        assert same(B.linear(B.slice(x[one]), weight), together[0][one])
        assert same(B.linear_back(g[one], weight), together[1][one])


@given(SEEDS, st.lists(st.integers(0, 7), min_size=1, max_size=5), st.data())
def test_a_batch_may_be_summed_in_parts(seed: int, lengths: list[int], data: st.DataObject) -> None:
    rows = sum(lengths)
    x, y = scattered(seed, rows, 3), scattered(seed + 2, rows, 5)
    cut = data.draw(st.integers(0, len(lengths)))
    at = sum(lengths[:cut])
    whole = B.sum_rows(x, y, lengths)
    if at == 0:
        assert same(whole, B.sum_rows(x[at:], y[at:], lengths[cut:]))
    else:
        first = B.sum_rows(x[:at], y[:at], lengths[:cut])
        assert same(whole, B.sum_rows(x[at:], y[at:], lengths[cut:], first))


def test_results_fit_a_binary32_accumulator() -> None:
    """The largest sum of a block: 512 products of the largest slices."""
    one = np.nextafter(np.float32(1), np.float32(0))
    s = reference.slice_rows(np.full((1, 512), one, np.float32))
    assert int((s.high @ s.high.T).item()) < 2**24
    assert int((s.high @ s.low.T).item()) < 2**24


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@given(SEEDS, st.integers(0, 4), st.integers(0, 32))
def test_what_is_computed_from_a_spoilt_row_is_nan(value: float, seed: int, row: int, column: int) -> None:
    x, w = drawn(seed, 5, 33), drawn(seed + 1, 6, 33)
    bad = x.copy()
    bad[row, column] = value
    found = B.product(bad, w)
    assert np.isnan(found[row]).all()
    assert np.isfinite(np.delete(found, row, axis=0)).all()
    assert np.isnan(B.product(w, bad)[:, row]).all()
    assert np.isnan(B.product_over_rows(drawn(seed, 6, 5), bad)).all()
    for precision in PRECISIONS:
        frozen = B.freeze(bad, precision)
        assert np.isnan(B.linear(B.slice(w), frozen)[:, row]).all()
        assert np.isnan(B.linear_back(drawn(seed, 6, 5), frozen)).all()


def test_levels_of_4_bits_are_the_nearest() -> None:
    levels = np.array(reference._NF4, np.float64)
    weight = np.concatenate([np.ones((5, 1), np.float32), np.clip(drawn(3, 5, 63), -1, 1)], axis=1)
    nearest = levels[np.abs(weight[:, :, None] - levels).argmin(axis=-1)]
    np.testing.assert_allclose(reference.normal_float(weight), nearest, rtol=1e-6)


# -- functions -----------------------------------------------------------------------------------------------------


def _over(low: float, high: float) -> F32:
    """Numbers of all magnitudes between low and high."""
    linear = np.linspace(low, high, 200_001)
    small = np.ldexp(1.0, -np.arange(1, 60))
    x = np.concatenate([linear, small, -small]).astype(np.float32)
    return x[(x >= low) & (x <= high)]


def _each(function: Callable[[float], float]) -> Callable[[F32], npt.NDArray[np.float64]]:
    return lambda x: np.array([function(float(value)) for value in x])


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _normal(x: float) -> float:
    return math.erfc(-x * math.sqrt(0.5)) / 2


def _inner(x: float) -> float:
    return math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu_tanh_slope(x: float) -> float:
    u = _inner(x)
    return (1 + u) / 2 + x / 2 * (1 - u * u) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


# The table of docs/exact.md.
BOUNDS: list[tuple[str, Callable[[float], float], float, float, float, float]] = [
    ("exp", math.exp, -20.0, 0.0, 0.0, 1.2e-6),
    ("exp", math.exp, -87.0, 87.0, 0.0, 4e-6),
    ("log", math.log, 1e-37, 3e38, 0.0, 2.2e-7),
    ("log", math.log, 1.0, 1e6, 0.0, 2.2e-7),
    ("sigmoid", _sigmoid, -80.0, 80.0, 1.1e-7, 0.0),
    ("tanh", math.tanh, -80.0, 80.0, 2.3e-7, 0.0),
    ("erf", math.erf, -10.0, 10.0, 6.1e-7, 0.0),
    ("silu", lambda x: x * _sigmoid(x), -80.0, 80.0, 1.3e-6, 0.0),
    ("gelu", lambda x: x * _normal(x), -80.0, 80.0, 4.7e-7, 1e-7),
    ("gelu_tanh", lambda x: x / 2 * (1 + _inner(x)), -80.0, 80.0, 4.4e-7, 1e-7),
    ("silu_slope", lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))), -80.0, 80.0, 1e-6, 0.0),
    ("gelu_slope", lambda x: _normal(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi), -80.0, 80.0, 3.5e-7, 0.0),
    ("gelu_tanh_slope", _gelu_tanh_slope, -80.0, 80.0, 2e-6, 0.0),
]


@pytest.mark.parametrize(("name", "function", "low", "high", "absolute", "part"), BOUNDS)
def test_functions_are_within_their_bounds(
    name: str, function: Callable[[float], float], low: float, high: float, absolute: float, part: float
) -> None:
    x = _over(low, high)
    expected = _each(function)(x)
    error = np.abs(getattr(reference, name)(x) - expected)
    worst = (error - absolute - part * np.abs(expected)).argmax()
    assert (error <= absolute + part * np.abs(expected)).all(), (x[worst], error[worst])


def test_exp_stays_normal_and_functions_keep_nan() -> None:
    x = np.array([-np.inf, -1e30, 1e30, np.inf, np.nan], np.float32)
    e = reference.exp(x)
    assert e[0] == e[1] == np.float32(2.0**-126)
    assert e[2] == e[3] == np.float32(2.0**126)
    for name in ("exp", "log", "sigmoid", "tanh", "erf", "silu", "gelu", "gelu_tanh", "relu", "relu_slope"):
        assert np.isnan(getattr(reference, name)(x)[4])


# -- attention -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 40), st.sampled_from([0, 1, 3, 50]), st.sampled_from([0.0, 2.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_token_with_a_cache_has_the_bits_of_the_prefill(
    seed: int, length: int, window: int, cap: float, spoil: bool
) -> None:
    q, k, v = scattered(seed, length, 16), scattered(seed + 2, length, 8), scattered(seed + 4, length, 8)
    if spoil:  # nor is a NaN seen that comes later
        k[length // 2, 3] = v[-1, 0] = np.nan
    whole = B.attention(q, k, v, 2, 1, AttentionShape((length,), (length,), 0.35, window=window, softcap=cap))
    for i in range(length):
        alone = AttentionShape((1,), (i + 1,), 0.35, window=window, softcap=cap)
        assert same(B.attention(q[i : i + 1], k[: i + 1], v[: i + 1], 2, 1, alone), whole[i : i + 1])


@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_sequence_does_not_depend_on_its_batch(seed: int, lengths: list[int], causal: bool) -> None:
    rows = sum(lengths)
    g, q = scattered(seed, rows, 32), scattered(seed + 2, rows, 32)
    k, v = scattered(seed + 4, rows, 16), scattered(seed + 6, rows, 16)

    def shape(*lengths: int) -> AttentionShape:
        return AttentionShape(lengths, lengths, 0.35, causal=causal)

    whole = B.attention(q, k, v, 4, 2, shape(*lengths)), *B.attention_back(g, q, k, v, 4, 2, shape(*lengths))
    at = 0
    for length in lengths:
        own = slice(at, at + length)
        alone = B.attention(q[own], k[own], v[own], 4, 2, shape(length))
        back = B.attention_back(g[own], q[own], k[own], v[own], 4, 2, shape(length))
        assert all(same(a, b[own]) for a, b in zip((alone, *back), whole, strict=True))
        at += length


def _plain_attention(q: Floats, k: Floats, v: Floats, shape: AttentionShape) -> npt.NDArray[np.float64]:
    s = q.astype(np.float64) @ k.astype(np.float64).T * shape.scale
    if shape.softcap:
        s = np.tanh(s / shape.softcap) * shape.softcap
    s = np.where(reference.visible_pairs(len(q), len(k), shape), s, -np.inf)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    out: npt.NDArray[np.float64] = p / p.sum(axis=1, keepdims=True) @ v
    return out


@pytest.mark.parametrize(
    "shape",
    [
        AttentionShape((9,), (9,), 0.35),
        AttentionShape((3,), (9,), 0.35),
        AttentionShape((9,), (9,), 0.35, causal=False),
        AttentionShape((9,), (9,), 0.35, window=3),
        AttentionShape((9,), (9,), 0.35, softcap=1.5),
    ],
)
def test_attention_and_its_gradient_are_what_they_should_be(shape: AttentionShape) -> None:
    t, n = shape.queries[0], shape.keys[0]
    g, q, k, v = drawn(1, t, 8), drawn(2, t, 8), drawn(3, n, 8), drawn(4, n, 8)
    assert relative(B.attention(q, k, v, 1, 1, shape), _plain_attention(q, k, v, shape)) < 1e-3
    gradients = B.attention_back(g, q, k, v, 1, 1, shape)
    steps = {"q": drawn(5, t, 8), "k": drawn(6, n, 8), "v": drawn(7, n, 8)}
    direction = {name: x.astype(np.float64) for name, x in steps.items()}
    for name, found in zip("qkv", gradients, strict=True):
        step = 1e-5
        ahead, behind = (dict[str, Floats](q=q, k=k, v=v) for _ in range(2))
        ahead[name] = ahead[name] + step * direction[name]
        behind[name] = behind[name] - step * direction[name]
        expected = float(
            np.sum(g * (_plain_attention(**ahead, shape=shape) - _plain_attention(**behind, shape=shape))) / (2 * step)
        )
        assert float(np.sum(found * direction[name])) == pytest.approx(expected, rel=5e-3, abs=5e-3)


# -- loss and optimiser --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [LossShape(), LossShape(0.5), LossShape(softcap=3.0), LossShape(2.0, 4.0)])
def test_losses_and_their_gradient_are_what_they_should_be(shape: LossShape) -> None:
    x, w, targets = drawn(1, 7, 16), drawn(2, 50, 16), np.arange(7) * 7
    direction = drawn(3, 7, 16).astype(np.float64)

    def losses(hidden: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        z = hidden @ w.T.astype(np.float64) * shape.multiplier
        if shape.softcap:
            z = np.tanh(z / shape.softcap) * shape.softcap
        total: npt.NDArray[np.float64] = np.log(np.exp(z).sum(axis=1)) - z[np.arange(7), targets]
        return total

    nll, dx = B.losses_back(x, B.freeze(w, "exact"), targets, 0.25, shape)
    assert same(nll, B.losses(x, B.freeze(w, "exact"), targets, shape))
    np.testing.assert_allclose(nll, losses(x.astype(np.float64)), atol=5e-3)
    change = losses(x + 1e-5 * direction) - losses(x - 1e-5 * direction)
    assert float(np.sum(dx * direction)) == pytest.approx(float(change.sum() / 2e-5) * 0.25, rel=5e-3, abs=5e-3)


@given(SEEDS, st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_a_loss_does_not_depend_on_other_rows(seed: int, rows: int) -> None:
    x, head, targets = scattered(seed, rows, 8), B.freeze(drawn(seed, 40, 8), "exact"), np.arange(rows)
    nll, dx = B.losses_back(x, head, targets, 0.5, LossShape(softcap=9.0))
    for row in range(rows):
        one = slice(row, row + 1)
        alone = B.losses_back(x[one], head, targets[one], 0.5, LossShape(softcap=9.0))
        assert same(alone[0], nll[one])
        assert same(alone[1], dx[one])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_spoilt_row_spoils_attention_and_losses(value: float) -> None:
    q, k, v, g = (drawn(seed, 6, 8) for seed in range(4))
    shape = AttentionShape((6,), (6,), 0.35)
    for spoilt in (q, k, v):
        keep = spoilt[2, 1]
        spoilt[2, 1] = value
        out = B.attention(q, k, v, 1, 1, shape)
        assert np.isfinite(out[:2]).all()
        assert np.isnan(out[2]).all()
        assert spoilt is q or np.isnan(out[2:]).all()
        assert not all(np.isfinite(x).all() for x in B.attention_back(g, q, k, v, 1, 1, shape))
        spoilt[2, 1] = keep
    x = drawn(9, 3, 8)
    x[1, 0] = value
    nll, dx = B.losses_back(x, B.freeze(drawn(8, 20, 8), "exact"), np.arange(3), 1.0, LossShape())
    assert np.isnan(nll).tolist() == [False, True, False]
    assert np.isnan(dx[1]).all()
    assert not B.finite(x)


def test_no_zero_in_a_state_has_a_sign() -> None:
    zero = np.full(4, -0.0, np.float32)
    step = AdamStep(0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0, 1e-8)
    for x in B.adamw(zero, zero, zero, zero, 1.0, step):
        assert not np.signbit(x).any()


def test_operations_leave_their_inputs_alone() -> None:
    x, y = awkward(15, 16), calm(15, 16)
    kept = x.copy(), y.copy()
    B.product(x, y)
    B.sum_rows(x, y, [15])
    B.gated_back(x, y, x, "silu")
    B.attention_back(x, x, y, y, 2, 2, AttentionShape((15,), (15,), 1.0))
    assert same(x, kept[0]) and same(y, kept[1])
