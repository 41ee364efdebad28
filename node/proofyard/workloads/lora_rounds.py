"""What a round starts from: a pure function of the results that it rests on, so that nobody is asked for it.

What the workers' results come to is decided by the job's aggregation and its robust rule (docs/federated.md), all of it
in binary64 in a fixed order, and the averaged update takes Nesterov's outer step (DiLoCo, arXiv 2311.08105). Every sum
that decides anything is exactly rounded (`math.fsum`), a tree or elementwise, so every machine has the same bits.

The function is total on results that `LoraWorkload.check_result` lets pass: trained weights and the base are within
`lora_laws.largest_averaged`, so norms are far below binary64's largest number, and adapter, velocity and merged factors
are finite in binary32. A base beyond that is where a job ends: no training state of that round keeps the laws.
"""

import hashlib
import math
import statistics
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from proofyard.protocol.closing import Closing
from proofyard.protocol.codec import encode
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.aggregation.folding import Factors, fold, stack
from proofyard.workloads.aggregation.robust import Rule, aggregate, weigh
from proofyard.workloads.aggregation.vectors import Change
from proofyard.workloads.compression import delta
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora_laws import span
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_sets import Said, in_order, newest
from proofyard.workloads.lora_tensors import (
    carries_outer,
    cut,
    initial_adapter,
    is_key_round,
    merged_schema,
    outer_schema,
    position_of,
    put,
    result_schema,
    take,
    trained_schema,
)
from proofyard.workloads.state import Array, decode_state, encode_state

Tensors = Mapping[str, Array]

KEPT = 2
"""Starts that stay in memory: every worker of a round asks for the same one."""


@dataclass(frozen=True)
class Start:
    """What a round starts from: what is trained of the adapter, the outer momentum of it where there is one, and the
    merged factors where a job merges."""

    adapter: Tensors
    velocity: Tensors
    merged: Tensors = field(default_factory=dict)

    @property
    def outer(self) -> dict[str, Array]:
        """As the chain of shard 0 carries it."""
        return put(self.adapter, "base") | put(self.velocity, "velocity") | put(self.merged, "merged")


@dataclass(frozen=True)
class Origin:
    """Where a delta comes from: its shard, what its own round started from, and what is left of its weight for being
    late."""

    shard: int
    base: Tensors
    scale: float = 1.0


def start_of_round(
    params: LoraParams,
    seed: int,
    results: Sequence[bytes],
    round_number: int,
    begins: bytes = b"",
    *,
    tasks: Sequence[TaskIndex] | None = None,
) -> Start:
    """The start of round `round_number`, counted from 0: of the first one, or of the one whose round before has these
    `results`, in the order of the shards; with compression those of all rounds since `first_round`, one after another.
    The job's result is the start of the round that never comes. `begins`: what the first round of a job that goes on
    from another one starts from.

    With `overlap` a round starts a round behind (Overlap-Local-SGD, arXiv 2002.09539; Streaming DiLoCo, arXiv
    2501.18512): the second one from where the first one did, and each later one from where the round before it started,
    moved by what the shards of the round before that have trained, counted from their own start. So `results` are
    those of the rounds `lora_tensors.rested_rounds`, and the job's result is the start of the second round that never
    comes.

    `tasks`: of which task each result is, in any order, where rounds do not wait for all of their shards (`closing`);
    with compression in the order of `closing.rested_on`. Each delta is counted from its own round's start, by its
    shard's work and by the discount for each round that it is late; all of them in time make the start that the round
    makes without `closing`.

    Its arrays are shared and cannot be written to. Raises `StateRefused` for what is no result of such a round, or so
    far from what the laws let pass that no number comes out."""
    said = in_order(params, results, round_number, tasks)
    digests = tuple((task, hashlib.sha256(each).digest()) for task, each in ((-1, begins), *said))
    key = (hashlib.sha256(encode(params)).digest(), seed, round_number, digests)
    with _lock:
        known = _known.get(key)
    if known is None:
        known = _next_start(params, seed, said, round_number) if said else _first_start(params, seed, begins)
        known = _frozen(known)
        with _lock:
            _known[key] = known
            while len(_known) > KEPT:
                _known.popitem(last=False)
    return known


