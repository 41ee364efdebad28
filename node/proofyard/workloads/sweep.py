"""The workload `sweep`: a grid or a random search of LoRA runs, each trained and scored, ranked in a table.

Every candidate is a `lora` job of one round and one worker with some parameters of its own: task 2c trains candidate
c in segments, task 2c + 1 scores it on the held-out documents. The ranking is a function of the scores.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import TRAIN
from proofyard.workloads.lora import WORKLOAD as LORA
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import completed
from proofyard.workloads.lora_tensors import adapter_schema, prefixed_schema, put, result_schema, take
from proofyard.workloads.params import check_common, convert_params
from proofyard.workloads.randomness import raw_words
from proofyard.workloads.state import (
    Array,
    TensorSpec,
    check_number,
    decode_state,
    encode_state,
    most_bytes,
    require_last,
)
from proofyard.workloads.workload import (
    Inputs,
    Resources,
    Results,
    SegmentRunner,
    States,
    require_files,
    require_inputs,
)

SCORE = "score"
LOSS = {"loss": TensorSpec("F64", ())}
MAX_CANDIDATES = 1000
FIXED = (
    *("modules", "rounds", "workers", "rank", "holdout_percent", "packing", "objective"),
    *("compression", "closing", "local", "overlap"),
)


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
    for name in ("rounds", "workers"):
        if params.base.get(name, 1) != 1:
            raise ManifestRefused(f"params.base.{name}", f"is {params.base[name]!r}; a candidate takes 1")
    if params.base.get("objective", "sft") != "sft":
        raise ManifestRefused(
            "params.base.objective",
            f"is {params.base['objective']!r}; candidates are ranked by their loss of texts",
        )
    if params.base.get("compression"):
        raise ManifestRefused(
            "params.base.compression", "is set; a candidate has one round, whose adapter is kept whole"
        )
    if params.base.get("closing") is not None:
        raise ManifestRefused("params.base.closing", "is set; a candidate has one round of one worker")
    if params.base.get("overlap"):
        raise ManifestRefused("params.base.overlap", "is set; a candidate has one round, which no other one overlaps")
    if params.base.get("local") is not None:
        raise ManifestRefused("params.base.local", "is set; candidates are compared on data that all have")
    for name, tried in params.vary.items():
        if name in FIXED:
            raise ManifestRefused(f"params.vary.{name}", "cannot vary within a sweep, its candidates would not compare")
        if len(set(map(repr, tried))) < len(tried):
            raise ManifestRefused(f"params.vary.{name}", "has a value twice; each is paid for, name it once")
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
        return tasks

    def finals(self, manifest: Manifest) -> tuple[TaskIndex, ...]:
        """All tasks: the scores rank, and the best candidate's training is delivered."""
        return tuple(map(TaskIndex, range(2 * len(candidates(manifest)))))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        if task.kind == TRAIN:
            return LORA.initial_state(*as_lora(manifest, task), inputs)
        require_inputs(task, inputs)
        return encode_state(put(_trained(manifest, task.index // 2, inputs.results[0]), "adapter"))

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        if task.kind == TRAIN:
            LORA.check_state(*as_lora(manifest, task), number, state)
            return
        check_number(task, number)
        schema = _adapter(manifest) | (LOSS if number else {})
        _check_loss(decode_state(state, schema=schema))

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        if task.kind == TRAIN:
            return LORA.max_bytes(*as_lora(manifest, task))
        return most_bytes(_adapter(manifest) | LOSS)

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        if task.kind == TRAIN:
            return LORA.result(*as_lora(manifest, task), states)
        return _loss(states(task.segments))

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        if task.kind == TRAIN:
            LORA.check_result(*as_lora(manifest, task), result, last, trace)
            return
        self.check_state(manifest, task, task.segments, last)
        require_last(result, _loss(last))

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        """What its candidates train on, and the held-out documents that they are scored by."""
        from proofyard.workloads.rehearsal import rehearse_scoring, rehearse_training

        model, data = require_files(inputs)
        tried = [read_params(candidate_manifest(manifest, number)) for number in range(len(candidates(manifest)))]
        for params in {(each.seq_len, each.shard_by): each for each in tried}.values():
            rehearse_training(model, data, params)
            rehearse_scoring(model, data, params)

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        LORA.load_model(candidate_manifest(manifest, 0), model, resources)

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        if task.kind == TRAIN:
            return LORA.runner(*as_lora(manifest, task), inputs, resources)
        from proofyard.workloads.sweep_score import ScoreRunner

        params = convert_params(manifest, SweepParams)
        lora = candidate_manifest(manifest, task.index // 2)
        return ScoreRunner(lora, _adapter(manifest), params.sequences, inputs, resources)

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """ranking.json, the best first and of equal ones the first, and the best adapter as a PEFT directory in
        `best/`."""
        found = candidates(manifest)
        losses = [_read_loss(results(TaskIndex(2 * number + 1))) for number in range(len(found))]
        order = sorted(range(len(found)), key=lambda number: (losses[number], number))
        table = [{"candidate": n, "loss": losses[n], "params": found[n]} for n in order]
        dest.mkdir(parents=True, exist_ok=True)
        (dest / "ranking.json").write_text(json.dumps(table, indent=1) + "\n")
        best = _trained(manifest, order[0], results(TaskIndex(2 * order[0])))
        export_adapter(candidate_manifest(manifest, order[0]), best, dest / "best", f"ipfs://{manifest.model}")
        return dest


def as_lora(manifest: Manifest, task: TaskSpec) -> tuple[Manifest, TaskSpec]:
    """The `lora` job and task that a candidate's training is."""
    return candidate_manifest(manifest, task.index // 2), replace(task, index=TaskIndex(0))


def _adapter(manifest: Manifest) -> dict[str, TensorSpec]:
    """The adapter's tensors, the same for all candidates (`FIXED`)."""
    return prefixed_schema(adapter_schema(read_params(candidate_manifest(manifest, 0))), "adapter")


def _trained(manifest: Manifest, number: int, result: bytes) -> dict[str, Array]:
    """The adapter in the result of a candidate's training, A and B."""
    params = read_params(candidate_manifest(manifest, number))
    return completed(params, manifest.seed, take(decode_state(result, schema=result_schema(params, 0)), "adapter"))


def _loss(last: bytes) -> bytes:
    """The result of a scoring task from its last state."""
    return encode_state({"loss": decode_state(last)["loss"]})


def _read_loss(result: bytes) -> float:
    """The loss in the result of a scoring task. Raises `StateRefused`."""
    tensors = decode_state(result, schema=LOSS)
    _check_loss(tensors)
    return float(tensors["loss"])


def _check_loss(tensors: Mapping[str, Array]) -> None:
    if "loss" in tensors and tensors["loss"] < 0:
        raise StateRefused("is negative", "loss")


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
