"""The laws of training states: no honest one is refused, whatever parameters and gradients; planted ones are."""

import math
from fractions import Fraction

import numpy as np
import pytest
from adamw import train
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proofyard.workloads.errors import StateRefused
from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.lora_laws import (
    STEP,
    check_progress,
    check_training,
    geometric_sum,
    largest_averaged,
    moment_bounds,
    weight_bound,
)
from proofyard.workloads.lora_params import LoraParams

PARAMS = LoraParams(
    modules={"a": (6, 5), "b": (3, 4)},
    rank=2,
    alpha=4.0,
    lr=0.01,
    rounds=2,
    workers=2,
    segments=4,
    segment_steps=1,
    batch=2,
    seq_len=8,
)


def gradient_source(kind, seed):
    """Made-up gradients: what the moments see at their extremes."""
    rng = np.random.default_rng(seed)

    def source(step, name, weight):
        noise = rng.standard_normal(weight.shape)
        match kind:
            case "normal":
                return noise
            case "constant":
                return np.ones(weight.shape)
            case "huge":
                return noise * 1e17
            case "tiny":
                return noise * 1e-25
            case "subnormal":
                return noise * 1e-44
            case "zero":
                return np.zeros(weight.shape)
            case "vanishing":
                return noise * 10.0 ** (-3 * step)
            case "exploding":
                return noise * 10.0 ** (3 * step - 40) if step < 15 else noise
            case "spike":
                return noise * (1e6 if step == 3 else 1e-12)
            case "one weight":
                lone = np.zeros(weight.shape)
                lone.flat[0] = 1.0 if name == "a.lora_A" else 0.0
                return lone
            case "growing":  # the equality in Cauchy and Schwarz, for 0.9 and 0.99
                return np.full(weight.shape, (0.9 / 0.99) ** (-step))
            case "alternating":
                return noise * (-1.0) ** step
        raise AssertionError(kind)

    return source


KINDS = (
    *("normal", "constant", "huge", "tiny", "subnormal", "zero", "vanishing", "exploding", "spike", "one weight"),
    *("growing", "alternating"),
)


def check_all(params, kind, seed, steps):
    """Every state of an honest run keeps the laws, each as a segment's end; returns how many there were.

    It ends where the segment fails for everybody, so that nobody commits to anything: where it diverges, be it only
    that averaging cannot carry its weights, and where decay has taken the adapter to zero.
    """
    states = 0
    try:
        for number, tensors in enumerate(train(params, seed, steps, gradient_source(kind, seed))):
            if params.lr * params.weight_decay > 0.1 and not any(a.any() for n, a in tensors.items() if "adapter" in n):
                break
            if any(np.abs(a).max() > largest_averaged(params) for n, a in tensors.items() if "adapter" in n):
                break
            check_training(params, 0, number, tensors)
            states += 1
    except FloatingPointError:
        pass
    return states


extreme = st.sampled_from([0.0, 1e-8, 0.5, 0.9, 0.99, 0.999, 0.99999, 1 - 2.0**-24, 1 - 2.0**-30, 1 - 2.0**-53])


@settings(max_examples=250, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    beta1=extreme | st.floats(0, 1, exclude_max=True),
    beta2=extreme | st.floats(0, 1, exclude_max=True),
    eps=st.sampled_from([1e-30, 1e-16, 1e-8, 1e-5, 1.0]),
    lr=st.sampled_from([0.0, 1e-30, 1e-4, 0.01, 1.0, 1e3, 1e6]),
    clip=st.sampled_from([1e-30, 1e-12, 1e-6, 0.1, 1.0, 1e6]),
    decay=st.sampled_from([0.0, 0.01, 0.5, 0.999]),
    warmup=st.integers(0, 70),
    lr_end=st.sampled_from([0.0, 0.5, 1.0]),
)
@example("growing", 0, 0.9, 0.99, 1e-5, 0.01, 1.0, 0.0, 0, 1.0)
@example("tiny", 0, 0.9, 0.99, 1e-30, 0.01, 1e-6, 0.0, 0, 1.0)
@example("normal", 0, 0.9, 0.0, 1e-30, 1e3, 1.0, 0.0, 0, 0.0)
@example("normal", 0, 0.0, 0.0, 1e-30, 1e3, 1e-6, 0.5, 0, 0.0)
@example("zero", 0, 0.9, 0.99, 1e-5, 0.0, 1.0, 0.0, 0, 0.0)
@example("constant", 0, 0.999, 0.9, 1e-8, 1.0, 1.0, 0.0, 0, 0.0)
def test_no_honest_state_is_refused(kind, seed, beta1, beta2, eps, lr, clip, decay, warmup, lr_end):
    changes = {"beta1": beta1, "beta2": beta2, "eps": eps, "lr": lr, "clip": clip, "weight_decay": decay}
    params = replace(PARAMS, segments=64, warmup_steps=warmup, lr_end=lr_end, **changes)
    note(f"{kind} {seed} {changes}")
    check_all(params, kind, seed, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{}, {"beta1": 0.0}, {"beta2": 0.0}, {"beta1": 0.99, "beta2": 0.9}, {"clip": 1e-6}, {"eps": 1e-30}]
)
def test_long_honest_runs_are_not_refused(kind, changes):
    """600 steps: the geometric sums at their limits. Seeds follow from the parameters."""
    params = replace(PARAMS, segments=600, **changes)
    assert check_all(params, kind, 1000 + KINDS.index(kind), 600) > 5


