"""The laws of training states: what holds after n steps of AdamW whatever the gradients were.

A state that breaks one was not computed. The laws cost one pass over the state, need no model, and take from a cheat
the states that would make every later segment of a task free: moments so large that no gradient matters, moments that
make the next segment fail, weights that no gradient reaches.

With g the gradient of a step after clipping, |g| <= clip, and moments that begin at zero (docs/exact.md, Optimiser),
first = sum of (1-b1) b1^i g_i and second = sum of (1-b2) b2^i g_i^2, i counting back from the last step. So
  - |first| <= clip * (1-b1) * sum of b1^i,
  - the sum of all of second <= clip^2 * (1-b2) * sum of b2^i,
  - first^2 <= second * (1-b1)^2 / (1-b2) * sum of (b1^2/b2)^i (Cauchy and Schwarz; 5.5 second for 0.9, 0.99 and many
    steps). A step moves a weight by at most lr times the root of that factor, times the bias corrections,
  - so no weight is larger than what it began with plus all steps and outer steps so far.
No trained weight is beyond `largest_averaged`, nor is the base that a round started from: within it the next round's
start is always a number.

Rounding: one binary32 operation is off by a factor within 1 +- 2^-24 or, among the subnormals, by at most 2^-150. A
moment's term of age i has been through 2 + 2i operations, hence the ratios of the geometric sums are widened by
(1 +- U)^2, U = 2^-23, which covers the binary64 rounding of this module as well. `RELATIVE` = 3.7e-4 covers the
rounding of the gradient's norm (at most 29 sums in a tensor and 8,192 over tensors, halved by the root: 2.5e-4) and of
the factor that clips. `ABSOLUTE` = 2^-60 is the length of what vanishes in a norm: squares below 2^-150, 2^28 of them,
and a clipping factor among the subnormals, times a norm below 2^64. Both are as nothing to a cheat.

With ffa B alone is trained. It begins at zero, and zero is no dead end: gradients reach it through A, which is not
trained. So an adapter of zeros is refused elsewhere alone.

Everything here is binary64 elementwise, or a sum whose order is fixed: every machine refuses the same states.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from proofyard.workloads.compression.delta import check_last
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.exact_sums import tree_sum
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import STEP, outer_steps
from proofyard.workloads.state import Array

U = 2.0**-23
RELATIVE = 3 * 2.0**-13
ABSOLUTE = 2.0**-60
_SUBNORMAL = 2.0**-147
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What a state's moments keep to: `first` for each |first|, `second` for the sum of second, and
    (|first| - first_slack)^2 <= ratio * (second + second_slack) for each weight (`ratio` may be infinite)."""

    first: float
    second: float
    ratio: float
    first_slack: float
    second_slack: float


def moment_bounds(params: LoraParams, steps: int, values: int) -> Bounds:
    """The bounds after `steps` steps for an adapter of `values` numbers."""
    beta1, beta2 = _binary32(params.beta1), _binary32(params.beta2)
    rest1, rest2 = _binary32(1 - params.beta1), _binary32(1 - params.beta2)
    wide, narrow = (1 + U) * (1 + U), (1 - U) * (1 - U)
    sum1, sum2 = geometric_sum(beta1 * wide, steps), geometric_sum(beta2 * wide, steps)
    gradient = params.clip * (1 + RELATIVE) + ABSOLUTE
    first_slack, second_slack = _SUBNORMAL * sum1, _SUBNORMAL * sum2
    return Bounds(
        first=gradient * rest1 * wide * sum1 + first_slack,
        second=gradient * gradient * rest2 * (wide * wide) * sum2 + values * second_slack,
        ratio=_ratio(beta1 * wide, beta2 * narrow, steps) * (rest1 * wide * rest1 * wide) / (rest2 * narrow * narrow),
        first_slack=first_slack,
        second_slack=second_slack,
    )


@dataclass(frozen=True)
class Reach:
    """How far the entries of a round's tensors can be, whatever results say: `start`, the largest |weight| that it
    starts from, `left_out` of what the rounds before it have trained (0 without compression), and `delta`, the largest
    entry of a delta that counts. All are infinite where none is known."""

    start: float
    left_out: float
    delta: float


