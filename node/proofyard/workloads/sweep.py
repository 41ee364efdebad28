"""The workload `sweep`: a grid or a random search of LoRA runs, each trained and scored, ranked in a table.

Every candidate is a `lora` job of one round and one worker with some parameters of its own: task 2c trains candidate
c in segments, task 2c + 1 scores it on the held-out documents, the last task ranks them all.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import TRAIN, adapter_schema, prefixed_schema, take
from proofyard.workloads.lora import WORKLOAD as LORA
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.params import check_common, convert_params
from proofyard.workloads.randomness import raw_words
from proofyard.workloads.state import Array, Schema, TensorSpec, check_number, decode_state, encode_state, require_last
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, SegmentRunner, States

SCORE, RANK = "score", "rank"
MAX_CANDIDATES = 1000
FIXED = ("modules", "rounds", "workers", "rank", "holdout_percent")


class SweepParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`base`: parameters of `lora` that all candidates share. `vary`: parameter to the values to try. `samples` 0
    tries every combination, otherwise that many drawn at random. A candidate is scored on `sequences` held-out rows."""

    base: dict[str, Any]
    vary: Annotated[
        dict[str, Annotated[list[Any], Meta(min_length=1, max_length=1000)]], Meta(min_length=1, max_length=16)
    ]
    samples: Annotated[int, Meta(ge=0, le=MAX_CANDIDATES)] = 0
    sequences: Annotated[int, Meta(ge=1, le=100_000)] = 32


def candidates(manifest: Manifest) -> list[dict[str, Any]]:
    """The varied parameters of each candidate, without repetition, in their fixed order."""
    params = convert_params(manifest, SweepParams)
    for name in params.vary:
        if name in FIXED:
            raise ManifestRefused(f"params.vary.{name}", "cannot vary within a sweep, its states would not compare")
    names = sorted(params.vary)
    values = [params.vary[name] for name in names]
    total = math.prod(map(len, values))
    if params.samples and params.samples < total:
        combinations = _drawn(values, params.samples, manifest.seed)
    elif total > MAX_CANDIDATES:
        raise ManifestRefused("params.vary", f"makes {total} candidates, at most {MAX_CANDIDATES} fit; set samples")
    else:
        combinations = list(itertools.product(*values))
    return [dict(zip(names, picked, strict=True)) for picked in combinations]


def candidate_manifest(manifest: Manifest, number: int) -> Manifest:
    """The `lora` job that one candidate is."""
    params = convert_params(manifest, SweepParams)
    found = candidates(manifest)
    if not 0 <= number < len(found):
        raise StateRefused(f"the sweep has {len(found)} candidates, there is no number {number}")
    own = params.base | found[number] | {"rounds": 1, "workers": 1}
    return replace(manifest, workload="lora", params=own)


