"""Measure aggregation in rounds: methods at equal tokens, and hostile workers under each robust rule (`make
bench-federated`).

Adds to `out/bench/federated.json` what was run and what came out, figure by figure: what is there of the same size is
not measured again (`--anew` drops it), and a figure that was not measured is absent. All training is the job's own
code, segment by segment, and each loss that of the first held-out rows, in nats a token.
  - `methods`: the losses over the rounds of each way of aggregating, and of one worker with the same tokens and no
    averaging: `dense` takes as many steps as all workers together, `dense-batch` as many as one of them.
    `dense_gap` is (default method - the better of these) / that. `ffa:sign:2` is `ffa` with the compression `sign` in
    2 turns, `fedit@0.006` is `fedit` with this learning rate; `adapter` and `trained` say how many times smaller a
    result is than the adapter in binary32 that PEFT loads, and than what is trained of it, and `gap` is (loss - that
    without compression) / that. `gap_at_30x`, `gap_at_100x` and `best_gap_at_146x` are the least gaps of those that
    are so many times smaller than the adapter, `at` names them.
  - `hostile`: rounds of `--voters` workers, of which two hand in something else (`bench_federated_hostile.py`); for
    each rule and attack the losses over the rounds. `hostile_gap` is the largest (last loss - that of the honest mean)
    / that of the recommended rule, `hostile_gap_mean` that of the mean.
  - `late`: rounds that close without everybody (`bench_federated_late.py`); the losses where deltas come a round late
    or never. `late_gap` is the largest (last loss - that of everybody in time) / that.
`make bench-federated` goes on with `bench_kills.py` and `bench_home.py`, which add `kills_ok` and `home_compute_share`
to the same file.
docs/performance has the losses as pictures. The defaults take hours on a CPU; every size is an option.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bench_federated_hostile import NAMES, RULES, hostile_keys, measure_hostile
from bench_federated_late import late_keys, measure_late
from bench_federated_plot import draw
from bench_federated_setup import FOLDER, OUT, Bench, Part, base_params, inputs_of, say
from proofyard.sdk.specs import OVERLAP_STEP
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_tensors import trained_schema
from proofyard.workloads.workload import Inputs

DEFAULT = "ffa"
PARTS = ("methods", "hostile", "late")
ALONE = ("dense", "dense-batch")
METHODS = (
    "dense@0.006",
    "dense-batch@0.006",
    "ffa",
    "fedit@0.006",
    "fedit",
    "ffa:two-bit",
    "ffa:sign",
    "ffa:sign:2",
    "ffa+overlap",
)
SMALL = {"gap_at_30x": 30, "gap_at_100x": 100, "best_gap_at_146x": 146}
"""The keys of the report, and how many times smaller than the adapter what they are about has to be."""


def main() -> None:
    args = arguments()
    trained = FOLDER / f"trained-{args.model}"
    trained.mkdir(parents=True, exist_ok=True)
    bench = Bench(Inputs(*inputs_of(args.model, FOLDER)), args.seed, args.sequences, trained)
    assert bench.inputs.model is not None
    base = base_params(bench.inputs.model, args)
    if args.anew and args.out.is_file():
        kept = json.loads(args.out.read_text())
        args.out.write_text(json.dumps({name: kept[name] for name in kept.keys() - set(args.parts)}))
        shutil.rmtree(trained)
        trained.mkdir()
    same = ("model", "steps", "batch", "seq_len", "rank", "lr", "layers", "sequences", "holdout_percent", "seed")
    size = {name: getattr(args, name) for name in same}
    if "methods" in args.parts:
        part = Part(args.out, "methods", size | {"workers": args.workers, "rounds": args.rounds}, method_keys)
        measure_methods(bench, base, args, part)
    if "hostile" in args.parts:
        params = replace(base, aggregation=DEFAULT, workers=args.voters, rounds=args.hostile_rounds)
        part = Part(args.out, "hostile", size | {"workers": args.voters, "rounds": args.hostile_rounds}, hostile_keys)
        measure_hostile(bench, params, args.rules, args.attacks, part)
    if "late" in args.parts:
        params = replace(base, aggregation=DEFAULT)
        part = Part(args.out, "late", size | {"workers": args.workers, "rounds": args.rounds}, late_keys)
        measure_late(bench, params, part)
    if args.out == OUT:
        draw(json.loads(OUT.read_text()))
    print(args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "tiny"])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--attacks", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--voters", type=int, default=10, help="workers of the rounds with hostile ones")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--hostile-rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of a worker in a round")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--layers", type=int, nargs="+", help="adapt these transformer layers alone")
    parser.add_argument("--sequences", type=int, default=64, help="held-out rows of a loss")
    parser.add_argument("--every", type=int, default=2, help="rounds from loss to loss of a method")
    parser.add_argument("--holdout-percent", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--anew", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def measure_methods(bench: Bench, base: LoraParams, args: argparse.Namespace, part: Part) -> None:
    for name in args.methods:
        if name in part.found.get("rows", {}):
            continue
        params = method(bench, base, name)
        losses, size = {0: bench.loss(params, None)}, 0
        for number, results in bench.rounds(params):
            if number % args.every == 0 or number == params.rounds:
                losses[number] = bench.loss(params, bench.start(params, results, number))
                size = len(results[-1])
        whole = 4 * sum(params.rank * sum(shape) for shape in params.modules.values())
        trained = 4 * sum(spec.count for spec in trained_schema(params, params.rank).values())
        smaller = {"adapter": whole / size, "trained": trained / size}
        part.put("rows", name, {"losses": losses, "bytes": size, "smaller": smaller})
        say(f"{name}: {losses[params.rounds]:.4f} nats a token, a result has {size:,} bytes")


def method(bench: Bench, base: LoraParams, name: str) -> LoraParams:
    """`dense`, `dense-batch` or `AGGREGATION[:COMPRESSION[:N]]`, N being the turns of `sign` or the block of
    `topk-2bit`; with `+overlap` and `@LR` behind it."""
    name, _, rate = name.partition("@")
    name, _, overlap = name.partition("+")
    aggregation, compression, number = [*name.split(":"), "", ""][:3]
    changes: dict[str, Any] = {"lr": float(rate)} if rate else {}
    if aggregation == "dense":
        changes |= {"workers": 1, "segment_steps": base.workers * base.segment_steps}
    elif aggregation == "dense-batch":
        changes |= {"workers": 1, "batch": base.workers * base.batch}
    else:
        changes |= {"aggregation": aggregation, "compression": compression or None}
    if overlap:
        changes |= {"overlap": True, "outer": "plain", "outer_lr": OVERLAP_STEP}
    if number:
        changes["compression_turns" if compression == "sign" else "compression_block"] = int(number)
    return read_params(bench.manifest(replace(base, **changes)))


def method_keys(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of all methods that are measured."""
    rows = found["rows"]
    ends = {name: list(each["losses"].values())[-1] for name, each in rows.items()}
    report: dict[str, Any] = {}
    alone = [loss for name, loss in ends.items() if name.partition("@")[0] in ALONE]
    if alone and DEFAULT in ends:
        report["dense_gap"] = ends[DEFAULT] / min(alone) - 1
    gaps = {name: ends[name] / ends[plain] - 1 for name in ends if (plain := _plain(name)) != name and plain in ends}
    report |= {"gap": gaps, "at": {}}
    for key, times in SMALL.items():
        there = [name for name in gaps if rows[name]["smaller"]["adapter"] >= times]
        if there:
            report["at"][key] = best = min(there, key=gaps.__getitem__)
            report[key] = gaps[best]
    return report


def _plain(name: str) -> str:
    """The same method without compression."""
    method_, at, rate = name.partition("@")
    return method_.partition(":")[0] + at + rate


if __name__ == "__main__":
    main()
