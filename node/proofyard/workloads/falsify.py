"""States that are false by one bit, or by one letter: what decoys are made of, and some cheats.

The last state of a task with small deltas has no floats but what its delta leaves out, in int8 (`compression.delta`):
there one of these numbers is another one. The next round starts from all of it in the end, like from any other.

Where the change is cannot be foreseen, and the state keeps every law of its workload, so that only executing the
segment before it tells it from the true one: whoever computes a part of that misses the change as often as it leaves
something out.
"""

from collections.abc import Callable, Collection, Mapping
from random import Random

import numpy as np

from proofyard.workloads.compression import INT8
from proofyard.workloads.compression.delta import RESIDUAL
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.state import Array, Tensors, decode_state, encode_state

TRIES = 32
"""Changes that are tried; laws of some states allow few."""
DRAWS = 64
"""Numbers that are looked at for one that is not zero: a change beside a zero would show."""


class NotFalsified(StateRefused):
    """A state of which no change was found that keeps the laws."""


def falsified(
    state: bytes, random: Random, check: Callable[[bytes], None], *, still: Collection[str] = frozenset()
) -> bytes:
    """A state beside `state` that passes `check`, which raises `StateRefused`. `still`: tensors that a task's states
    carry unchanged, where a change would show without executing. Raises `NotFalsified`."""
    tensors = dict(decode_state(state))
    for _ in range(TRIES):
        changed = encode_state(changed_once(tensors, random, still))
        try:
            check(changed)
        except StateRefused:
            continue
        if changed != state:
            return changed
    raise NotFalsified("no change of this state keeps its laws")


def still_ones(first: bytes, other: bytes) -> frozenset[str]:
    """The tensors that are the same in two states of a task."""
    before, after = decode_state(first), decode_state(other)
    return frozenset(name for name in before.keys() & after.keys() if _same(before[name], after[name]))


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def changed_once(tensors: Mapping[str, Array], random: Random, still: Collection[str] = frozenset()) -> Tensors:
    """`tensors` with the last bit of one number changed, drawn among all floats, or all that a delta leaves out; of a
    table of texts one letter."""
    numbers = sorted(
        name for name, array in tensors.items() if array.dtype.kind == "f" and array.size and name not in still
    )
    if numbers:
        name = random.choices(numbers, [tensors[name].size for name in numbers])[0]
        return {**tensors, name: flipped(tensors[name], _place(tensors[name], random))}
    if RESIDUAL in tensors:
        return {**tensors, RESIDUAL: _other_code(tensors[RESIDUAL], random)}
    if "ends" in tensors and tensors["ends"].size:
        return {**tensors, "text": _other_letter(tensors["text"], random.randrange(tensors["text"].size))}
    return tensors


def flipped(array: Array, place: int) -> Array:
    """The last bit of the number at `place`, counted in one row, is another one."""
    bits = np.array(array).view(f"u{array.dtype.itemsize}")
    bits.flat[place] ^= 1
    flipped_: Array = bits.view(array.dtype)
    return flipped_


def _place(array: Array, random: Random) -> int:
    places = [random.randrange(array.size) for _ in range(DRAWS)]
    return next((place for place in places if array.flat[place]), places[0])


def _other_code(residual: Array, random: Random) -> Array:
    """A number of an encoding in int8 is the one beside it."""
    changed = np.array(residual)
    codes = changed[INT8.first_code(changed.size) :]
    if codes.size:
        codes[_place(codes, random)] ^= 1
    return changed


def _other_letter(text: Array, place: int) -> Array:
    changed = np.array(text)
    changed.flat[place] ^= 1
    return changed