def test_a_long_remembering_run_grows_no_further_than_rounding_does():
    params = replace(PARAMS, segments=3000, beta1=1 - 2.0**-24, beta2=1 - 2.0**-23, clip=1.0)
    assert check_all(params, "constant", 5, 3000) == 3001


def test_the_bounds_are_those_of_exact_arithmetic_and_a_little_more():
    """Against rational numbers: no more than 2^-10 above what holds without rounding, for the betas that jobs use."""
    for beta1, beta2, steps in [(0.9, 0.99, 1), (0.9, 0.99, 64), (0.9, 0.999, 500), (0.95, 0.98, 30), (0.5, 0.9999, 9)]:
        bounds = moment_bounds(replace(PARAMS, beta1=beta1, beta2=beta2), steps, 1000)
        b1, b2 = Fraction(float(np.float32(beta1))), Fraction(float(np.float32(beta2)))
        r1, r2 = Fraction(float(np.float32(1 - beta1))), Fraction(float(np.float32(1 - beta2)))
        exact = (
            r1 * sum(b1**i for i in range(steps)),
            r2 * sum(b2**i for i in range(steps)),
            r1 * r1 / r2 * sum((b1 * b1 / b2) ** i for i in range(steps)),
        )
        for bound, value in zip((bounds.first, bounds.second, bounds.ratio), exact, strict=True):
            assert value < bound < value * Fraction(1 + 2**-10)
    assert moment_bounds(PARAMS, 10**6, 1).ratio == pytest.approx(5.5, abs=0.01)


@given(st.floats(0, 1.5), st.integers(0, 300))
def test_geometric_sums_are_right(ratio, terms):
    assert geometric_sum(ratio, terms) == pytest.approx(math.fsum(ratio**i for i in range(terms)), rel=1e-12)


def test_a_geometric_sum_of_many_terms_ends():
    assert geometric_sum(1.0, 1 << 32) == 1 << 32
    assert geometric_sum(2.0, 1 << 32) == math.inf
    assert geometric_sum(0.0, 5) == 1.0


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=40))
def test_a_tree_sum_is_a_sum(values):
    array = np.array(values, np.float32)
    assert float(tree_sum(array)) == pytest.approx(math.fsum(array.tolist()), rel=1e-9, abs=1e17)
    doubled = np.stack([array, array])
    assert (tree_sum(doubled) == tree_sum(array)).all() and tree_sum(doubled).shape == (2,)


def honest(steps=8, params=PARAMS):
    states = list(train(replace(params, segments=steps), 3, steps, gradient_source("normal", 3)))
    return {name: np.array(array) for name, array in states[-1].items()}


def planted(**changes):
    tensors = honest()
    for name, change in changes.items():
        for key in [key for key in tensors if key.startswith(f"{name}.") or key == name]:
            tensors[key] = np.asarray(change(tensors[key]), tensors[key].dtype)
    return tensors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": lambda a: a + 1}, "expected 8"),
        ({"step": lambda a: -a}, "expected 8"),
        ({"second": lambda a: -a}, "negative"),
        ({"second": lambda a: np.full_like(a, 2e9)}, "second moments are larger"),
        ({"second": lambda a: np.zeros_like(a)}, "second moment allows"),
        ({"second": lambda a: a / 20}, "second moment allows"),
        ({"first": lambda a: np.full_like(a, 1.001)}, "clipped gradients"),
        ({"first": lambda a: np.full_like(a, 3e38)}, "clipped gradients"),
        ({"first": lambda a: a * 30}, "second moment allows|clipped"),
        ({"adapter": lambda a: np.zeros_like(a)}, "the adapter is zero"),
        ({"adapter": lambda a: np.full_like(a, 1e25)}, "farther from its start"),
        ({"adapter": lambda a: a + 100}, "farther from its start"),
    ],
)
def test_a_state_that_no_gradients_give_is_refused(changes, reason):
    params = replace(PARAMS, segments=8)
    check_training(params, 0, 8, honest())
    with pytest.raises(StateRefused, match=reason):
        check_training(params, 0, 8, planted(**changes))