_known: OrderedDict[tuple[bytes, int, int, tuple[tuple[int, bytes], ...]], Start] = OrderedDict()
_lock = Lock()


def whole_adapter(params: LoraParams, seed: int, start: Start) -> dict[str, Array]:
    """A and B of all layers that stand for what a job has trained: one rank for all of them, merged factors beside the
    adapter's own."""
    if not params.merges:
        return completed(params, seed, start.adapter)
    wide = max(map(params.merged_rank_of, params.modules))
    found: dict[str, Array] = {}
    for module in params.modules:
        own, merged = _factors(start.adapter, module), _factors(start.merged, module)
        parts = [merged] if params.aggregation == "flora" else [own, merged]
        rank = wide + (0 if params.aggregation == "flora" else params.rank)
        found |= _tensors(module, fold(stack(parts), rank))
    return found


def completed(params: LoraParams, seed: int, trained: Tensors) -> dict[str, Array]:
    """A and B of a trained adapter: with ffa A is the seed's."""
    return dict(trained) if params.averages_a else initial_adapter(params, seed) | dict(trained)


@dataclass(frozen=True)
class Counted:
    """How a delta counts in the round that takes it, `late` rounds after its own: by `work` units, less what its
    lateness takes, and times `factor`, below 1 for one that was longer than others."""

    late: int
    work: int
    factor: float


def counted(
    params: LoraParams,
    seed: int,
    results: Sequence[bytes],
    round_number: int,
    *,
    tasks: Sequence[TaskIndex] | None = None,
) -> dict[TaskIndex, Counted]:
    """How each delta counts that the round before `round_number` took, by its task. The arguments are those of
    `start_of_round`."""
    said = in_order(params, results, round_number, tasks)
    _, trained, origins = _trained(params, seed, said, round_number)
    factors, found = iter(_lengths(params, origins, trained)[1]), {}
    for task, _ in said[: newest(said)] if params.closing else said[-params.workers :]:
        its_round, shard = position_of(params, task)
        late = round_number - 1 - params.behind - its_round
        used = params.closing is None or params.closing.scale(late) > 0
        found[task] = Counted(late, params.shares[shard], next(factors) if used else 1.0)
    return found


def encode_start(start: Start) -> bytes:
    """A round's start as an artifact: canonical bytes of its tensors."""
    return encode_state(start.outer)


def decode_begins(params: LoraParams, begins: bytes) -> Start:
    """What a job begins with that goes on from another one. Raises `StateRefused` for what its parameters do not
    allow."""
    assert params.begins
    tensors = decode_state(begins, schema=outer_schema(params))
    for name, array in tensors.items():
        if not (np.abs(array) <= params.begins.within).all():
            raise StateRefused(f"holds more than params.begins.within, {params.begins.within}", name)
    return _carried(tensors)


def _first_start(params: LoraParams, seed: int, begins: bytes) -> Start:
    if params.begins:
        return decode_begins(params, begins)
    trained = trained_schema(params, params.rank)
    adapter = {name: array for name, array in initial_adapter(params, seed).items() if name in trained}
    merged = {name: np.zeros(spec.shape, np.float32) for name, spec in merged_schema(params).items()}
    return Start(adapter, _no_velocity(params, adapter), take(merged, "merged"))


def _no_velocity(params: LoraParams, adapter: Tensors) -> dict[str, Array]:
    return {name: np.zeros_like(array) for name, array in adapter.items()} if params.outer == "nesterov" else {}


def _next_start(params: LoraParams, seed: int, said: Sequence[Said], round_number: int) -> Start:
    with np.errstate(over="ignore", invalid="ignore"):
        if params.overlap:
            start = _behind(params, seed, [result for _, result in said], round_number)
        else:
            start = _after(params, seed, said, round_number)
    for name, array in start.outer.items():
        if not np.isfinite(array).all():
            raise StateRefused("is no number after the outer step: the results before it break a law", name)
    return start


