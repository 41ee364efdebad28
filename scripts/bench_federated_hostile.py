"""Rounds with hostile workers under each rule of `bench_federated.py`: what they hand in, and what the model becomes.

Nobody audits here: what a law of the workload refuses is done again by somebody else, as in a job, all else counts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from bench_federated_setup import Bench, Part, say
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_rounds import Start
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.lora_tensors import put, take
from proofyard.workloads.packing import Row
from proofyard.workloads.randomness import permutation, uniform
from proofyard.workloads.state import Array, decode_state, encode_state

RECOMMENDED = "multi-krum"
HOSTILE = 2
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    **{
        name: {"robust": name, "robust_hostile": HOSTILE}
        for name in ("trimmed-mean", "median", "geometric-median", "centered-clipping", "krum", "multi-krum")
    },
}
NOBODY, LABELS, LITTLE = "nobody", "labels shuffled", "a little is enough"
Delta = dict[str, Array]
Attack = Callable[[Delta, int], Delta]
"""(the update of an honest worker in the same place, its shard) to the update that is claimed."""


class Shuffled(TrainRunner):
    """Trains on rows whose tokens are in random order: every label is a wrong one."""

    def batch(self, step: int) -> list[Row]:
        order = permutation(self.params.seq_len + 1, "shuffled", self._seed, step)
        return [[tokens[order] for tokens in row] for row in super().batch(step)]


def measure_hostile(bench: Bench, base: LoraParams, rules: Sequence[str], attacks: Sequence[str], part: Part) -> None:
    """Each rule under each attack, and first the honest mean that all are compared with."""
    say(f"before: {bench.loss(base, None):.4f} nats a token")
    for rule, attack in [("mean", NOBODY), *((rule, attack) for attack in attacks for rule in rules)]:
        row = f"{rule}: {attack}"
        if row in part.found.get("rules", {}):
            continue
        figures = _under(bench, replace(base, **RULES[rule]), attack)
        part.put("rules", row, figures)
        say(f"{row}: {', '.join(f'{loss:.4f}' for loss in figures['losses'])} {figures.get('refused', '')}")


def hostile_keys(found: Mapping[str, Any]) -> dict[str, Any]:
    """The worst loss of the recommended rule and of the mean against that of the honest mean."""
    table = found["rules"]
    honest = table.get(f"mean: {NOBODY}")
    keys: dict[str, Any] = {}
    for key, rule in (("hostile_gap", RECOMMENDED), ("hostile_gap_mean", "mean")):
        ends = [each["losses"][-1] for name, each in table.items() if name.startswith(f"{rule}: ")]
        if ends and honest:
            keys[key] = max(ends) / honest["losses"][-1] - 1
    return keys


def _under(bench: Bench, params: LoraParams, attack: str) -> dict[str, Any]:
    """The losses from before the first round until after the last one, and what refuses the attack."""
    manifest = bench.manifest(params)
    graph = WORKLOAD.graph(manifest)
    results: list[bytes] = []
    losses, refused = [bench.loss(params, None)], ""
    for number in range(params.rounds):
        tasks, start = graph[number * params.workers :][: params.workers], bench.start(params, results, number)
        handed, why = _round(bench, manifest, tasks, start, results, attack)
        refused = refused or why
        results = handed
        losses.append(bench.loss(params, bench.start(params, results, number + 1)))
    return {"losses": losses} | ({"refused": refused} if refused else {})


def _round(
    bench: Bench, manifest: Manifest, tasks: Sequence[TaskSpec], start: Start, before: Sequence[bytes], attack: str
) -> tuple[list[bytes], str]:
    """What each worker of a round hands in, and why a lie is not taken."""
    honest = [bench.run(manifest, task, before) for task in tasks[HOSTILE:]]
    lies: list[bytes] = []
    refused = ""
    for task in tasks[:HOSTILE]:
        kind = Shuffled if attack == LABELS else None
        result, last = bench.run(manifest, task, before, kind=kind)
        if attack in ATTACKS or attack == LITTLE:
            own = _delta(start, result)
            lie = _little([_delta(start, each) for each, _ in honest]) if attack == LITTLE else None
            claimed = ATTACKS[attack](own, task.index) if lie is None else lie
            refused = refused or _objection(manifest, task, _with(start, last, claimed))
            if not (attack in ("NaN", "wrong shape") and refused):
                result = _with(start, result, claimed)
        lies.append(result)
    return [*lies, *(result for result, _ in honest)], refused


def _objection(manifest: Manifest, task: TaskSpec, last: bytes) -> str:
    """Why a last state is refused that everybody looks at who takes a result."""
    try:
        WORKLOAD.check_state(manifest, task, task.segments, last)
    except StateRefused as error:
        return str(error)
    return ""


def _with(start: Start, state: bytes, delta: Delta) -> bytes:
    """A state or result with another update in it."""
    adapter = {name: _added(start.adapter[name], each) for name, each in delta.items()}
    return encode_state({**decode_state(state), **put(adapter, "adapter")})


def _added(base: Array, delta: Array) -> Array:
    there = base if base.shape == delta.shape else np.zeros(delta.shape, np.float32)
    found: Array = (there + delta).astype(np.float32)
    return found


def _delta(start: Start, result: bytes) -> Delta:
    trained = take(decode_state(result), "adapter")
    return {name: array.astype(np.float64) - start.adapter[name] for name, array in trained.items()}


def _noise(update: Delta, times: float, number: int, shard: int) -> Delta:
    """A random direction, `times` as long as the update."""
    random = {n: uniform(d.size, 1.0, "noise", number, shard, n).reshape(d.shape) for n, d in update.items()}
    scale = times * _norm(update) / _norm(random)
    return {name: each * scale for name, each in random.items()}


def _norm(tensors: Mapping[str, Array]) -> float:
    return float(np.sqrt(sum(np.square(array).sum() for array in tensors.values())))


def _little(honest: Sequence[Delta]) -> Delta:
    """The honest mean less 1.5 standard deviations of each entry (arXiv 1902.06156)."""
    stacked = {name: np.stack([each[name] for each in honest]) for name in honest[0]}
    return {name: each.mean(axis=0) - 1.5 * each.std(axis=0) for name, each in stacked.items()}


ATTACKS: dict[str, Attack] = {
    "sign flip x10": lambda own, _: {name: -10 * each for name, each in own.items()},
    "large noise": lambda own, task: _noise(own, 100.0, 7, task),
    "constant drift": lambda own, _: _noise(own, 3.0, 8, 0),
    "NaN": lambda own, _: {name: np.full_like(each, np.nan) for name, each in own.items()},
    "wrong shape": lambda own, _: {name: each[:-1] for name, each in own.items()},
}
NAMES = (NOBODY, "NaN", "wrong shape", "sign flip x10", LITTLE, LABELS, "large noise", "constant drift")
