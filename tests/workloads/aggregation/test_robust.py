"""Robust rules as pure functions: what they bound, and that nothing but the numbers decides about the bits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.workloads.aggregation.robust import Rule, aggregate, buckets_of, weigh
from proofyard.workloads.aggregation.vectors import Change

SIZES = {"a": 70, "b": 33}
RULES = [
    Rule(name="trimmed-mean", hostile=2),
    Rule(name="median", hostile=2),
    Rule(name="geometric-median", hostile=2, steps=40),
    Rule(name="centered-clipping", hostile=2, steps=5, radius=1.0),
    Rule(name="krum", hostile=2),
    Rule(name="multi-krum", hostile=2),
]
NAMES = [rule.name for rule in RULES]
WEIGHING = [rule for rule in RULES if rule.name not in ("trimmed-mean", "median")]


def vectors(rows):
    """Updates from zero whose numbers are the rows (n, 103)."""
    zero = {name: np.zeros(size, np.float32) for name, size in SIZES.items()}
    rows = np.asarray(rows, np.float32)
    return [Change(zero, {"a": row[:70].reshape(7, 10), "b": row[70:]}) for row in rows]


def found(rule, rows, **more):
    result = aggregate(rule, vectors(rows), SIZES, **more)
    return np.concatenate([result["a"], result["b"]])


def honest(seed, count=8, spread=0.3):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(103) + spread * rng.standard_normal((count, 103))).astype(np.float32)


def hostile(seed, kind, count=2):
    rng, right = np.random.default_rng(seed + 1), honest(seed)
    mean, spread = right.mean(axis=0), right.std(axis=0)
    rows = {
        "flip": np.tile(-10 * mean, (count, 1)),
        "noise": 1e3 * rng.standard_normal((count, 103)),
        "far": np.tile(1e6 * np.ones(103), (count, 1)),
        "little": np.tile(mean - 1.5 * spread, (count, 1)),
        "nothing": np.zeros((count, 103)),
    }
    return rows[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["flip", "noise", "far", "little", "nothing"])
@pytest.mark.parametrize("rule", RULES, ids=NAMES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_two_of_ten_that_say_anything_move_the_result_no_farther_than_the_rule_says(rule, kind, seed):
    """Trimmed mean and median: each entry lies between honest ones (Yin et al.). Krum: within the honest ones'
    diameter of an honest one. Geometric median: 2 (1 - a) / (1 - 2 a) honest radii, a = 0.2, with 1% for iterations
    that have not ended. Clipping: f / n radii a step from what the honest ones alone pull to."""
    right = honest(seed).astype(np.float64)
    everything = np.concatenate([right, hostile(seed, kind)])
    result, mean = found(rule, everything), right.mean(axis=0)
    away = np.linalg.norm(right - mean, axis=1).max()
    match rule.name:
        case "trimmed-mean" | "median":
            assert (result >= right.min(axis=0) - 1e-9).all() and (result <= right.max(axis=0) + 1e-9).all()
        case "krum" | "multi-krum":
            diameter = max(np.linalg.norm(x - y) for x in right for y in right)
            assert np.linalg.norm(right - result, axis=1).min() <= diameter + 1e-9
        case "geometric-median":
            assert np.linalg.norm(result - mean) <= 1.01 * 2 * 0.8 / 0.6 * away + 1e-9
        case "centered-clipping":
            norms = np.linalg.norm(everything, axis=1)
            radius, centre = rule.radius * np.median(norms), np.zeros(103)
            for _ in range(rule.steps):
                pull = right - centre
                centre = centre + (pull * np.minimum(1, radius / np.linalg.norm(pull, axis=1))[:, None]).sum(0) / 10
            assert np.linalg.norm(result - centre) <= 2 * rule.steps * 0.2 * radius + 1e-9


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_results_does_not_matter(rule, seed):
    rows = np.concatenate([honest(seed), hostile(seed, "noise")])
    order = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_allclose(found(rule, rows[order]), found(rule, rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_results_that_agree_are_the_result(rule):
    row = honest(3)[:1]
    np.testing.assert_allclose(found(rule, np.tile(row, (7, 1))), row[0], rtol=1e-7)
    np.testing.assert_array_equal(found(rule, np.zeros((7, 103))), 0)
    if rule.name != "centered-clipping":
        outvoted = np.concatenate([np.tile(row, (8, 1)), hostile(3, "far")])
        np.testing.assert_allclose(found(rule, outvoted), row[0], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
@pytest.mark.parametrize("bucket", [1, 2])
def test_the_length_of_the_parts_changes_no_bit(rule, bucket):
    rule = Rule(**{**vars(rule), "bucket": bucket, "hostile": 1})
    rows = np.concatenate([honest(5), hostile(5, "noise")])
    first = found(rule, rows, purpose=(1, 2))
    for part in (1, 4, 32, 1 << 20):
        assert found(rule, rows, purpose=(1, 2), part=part).tobytes() == first.tobytes()


def test_the_number_of_threads_changes_no_bit():
    """In processes of their own: numpy reads the number of its threads when it is loaded."""
    script = """