def reach(params: LoraParams, round_number: int) -> Reach:
    """The reach of a round, counted from 0.

    An adapter begins within +-1, or `begins.within`, as its velocity does where there is one. With compression a delta
    has also what earlier ones have left out, each of which is sent once: of no number more is left out than the largest
    one of its block, so all that is left out of an entry is no more than the rounds so far have moved one. What results
    say beyond that does not count (`lora_rounds`), and neither shortening nor a mean makes a delta's entry larger.
    """
    moved, grown = _moved(params), _power(_growth(params), params.task_steps)
    pulled = min(1 + grown, params.task_steps * (params.lr * params.weight_decay + 2 * U) * grown)
    momentum = params.outer_momentum * (1 + U)

    def sent(start: float, left_out: float) -> float:
        """Its rounding is relative to the weights."""
        trained = moved + start * pulled
        return (trained + left_out + 4 * U * start) * (1 + U) * (1 + U) if params.compression else trained

    start, left_out = max(1 + U, params.begins.within) if params.begins else 1 + U, 0.0
    velocity = params.begins.within if params.begins and params.outer == "nesterov" else 0.0
    # flora's adapter begins anew in every round
    for _ in range(0 if params.aggregation == "flora" else round_number - params.begun):
        left_out = sent(start, left_out)
        # Small deltas are added to the start in binary32 before they are counted from it.
        mean = left_out * (1 + U) + U * start if params.compression else left_out
        velocity = (momentum * velocity + mean) * (1 + U)
        start = (start + params.outer_lr * (mean + momentum * velocity)) * (1 + U)
        if not math.isfinite(start):
            return Reach(math.inf, math.inf, math.inf)
    return Reach(start, left_out if params.compression else 0.0, sent(start, left_out))


def weight_bound(params: LoraParams, round_number: int, steps: int) -> float:
    """The largest |weight| of an adapter after `steps` steps of a round, counted from 0; infinite where none is
    known."""
    return (reach(params, round_number).start + steps * _step(params)) * _power(_growth(params), steps)


def span(params: LoraParams, start: Array) -> tuple[Array, Array]:
    """How far all steps of a task move weights from where they `start`, binary64: down and up, at most. Decay draws
    them towards 0, and past it only where it takes more than all of a weight."""
    decay, size = params.lr * params.weight_decay, np.abs(start)
    grown = _power(_growth(params), params.task_steps)
    most = 1.0 if decay <= 1 else 1 + grown
    pulled = size * min(most, params.task_steps * decay * grown)
    around = size * (params.task_steps * 2 * U * grown) + _moved(params)
    if decay > 1:
        return around + pulled, around + pulled
    return around + np.where(start > 0, pulled, 0.0), around + np.where(start < 0, pulled, 0.0)


def _moved(params: LoraParams) -> float:
    """How far all steps of a task move a weight, beside its decay."""
    step = _step(params)
    return params.task_steps * step * _power(_growth(params), params.task_steps) if step else 0.0


def _step(params: LoraParams) -> float:
    """How far a step moves a weight, beside its decay."""
    return params.lr * _largest_update(params, moment_bounds(params, params.task_steps, 0))


def _growth(params: LoraParams) -> float:
    """How much larger a step's decay can make a weight."""
    return max(1.0, abs(1 - params.lr * params.weight_decay)) * (1 + U) * (1 + U)


def largest_averaged(params: LoraParams) -> float:
    """The largest |weight| W of adapters and base such that a round's start is finite in binary32, whatever else.

    An entry of a delta, and so of their mean, is at most 2 W. The velocity after R rounds, each of which takes the
    momentum m of it and adds a mean, is at most V = 2 W (1 + m R), and the outer step moves a weight by outer_lr times
    (mean + m velocity) <= V. So W + max(1, outer_lr) V is to stay within 2^126; binary32 goes to 2^128, which leaves
    room for every rounding. Robust rules stay within the deltas' hull with 0. With compression so many steps are made
    one after another as there are rounds between two of which the base is known, with `overlap` two.

    A round that merges adds products of at most 4 W^2 2^10 2^20 in length (rank, out, in), 2^17 of them at most, and
    an entry of a merged factor is at most the root of that, which 2^96 keeps below 2^121.
    """
    steps = 2 * max(1.0, params.outer_lr) * (1 + params.outer_momentum * params.rounds)
    return min(2.0**126 / (1 + steps * outer_steps(params)), 2.0**96 if params.merges else math.inf)


