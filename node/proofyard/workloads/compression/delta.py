"""Small deltas: what a `lora` task hands over where its manifest asks for compression.

A task trains from its round's start. Its last state holds no adapter and no moments, but
  - `delta`, the encoding of what training has led to less the `origin` of its chain, and
  - `residual`, what that encoding leaves out, in int8.
The origin of the same shard's next task is its round's start less this residual, so that what is left out is sent later
(error feedback): the sum of what is sent lacks no more than the last residual. Which is the next one where a task is
late or dropped says `lora_sets`. The result is the delta and the CID of
the last state: by it the residual is bound to the results that the next task is committed to, and is found by whoever
makes that task's first state. Nobody else fetches it.

The adapter is one vector here: its tensors by name, one after another.
"""

from collections.abc import Sequence

import numpy as np

from proofyard.protocol.cid import CID_BYTES, cid_bytes, cid_from_bytes
from proofyard.protocol.types import Cid
from proofyard.workloads.compression import INT8, Codec, codec_named
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import (
    ORIGIN,
    STEP,
    carries_outer,
    cut,
    first_state,
    outer_of,
    outer_schema,
    prefixed_schema,
    put,
    take,
    trained_schema,
)
from proofyard.workloads.state import Array, Schema, Tensors, TensorSpec, decode_state

DELTA, RESIDUAL, LAST = "delta", "residual", "last"


def codec_of(params: LoraParams, round_number: int) -> Codec:
    """The encoding of a round's deltas."""
    if params.compression is None or round_number < params.compression_warmup:
        return INT8
    return codec_named(params.compression, params.compression_block, params.compression_turns, round_number)


def last_schema(params: LoraParams, round_number: int, shard: int) -> Schema:
    """The last state of a shard's task. In a key round that of shard 0 holds all that its first state was made of."""
    kept: Schema = {}
    if carries_outer(params, round_number, shard):
        kept = outer_schema(params) | prefixed_schema(_schema(params, shard), ORIGIN)
    residual = TensorSpec("U8", (INT8.size(_count(params, shard)),))
    return {**kept, DELTA: _delta_spec(params, round_number, shard), RESIDUAL: residual, STEP: TensorSpec("I64", ())}


def result_schema(params: LoraParams, round_number: int, shard: int) -> Schema:
    """The result of a shard's task."""
    outer: Schema = outer_schema(params) if carries_outer(params, round_number, shard) else {}
    named = TensorSpec("U8", (CID_BYTES,))
    return {**outer, DELTA: _delta_spec(params, round_number, shard), LAST: named}


def begun(
    params: LoraParams, round_number: int, shard: int, outer: Tensors, left_out: Sequence[Array], largest: float
) -> Tensors:
    """The first state of a task; `outer`: what its round starts from, `left_out`: what the shard has not sent yet, one
    vector for each of its tasks that left something out. More than `largest` cannot have been left out of an entry, and
    does not count."""
    state = first_state(params, shard, outer)
    if not carries_outer(params, round_number, shard):
        state = {name: array for name, array in state.items() if name not in outer}
    total = np.zeros(_count(params, shard), np.float64)
    for each in left_out:
        total += each
    lacking = np.clip(total, -largest, largest).astype(np.float32)
    start = take(state, "adapter")
    origin = {name: start[name] - part for name, part in _tensors(params, shard, lacking).items()}
    return state | put(origin, ORIGIN)


def finished(params: LoraParams, round_number: int, shard: int, state: Tensors) -> Tensors:
    """The last state, from the one that training leads to."""
    moved = _vector(take(state, "adapter")) - _vector(take(state, ORIGIN))
    codec = codec_of(params, round_number)
    delta = codec.encode(moved)
    residual = INT8.encode(moved - codec.decode(delta, moved.size))
    kept: dict[str, Array] = {}
    if carries_outer(params, round_number, shard):
        kept = outer_of(state) | put(take(state, ORIGIN), ORIGIN)
    return kept | {DELTA: delta, RESIDUAL: residual, STEP: np.array(state[STEP], np.int64)}


def check_last(params: LoraParams, round_number: int, shard: int, state: Tensors, largest: float) -> None:
    """Raise `StateRefused` unless delta and residual are encodings of numbers of at most `largest`."""
    for name, codec in ((DELTA, codec_of(params, round_number)), (RESIDUAL, INT8)):
        if (np.abs(_decoded(codec, state, name, _count(params, shard))) > largest).any():
            raise StateRefused("holds more than all steps so far can have moved", name)


def result_of(state: Tensors, last: Cid) -> Tensors:
    """The tensors of the result of a task with this last state, whose CID is `last`."""
    named = np.frombuffer(cid_bytes(last), np.uint8)
    return outer_of(state) | {DELTA: state[DELTA], LAST: named}


def last_named(params: LoraParams, round_number: int, shard: int, result: bytes) -> Cid:
    """The CID of the last state behind a result. Raises `StateRefused`."""
    named = decode_state(result, schema=result_schema(params, round_number, shard))[LAST].tobytes()
    try:
        return cid_from_bytes(named)
    except ValueError as error:
        raise StateRefused(f"names no state: {error}", LAST) from None


def residual_in(params: LoraParams, round_number: int, shard: int, last: bytes) -> Array:
    """What a last state says that its result leaves out, (values,) float32. Raises `StateRefused`."""
    state = decode_state(last, schema=last_schema(params, round_number, shard))
    return _decoded(INT8, state, RESIDUAL, _count(params, shard))


def trained(params: LoraParams, round_number: int, shard: int, base: Tensors, result: Tensors) -> dict[str, Array]:
    """What a shard's result says that its adapter was trained to, from the round's `base`. Raises `StateRefused`."""
    start = cut(base, 0, params.rank_of(shard))
    moved = _decoded(codec_of(params, round_number), result, DELTA, _count(params, shard))
    return {name: start[name] + part for name, part in _tensors(params, shard, moved).items()}


def _decoded(codec: Codec, tensors: Tensors, name: str, count: int) -> Array:
    try:
        return codec.decode(tensors[name], count)
    except StateRefused as error:
        raise StateRefused(f"is {error.reason}", name) from None


def _delta_spec(params: LoraParams, round_number: int, shard: int) -> TensorSpec:
    return TensorSpec("U8", (codec_of(params, round_number).size(_count(params, shard)),))


def _schema(params: LoraParams, shard: int) -> Schema:
    """What a shard trains."""
    return trained_schema(params, params.rank_of(shard))


def _count(params: LoraParams, shard: int) -> int:
    return sum(spec.count for spec in _schema(params, shard).values())


def _vector(adapter: Tensors) -> Array:
    return np.concatenate([adapter[name].reshape(-1) for name in sorted(adapter)])


def _tensors(params: LoraParams, shard: int, vector: Array) -> dict[str, Array]:
    schema, found, at = _schema(params, shard), {}, 0
    for name in sorted(schema):
        spec = schema[name]
        found[name] = vector[at : at + spec.count].reshape(spec.shape)
        at += spec.count
    return found
