"""Cheats that alter states: done to honest work, or instead of work from the middle of a task on."""

from collections.abc import Callable, Mapping

import numpy as np

from proofyard.workloads.falsify import flipped
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import STEP, put, take
from proofyard.workloads.randomness import uniform
from proofyard.workloads.state import Array, Tensors, decode_state, encode_state
from proofyard.workloads.workload import OnProgress, Progress, SegmentRunner

PLANTED_SECOND, PLANTED_WEIGHT = 2e9, 1e25
NUDGE = np.float32(1 + 2.0**-20)

Alter = Callable[[Mapping[str, Array], dict[str, Array], int], Tensors]
"""(tensors before, tensors after, segment) to the tensors that are claimed."""


class Altering:
    """Honest work, and something done to every state after it."""

    def __init__(self, honest: SegmentRunner, alter: Alter) -> None:
        self._honest = honest
        self._alter = alter

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        after = self._honest.run(index, before, progress)
        return encode_state(self._alter(decode_state(before), dict(decode_state(after)), index))


class AlteringRows(Altering):
    """The same for rows, which do not build on each other: what goes on is the honest state, so laws do not stop it."""

    _own: bytes | None = None

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        self._own = self._honest.run(index, self._own or before, progress)
        return encode_state(self._alter(decode_state(before), dict(decode_state(self._own)), index))


class Planting:
    """Honest up to the middle of a training task; there one state is planted, and nothing is computed any more."""

    def __init__(self, honest: SegmentRunner, params: LoraParams, plant: Callable[[Tensors], Tensors]) -> None:
        self._honest = honest
        self._params = params
        self._plant = plant

    def coast(self, state: Tensors) -> Tensors:
        """What a later segment changes."""
        return {}

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        middle = self._params.segments // 2
        if index < middle:
            return self._honest.run(index, before, progress)
        done = (index + 1) * self._params.segment_steps
        state = {**decode_state(before), STEP: np.array(done, np.int64)}
        state |= self._plant(state) if index == middle else self.coast(state)
        progress(Progress(segment=index, step=done, steps=self._params.task_steps))
        return encode_state(state)


class Fading(Planting):
    """Lets second moments decay from there on, as they do without gradients."""

    def coast(self, state: Tensors) -> Tensors:
        decay = np.float32(self._params.beta2)
        moments = {name: state[name] for name in _groups(state, "second")}
        for _ in range(self._params.segment_steps):
            moments = {name: moment * decay for name, moment in moments.items()}
        return moments


class MadeUp:
    """Computes no gradient: AdamW is fed with noise, so every state keeps all the laws of training."""

    def __init__(self, params: LoraParams, first_step: int) -> None:
        self._params = params
        self._first_step = first_step

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        state = dict(decode_state(before))
        start = index * self._params.segment_steps
        for step in range(start, start + self._params.segment_steps):
            self._step(state, step)
        state[STEP] = np.array(start + self._params.segment_steps, np.int64)
        progress(Progress(segment=index, step=int(state[STEP]), steps=self._params.task_steps))
        return encode_state(state)

    def _step(self, state: dict[str, Array], step: int) -> None:
        params = self._params
        names = sorted(take(state, "adapter"))
        bound = params.clip / 2 * (3 / sum(state[f"adapter.{name}"].size for name in names)) ** 0.5
        rate = params.lr_at(self._first_step + step) / (1 - params.beta1 ** (step + 1))
        for name in names:
            weight, first, second = (state[f"{group}.{name}"] for group in ("adapter", "first", "second"))
            noise = uniform(weight.size, bound, "made up", self._first_step, step, name)
            gradient = noise.astype(np.float32).reshape(weight.shape)
            first = first * np.float32(params.beta1) + gradient * np.float32(1 - params.beta1)
            second = second * np.float32(params.beta2) + (gradient * np.float32(1 - params.beta2)) * gradient
            scale = np.sqrt(second / np.float32(1 - params.beta2 ** (step + 1))) + np.float32(params.eps)
            state |= {f"first.{name}": first, f"second.{name}": second}
            state[f"adapter.{name}"] = weight - first * np.float32(rate) / scale