def check_finished(params: LoraParams, round_number: int, shard: int, tensors: Mapping[str, Array]) -> None:
    """Raise `StateRefused` for a last state of a task with compression that breaks a law; it has its schema already."""
    if tensors[STEP] != params.steps_of(shard):
        raise StateRefused(f"is {tensors[STEP]} in the last state, expected {params.steps_of(shard)}", STEP)
    largest = min(reach(params, round_number).delta, largest_averaged(params))
    check_last(params, round_number, shard, tensors, largest)
    carried = [name for name in tensors if name.startswith(("base.", "origin."))]
    _check_weights(carried, tensors, largest_averaged(params))


def largest_merged(params: LoraParams, module: str, round_number: int) -> float:
    """The largest |entry| of a layer's merged factors in a round, counted from 0.

    With L the largest weight so far, a product B A, or (B - mean B)(A - mean A), is at most 4 rank L^2 sqrt(out in) in
    length; of `round_number` such the factors have at most twice the root (`aggregation.folding`). Factors that are
    stacked are within 2 L, which is less. What a job goes on from is one product more, of rank `merged_rank`.
    """
    begun = params.begins.within if params.begins else 0.0
    if round_number == params.begun:
        return begun
    largest = weight_bound(params, round_number, params.task_steps)
    spread = math.sqrt(float(math.prod(params.modules[module])))
    root = 2 * largest * math.sqrt(4 * params.rank * (round_number - params.begun))
    root += 2 * begun * math.sqrt(params.merged_rank_of(module))
    return min(root * math.sqrt(spread) * (1 + RELATIVE), 2.0**121)


def check_training(params: LoraParams, round_number: int, number: int, tensors: Mapping[str, Array]) -> None:
    """Raise `StateRefused` for a state `number` of a training task that breaks a law; it has its schema already."""
    steps = number * params.segment_steps
    if tensors[STEP] != steps:
        raise StateRefused(f"is {tensors[STEP]} in state {number}, expected {steps}", STEP)
    names = sorted(name.removeprefix("adapter.") for name in tensors if name.startswith("adapter."))
    carries = f"base.{names[0]}" in tensors
    values = sum(tensors[f"adapter.{name}"].size for name in names)
    _check_kept(params, round_number, tensors)
    if number == 0:
        _check_no_moments(names, tensors)
        if carries:
            begun = {name: tensors[f"adapter.{name}"] for name in names}
            base = {name: tensors[f"base.{name}"][tuple(map(slice, array.shape))] for name, array in begun.items()}
            if not all(np.array_equal(base[name], begun[name]) for name in names):
                raise StateRefused("the adapter is not the base before the first step")
        return
    _check_moments(names, tensors, moment_bounds(params, steps, values))
    if params.lr > 0 and params.averages_a and not any(tensors[f"adapter.{name}"].any() for name in names):
        raise StateRefused("the adapter is zero: no gradient reaches it, and no training ends there")
    largest = weight_bound(params, round_number, steps)
    _check_weights([f"adapter.{name}" for name in names], tensors, min(largest, largest_averaged(params)))
    if carries:
        largest = weight_bound(params, round_number, 0)
        _check_weights([f"base.{name}" for name in names], tensors, min(largest, largest_averaged(params)))


