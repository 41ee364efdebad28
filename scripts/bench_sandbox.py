"""What the sandbox holds and costs: out/bench/sandbox.json.

`escapes_tried` and `escapes`: attempts of tests/sandbox/escapes.py with bubblewrap and with Landlock and seccomp alone.
`without`: what each mechanism alone lets through. `lora_step_ratio`: time of a LoRA step of the demo's model inside by
that outside, each the middle of many, of two processes that work by turns; `tiny_step_ratio` the same of a model so
small that a step takes some 25 ms. `start_ms`: what the start of a process takes longer, the fastest of several.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec.structs import replace

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.child import ChildSettings
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.sandbox import Mechanisms, Policy, Sandbox, found_here
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.warmup import Warm, environment
from proofyard.workloads.workload import Inputs, Progress, Resources

ROOT = Path(__file__).parents[1]
HELD = ("all", "bubblewrap", "landlock")
ALONE = ("bubblewrap-alone", "landlock-alone", "seccomp-alone")
TURNS, STARTS = 12, 7
SHOWN = ("escapes_tried", "escapes", "lora_step_ratio", "tiny_step_ratio", "start_ms")
MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"


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


async def steps(folder: Path, boxes: Mapping[str, Sandbox], job: Manifest, inputs: Inputs) -> dict[str, list[float]]:
    """Seconds of steps in each box, whose processes live side by side and work by turns."""
    first, second = WORKLOAD.graph(job)
    taken: dict[str, list[float]] = {kind: [] for kind in boxes}
    async with AsyncExitStack() as open_ones:
        executors = {
            kind: await open_ones.enter_async_context(Executor(folder / kind, sandbox=box))
            for kind, box in boxes.items()
        }
        for executor in executors.values():
            await executor.run_task(job, first, inputs)
        for turn in range(TURNS):
            again = replace(job, seed=1 + turn)
            for kind in executors if turn % 2 else reversed(executors):
                await executors[kind].run_task(again, second, inputs, on_progress=partial(note, taken[kind]))
    return taken


def note(seconds: list[float], step: Progress) -> None:
    seconds.append(step.seconds)


def training(inputs: Inputs, steps: int, batch: int) -> Manifest:
    assert inputs.model is not None
    params: dict[str, Any] = {
        "modules": linear_modules(inputs.model, ["q_proj", "v_proj"]),
        "rank": 4,
        "alpha": 8.0,
        "lr": 0.003,
        "rounds": 1,
        "workers": 2,
        "segments": 1,
        "segment_steps": steps,
        "batch": batch,
        "seq_len": 64,
    }
    return Manifest(workload="lora", model=Cid("model"), data=Cid("data"), params=params)


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
        boxes, corpus = {"inside": inside, "outside": outside}, write_tiny_corpus(folder / "corpus.jsonl")
        for kind, model, size in (("lora", MODEL, (4, 2)), ("tiny", write_tiny_model(folder / "model"), (40, 16))):
            inputs = Inputs(model, corpus)
            taken = await steps(folder / kind, boxes, training(inputs, *size), inputs)
            middle = {where: median(seconds) for where, seconds in taken.items()}
            report[f"{kind}_step_ratio"] = round(middle["inside"] / middle["outside"], 4)
            report[f"{kind}_step_s"] = {where: round(seconds, 5) for where, seconds in middle.items()}
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
