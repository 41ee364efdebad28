"""What `bench_federated.py` measures with: a job's rounds trained by the job's own code, segment by segment, and the
held-out loss of what they come to. All of it is exact, so what was computed once is not computed again."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from bench_exact_setup import ROOT
from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import Start, start_of_round, whole_adapter
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.lora_sets import whole_rounds
from proofyard.workloads.lora_tensors import put
from proofyard.workloads.state import encode_state
from proofyard.workloads.sweep_score import held_out_loss
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs, Resources, SegmentRunner, carried_by

OUT = ROOT / "out" / "bench" / "federated.json"
FOLDER = OUT.parent / "federated"
Trained = tuple[bytes, bytes]
"""Result and last state of a task."""


@dataclass
class Bench:
    """One model and text; `sequences` held-out rows make a loss. What tasks came to is kept in `folder`."""

    inputs: Inputs
    seed: int
    sequences: int
    folder: Path
    _losses: dict[bytes, float] = field(default_factory=dict)

    def manifest(self, params: LoraParams) -> Manifest:
        return Manifest(
            workload="lora", params=to_builtins(params), model=Cid("model"), data=Cid("data"), seed=self.seed
        )

    def run(
        self,
        manifest: Manifest,
        task: TaskSpec,
        results: Sequence[bytes],
        carried: Sequence[bytes] = (),
        kind: type[TrainRunner] | None = None,
    ) -> Trained:
        """A task on the `results` that it rests on; `kind`: who trains it, if not the job's own runner."""
        inputs = Inputs(self.inputs.model, self.inputs.data, tuple(results), carried=tuple(carried))
        states = [WORKLOAD.initial_state(manifest, task, inputs)]
        key = encode((_training(read_params(manifest)), task.index, cid_of_bytes(states[0]), kind and kind.__name__))
        places = [self.folder / f"{hashlib.sha256(key).hexdigest()}.{name}" for name in ("last", "result")]
        if not places[1].is_file():
            runner: SegmentRunner
            if kind:
                runner = kind(manifest, read_params(manifest), task, inputs, Resources())
            else:
                runner = WORKLOAD.runner(manifest, task, inputs, Resources())
            for index in range(task.segments):
                states.append(runner.run(index, states[-1], lambda progress: None))
                WORKLOAD.check_state(manifest, task, index + 1, states[-1])
            for place, made in zip(
                places, (states[-1], WORKLOAD.result(manifest, task, states.__getitem__)), strict=True
            ):
                place.with_suffix(".part").write_bytes(made)
                place.with_suffix(".part").rename(place)
        last, result = (place.read_bytes() for place in places)
        return result, last

    def rounds(self, params: LoraParams) -> Iterator[tuple[int, list[bytes]]]:
        """How many rounds are done, and the results that what they come to follows from."""
        manifest = self.manifest(params)
        graph = WORKLOAD.graph(manifest)
        results: dict[int, bytes] = {}
        lasts: dict[Cid, bytes] = {}
        for task in graph:
            rested = tuple(results[dep] for dep in task.deps)
            carried = [lasts[cid] for cid in carried_by(WORKLOAD, manifest, task, rested)]
            results[task.index], last = self.run(manifest, task, rested, carried)
            if WORKLOAD.carries(manifest):
                lasts[cid_of_bytes(last)] = last
            done = len(results)
            if done % params.workers == 0:
                number = done // params.workers
                following = whole_rounds(params, number + params.behind)
                yield number, [results[each] for each in following]

    def start(self, params: LoraParams, results: Sequence[bytes], number: int) -> Start:
        """What round `number`, counted from 1, came to."""
        return start_of_round(params, self.seed, results, number + params.behind if number else 0)

    def loss(self, params: LoraParams, start: Start | None) -> float:
        """In nats a token, of what a job has come to, None being the model as it was."""
        adapter = None if start is None else encode_state(put(whole_adapter(params, self.seed, start), "adapter"))
        key = hashlib.sha256(adapter or b"").digest()
        if key not in self._losses:
            self._losses[key] = held_out_loss(self.manifest(params), self.inputs, Resources(), adapter, self.sequences)
        return self._losses[key]


def _training(params: LoraParams) -> LoraParams:
    """What a task's steps follow from: not what becomes of its result."""
    return replace(params, robust="mean", robust_hostile=0)


def inputs_of(model: str, folder: Path) -> tuple[Path, Path]:
    if model == "tiny":
        return write_tiny_model(folder / "tiny"), write_tiny_corpus(folder / "tiny.jsonl", labels=10)
    found = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
    if not found.is_dir():
        raise SystemExit(f"{found} is missing: python scripts/prepare_model.py --cache .cache")
    return found, write_bible_corpus(folder / "kjv.jsonl")


def base_params(model: Path, args: argparse.Namespace) -> LoraParams:
    return LoraParams(
        modules=linear_modules(model, ["q_proj", "v_proj"], args.layers),
        rank=args.rank,
        alpha=2.0 * args.rank,
        lr=args.lr,
        rounds=args.rounds,
        workers=args.workers,
        segments=1,
        segment_steps=args.steps,
        batch=args.batch,
        seq_len=args.seq_len,
        outer="none",
        shard_by="label",
        holdout_percent=args.holdout_percent,
    )


@dataclass
class Part:
    """A part of the report that grows figure by figure: what is found is in the file at once, beside what earlier runs
    of the same `size` have found there. `keys`: the report's own keys that follow from all of the part's figures."""

    out: Path
    name: str
    size: Mapping[str, Any]
    keys: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def __post_init__(self) -> None:
        kept = self._read().get(self.name, {})
        self.found: dict[str, Any] = kept if kept.get("size") == self.size else {"size": dict(self.size)}

    def put(self, table: str, row: str, figures: Any) -> None:
        self.found.setdefault(table, {})[row] = figures
        report = {**self._read(), self.name: self.found, **self.keys(self.found)}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(report, indent=1) + "\n")

    def _read(self) -> dict[str, Any]:
        return json.loads(self.out.read_text()) if self.out.is_file() else {}


def say(text: str) -> None:
    print(text, flush=True)
