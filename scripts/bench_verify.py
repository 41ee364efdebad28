"""Measure verified execution: honest segments flagged, cheats missed, what audits cost (`make bench-verify`).

Writes `out/bench/verify.json` and `docs/verification.md` with its plots. Counts come from the tiny model and, where
`.cache/models/` holds it, from SmolLM2-135M as well. About 35 minutes on 2 cores; `--quick` takes 2 and writes to
`out/bench/` only. `OTHER_TORCH=2.14.1` compares with that release of torch too, installed beside ours in `.cache/`.
"""

import argparse
import asyncio
import json
import math
import os
import secrets
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_verify_report import write_report
from proofyard.protocol.audit import draw_segments
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid, Digest
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.model_files import linear_modules
from proofyard.workloads.sketch import sketch_change, sketch_distance
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs, Resources

Sample = tuple[TaskSpec, int]

TOLERANCE = 1e-3
MODEL = Path(".cache/models/smollm2-135m-instruct").resolve()
SEAL_BYTES = 32 + 65
AUDITED, AUDITORS = 2, 3
SAMPLING_SIGMAS = 4.0
DETECTION_TRIALS = 2_000


@dataclass(frozen=True)
class Variant:
    """Another way to compute the same honestly."""

    variables: dict[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    python: str = sys.executable


HONEST = {
    "same build, 2 threads": Variant(resources=Resources(threads=2)),
    "SSE kernels": Variant({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "AVX2 kernels": Variant({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "MKL's portable code path": Variant({"MKL_CBWR": "COMPATIBLE"}),
    "eager attention": Variant(resources=Resources(attention="eager")),
    "micro-batches of 1": Variant(resources=Resources(micro_batch=1)),
}
CHEATS = (
    "bf16",
    "copied-result",
    "fake-all",
    "half-batch",
    "learning-rate",
    "noise",
    "short-sequences",
    "skip-half",
    "skip-tenth",
    "stale-adapter",
    "tiny-noise",
    "wrong-shard",
)
BELOW_TOLERANCE = ("tiny-noise",)


@dataclass
class Bench:
    """One model's runs: the honest states of some tasks, and the distances that others reached from them."""

    name: str
    manifest: Manifest
    inputs: Inputs
    folder: Path
    states: dict[int, list[bytes]] = field(default_factory=dict)
    results: dict[int, bytes] = field(default_factory=dict)
    honest: dict[str, list[float]] = field(default_factory=dict)
    cheats: dict[str, list[float]] = field(default_factory=dict)

    def task_inputs(self, task: TaskSpec) -> Inputs:
        return Inputs(self.inputs.model, self.inputs.data, tuple(self.results[d] for d in task.deps))

    async def train(self) -> None:
        """The honest job, in this machine's own execution class."""
        async with Executor(self.folder / "honest") as executor:
            for task in WORKLOAD.graph(self.manifest):
                trace = await executor.run_task(self.manifest, task, self.task_inputs(task))
                self.states[task.index] = [path.read_bytes() for path in trace.states]
                self.results[task.index] = trace.result.read_bytes()

    async def distances(self, executor: Executor, samples: list[Sample]) -> list[float]:
        """How far `executor`'s answers to these segments are from the honest trace."""
        return [await self.audit(executor, task, index, self.states[task.index]) for task, index in samples]

    async def cheat_distances(self, cheat: Executor, auditor: Executor, samples: list[Sample]) -> list[float]:
        """How far an honest auditor's answers are from the traces that `cheat` commits to."""
        found = []
        for task in dict.fromkeys(task.index for task, _ in samples):
            spec = WORKLOAD.graph(self.manifest)[task]
            trace = await cheat.run_task(self.manifest, spec, self.task_inputs(spec))
            states = [path.read_bytes() for path in trace.states]
            found += [await self.audit(auditor, spec, index, states) for other, index in samples if other == spec]
        return found

    async def audit(self, auditor: Executor, task: TaskSpec, index: int, trace: list[bytes]) -> float:
        """The distance of the auditor's answer from a trace, by sketches under a fresh seed."""
        before, committed = trace[index : index + 2]
        answer = await auditor.run_segment(self.manifest, task, index, before, self.task_inputs(task))
        seed = secrets.token_bytes(32)
        changes = [WORKLOAD.change(self.manifest, task, before, after) for after in (committed, answer)]
        return sketch_distance(*(sketch_change(change, seed) for change in changes))

    def segments(self, count: int, kind: str | None = None) -> list[Sample]:
        """The first `count` training segments in which a cheat of this kind does something."""
        steps = self.manifest.params["segment_steps"]
        tasks = [task for task in WORKLOAD.graph(self.manifest) if task.kind == "train"]
        everything = [(task, index) for task in tasks for index in range(task.segments)]
        if kind == "stale-adapter":
            everything = [(task, index) for task, index in everything if task.deps and index == 0]
        if kind == "skip-tenth":
            everything = [s for s in everything if any(n % 10 == 9 for n in range(s[1] * steps, (s[1] + 1) * steps))]
        return everything[:count]


def tiny_bench(folder: Path, rounds: int, workers: int) -> Bench:
    model = write_tiny_model(folder / "tiny-model")
    data = write_tiny_corpus(folder / "tiny.jsonl", labels=workers)
    size = {"rounds": rounds, "workers": workers, "segments": 10, "segment_steps": 2, "batch": 4, "seq_len": 32}
    return Bench("tiny random Llama", manifest_for(model, size, rank=4), Inputs(model, data), folder / "tiny")


def real_bench(folder: Path, rounds: int, segments: int) -> Bench:
    data = write_bible_corpus(folder / "bible.jsonl")
    size = {"rounds": rounds, "workers": 2, "segments": segments, "segment_steps": 2, "batch": 2, "seq_len": 32}
    return Bench("SmolLM2-135M", manifest_for(MODEL, size, rank=8), Inputs(MODEL, data), folder / "real")


def manifest_for(model: Path, size: dict[str, int], rank: int) -> Manifest:
    modules = linear_modules(model, ["q_proj", "v_proj"])
    params = {"modules": modules, "rank": rank, "alpha": 2.0 * rank, "lr": 3e-3} | size
    return Manifest(workload="lora", params=params, model=Cid("model"), data=Cid("data"), seed=1, tolerance=TOLERANCE)


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def other_torch(release: str) -> Variant:
    """The same code on another release of torch, which is installed once in `.cache/` (a CUDA build: 5 GB)."""
    home = Path(".cache").resolve() / f"torch-{release}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        say(f"installing torch {release} in {home}; with its CUDA libraries that is about 5 GB")
        venv.create(home, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "install", f"torch=={release}"]
        subprocess.run(pip, check=True)
        packages = next(home.glob("lib/python*/site-packages"))
        (packages / "proofyard-bench.pth").write_text("\n".join(site.getsitepackages()))
        (home / "ready").touch()
    roots = [str(Path(root).resolve()) for root in ("sdk", "node", "verifier")]
    return Variant({"PYTHONPATH": os.pathsep.join(roots)}, python=str(python))


async def measure_distances(bench: Bench, variants: dict[str, Variant], honest: int, cheats: int) -> None:
    say(f"{bench.name}: training the honest job")
    await bench.train()
    each = -(-honest // len(variants))
    for name, variant in variants.items():
        with environment(variant.variables):
            folder = bench.folder / "variant"
            async with Executor(folder, resources=variant.resources, python=variant.python) as executor:
                bench.honest[name] = await bench.distances(executor, bench.segments(each))
        say(f"{bench.name}: honest, {name}: largest distance {max(bench.honest[name]):.1e}")
    for kind in CHEATS:
        folder = bench.folder / kind
        async with Executor(folder, adversary=kind) as cheat, Executor(bench.folder / "auditor") as auditor:
            bench.cheats[kind] = await bench.cheat_distances(cheat, auditor, bench.segments(cheats, kind))
        say(f"{bench.name}: {kind}: smallest distance {min(bench.cheats[kind]):.1e}")


async def measure_cost(
    folder: Path, model: Path, data: Path, *, segments: int, size: dict[str, int]
) -> dict[str, float]:
    """One task of N segments against the audit of m = 2 of them by k = 3 others, the whole task by 3 others, and the
    same steps in a plain PEFT loop. The four take turns, three times, so that a busy minute falls on all of them; the
    model is loaded beforehand, as it is on a node at work."""
    manifest = manifest_for(model, size | {"rounds": 1, "workers": 1, "segments": segments}, rank=8)
    task, inputs = WORKLOAD.graph(manifest)[0], Inputs(model, data)
    drawn = draw_segments(Digest(bytes(32)), Digest(bytes(32)), segments, AUDITED)
    whole, audits, plain = [], [], []
    for turn in range(AUDITORS):
        async with Executor(folder / f"cost-{turn}") as executor:
            await executor.run_segment(manifest, task, 0, WORKLOAD.initial_state(manifest, task, inputs), inputs)
            started = time.perf_counter()
            trace = await executor.run_task(manifest, task, inputs)
            whole.append(time.perf_counter() - started)
            started = time.perf_counter()
            for index in drawn:
                before = trace.states[index].read_bytes()
                after = await executor.run_segment(manifest, task, index, before, inputs)
                sketch = sketch_change(WORKLOAD.change(manifest, task, before, after), bytes(32))
            audits.append(time.perf_counter() - started)
        plain.append(await plain_loop(manifest, inputs))
        say(f"cost: task {whole[-1]:.1f} s, audit {audits[-1]:.2f} s, plain loop {plain[-1]:.1f} s")
    beyond = len(sketch.encode()) + SEAL_BYTES
    task_seconds = statistics.mean(whole)
    return {
        "segments": segments,
        "task_seconds": task_seconds,
        "audit_cost_fraction": sum(audits) / task_seconds,
        "naive_redundancy_fraction": sum(whole) / task_seconds,
        "plain_seconds": statistics.mean(plain),
        "protocol_overhead": sum(whole) / sum(plain) - 1,
        "audit_bytes": trace.states[0].stat().st_size + beyond,
        "audit_bytes_beyond_state": beyond,
    }


async def plain_loop(manifest: Manifest, inputs: Inputs) -> float:
    """Seconds for the same steps in a plain PEFT loop with torch's AdamW, in a process of its own."""
    script = Path(__file__).with_name("bench_verify_plain.py")
    order = json.dumps({"params": manifest.params, "model": str(inputs.model), "data": str(inputs.data)})
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), order, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        sys.exit("the plain PEFT loop failed; run scripts/bench_verify_plain.py by hand to see why")
    return float(out)


def simulate_detection(segments: int, per_audit: int, trials: int) -> list[dict[str, float]]:
    """How often a worker that fakes a share of its segments is hit, its segments drawn as the audit plan draws them."""
    rows = []
    for share in (0.05, 0.1, 0.25, 0.5):
        faked = set(range(round(share * segments)))
        for audits in (1, 2, 4, 8):
            hits = 0
            for _ in range(trials):
                draws = (
                    draw_segments(Digest(secrets.token_bytes(32)), Digest(bytes(32)), segments, per_audit)
                    for _ in range(audits)
                )
                hits += any(not faked.isdisjoint(draw) for draw in draws)
            escape = 1.0
            for position in range(per_audit):
                escape *= (segments - len(faked) - position) / (segments - position)
            expected = 1 - escape**audits
            error = math.sqrt(expected * (1 - expected) / trials)
            rows.append(
                {"share": share, "audits": audits, "simulated": hits / trials, "formula": expected, "error": error}
            )
    return rows


def disagreements(detection: list[dict[str, float]]) -> list[dict[str, float]]:
    """Where simulation and formula are further apart than chance explains; one trial is granted for rounding."""
    return [
        row
        for row in detection
        if abs(row["simulated"] - row["formula"]) > SAMPLING_SIGMAS * row["error"] + 1 / DETECTION_TRIALS
    ]


def summarise(benches: list[Bench], cost: dict[str, float], detection: list[dict[str, float]]) -> dict[str, Any]:
    honest = [d for bench in benches for distances in bench.honest.values() for d in distances]
    cheats = {}
    for kind in CHEATS:
        distances = [d for bench in benches for d in bench.cheats.get(kind, [])]
        cheats[kind] = {
            "audited": len(distances),
            "missed": sum(d <= TOLERANCE for d in distances),
            "median_distance": statistics.median(distances),
            "smallest_distance": min(distances),
        }
    return {
        "tolerance": TOLERANCE,
        "honest_segments": len(honest),
        "honest_flagged": sum(d > TOLERANCE for d in honest),
        "honest_largest_distance": max(honest),
        "cheats": cheats,
        "detection": detection,
        "models": {
            bench.name: {
                "honest": {name: {"segments": len(d), "largest": max(d)} for name, d in bench.honest.items()},
                "cheats": {k: {"segments": len(d), "smallest": min(d)} for k, d in bench.cheats.items() if d},
            }
            for bench in benches
        },
    } | cost


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def run(quick: bool, real_model: bool, folder: Path) -> dict[str, Any]:
    variants = dict(HONEST)
    if release := os.environ.get("OTHER_TORCH"):
        variants[f"torch {release}"] = other_torch(release)
    load_before = os.getloadavg()[0]
    tiny = tiny_bench(folder, rounds=2 if quick else 26, workers=4)
    await measure_distances(tiny, variants, honest=60 if quick else 1000, cheats=10 if quick else 100)
    benches = [tiny]
    size = {"segment_steps": 2, "batch": 4, "seq_len": 64}
    if real_model and not quick:
        real = real_bench(folder, rounds=6, segments=5)
        await measure_distances(real, variants, honest=100, cheats=10)
        benches.append(real)
        size = {"segment_steps": 2, "batch": 2, "seq_len": 64}
        cost = await measure_cost(folder, MODEL, folder / "bible.jsonl", segments=64, size=size)
    else:
        assert tiny.inputs.model and tiny.inputs.data
        cost = await measure_cost(folder, tiny.inputs.model, tiny.inputs.data, segments=64, size=size)
    loads = {"load_before": load_before, "load_after": os.getloadavg()[0]}
    return summarise(benches, cost | loads, simulate_detection(64, AUDITED, DETECTION_TRIALS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the tiny model only, a few segments of each kind")
    quick: bool = parser.parse_args().quick
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        summary = asyncio.run(run(quick, MODEL.is_dir(), Path(folder)))
    summary["seconds"] = time.monotonic() - started
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "verify.json").write_text(json.dumps(summary, indent=1))
    write_report(summary, out / "verification.md" if quick else Path("docs/verification.md"))
    flagged, honest = summary["honest_flagged"], summary["honest_segments"]
    above = {kind: row for kind, row in summary["cheats"].items() if kind not in BELOW_TOLERANCE}
    missed = {kind: row["missed"] for kind, row in above.items() if row["missed"]}
    if flagged or missed:
        sys.exit(f"{flagged} of {honest} honest segments flagged, cheats missed: {missed}; see out/bench/verify.json")
    if odd := disagreements(summary["detection"]):
        sys.exit(f"simulated and computed chances of detection differ by more than chance: {odd}")
    print(f"{honest} honest segments, none flagged, no cheat above the tolerance missed; see out/bench/verify.json")


if __name__ == "__main__":
    main()
