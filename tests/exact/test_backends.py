"""Every backend that this machine can make gives the reference's bits: golden vectors, and what hypothesis draws."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.exact import backends, choose_backend
from proofyard.workloads.exact.backend import AdamStep, AttentionShape, Backend, LossShape
from proofyard.workloads.exact.golden import ACTIVATIONS, PRECISIONS, check_backend, digest, golden, large
from proofyard.workloads.exact.reference import Reference
from proofyard.workloads.exact.tables import rotary
from proofyard.workloads.workload import Resources

F32 = npt.NDArray[np.float32]

REFERENCE = Reference()
KINDS = ("ordinary", "scattered", "repeated", "tiny", "huge", "spoilt")
SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.integers(1, 40)
COLUMNS = st.one_of(st.integers(1, 90), st.sampled_from([127, 128, 129, 576, 1000]))

drawn = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def _made(name: str) -> Backend:
    return backends()[name]()


@pytest.fixture(params=sorted(backends().keys() - {REFERENCE.name}))
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    try:
        return _made(request.param)
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def values(seed: int, rows: int, columns: int, kind: str) -> F32:
    """Numbers of a kind."""
    rng = np.random.Generator(np.random.Philox(seed))
    x = rng.standard_normal((rows, columns))
    match kind:
        case "scattered":
            x = np.ldexp(x, rng.integers(-40, 40, x.shape)) * (rng.random(x.shape) < 0.8)
        case "repeated":
            x = np.rint(x[:1] * 8) / 8 + np.zeros_like(x)
        case "tiny":
            x = np.ldexp(x, rng.integers(-149, -90, (rows, 1)))
        case "huge":
            x = np.ldexp(x, rng.integers(60, 126, (rows, 1)))
        case "spoilt":
            odd = np.array([np.nan, np.inf, -np.inf, 3e38, -0.0])
            x = np.where(rng.random(x.shape) < 1 / columns, rng.choice(odd, x.shape), x)
    return x.astype(np.float32)


def agree(backend: Backend, call: Callable[[Backend], Any]) -> None:
    """Whether a call gives a backend's arrays with the reference's bits."""

    def found(b: Backend) -> list[npt.NDArray[Any]]:
        results = call(b)
        return [b.numpy(x) for x in (results if isinstance(results, tuple) else (results,))]

    ours, theirs = found(REFERENCE), found(backend)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(other, one)


def test_this_machine_computes_exactly_on_its_processor() -> None:
    assert choose_backend(Resources(device="cpu"))


def test_golden_vectors(backend: Backend) -> None:
    assert check_backend(backend) == []
    assert [name for name, case in large().items() if digest(case(backend)) != golden()[name]] == []


@drawn
@given(SEEDS, ROWS, COLUMNS, ROWS, st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_products(backend: Backend, seed: int, rows: int, columns: int, others: int, one: str, other: str) -> None:
    x, w = values(seed, rows, columns, one), values(seed + 1, others, columns, other)
    agree(backend, lambda b: b.product(b.array(x), b.array(w)))
    y = values(seed + 2, others, rows, one)
    agree(backend, lambda b: b.product_over_rows(b.array(y), b.array(x)))


@drawn
@given(SEEDS, st.integers(4090, 9000), st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_long_products(backend: Backend, seed: int, columns: int, one: str, other: str) -> None:
    x, w = values(seed, 3, columns, one), values(seed + 1, 2, columns, other)
    agree(backend, lambda b: b.product(b.array(x), b.array(w)))
    agree(backend, lambda b: b.product_over_rows(b.array(x), b.array(np.ascontiguousarray(w.T))))


@drawn
@given(SEEDS, ROWS, COLUMNS, ROWS, st.sampled_from(KINDS), st.sampled_from(KINDS), st.sampled_from(PRECISIONS))
def test_linear_layers(
    backend: Backend, seed: int, rows: int, inputs: int, outputs: int, one: str, other: str, precision: str
) -> None:
    x, w = values(seed, rows, inputs, one), values(seed + 1, outputs, inputs, other)
    g, bias = values(seed + 2, rows, outputs, one), values(seed + 3, 1, outputs, "ordinary")[0]

    def call(b: Backend) -> Any:
        frozen, sliced = b.freeze(w.copy(), precision), b.slice(b.array(x))
        return b.linear(sliced, frozen), b.linear(sliced, frozen, b.array(bias)), b.linear_back(b.array(g), frozen)

    agree(backend, call)


@drawn
@given(SEEDS, st.lists(st.integers(0, 40), min_size=1, max_size=4), ROWS, COLUMNS, st.sampled_from(KINDS))
def test_sums_over_rows(backend: Backend, seed: int, lengths: list[int], m: int, k: int, kind: str) -> None:
    x, y = values(seed, sum(lengths), m, kind), values(seed + 1, sum(lengths), k, "scattered")
    onto = values(seed + 2, m, k, "ordinary")
    agree(backend, lambda b: b.sum_rows(b.array(x), b.array(y), lengths))
    agree(backend, lambda b: b.sum_rows(b.array(x), b.array(y), lengths, b.array(onto)))


@drawn
@given(SEEDS, ROWS, COLUMNS, st.sampled_from(KINDS), st.sampled_from([0.0, 1e-12, 1e-5]))
def test_rows(backend: Backend, seed: int, rows: int, n: int, kind: str, eps: float) -> None:
    x, g = values(seed, rows, n, kind), values(seed + 1, rows, n, "ordinary")
    w, bias = values(seed + 2, 2, n, "ordinary")

    def call(b: Backend) -> Any:
        rows, weight = b.array(x), b.array(w.copy())
        return (
            b.rms_norm(rows, weight, eps),
            b.rms_norm_back(b.array(g), rows, weight, eps),
            b.layer_norm(rows, weight, b.array(bias.copy()), eps),
            b.unit_length(rows),
            b.add(rows, b.array(g)),
            b.multiply(rows, 0.3),
        )

    agree(backend, call)


@drawn
@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=4), COLUMNS, st.sampled_from(KINDS))
def test_means_and_sums_of_squares(backend: Backend, seed: int, lengths: list[int], n: int, kind: str) -> None:
    x = values(seed, sum(lengths), n, kind)
    agree(backend, lambda b: b.pool_mean(b.array(x), lengths))
    sums = [np.array([b.square_sum(b.array(x))], np.float32) for b in (REFERENCE, backend)]
    assert digest(sums[:1]) == digest(sums[1:])
    assert backend.finite(backend.array(x)) == np.isfinite(x).all()


@drawn
@given(SEEDS, ROWS, st.integers(1, 5), st.sampled_from([2, 16, 64]), st.sampled_from(KINDS), st.booleans())
def test_rotations(backend: Backend, seed: int, rows: int, heads: int, size: int, kind: str, back: bool) -> None:
    x = values(seed, rows, heads * size, kind)
    cos, sin = (table[seed % 900 : seed % 900 + rows] for table in rotary(10000.0, size, 1000))
    agree(backend, lambda b: b.rotate(b.array(x), b.array(cos), b.array(sin), back=back))


@drawn
@given(SEEDS, ROWS, COLUMNS, st.sampled_from(KINDS), st.sampled_from(ACTIVATIONS))
def test_activations(backend: Backend, seed: int, rows: int, n: int, kind: str, activation: Any) -> None:
    x, up, g = (values(seed + i, rows, n, kind if i == 0 else "ordinary") * np.float32(3) for i in range(3))
    agree(backend, lambda b: b.activate(b.array(x), activation))
    agree(backend, lambda b: b.gated(b.array(x), b.array(up), activation))
    agree(backend, lambda b: b.gated_back(b.array(g), b.array(x), b.array(up), activation))


@drawn
@given(
    SEEDS,
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=3),
    st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    st.sampled_from([4, 16, 64]),
    st.booleans(),
    st.sampled_from([0, 1, 5]),
    st.sampled_from([0.0, 0.5, 30.0]),
    st.sampled_from(KINDS),
)
def test_attention(
    backend: Backend,
    seed: int,
    spans: list[tuple[int, int]],
    counts: tuple[int, int],
    size: int,
    causal: bool,
    window: int,
    cap: float,
    kind: str,
) -> None:
    queries, keys = tuple(t for t, _ in spans), tuple(t + more for t, more in spans)
    shape = AttentionShape(queries, keys, size**-0.5, causal=causal, window=window if causal else 0, softcap=cap)
    heads, kv = counts
    g, q = values(seed, sum(queries), heads * size, "ordinary"), values(seed + 1, sum(queries), heads * size, kind)
    k, v = values(seed + 2, sum(keys), kv * size, "ordinary"), values(seed + 3, sum(keys), kv * size, kind)

    def call(b: Backend) -> Any:
        one, two, three = b.array(q), b.array(k), b.array(v)
        back = b.attention_back(b.array(g), one, two, three, heads, kv, shape)
        return b.attention(one, two, three, heads, kv, shape), *back

    agree(backend, call)


@drawn
@given(
    SEEDS,
    ROWS,
    st.integers(2, 300),
    st.sampled_from([(1.0, 0.0), (0.25, 0.0), (1.0, 4.0), (3.0, 30.0)]),
    st.sampled_from(KINDS),
    st.sampled_from(PRECISIONS),
)
def test_losses(
    backend: Backend, seed: int, rows: int, vocabulary: int, given: tuple[float, float], kind: str, precision: str
) -> None:
    x, w = values(seed, rows, 24, kind), values(seed + 1, vocabulary, 24, "ordinary")
    targets = np.random.Generator(np.random.Philox(seed)).integers(0, vocabulary, rows)
    shape = LossShape(*given)

    def call(b: Backend) -> Any:
        head, hidden = b.freeze(w.copy(), precision), b.array(x)
        nll, dx = b.losses_back(hidden, head, targets, 1 / rows, shape)
        return b.array(b.losses(hidden, head, targets, shape)), b.array(nll), dx

    agree(backend, call)


@drawn
@given(
    SEEDS,
    COLUMNS,
    st.sampled_from(KINDS),
    st.sampled_from([1.0, 0.3, 1e-9]),
    st.sampled_from([0.0, 0.9, 0.999]),
    st.sampled_from([1e-8, 1e-30, 0.0]),
    st.sampled_from([0.0, 1e-3, 1e3]),
)
def test_optimiser(
    backend: Backend, seed: int, n: int, kind: str, factor: float, beta2: float, eps: float, rate: float
) -> None:
    p, m = values(seed, 3, n, "ordinary"), values(seed + 1, 3, n, "scattered")
    v, g = values(seed + 2, 3, n, "scattered") ** 2, values(seed + 3, 3, n, kind)
    step = AdamStep(0.9, beta2, 1 - 0.9, 1 - beta2, 1 - beta2**3, rate / (1 - 0.9 * 0.9 * 0.9), 1 - rate * 0.01, eps)

    def call(b: Backend) -> Any:
        one, two, three, four = (b.array(x.copy()) for x in (p, g, m, v))
        return b.adamw(one, two, three, four, factor, step)

    agree(backend, call)