def _after(params: LoraParams, seed: int, said: Sequence[Said], round_number: int) -> Start:
    purpose = (seed, round_number)
    before, trained, origins = _trained(params, seed, said, round_number)
    if params.merges:
        return merge_step(params, before.adapter, before.merged, trained, purpose)
    return outer_step(params, before.adapter, before.velocity, trained, purpose, origins)


def _trained(
    params: LoraParams, seed: int, said: Sequence[Said], round_number: int
) -> tuple[Start, Sequence[Tensors], Sequence[Origin]]:
    """What the round before `round_number` started from, what those whose deltas count have trained, and from what."""
    if params.closing is not None:
        return _taken(params, params.closing, seed, said, round_number)
    before, trained = _round(params, seed, [result for _, result in said], round_number)
    return before, trained, [Origin(shard, before.adapter) for shard in range(params.workers)]


def _round(
    params: LoraParams, seed: int, results: Sequence[bytes], round_number: int
) -> tuple[Start, list[dict[str, Array]]]:
    """What the round before `round_number` started from, and what its shards have trained."""
    number, last = round_number - 1, results[-params.workers :]
    if not params.compression:
        tensors = [decode_state(result, schema=result_schema(params, shard)) for shard, result in enumerate(last)]
        start = _carried(tensors[0])
        return start, [_held(params, start.adapter, take(each, "adapter")) for each in tensors]
    tensors = [
        decode_state(result, schema=delta.result_schema(params, number, shard)) for shard, result in enumerate(last)
    ]
    carries = carries_outer(params, number, 0)
    start = _carried(tensors[0]) if carries else start_of_round(params, seed, results[: -params.workers], number)
    return start, [delta.trained(params, number, shard, start.adapter, each) for shard, each in enumerate(tensors)]


def _behind(params: LoraParams, seed: int, results: Sequence[bytes], round_number: int) -> Start:
    """With `overlap`: what the last of the rounds in `results` started from, moved by what the one before it has
    trained, which is where the round after it started, and then by what it has trained itself."""
    start, trained = _round(params, seed, results, round_number)
    steps = [(start, trained, round_number - 1)]
    if len(results) > params.workers:
        steps.insert(0, (*_round(params, seed, results[: -params.workers], round_number), round_number - 2))
    for began, made, number in steps:
        origins = [Origin(shard, began.adapter) for shard in range(params.workers)]
        start = _moved(params, start, _update(params, began.adapter, made, (seed, number), origins))
    return start


def _taken(
    params: LoraParams, closing: Closing, seed: int, said: Sequence[Said], round_number: int
) -> tuple[Start, list[dict[str, Array]], list[Origin]]:
    """What the round before `round_number` started from, what those that it took have trained, and from what. A delta
    whose lateness leaves nothing of it is looked at and not used: it would have a say in how others are shortened.
    Where deltas are small a late one is counted from the start of the round that takes it: it is a difference, and what
    its own round started from need not be known any more."""
    number, origins, trained = round_number - 1, [], []
    before: Start | None = None
    count = newest(said)
    if params.compression and not is_key_round(params, number):
        tasks, results = [task for task, _ in said[count:]], [result for _, result in said[count:]]
        before = start_of_round(params, seed, results, number, tasks=tasks)
    found = []
    for task, result in said[:count]:
        its_round, shard = position_of(params, task)
        schema = result_schema(params, shard)
        if params.compression:
            schema = delta.result_schema(params, its_round, shard)
        tensors = decode_state(result, schema=schema)
        found.append((its_round, shard, tensors))
        if its_round == number and before is None:
            before = _carried(tensors)
    assert before is not None, "a quorum is in time"
    for its_round, shard, tensors in found:
        scale = closing.scale(number - its_round)
        if not scale:
            continue
        if params.compression:
            base = before.adapter
            trained.append(delta.trained(params, its_round, shard, base, tensors))
        else:
            base = take(tensors, "base")
            trained.append(_held(params, base, take(tensors, "adapter")))
        origins.append(Origin(shard, base, scale))
    return before, trained, origins


