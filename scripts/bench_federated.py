"""Measure aggregation in rounds: methods at equal tokens, and hostile workers under each robust rule (`make
bench-federated`).

Writes `out/bench/federated.json`: what was run and what came out; a figure that was not measured is absent. All
training is the job's own code, segment by segment, and each loss that of the first held-out rows, in nats a token.
  - `methods`: the loss after the job for each way of aggregating, and of one worker with the same tokens and no
    averaging: `dense` takes as many steps as all workers together, `dense-batch` as many as one of them.
    `dense_gap` is (default method - dense) / dense. `ffa:sign:2` is `ffa` with the compression `sign` in 2 turns;
    `smaller` says how much smaller a result is than the adapter in binary32 that PEFT loads, and than what is trained
    of it, and `gap` (loss - that without compression) / that. `gap_at_30x`, `gap_at_100x` and `best_gap_at_146x` are
    the least gaps of those that are so many times smaller than the adapter, `at` names them.
  - `hostile`: a round of `--voters` workers, of which two hand in something else; for each rule and attack the loss of
    what the round comes to and its distance from the honest mean update, relative to that. `hostile_gap` is the largest
    (loss - honest loss) / honest loss of the recommended rule.
The defaults take hours on a CPU; every size is an option.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from bench_exact_setup import ROOT, describe_machine
from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import Start, start_of_round, whole_adapter
from proofyard.workloads.lora_runner import TrainRunner
from proofyard.workloads.lora_tensors import put, take, trained_schema
from proofyard.workloads.packing import Row
from proofyard.workloads.randomness import permutation, uniform
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.sweep_score import held_out_loss
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs, Resources, SegmentRunner, carried_by

OUT = ROOT / "out" / "bench" / "federated.json"
DEFAULT, RECOMMENDED = "ffa", "multi-krum"
HOSTILE = 2
SMALL = {"gap_at_30x": 30, "gap_at_100x": 100, "best_gap_at_146x": 146}
"""The keys of the report, and how many times smaller than the adapter what they are about has to be."""
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    **{
        name: {"robust": name, "robust_hostile": HOSTILE}
        for name in ("trimmed-mean", "median", "geometric-median", "centered-clipping", "krum", "multi-krum")
    },
}
Delta = dict[str, Array]
Attack = Callable[[Sequence[Delta], int], Delta]
"""(all honest updates, shard) to the update that the shard claims."""


class Shuffled(TrainRunner):
    """Trains on rows whose tokens are in random order: every label is a wrong one."""

    def batch(self, step: int) -> list[Row]:
        order = permutation(self.params.seq_len + 1, "shuffled", self._seed, step)
        return [[tokens[order] for tokens in row] for row in super().batch(step)]


def main() -> None:
    args = arguments()
    started = time.time()
    model, data = inputs_of(args)
    inputs = Inputs(model, data)
    base = LoraParams(
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
    report: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "size": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
    }
    if "methods" in args.parts:
        report |= measure_methods(base, inputs, args)
    if "hostile" in args.parts:
        report |= measure_hostile(base, inputs, args)
    report["seconds"] = round(time.time() - started)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.out.read_text()) if args.add and args.out.is_file() else {}
    args.out.write_text(json.dumps(kept | report, indent=1) + "\n")
    print(args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "tiny"])
    parser.add_argument("--parts", nargs="+", default=["methods", "hostile"], choices=["methods", "hostile"])
    parser.add_argument("--methods", nargs="+", default=["dense", "ffa", "fedit", "fedex", "flora"])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--voters", type=int, default=10, help="workers of the round with hostile ones")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of a worker in a round")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, nargs="+", help="adapt these transformer layers alone")
    parser.add_argument("--sequences", type=int, default=32, help="held-out rows of a loss")
    parser.add_argument("--holdout-percent", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--add", action="store_true", help="keep the figures of the file that are not measured again")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def inputs_of(args: argparse.Namespace) -> tuple[Path, Path]:
    folder = ROOT / "out" / "bench" / "federated"
    folder.mkdir(parents=True, exist_ok=True)
    if args.model == "tiny":
        return write_tiny_model(folder / "tiny"), write_tiny_corpus(folder / "tiny.jsonl", labels=10)
    model = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
    if not model.is_dir():
        raise SystemExit(f"{model} is missing: python scripts/prepare_model.py --cache .cache")
    return model, write_bible_corpus(folder / "kjv.jsonl")


def measure_methods(base: LoraParams, inputs: Inputs, args: argparse.Namespace) -> dict[str, Any]:
    alone = {
        "dense": replace(base, workers=1, segment_steps=base.workers * base.segment_steps),
        "dense-batch": replace(base, workers=1, batch=base.workers * base.batch),
    }
    losses = {"before": loss_of(base, inputs, args, None)}
    say(f"before: {losses['before']:.4f} nats a token")
    found: dict[str, Any] = {"methods": losses, "result_bytes": {}, "smaller": {}, "gap": {}}
    for name in args.methods:
        params = alone.get(name) or method(base, name)
        results = run_job(manifest_of(params, args.seed), inputs)
        start = start_of_round(params, args.seed, results, params.rounds)
        losses[name] = loss_of(params, inputs, args, start)
        found["result_bytes"][name] = size = len(results[-1])
        trained = 4 * sum(spec.count for spec in trained_schema(params, params.rank).values())
        whole = 4 * sum(params.rank * sum(shape) for shape in params.modules.values())
        found["smaller"][name] = {"adapter": whole / size, "trained": trained / size}
        plain, _, compression = name.partition(":")
        if compression and plain in losses:
            found["gap"][name] = losses[name] / losses[plain] - 1
        say(f"{name}: {losses[name]:.4f} nats a token, a result has {size:,} bytes, 1/{whole / size:.1f} of an adapter")
    if {DEFAULT, "dense"} <= losses.keys():
        found["dense_gap"] = losses[DEFAULT] / losses["dense"] - 1
    return found | least_gaps(found)


def least_gaps(found: Mapping[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = {"at": {}}
    for key, times in SMALL.items():
        there = [name for name in found["gap"] if found["smaller"][name]["adapter"] >= times]
        if there:
            report["at"][key] = best = min(there, key=found["gap"].__getitem__)
            report[key] = found["gap"][best]
    return report


def method(base: LoraParams, name: str) -> LoraParams:
    """`AGGREGATION[:COMPRESSION[:N]]`, N being the turns of `sign` or the block of `topk-2bit`."""
    aggregation, compression, number = [*name.split(":"), "", ""][:3]
    changes: dict[str, Any] = {"aggregation": aggregation, "compression": compression or None}
    if number:
        changes["compression_turns" if compression == "sign" else "compression_block"] = int(number)
    return read_params(manifest_of(replace(base, **changes), 0))


def measure_hostile(base: LoraParams, inputs: Inputs, args: argparse.Namespace) -> dict[str, Any]:
    params = replace(base, aggregation=DEFAULT, workers=args.voters, rounds=1)
    manifest = manifest_of(params, args.seed)
    start = start_of_round(params, args.seed, (), 0)
    honest = run_job(manifest, inputs)
    updates = [delta_of(start, result) for result in honest]
    tasks = WORKLOAD.graph(manifest)
    shuffled = [delta_of(start, run_task(manifest, tasks[shard], inputs, Shuffled)[0]) for shard in range(HOSTILE)]
    attacks: dict[str, Attack] = {
        "nobody": lambda all_of, shard: all_of[shard],
        "sign flip x10": lambda all_of, shard: {name: -10 * each for name, each in all_of[shard].items()},
        "large noise": lambda all_of, shard: noise(all_of[shard], 100.0, args.seed, shard),
        "constant drift": lambda all_of, shard: noise(all_of[shard], 3.0, args.seed, 0),
        "labels shuffled": lambda _, shard: shuffled[shard],
        "a little is enough": lambda all_of, _: little(all_of[HOSTILE:]),
    }
    right = start_of_round(params, args.seed, honest, 1)
    honest_loss, before = loss_of(params, inputs, args, right), loss_of(params, inputs, args, None)
    say(f"honest mean: {honest_loss:.4f} (before {before:.4f})")
    table: dict[str, dict[str, dict[str, float]]] = {}
    for rule in args.rules:
        ruled = replace(params, **RULES[rule])
        table[rule] = {}
        for name, attack in attacks.items():
            results = list(honest)
            for shard in range(HOSTILE) if name != "nobody" else ():
                results[shard] = claimed(start, honest[shard], attack(updates, shard))
            after = start_of_round(ruled, args.seed, results, 1)
            loss = loss_of(ruled, inputs, args, after)
            table[rule][name] = {"loss": loss, "distance": distance(start, right, after)}
            say(f"{rule}, {name}: loss {loss:.4f}, distance {table[rule][name]['distance']:.3f}")
    found: dict[str, Any] = {"hostile": table, "honest_loss": honest_loss, "loss_before": before}
    if RECOMMENDED in table:
        worst = max(each["loss"] for each in table[RECOMMENDED].values())
        found |= {"hostile_gap": worst / honest_loss - 1, "hostile_rule": RECOMMENDED}
    return found


def run_job(manifest: Manifest, inputs: Inputs) -> list[bytes]:
    """The results that a round after the last one would rest on."""
    results: dict[int, bytes] = {}
    lasts: dict[Cid, bytes] = {}
    for task in WORKLOAD.graph(manifest):
        rested = tuple(results[dep] for dep in task.deps)
        named = carried_by(WORKLOAD, manifest, task, rested)
        own = Inputs(inputs.model, inputs.data, rested, carried=tuple(lasts[cid] for cid in named))
        results[task.index], last = run_task(manifest, task, own)
        if WORKLOAD.carries(manifest):
            lasts[cid_of_bytes(last)] = last
    return [results[task] for task in WORKLOAD.finals(manifest)]


def run_task(
    manifest: Manifest, task: TaskSpec, inputs: Inputs, kind: Callable[..., SegmentRunner] | None = None
) -> tuple[bytes, bytes]:
    """Result and last state of a task; `kind`: who trains it, if not the job's own runner."""
    states = [WORKLOAD.initial_state(manifest, task, inputs)]
    if kind:
        runner = kind(manifest, read_params(manifest), task, inputs, Resources())
    else:
        runner = WORKLOAD.runner(manifest, task, inputs, Resources())
    for index in range(task.segments):
        states.append(runner.run(index, states[-1], lambda progress: None))
        WORKLOAD.check_state(manifest, task, index + 1, states[-1])
    return WORKLOAD.result(manifest, task, states.__getitem__), states[-1]