class SweepWorkload:
    """The workload `sweep`."""

    name = "sweep"
    exact = True
    arithmetic = True

    def check(self, manifest: Manifest) -> None:
        check_common(manifest)
        for number in range(len(candidates(manifest))):
            try:
                LORA.check(candidate_manifest(manifest, number))
            except ManifestRefused as error:
                raise ManifestRefused(f"{error.field} of candidate {number}", error.reason) from None

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        self.check(manifest)
        tasks: list[TaskSpec] = []
        found = candidates(manifest)
        for number, values in enumerate(found):
            label = ", ".join(f"{name} {value}" for name, value in values.items())
            train = LORA.graph(candidate_manifest(manifest, number))[0]
            trained = TaskIndex(2 * number)
            tasks.append(replace(train, index=trained, label=f"train {label}"))
            score = TaskSpec(index=TaskIndex(trained + 1), kind=SCORE, deps=(trained,), label=f"score {label}")
            tasks.append(replace(score, work_units=max(1, train.work_units // 10)))
        scores = tuple(TaskIndex(2 * number + 1) for number in range(len(found)))
        return [*tasks, TaskSpec(index=TaskIndex(len(tasks)), kind=RANK, deps=scores, label="rank the candidates")]

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        if task.kind == TRAIN:
            return LORA.initial_state(*as_lora(manifest, task), inputs)
        if len(inputs.results) != len(task.deps):
            raise StateRefused(f"task {task.index} has {len(task.deps)} inputs, {len(inputs.results)} were given")
        if task.kind == SCORE:
            decode_state(inputs.results[0], schema=_adapter(manifest))
            return inputs.results[0]
        scored = [decode_state(result, schema=_schema(manifest, SCORE, 1)) for result in inputs.results]
        losses = np.array([float(tensors["loss"]) for tensors in scored])
        best = _least(losses)
        winner = {name: array for name, array in scored[best].items() if name != "loss"}
        return encode_state(winner | {"best": np.array(best, np.int64), "losses": losses})

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        if task.kind == TRAIN:
            LORA.check_state(*as_lora(manifest, task), number, state)
            return
        check_number(task, number)
        tensors = decode_state(state, schema=_schema(manifest, task.kind, number))
        if task.kind == SCORE and number and tensors["loss"] < 0:
            raise StateRefused("is negative", "loss")
        if task.kind == RANK:
            _check_ranking(tensors)

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        if task.kind == TRAIN:
            return LORA.result(*as_lora(manifest, task), states)
        return states(task.segments)

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        if task.kind == TRAIN:
            LORA.check_result(*as_lora(manifest, task), result, last, trace)
            return
        self.check_state(manifest, task, task.segments, last)
        require_last(result, last)

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        if task.kind == TRAIN:
            return LORA.runner(*as_lora(manifest, task), inputs, resources)
        if task.kind == RANK:
            return RankRunner()
        from proofyard.workloads.sweep_score import ScoreRunner

        params = convert_params(manifest, SweepParams)
        lora = candidate_manifest(manifest, task.index // 2)
        return ScoreRunner(lora, _adapter(manifest), params.sequences, inputs, resources)

    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        """ranking.json, the best first, and the best adapter as a PEFT directory in `best/`."""
        tensors = decode_state(result, schema=_schema(manifest, RANK, 1))
        _check_ranking(tensors)
        found = candidates(manifest)
        order = sorted(range(len(found)), key=lambda number: (float(tensors["losses"][number]), number))
        table = [{"candidate": n, "loss": float(tensors["losses"][n]), "params": found[n]} for n in order]
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "ranking.json").write_text(json.dumps(table, indent=1) + "\n")
        adapter = {name: array for name, array in tensors.items() if name.startswith("adapter.")}
        velocity = {f"velocity.{name}": array for name, array in take(adapter, "adapter").items()}
        best = candidate_manifest(manifest, int(tensors["best"]))
        export_adapter(best, encode_state(adapter | velocity), dest / "best", f"ipfs://{manifest.model}")
        return dest


class RankRunner:
    """State 0 already holds every loss and the best adapter; there is nothing left to compute."""

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        progress(Progress(segment=index, step=1, steps=1))
        return before


def as_lora(manifest: Manifest, task: TaskSpec) -> tuple[Manifest, TaskSpec]:
    """The `lora` job and task that a candidate's training is."""
    return candidate_manifest(manifest, task.index // 2), replace(task, index=TaskIndex(0))


def _adapter(manifest: Manifest) -> dict[str, TensorSpec]:
    """The adapter's tensors, the same for all candidates (`FIXED`)."""
    return prefixed_schema(adapter_schema(read_params(candidate_manifest(manifest, 0))), "adapter")


def _schema(manifest: Manifest, kind: str, number: int) -> Schema:
    """The tensors of state `number` of a scoring or ranking task."""
    adapter = _adapter(manifest)
    if kind == SCORE:
        return adapter | ({"loss": TensorSpec("F64", ())} if number else {})
    if kind != RANK:
        raise StateRefused(f"'sweep' has no task of kind {kind!r}")
    return adapter | {"best": TensorSpec("I64", ()), "losses": TensorSpec("F64", (len(candidates(manifest)),))}


def _check_ranking(tensors: Mapping[str, Array]) -> None:
    if (tensors["losses"] < 0).any():
        raise StateRefused("are negative", "losses")
    if tensors["best"] != _least(tensors["losses"]):
        raise StateRefused(f"is {tensors['best']}, the least loss is number {_least(tensors['losses'])}", "best")


def _least(losses: Array) -> int:
    """The number of the least loss, the first of equal ones."""
    return int(np.argmin(losses))


def _drawn(values: list[list[Any]], samples: int, seed: int) -> list[tuple[Any, ...]]:
    """Different random combinations, in the order in which they are drawn."""
    found: dict[tuple[int, ...], None] = {}
    draw = 0
    while len(found) < samples:
        words = raw_words(len(values), "sweep", seed, draw)
        found[tuple(int(word) % len(v) for word, v in zip(words.tolist(), values, strict=True))] = None
        draw += 1
    return [tuple(v[i] for v, i in zip(values, picked, strict=True)) for picked in found]


WORKLOAD = SweepWorkload()
