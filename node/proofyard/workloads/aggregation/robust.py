"""Rules that stand for the mean where some of a round's results may be anything: docs/federated.md.

A rule either decides entry by entry (trimmed mean, median) or gives each result a weight of at least 0, all of them
together at most 1; so no entry of an update is larger than the largest of the results' own.

Sources: trimmed mean and median, Yin et al. (arXiv 1803.01498); geometric median by Weiszfeld's iterations, RFA
(arXiv 1912.13445); centered clipping, Karimireddy et al. (arXiv 2012.10333); Krum and Multi-Krum, Blanchard et al.
(NIPS 2017); buckets of results in random order, Karimireddy et al. (arXiv 2006.09365).
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from proofyard.workloads.aggregation.checks import COORDINATEWISE
from proofyard.workloads.aggregation.vectors import (
    PART,
    Sizes,
    Vector,
    Weighted,
    distances,
    pairwise,
    stacks,
    weighted,
    whole,
)
from proofyard.workloads.randomness import permutation
from proofyard.workloads.state import Array

NEAR = 1e-12
"""Weiszfeld's weights are 1 / distance; what is nearer than this share of the median distance counts as so far."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule by its name in the manifest, how many of the results may be `hostile`, how many make a `bucket`, the
    iterations (`steps`) of those that iterate, and the `radius` of clipping in median norms."""

    name: str = "mean"
    hostile: int = 0
    bucket: int = 1
    steps: int = 10
    radius: float = 1.0


def aggregate(
    rule: Rule, vectors: Sequence[Vector], sizes: Sizes, purpose: Sequence[str | int] = (), part: int = PART
) -> dict[str, Array]:
    """What stands for the mean of `vectors`, each tensor as one row of numbers. `purpose` keys the buckets' order."""
    if rule.name not in COORDINATEWISE:
        result = Weighted(vectors, weigh(rule, vectors, sizes, purpose, part))
        return whole(sizes, ((name, some, stack[0]) for name, some, stack in stacks([result], sizes, part)))
    decide = median if rule.name == "median" else lambda stack: trimmed_mean(stack, rule.hostile)
    buckets = [Weighted([vectors[i] for i in each], _equal(each)) for each in buckets_of(rule, len(vectors), purpose)]
    return whole(sizes, ((name, some, decide(stack)) for name, some, stack in stacks(buckets, sizes, part)))


def weigh(
    rule: Rule, vectors: Sequence[Vector], sizes: Sizes, purpose: Sequence[str | int] = (), part: int = PART
) -> list[float]:
    """The weight of each vector under a rule that weighs whole ones."""
    groups = buckets_of(rule, len(vectors), purpose)
    buckets = [Weighted([vectors[i] for i in each], _equal(each)) for each in groups]
    found = _WEIGHING[rule.name](rule, buckets, sizes, part)
    weights = [0.0] * len(vectors)
    for group, weight in zip(groups, found, strict=True):
        for index in group:
            weights[index] = weight / len(group)
    return weights


def buckets_of(rule: Rule, count: int, purpose: Sequence[str | int]) -> list[list[int]]:
    """Which results are averaged first: `rule.bucket` each in random order, the last bucket what is left."""
    order = permutation(count, "buckets", *purpose).tolist() if rule.bucket > 1 else list(range(count))
    return [order[start : start + rule.bucket] for start in range(0, count, rule.bucket)]


def trimmed_mean(stack: Array, hostile: int) -> Array:
    """(n, numbers) to (numbers,): of each entry the mean without the `hostile` smallest and largest, added from the
    smallest."""
    kept = np.sort(stack, axis=0)[hostile : len(stack) - hostile]
    return weighted(kept, [1.0] * len(kept)) / len(kept)


def median(stack: Array) -> Array:
    """(n, numbers) to (numbers,): of each entry the middle one, or the mean of the two in the middle."""
    ordered, middle = np.sort(stack, axis=0), len(stack) // 2
    found: Array = ordered[middle] if len(stack) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return found


def _mean(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int) -> list[float]:
    return _equal(vectors)


def _geometric_median(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int) -> list[float]:
    """Weiszfeld: the centre is the mean weighted by 1 / distance from the centre before, the first one the mean."""
    weights = _equal(vectors)
    for _ in range(rule.steps):
        away = distances(vectors, sizes, _centre(weights), part)
        least = NEAR * statistics.median(away)
        if least == 0:  # half of them are the centre already
            nearest = [distance == 0 for distance in away]
            return [float(near) / sum(nearest) for near in nearest] if any(nearest) else weights
        inverse = [least / max(distance, least) for distance in away]
        total = math.fsum(inverse)
        weights = [each / total for each in inverse]
    return weights


def _centered_clipping(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int) -> list[float]:
    """From 0, in each step by the mean of what each vector is away from the centre, shortened to the radius. The
    centre is a sum of the vectors, whose weights are what is kept."""
    norms = distances(vectors, sizes, lambda stack: np.zeros(stack.shape[1]), part)
    radius = rule.radius * statistics.median(norms)
    weights, count = [0.0] * len(vectors), len(vectors)
    for step in range(rule.steps):
        away = norms if step == 0 else distances(vectors, sizes, _centre(weights), part)
        clipped = [1.0 if distance <= radius else radius / distance for distance in away]
        left = 1 - math.fsum(clipped) / count
        weights = [weight * left + each / count for weight, each in zip(weights, clipped, strict=True)]
    return weights


def _krum(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int) -> list[float]:
    """The one vector whose n - f - 2 nearest others are nearest to it."""
    return _best(rule, vectors, sizes, part, 1)


def _multi_krum(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int) -> list[float]:
    """The mean of the n - f - 2 best by Krum's score."""
    return _best(rule, vectors, sizes, part, len(vectors) - rule.hostile - 2)


def _best(rule: Rule, vectors: Sequence[Vector], sizes: Sizes, part: int, chosen: int) -> list[float]:
    near = len(vectors) - rule.hostile - 2
    squares = pairwise(vectors, sizes, part)
    scores = [math.fsum(sorted(row[:i] + row[i + 1 :])[:near]) for i, row in enumerate(squares)]
    best = set(sorted(range(len(vectors)), key=lambda i: (scores[i], i))[:chosen])
    return [1.0 / chosen if i in best else 0.0 for i in range(len(vectors))]


Weighing = Callable[[Rule, Sequence[Vector], Sizes, int], list[float]]

_WEIGHING: dict[str, Weighing] = {
    "centered-clipping": _centered_clipping,
    "geometric-median": _geometric_median,
    "krum": _krum,
    "mean": _mean,
    "multi-krum": _multi_krum,
}


def _centre(weights: Sequence[float]) -> Callable[[Array], Array]:
    return lambda stack: weighted(stack, weights)


def _equal(some: Sequence[object]) -> list[float]:
    return [1.0 / len(some)] * len(some)