def check_progress(params: LoraParams, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
    """Raise `StateRefused` where a segment changed nothing but the step, or gradients had no part in what it changed.

    Training without gradients is that of a dead adapter or of a model whose outputs are constant: every further segment
    is free, because moments that only decay are known beforehand. With a learning rate of 0 there is nothing to learn.
    """
    if params.lr == 0:
        return
    if all(np.array_equal(before[name], after[name]) for name in after if name != STEP):
        raise StateRefused(
            f"nothing but the step has changed since step {before[STEP]}: no gradient reaches the adapter"
        )
    steps = int(after[STEP] - before[STEP])
    betas = {"first.": np.float32(params.beta1), "second.": np.float32(params.beta2)}
    if all(
        np.array_equal(_decayed(before[name], beta, steps), after[name])
        for prefix, beta in betas.items()
        for name in sorted(after)
        if name.startswith(prefix)
    ):
        raise StateRefused(f"moments have only decayed since step {before[STEP]}: no gradient reaches the adapter")


def geometric_sum(ratio: float, terms: int) -> float:
    """1 + ratio + ratio^2 + ... of `terms` terms by doubling; infinite where it overflows."""
    total, power = 0.0, 1.0
    for bit in format(terms, "b"):
        total, power = total * (1 + power), power * power
        if bit == "1":
            total, power = total * ratio + 1, power * ratio
    return total


def _ratio(beta1: float, beta2: float, steps: int) -> float:
    """The sum of (b1^2/b2)^i; with b2 = 0 the second moment forgets what the first remembers."""
    if beta1 == 0 or steps == 1:
        return 1.0
    return geometric_sum(beta1 * beta1 / beta2, steps) if beta2 > 0 else math.inf


def _largest_update(params: LoraParams, bounds: Bounds) -> float:
    """The largest |m / (1 - b1^n)| / (sqrt(v / (1 - b2^n)) + eps) of any step up to that of the bounds."""
    largest = bounds.first / params.eps
    if math.isfinite(bounds.ratio):
        lost = max(1.0, math.sqrt(bounds.second_slack) / params.eps)
        largest = min(largest, math.sqrt(bounds.ratio) * lost + bounds.first_slack / params.eps)
    return largest / (1 - params.beta1) * (1 + RELATIVE)


def _decayed(moment: Array, beta: np.float32, steps: int) -> Array:
    """A moment after steps whose gradients were 0."""
    for _ in range(steps):
        moment = moment * beta
    return moment


def _power(base: float, exponent: int) -> float:
    """base^exponent for a base of at least 1, by squaring; infinite where it overflows."""
    power = 1.0
    for bit in format(exponent, "b"):
        power = power * power * (base if bit == "1" else 1.0)
    return power


def _check_kept(params: LoraParams, round_number: int, tensors: Mapping[str, Array]) -> None:
    """What stands beside the trained factors: no larger than the rounds so far can have made it."""
    for name in sorted(tensors):
        group, _, rest = name.partition(".")
        if group == "merged":
            _check_weights([name], tensors, largest_merged(params, rest.rpartition(".")[0], round_number))
        elif group == "rest":
            largest = weight_bound(params, round_number, 0) if round_number else 0.0
            _check_weights([name], tensors, min(largest, largest_averaged(params)))


def _check_no_moments(names: list[str], tensors: Mapping[str, Array]) -> None:
    for name in names:
        for moment in (f"first.{name}", f"second.{name}"):
            if tensors[moment].any():
                raise StateRefused("is not zero before the first step", moment)


def _check_moments(names: list[str], tensors: Mapping[str, Array], bounds: Bounds) -> None:
    sums = []
    for name in names:
        for first, second in zip(_chunks(tensors[f"first.{name}"]), _chunks(tensors[f"second.{name}"]), strict=True):
            if (second < 0).any():
                raise StateRefused("is negative", f"second.{name}")
            if (np.abs(first) > bounds.first).any():
                raise StateRefused("is larger than clipped gradients make it", f"first.{name}")
            length = np.maximum(np.abs(first) - bounds.first_slack, 0.0)
            if math.isfinite(bounds.ratio) and (length * length > bounds.ratio * (second + bounds.second_slack)).any():
                raise StateRefused("is larger than the second moment allows", f"first.{name}")
            sums.append(float(tree_sum(second)))
    if math.fsum(sums) > bounds.second:
        raise StateRefused("the second moments are larger than clipped gradients make them")


def _check_weights(names: list[str], tensors: Mapping[str, Array], largest: float) -> None:
    for name in names:
        if any((np.abs(part) > largest).any() for part in _chunks(tensors[name])):
            raise StateRefused("is farther from its start than the steps so far can move it", name)


def _chunks(array: Array) -> Iterator[Array]:
    """The numbers in binary64, a few at a time."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)


def _binary32(value: float) -> float:
    return float(np.float32(value))