def _held(params: LoraParams, base: Tensors, trained: dict[str, Array]) -> dict[str, Array]:
    """What a shard has trained from `base`, no entry farther from it than a task's steps can move one: what was
    computed changes in no bit. A result has its laws, but those do not know where its task began, and
    what it brings in beyond that would be a start for the next round from which nobody may train. Entries that are cut
    are binary64. Small deltas are within that as they are (`lora_laws.check_finished`)."""
    held = {}
    for name, array in trained.items():
        start = base[name][tuple(map(slice, array.shape))].astype(np.float64)
        down, up = span(params, start)
        moved = array.astype(np.float64) - start
        within = ((moved >= -down) & (moved <= up)).all()
        held[name] = array if within else start + np.clip(moved, -down, up)
    return held


def _carried(tensors: Tensors) -> Start:
    """The start of a round in the result of a shard that carries it."""
    return Start(take(tensors, "base"), take(tensors, "velocity"), take(tensors, "merged"))


def outer_step(
    params: LoraParams,
    base: Tensors,
    velocity: Tensors,
    trained: Sequence[Tensors],
    purpose: Sequence[int] = (),
    origins: Sequence[Origin] = (),
) -> Start:
    """Adapter and velocity after the outer step from `base`, given what each shard has trained it to (fedit, ffa), or
    with `origins` what those have trained from other starts. `purpose`, seed and round, keys the order of robust
    buckets."""
    origins = origins or [Origin(shard, base) for shard in range(params.workers)]
    return _moved(params, Start(base, velocity), _update(params, base, trained, purpose, origins))


def _moved(params: LoraParams, start: Start, update: Tensors) -> Start:
    after: dict[str, Array] = {}
    momentum: dict[str, Array] = {}
    for name, mean in update.items():
        before = start.velocity[name].astype(np.float64) if start.velocity else np.zeros(mean.shape)
        moved = params.outer_momentum * before + mean
        step = params.outer_lr * (mean + params.outer_momentum * moved)
        after[name] = (start.adapter[name].astype(np.float64) + step).astype(np.float32)
        if start.velocity:
            momentum[name] = moved.astype(np.float32)
    return Start(after, momentum)


def merge_step(
    params: LoraParams, base: Tensors, merged: Tensors, trained: Sequence[Tensors], purpose: Sequence[int]
) -> Start:
    """Adapter and merged factors after a round of fedex or flora: the model's products become what the workers' own
    come to, each with its weight.

    fedex: the adapter is the average of both factors, and what their product lacks is merged:
    sum of w (B - mean B)(A - mean A) = sum of w B A - (mean B)(mean A), the weights being 1 together.
    flora: every product w B A is merged, and the adapter begins anew.
    """
    starts = [cut(base, 0, params.rank_of(shard)) for shard in range(params.workers)]
    factors = _shortened_by(params, params.shares, starts, trained)
    changes = [Change(*each) for each in zip(starts, trained, factors, strict=True)]
    weights = _weights(params, base, changes, purpose)
    seed, round_number = purpose
    after = initial_adapter(params, seed, round_number)
    left: dict[str, Array] = {}
    for module in sorted(params.modules):
        own = [_shortened(each, module) for each in changes]
        if params.aggregation == "fedex":
            mean = Factors(_mean([each.b for each in own], weights), _mean([each.a for each in own], weights))
            after |= _tensors(module, mean)
            own = [Factors(each.b - mean.b, each.a - mean.a) for each in own]
        added = [Factors(each.b * weight, each.a) for each, weight in zip(own, weights, strict=True)]
        left |= _tensors(module, fold(stack([_factors(merged, module), *added]), params.merged_rank_of(module)))
    return Start(after, {}, left)


