"""What a round starts from: a pure function of the results of the round before it, so that nobody is asked for it.

The deltas' mean in binary64 in a fixed order, then Nesterov's outer step (DiLoCo, arXiv 2311.08105). Every sum that
decides anything is exactly rounded (`math.fsum`) or elementwise, so every machine has the same bits.

The function is total on results that `LoraWorkload.check_result` lets pass: trained weights and the base are within
`lora_laws.largest_averaged`, so norms are far below binary64's largest number, and adapter and velocity are finite in
binary32. A base beyond that is where a job ends: no training state of that round keeps the laws.
"""

import hashlib
import math
import statistics
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from proofyard.protocol.codec import encode
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import adapter_schema, initial_adapter, put, result_schema, take
from proofyard.workloads.state import Array, decode_state

Tensors = Mapping[str, Array]

KEPT = 2
"""Starts that stay in memory: every worker of a round asks for the same one."""


@dataclass(frozen=True)
class Start:
    """What a round starts from; both have the adapter's tensors."""

    adapter: Tensors
    velocity: Tensors

    @property
    def outer(self) -> dict[str, Array]:
        """As the chain of shard 0 carries it."""
        return put(self.adapter, "base") | put(self.velocity, "velocity")


def start_of_round(params: LoraParams, seed: int, results: Sequence[bytes]) -> Start:
    """The start of the first round, or of the one after that whose `results` these are, in the order of the shards.

    Its arrays are shared and cannot be written to. Raises `StateRefused` for what is no result of such a round, or so
    far from what the laws let pass that no number comes out."""
    digests = tuple(hashlib.sha256(result).digest() for result in results)
    key = (hashlib.sha256(encode(params)).digest(), seed, digests)
    with _lock:
        known = _known.get(key)
    if known is None:
        known = _frozen(_next_start(params, results) if results else _first_start(params, seed))
        with _lock:
            _known[key] = known
            while len(_known) > KEPT:
                _known.popitem(last=False)
    return known


_known: OrderedDict[tuple[bytes, int, tuple[bytes, ...]], Start] = OrderedDict()
_lock = Lock()


def _first_start(params: LoraParams, seed: int) -> Start:
    adapter = initial_adapter(params, seed)
    return Start(adapter, {name: np.zeros_like(array) for name, array in adapter.items()})


def _next_start(params: LoraParams, results: Sequence[bytes]) -> Start:
    if len(results) != params.workers:
        raise StateRefused(f"a round has {params.workers} results, {len(results)} were given")
    tensors = [decode_state(result, schema=result_schema(params, shard)) for shard, result in enumerate(results)]
    trained = [take(each, "adapter") for each in tensors]
    with np.errstate(over="ignore", invalid="ignore"):
        start = outer_step(params, take(tensors[0], "base"), take(tensors[0], "velocity"), trained)
    for name, array in start.outer.items():
        if not np.isfinite(array).all():
            raise StateRefused("is no number after the outer step: the results before it break a law", name)
    return start


def outer_step(params: LoraParams, base: Tensors, velocity: Tensors, trained: Sequence[Tensors]) -> Start:
    """Adapter and velocity after the outer step from `base`, given what each shard has trained it to."""
    norms = [delta_norm(base, adapter) for adapter in trained]
    factors = shortening(norms, params.max_delta_ratio)
    after: dict[str, Array] = {}
    momentum: dict[str, Array] = {}
    for name in sorted(adapter_schema(params)):
        mean = np.zeros(base[name].shape, np.float64)
        for factor, adapter in zip(factors, trained, strict=True):
            mean += _delta(base, adapter, name) * factor
        mean /= params.workers
        moved = params.outer_momentum * velocity[name].astype(np.float64) + mean
        step = params.outer_lr * (mean + params.outer_momentum * moved)
        after[name] = (base[name].astype(np.float64) + step).astype(np.float32)
        momentum[name] = moved.astype(np.float32)
    return Start(after, momentum)


def delta_norm(base: Tensors, adapter: Tensors) -> float:
    """The L2 norm of one worker's update, exactly rounded tensor by tensor."""
    squares = (np.square(_delta(base, adapter, name)) for name in sorted(base))
    return math.sqrt(math.fsum(math.fsum(square.reshape(-1).tolist()) for square in squares))


def shortening(norms: list[float], max_ratio: float) -> list[float]:
    """The factor of each delta: below 1 for one longer than `max_ratio` times the median, so that no single worker
    can dominate the mean."""
    bound = max_ratio * statistics.median(norms)
    return [bound / norm if norm > bound else 1.0 for norm in norms]


def _delta(base: Tensors, adapter: Tensors, name: str) -> Array:
    delta: Array = adapter[name].astype(np.float64) - base[name].astype(np.float64)
    return delta


def _frozen(start: Start) -> Start:
    for array in (*start.adapter.values(), *start.velocity.values()):
        array.setflags(write=False)
    return start
