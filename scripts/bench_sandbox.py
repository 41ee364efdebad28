"""What the sandbox holds and costs: out/bench/sandbox.json.

`escapes_tried` and `escapes`: attempts of tests/sandbox/escapes.py with bubblewrap and with Landlock and seccomp alone.
`without`: what each mechanism alone lets through. `lora_step_ratio`: time of a LoRA step inside by that outside, the
fastest tenth of many, runs by turns. `start_ms`: what the start of a process takes longer, the fastest of several.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec

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
TURNS, STARTS = 4, 7


def escapes(mode: str) -> dict[str, str]:
    """What each attempt got in a mode of tests/sandbox/world.py."""
    command = [sys.executable, str(ROOT / "tests" / "sandbox" / "world.py"), mode]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=600).stdout)
    return found


async def steps(folder: Path, box: Sandbox, manifest: Manifest, inputs: Inputs) -> list[float]:
    """Seconds of each step of a task."""
    taken: list[float] = []
    async with Executor(folder, sandbox=box) as executor:
        task = WORKLOAD.graph(manifest)[0]
        await executor.run_task(manifest, task, inputs, on_progress=lambda step: taken.append(step.seconds))
    return taken


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
    tried = {mode: escapes(mode) for mode in HELD}
    report["escapes_tried"] = {mode: len(found) for mode, found in tried.items()}
    report["escapes"] = sum(bool(got) for found in tried.values() for got in found.values())
    report["without"] = {mode: sorted(name for name, got in escapes(mode).items() if got) for mode in ALONE}
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
            "workers": 1,
            "segments": 2,
            "segment_steps": 40,
            "batch": 16,
            "seq_len": 64,
        }
        seconds: dict[str, list[float]] = {"inside": [], "outside": []}
        for turn in range(TURNS):
            for kind, box in (("inside", inside), ("outside", outside)):
                job = Manifest(workload="lora", model=Cid("model"), data=Cid("data"), seed=7, params=params)
                seconds[kind] += await steps(folder / f"{kind}{turn}", box, job, inputs)
        fast = {kind: mean(sorted(taken)[: len(taken) // 10]) for kind, taken in seconds.items()}
        report["lora_step_ratio"] = round(fast["inside"] / fast["outside"], 4)
        report["lora_step_s"] = {kind: round(value, 5) for kind, value in fast.items()}
        (folder / "out").mkdir()
        starts: dict[str, list[float]] = {"inside": [], "outside": []}
        for _ in range(STARTS):
            for kind, box in (("inside", inside), ("outside", outside)):
                starts[kind].append(start(box, folder / "out"))
        report["start_ms"] = round(1000 * (min(starts["inside"]) - min(starts["outside"])), 1)
    target = ROOT / "out" / "bench" / "sandbox.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report[key] for key in ("escapes_tried", "escapes", "lora_step_ratio", "start_ms")}))


if __name__ == "__main__":
    asyncio.run(main())