def _update(
    params: LoraParams,
    base: Tensors,
    trained: Sequence[Tensors],
    purpose: Sequence[int],
    origins: Sequence[Origin],
) -> dict[str, Array]:
    """The averaged update, binary64, in the order of the names."""
    starts, factors = _lengths(params, origins, trained)
    if params.robust != "mean":
        changes = [Change(base, each, factor) for each, factor in zip(trained, factors, strict=True)]
        found = aggregate(_rule(params), changes, {name: array.size for name, array in base.items()}, purpose)
        return {name: found[name].reshape(base[name].shape) for name in sorted(base)}
    # A shard of a smaller rank has no say in the columns that it does not train; what nobody trained stays.
    shares = [params.shares[each.shard] * each.scale for each in origins]
    each = [(share, params.rank_of(origin.shard)) for share, origin in zip(shares, origins, strict=True)]
    totals = np.array([math.fsum(share for share, rank in each if rank > column) for column in range(params.rank)])
    totals[totals == 0] = 1.0
    update: dict[str, Array] = {}
    for name in sorted(base):
        mean = np.zeros(base[name].shape, np.float64)
        for share, factor, start, adapter in zip(shares, factors, starts, trained, strict=True):
            delta = _delta(start, adapter, name) * (factor * share)
            mean[tuple(map(slice, delta.shape))] += delta
        mean /= totals if name.endswith("lora_B") else totals[:, None]
        update[name] = mean
    return update


def _weights(params: LoraParams, base: Tensors, changes: Sequence[Change], purpose: Sequence[int]) -> list[float]:
    """Of each shard's product."""
    if params.robust == "mean":
        return [share / sum(params.shares) for share in params.shares]
    return weigh(_rule(params), changes, {name: array.size for name, array in base.items()}, purpose)


def _rule(params: LoraParams) -> Rule:
    return Rule(
        name=params.robust,
        hostile=params.robust_hostile,
        bucket=params.robust_bucket,
        steps=params.robust_steps,
        radius=params.robust_radius,
    )


def _shortened(change: Change, module: str) -> Factors:
    """A worker's factors of one layer, as far from its start as shortening lets them."""
    before, after = _factors(change.base, module), _factors(change.trained, module)
    return Factors(*(x + (y - x) * change.factor for x, y in ((before.b, after.b), (before.a, after.a))))


def _factors(tensors: Tensors, module: str) -> Factors:
    return Factors(*(tensors[f"{module}.lora_{kind}"].astype(np.float64) for kind in "BA"))


def _tensors(module: str, factors: Factors) -> dict[str, Array]:
    return {
        f"{module}.lora_A": np.ascontiguousarray(factors.a, np.float32),
        f"{module}.lora_B": np.ascontiguousarray(factors.b, np.float32),
    }


def _mean(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    total: Array = np.zeros(arrays[0].shape)
    for array, weight in zip(arrays, weights, strict=True):
        total = total + array * weight
    return total


def _lengths(
    params: LoraParams, origins: Sequence[Origin], trained: Sequence[Tensors]
) -> tuple[list[dict[str, Array]], list[float]]:
    """What each worker has trained from, in its rank, and the factor of its delta."""
    starts = [cut(each.base, 0, params.rank_of(each.shard)) for each in origins]
    return starts, _shortened_by(params, [params.shares[each.shard] for each in origins], starts, trained)


def _shortened_by(
    params: LoraParams, work: Sequence[int], starts: Sequence[Tensors], trained: Sequence[Tensors]
) -> list[float]:
    """The factor of each delta; compared are their lengths for the same `work`."""
    norms = [delta_norm(*each) for each in zip(starts, trained, strict=True)]
    return shortening([norm / units for norm, units in zip(norms, work, strict=True)], params.max_delta_ratio)


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
    for array in (*start.adapter.values(), *start.velocity.values(), *start.merged.values()):
        array.setflags(write=False)
    return start
