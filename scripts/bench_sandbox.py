"""What the sandbox holds and costs: out/bench/sandbox.json.

`escapes_tried` and `escapes`: attempts of tests/sandbox/escapes.py with bubblewrap and with Landlock and seccomp alone.
`without`: what each mechanism alone lets through. `lora_step_ratio`: time of a LoRA step inside by that outside, the
middle of pairs that run by turns, each the middle of its steps; `lora_step_cpu_ratio` the same of CPU time, which other
work on the machine changes less. `start_ms`: what the start of a process takes longer, the fastest of several.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.child import ChildSettings
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.sandbox import Mechanisms, Policy, Sandbox, found_here
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.warmup import Warm, environment
from proofyard.workloads.workload import Inputs, Resources

ROOT = Path(__file__).parents[1]
HELD = ("all", "bubblewrap", "landlock")
ALONE = ("bubblewrap-alone", "landlock-alone", "seccomp-alone")
TURNS, STARTS = 8, 7
SHOWN = ("escapes_tried", "escapes", "lora_step_ratio", "lora_step_cpu_ratio", "start_ms")


@dataclass(frozen=True)
class Cost:
    """Of a step: seconds that pass, and seconds of CPU of all threads."""

    wall_s: float
    cpu_s: float


def modes() -> tuple[list[str], list[str]]:
    """Those of tests/sandbox/surroundings.py that this machine has: that hold, and of one mechanism alone."""
    here = found_here()
    lacking = [name for name, there in (("bubblewrap", here.bubblewrap), ("landlock", here.landlock)) if not there]
    there = [mode for mode in (*HELD, *ALONE) if not any(name in mode for name in lacking)]
    return [mode for mode in there if mode in HELD], [mode for mode in there if mode in ALONE]


def escapes(mode: str, *more: str) -> dict[str, str]:
    """What each attempt got in a mode of tests/sandbox/surroundings.py."""
    command = [sys.executable, str(ROOT / "tests" / "sandbox" / "surroundings.py"), mode, *more]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=600).stdout)
    return found


async def steps(folder: Path, box: Sandbox, manifest: Manifest, inputs: Inputs) -> Cost:
    """What a step of a task takes, after another task of the job has warmed everything up."""
    taken: list[float] = []
    first, second = WORKLOAD.graph(manifest)
    async with Executor(folder, sandbox=box) as executor:
        await executor.run_task(manifest, first, inputs)
        (child,) = psutil.Process().children()
        before = used(child)
        await executor.run_task(manifest, second, inputs, on_progress=lambda step: taken.append(step.seconds))
        return Cost(median(taken), (used(child) - before) / len(taken))


def used(process: psutil.Process) -> float:
    """Seconds of CPU of a process and all that it started."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def ratios(inside: list[Cost], outside: list[Cost]) -> Cost:
    """What is taken inside by what is taken outside, the middle one of the pairs that ran one after the other."""
    pairs = list(zip(inside, outside, strict=True))
    return Cost(median(a.wall_s / b.wall_s for a, b in pairs), median(a.cpu_s / b.cpu_s for a, b in pairs))


def start(box: Sandbox, folder: Path) -> float:
    """Seconds from the start of an executor's child until it is ready and told to end."""
    for slot in ("0", "1"):
        (folder / slot).touch()
    settings = ChildSettings(
        resources=Resources(),
        warm=Warm(),
        adversary=None,
        outbox=str(folder),
        slots=("0", "1"),
        checked=str(folder),
        model="",
    )
    began = time.perf_counter()
    done = box.run(
        Policy(write=(str(folder),), helper=True),
        "proofyard.workloads.child",
        [msgspec.json.encode(settings).decode()],
        env=environment(1),
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


async def main() -> None:
    inside, outside = Sandbox(), Sandbox(mechanisms=Mechanisms())
    report: dict[str, Any] = {"mechanisms": found_here().names}
    held, alone = modes()
    tried = {mode: escapes(mode) for mode in held}
    if os.getuid() == 0:
        tried |= {f"{mode}, as a plain user": escapes(mode, "--plain-user") for mode in held}
    report["escapes_tried"] = {mode: len(found) for mode, found in tried.items()}
    report["escapes"] = sum(bool(got) for found in tried.values() for got in found.values())
    report["without"] = {mode: sorted(name for name, got in escapes(mode).items() if got) for mode in alone}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = Inputs(write_tiny_model(folder / "model"), write_tiny_corpus(folder / "corpus.jsonl"))
        assert inputs.model is not None
        params: dict[str, Any] = {
            "modules": linear_modules(inputs.model, ["q_proj", "v_proj"]),
            "rank": 4,
            "alpha": 8.0,
            "lr": 0.01,
            "rounds": 1,
            "workers": 2,
            "segments": 2,
            "segment_steps": 40,
            "batch": 16,
            "seq_len": 64,
        }
        job = Manifest(workload="lora", model=Cid("model"), data=Cid("data"), seed=7, params=params)
        costs: dict[str, list[Cost]] = {"inside": [], "outside": []}
        for turn in range(TURNS):
            both = [("inside", inside), ("outside", outside)]
            for kind, box in both if turn % 2 else reversed(both):
                costs[kind].append(await steps(folder / f"{kind}{turn}", box, job, inputs))
        ratio = ratios(costs["inside"], costs["outside"])
        report["lora_step_ratio"], report["lora_step_cpu_ratio"] = round(ratio.wall_s, 4), round(ratio.cpu_s, 4)
        report["lora_step_s"] = {kind: round(median(each.wall_s for each in found), 5) for kind, found in costs.items()}
        (folder / "out").mkdir()
        starts: dict[str, list[float]] = {"inside": [], "outside": []}
        for _ in range(STARTS):
            for kind, box in (("inside", inside), ("outside", outside)):
                starts[kind].append(start(box, folder / "out"))
        report["start_ms"] = round(1000 * (min(starts["inside"]) - min(starts["outside"])), 1)
    target = ROOT / "out" / "bench" / "sandbox.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report[key] for key in SHOWN}))


if __name__ == "__main__":
    asyncio.run(main())
