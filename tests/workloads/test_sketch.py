import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.workloads.errors import SketchRefused
from proofyard.workloads.sketch import (
    BLOCKS,
    STANDARD_ERROR,
    WIDTH,
    GroupSketch,
    Sketch,
    decode_sketch,
    exact_distance,
    sketch_change,
    sketch_distance,
)

SEED = bytes(range(32))


def noise(size, number=0):
    return np.random.default_rng(number).standard_normal(size)


@pytest.mark.parametrize("relative", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("shape", ["dense", "spiky"])
def test_the_distance_estimate_keeps_its_documented_error(relative, shape):
    """Over 200 independent seeds: unbiased, with the standard error that the module derives."""
    x, y = noise(3000), noise(3000, 1)
    if shape == "spiky":
        y *= np.where(np.arange(3000) % 750 == 0, 1.0, 1e-3)
    one = {"g": x}
    other = {"g": x + relative * y * np.linalg.norm(x) / np.linalg.norm(y)}
    exact = exact_distance(one, other)
    seeds = [hashlib.sha256(bytes([i])).digest() for i in range(200)]
    ratios = [sketch_distance(sketch_change(one, s), sketch_change(other, s)) / exact for s in seeds]
    assert abs(np.mean(ratios) - 1) < 0.03
    assert np.std(ratios) < 1.6 * STANDARD_ERROR
    assert min(ratios) > 0.7 and max(ratios) < 1.4


@given(st.integers(1, 2000), st.integers(0, 100), st.floats(1e-4, 1))
def test_the_sketch_of_a_difference_is_the_difference_of_sketches(size, number, factor):
    a, b = noise(size, number), factor * noise(size, number + 1)
    left = sketch_change({"g": a + b}, SEED).groups[0].vector()
    right = sketch_change({"g": a}, SEED).groups[0].vector() + sketch_change({"g": b}, SEED).groups[0].vector()
    np.testing.assert_allclose(left, right, atol=1e-4)


def test_equal_changes_have_equal_bytes_and_another_seed_gives_others():
    change = {"b": noise(1000).astype(np.float32), "a": noise(10)}
    first, again = sketch_change(change, SEED), sketch_change(dict(reversed(change.items())), SEED)
    assert first.encode() == again.encode()
    assert sketch_distance(first, again) == 0
    assert sketch_change(change, bytes(32)).encode() != first.encode()
    assert len(first.encode()) < 2300


def test_the_stream_is_the_published_one():
    """A golden vector: a change of numpy, platform or key schedule would show here."""
    digest = hashlib.sha256(sketch_change({"g": np.arange(1000)}, SEED).encode()).hexdigest()
    assert digest == "55948494b90ca47a4cffd3c7e941af0a0e71cfcd282b0a81dc2f9d8d8c0051c2"


def test_the_largest_group_distance_counts():
    one = {"big": noise(100), "small": np.array([1.0])}
    other = {"big": one["big"], "small": np.array([2.0])}
    estimate = sketch_distance(sketch_change(one, SEED), sketch_change(other, SEED))
    assert estimate == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"g": np.zeros(5)}, {"g": np.zeros(5)}, 0.0),
        ({"g": np.zeros(5)}, {"g": np.ones(5)}, 1.0),
        ({"g": np.ones(5)}, {"g": -np.ones(5)}, 2.0),
        ({"g": np.ones(5)}, {"g": np.ones(6)}, math.inf),
        ({"g": np.ones(5)}, {"h": np.ones(5)}, math.inf),
        ({}, {}, 0.0),
    ],
)
def test_edges_of_the_distance(one, other, expected):
    assert exact_distance(one, other) == expected
    assert sketch_distance(sketch_change(one, SEED), sketch_change(other, SEED)) == pytest.approx(expected)


@given(st.dictionaries(st.text(max_size=8), st.integers(0, 50), max_size=4))
def test_sketch_bytes_round_trip(sizes):
    original = sketch_change({name: noise(size) for name, size in sizes.items()}, SEED)
    assert decode_sketch(original.encode()) == original


def group(name="g", size=1, values=b"\x00" * (BLOCKS * WIDTH * 4)):
    return GroupSketch(name, size, values)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 40_000,
        Sketch((group("b"), group("a"))).encode(),
        Sketch((group(), group())).encode(),
        Sketch((group(values=b"\x00" * 8),)).encode(),
        Sketch((group(size=-1),)).encode(),
        Sketch((group(values=b"\x00\x00\xc0\x7f" * BLOCKS * WIDTH),)).encode(),
        Sketch(tuple(group(chr(97 + i)) for i in range(17))).encode(),
    ],
)
def test_malformed_sketches_are_refused(data):
    with pytest.raises(SketchRefused):
        decode_sketch(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_change_that_is_not_finite_is_refused(value):
    with pytest.raises(SketchRefused, match="'g'"):
        sketch_change({"g": np.array([value])}, SEED)


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(SketchRefused, match="32 bytes"):
        sketch_change({"g": np.ones(1)}, b"short")