import sys; sys.path.insert(0, sys.argv[1])
import hashlib, test_robust as t
rows = t.np.concatenate([t.honest(5), t.hostile(5, "noise")])
print(hashlib.sha256(b"".join(t.found(rule, rows).tobytes() for rule in t.RULES)).hexdigest())
"""
    digests = set()
    for threads in ("1", "4"):
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        folder = Path(__file__).parent
        run = subprocess.run(
            [sys.executable, "-c", script, folder], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


@pytest.mark.parametrize("rule", WEIGHING, ids=[rule.name for rule in WEIGHING])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_weights_are_a_share_of_one(rule, seed, scale):
    weights = weigh(rule, vectors(honest(seed, count=9) * np.float32(scale)), SIZES)
    assert all(weight >= 0 for weight in weights) and sum(weights) <= 1 + 1e-12
    if rule.name != "centered-clipping":
        assert sum(weights) == pytest.approx(1)


def test_krum_takes_one_and_multi_krum_the_best_by_the_paper():
    rows = np.concatenate([honest(9), hostile(9, "far")])
    squares = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=-1)
    scores = np.sort(squares, axis=1)[:, 1 : 1 + 10 - 2 - 2].sum(axis=1)
    best = np.argsort(scores)
    assert np.argmax(weigh(RULES[4], vectors(rows), SIZES)) == best[0]
    assert set(np.flatnonzero(weigh(RULES[5], vectors(rows), SIZES))) == set(best[:6])


def test_weiszfeld_ends_at_the_geometric_median():
    """Where the gradient of the summed distances is nothing."""
    rows = honest(2).astype(np.float64)
    result = found(Rule(name="geometric-median", hostile=2, steps=100), rows)
    away = rows - result
    assert np.linalg.norm((away / np.linalg.norm(away, axis=1)[:, None]).sum(axis=0)) < 1e-4


def test_buckets_follow_from_seed_and_round_and_hold_every_result_once():
    rule = Rule(name="median", hostile=1, bucket=3)
    groups = buckets_of(rule, 10, (7, 1))
    assert [len(group) for group in groups] == [3, 3, 3, 1]
    assert sorted(index for group in groups for index in group) == list(range(10))
    assert groups == buckets_of(rule, 10, (7, 1)) != buckets_of(rule, 10, (7, 2))
    assert buckets_of(Rule(name="median", hostile=1), 3, (7, 1)) == [[0], [1], [2]]


def test_signs_of_zero_decide_nothing():
    rows = np.zeros((5, 103), np.float32)
    rows[::2] = -0.0
    for rule in RULES:
        result = found(Rule(**{**vars(rule), "hostile": 1}), rows)
        assert not np.signbit(result).any()