def negative_moment(state: Tensors) -> Tensors:
    """A trap: nobody can go on from the root of a negative number."""
    name = _groups(state, "second")[0]
    planted = np.array(state[name])
    planted.flat[0] = -1.0
    return {name: planted}


def wrong_step(state: Tensors) -> Tensors:
    """A trap: nobody goes on from a state of another step."""
    return {STEP: state[STEP] + 1}


def dead_adapter(state: Tensors) -> dict[str, Array]:
    """A = B = 0 and no momentum: no gradient reaches the adapter, so every later segment is the same state again."""
    groups = [name for group in ("adapter", "first", "second") for name in _groups(state, group)]
    return {name: np.zeros_like(state[name]) for name in groups}


def faint_adapter(state: Tensors) -> Tensors:
    """An adapter that is not zero, but too small for any gradient; moments that keep the laws and move nothing."""
    planted = dead_adapter(state)
    name = _groups(state, "adapter")[0]
    planted[name].flat[0] = np.float32(1e-44)
    return planted | {name: np.maximum(state[name], np.float32(1e-9)) for name in _groups(state, "second")}


def planted_moments(state: Tensors) -> Tensors:
    """Second moments so large that no gradient changes them, and no step a weight."""
    return {name: np.full_like(state[name], PLANTED_SECOND) for name in _groups(state, "second")}


def blown_adapter(state: Tensors) -> Tensors:
    """Weights so large that the squares in a norm overflow: its output is 0, and so are all gradients before it."""
    return {name: np.full_like(state[name], PLANTED_WEIGHT) for name in _groups(state, "adapter")}


def nudged_moments(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
    """Second moments larger by 2^-20 of themselves."""
    return after | {name: after[name] * NUDGE for name in _groups(after, "second")}


def noise(share: float) -> Alter:
    """Noise of `share` of each update, or of each number of a table."""

    def alter(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
        training = STEP in after
        for name, array in after.items():
            if array.dtype.kind != "f" or not array.size or (training and not name.startswith("adapter.")):
                continue
            change = array - before[name] if training else array
            spread = float(np.sqrt(np.mean(np.square(change.astype(np.float64)))))
            random = uniform(array.size, 3**0.5, "noise", index, name).reshape(array.shape)
            after[name] = (array + share * spread * random).astype(array.dtype)
        return after

    return alter


def grown(factor: float) -> Alter:
    """Updates of the adapter scaled up by `factor`, as if more steps had been done."""

    def alter(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
        start, end = take(before, "adapter"), take(after, "adapter")
        return after | put({n: (start[n] + (end[n] - start[n]) * factor).astype(np.float32) for n in end}, "adapter")

    return alter


def nudged_rows(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
    """One bit of one number of a table is another one; of a table of texts one letter."""
    for name, array in after.items():
        if array.dtype.kind == "f" and array.size:
            return after | {name: flipped(array, 0)}
    if "ends" in after and after["ends"].size:
        text = np.array(after["text"])
        text[after["ends"][0] - 3] ^= 1
        return after | {"text": text}
    return after


def flipped_answer(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
    """The choices of one question trade their losses; a text without choices gets half of its loss."""
    if "nll" not in after:
        return after
    losses = np.array(after["nll"])
    losses[0] = losses[0, ::-1] if losses.shape[1] > 1 else losses[0] / 2
    return after | {"nll": losses}


def opposite(before: Mapping[str, Array], after: dict[str, Array], index: int) -> Tensors:
    """Every number the other way round."""
    return {
        name: -array if array.dtype.kind == "f" else array[::-1] if array.ndim else array
        for name, array in after.items()
    }


def _groups(state: Tensors, group: str) -> list[str]:
    return sorted(name for name in state if name.startswith(f"{group}."))