def test_a_single_negative_or_planted_number_is_enough():
    params = replace(PARAMS, segments=8)
    for name, value in [("second.b.lora_B", -1e-44), ("first.a.lora_A", 0.9), ("second.a.lora_A", 1.1)]:
        tensors = honest()
        tensors[name].flat[-1] = value
        with pytest.raises(StateRefused):
            check_training(params, 0, 8, tensors)


def test_before_the_first_step_the_moments_are_zero():
    start = next(iter(train(PARAMS, 1, 0, gradient_source("zero", 0))))
    check_training(PARAMS, 0, 0, start)
    for moment in ("first.a.lora_A", "second.b.lora_B"):
        bad = dict(start) | {moment: start[moment] + np.float32(1e-40)}
        with pytest.raises(StateRefused, match="before the first step"):
            check_training(PARAMS, 0, 0, bad)


def test_a_dead_adapter_may_stand_where_nothing_is_learned():
    dead = planted(adapter=np.zeros_like, first=np.zeros_like, second=np.zeros_like)
    with pytest.raises(StateRefused, match="zero"):
        check_training(replace(PARAMS, segments=8), 0, 8, dead)
    check_training(replace(PARAMS, segments=8, lr=0.0), 0, 8, dead)


def test_training_that_stands_still_is_refused_and_anything_else_is_progress():
    before = honest()
    after = dict(before) | {STEP: before[STEP] + 1}
    with pytest.raises(StateRefused, match="nothing but the step"):
        check_progress(PARAMS, before, after)
    check_progress(replace(PARAMS, lr=0.0), before, after)
    for name in ("adapter.a.lora_A", "first.b.lora_B", "second.a.lora_B"):
        check_progress(PARAMS, before, after | {name: np.nextafter(before[name], np.float32(9))})


def test_training_whose_moments_only_decay_is_refused():
    """A few steps without any gradient from any state; one gradient on the way is progress."""
    params = replace(PARAMS, segments=9)
    source = gradient_source("normal", 3)
    for steps, last in ((3, 3), (3, 6)):
        states = list(train(params, 3, 6, lambda s, n, w, last=last: source(s, n, w) * (s < last)))
        before, after = states[steps], states[6]
        if last == 3:
            with pytest.raises(StateRefused, match="only decayed"):
                check_progress(params, before, after)
            with pytest.raises(StateRefused, match="only decayed"):
                check_progress(params, before, after | {"adapter.a.lora_A": before["adapter.a.lora_A"]})
        else:
            check_progress(params, before, after)
    lone = list(train(params, 3, 6, lambda s, n, w: source(s, n, w) * (s < 3 or (s == 4 and n == "b.lora_B"))))
    check_progress(params, lone[3], lone[6])


def test_weights_are_bounded_over_rounds_by_what_all_steps_can_do():
    """Honest rounds under the strongest outer optimizer: the bound holds and stays far below what blinds a norm."""
    params = replace(PARAMS, rounds=20, segments=10, outer_lr=1.0, outer_momentum=0.9, weight_decay=0.1)
    weights, velocity = None, None
    for number in range(params.rounds):
        last = list(train(params, 0, 10, gradient_source("constant", 0), weights))[-1]
        check_training(params, number, 10, last)
        end = {n.removeprefix("adapter."): a for n, a in last.items() if n.startswith("adapter.")}
        start = weights or {n: np.zeros_like(a) for n, a in end.items()}
        delta = {n: end[n].astype(np.float64) - start[n] for n in end}
        velocity = {n: 0.9 * (velocity[n] if velocity else 0) + delta[n] for n in end}
        weights = {n: (start[n] + delta[n] + 0.9 * velocity[n]).astype(np.float32) for n in end}
    assert weight_bound(params, 19, 10) < 1e4
    assert weight_bound(replace(params, lr=1e6, weight_decay=0.5, rounds=3000), 2999, 10) == math.inf