def loss_of(params: LoraParams, inputs: Inputs, args: argparse.Namespace, start: Start | None) -> float:
    """The held-out loss of what a job has come to, None being the model as it was."""
    adapter = None if start is None else encode_state(put(whole_adapter(params, args.seed, start), "adapter"))
    return held_out_loss(manifest_of(params, args.seed), inputs, Resources(), adapter, args.sequences)


def manifest_of(params: LoraParams, seed: int) -> Manifest:
    return Manifest(workload="lora", params=to_builtins(params), model=Cid("model"), data=Cid("data"), seed=seed)


def delta_of(start: Start, result: bytes) -> Delta:
    trained = take(decode_state(result), "adapter")
    return {name: array.astype(np.float64) - start.adapter[name] for name, array in trained.items()}


def claimed(start: Start, honest: bytes, delta: Delta) -> bytes:
    """The honest result with another update in it."""
    lie = {name: (start.adapter[name] + each).astype(np.float32) for name, each in delta.items()}
    return encode_state({**decode_state(honest), **put(lie, "adapter")})


def noise(update: Delta, times: float, seed: int, number: int) -> Delta:
    """A random direction, `times` as long as the update."""
    random = {n: uniform(d.size, 1.0, "noise", seed, number, n).reshape(d.shape) for n, d in update.items()}
    scale = times * norm(update) / norm(random)
    return {name: each * scale for name, each in random.items()}


def little(honest: Sequence[Delta]) -> Delta:
    """The honest mean less 1.5 standard deviations of each entry (arXiv 1902.06156)."""
    stacked = {name: np.stack([each[name] for each in honest]) for name in honest[0]}
    return {name: each.mean(axis=0) - 1.5 * each.std(axis=0) for name, each in stacked.items()}


def distance(start: Start, right: Start, after: Start) -> float:
    """Of a round's update from the honest mean one, relative to that."""
    error = {name: after.adapter[name].astype(np.float64) - right.adapter[name] for name in after.adapter}
    return norm(error) / norm({name: right.adapter[name].astype(np.float64) - start.adapter[name] for name in error})


def norm(tensors: Mapping[str, Array]) -> float:
    return float(np.sqrt(sum(np.square(array).sum() for array in tensors.values())))


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
