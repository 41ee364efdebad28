"""Races against plain float32: a training step, embeddings, evaluation, and the memory that training takes.

The sides are processes that take turns, so that a busy minute of the machine falls on all of them. Plain float32 runs
twice, with threads that spin while they wait for each other (torch's default, better on an idle machine) and with ones
that sleep (several times faster where anything else computes); what counts is whichever was faster.
"""

import asyncio
import json
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench_exact_jobs import ALL_LINEAR
from bench_exact_setup import Bench, say, write_lines
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob, EvaluateJob, LoraJob

THREADS = 2
STEPS = 2
"""Steps of a segment: what a node decodes, checks and encodes once a segment counts as half of that a step."""

MAX_TURNS = 64

SPINNING, SLEEPING = "plain", "plain, sleeping threads"
SIDES: dict[str, tuple[str, dict[str, str]]] = {
    "exact": ("exact", {}),
    SPINNING: ("plain", {}),
    SLEEPING: ("plain", {"OMP_WAIT_POLICY": "PASSIVE"}),
}
"""Side to what it computes and what its libraries read from the environment."""


@dataclass
class Side:
    """What one side of a race needed: seconds of each turn, those of all threads together, its peak of memory."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    found: Any = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


async def measure(bench: Bench) -> dict[str, Any]:
    """The keys `lora_step_ratio`, `memory_ratio`, `embed_ratio` and `evaluate_ratio`."""
    turns = bench.size(6, 3)
    train = await race(bench, "train", training(bench), turns)
    others = (
        {}
        if bench.quick
        else {
            "lora step, all linear layers": await race(bench, "train", training(bench, ALL_LINEAR), turns // 2),
            "lora step, exact8": await race(bench, "train", training(bench, precision="exact8"), turns // 2),
        }
    )
    embed = await race(bench, "embed", embedding(bench), bench.size(5, 2))
    evaluate = await race(bench, "evaluate", evaluation(bench), bench.size(3, 2))
    return {
        "lora_step_ratio": ratio(train),
        "embed_ratio": ratio(embed),
        "evaluate_ratio": ratio(evaluate),
        "memory_ratio": train["exact"].peak_bytes / min(train[SPINNING].peak_bytes, train[SLEEPING].peak_bytes),
        "speed_details": {
            "threads": THREADS,
            "lora step, q_proj and v_proj": details(train, STEPS),
            **{name: details(sides, STEPS) for name, sides in others.items()},
            "embed": details(embed, 1) | {"texts": bench.size(256, 32)},
            "evaluate": details(evaluate, 1) | {"texts": bench.size(48, 6)},
        },
    }


def ratio(sides: dict[str, Side]) -> float:
    return sides["exact"].median / min(sides[SPINNING].median, sides[SLEEPING].median)


def details(sides: dict[str, Side], pieces: int) -> dict[str, Any]:
    """Median seconds of a piece of each side, `pieces` of them in a turn, and the spread of turns."""
    return {"ratio": round(ratio(sides), 4)} | {
        name: {
            "median_seconds": round(side.median / pieces, 4),
            "cpu_seconds": round(statistics.median(side.cpu_seconds) / pieces, 4),
            "fastest_seconds": round(min(side.seconds) / pieces, 4),
            "slowest_seconds": round(max(side.seconds) / pieces, 4),
            "turns": len(side.seconds),
            "peak_bytes": side.peak_bytes,
            "last_found": side.found,
        }
        for name, side in sides.items()
    }


def training(bench: Bench, targets: tuple[str, ...] = ("q_proj", "v_proj"), precision: str = "exact") -> Any:
    """A step of SmolLM2-135M on 4 sequences of 128 tokens at rank 8."""
    size: dict[str, Any] = {
        "rounds": 1,
        "workers": 1,
        "segments": MAX_TURNS,
        "segment_steps": STEPS,
        "batch": 4,
        "seq_len": 128,
    }
    return LoraJob(
        model=bench.smollm2, data=bench.bible, targets=targets, precision=precision, seed=bench.seed, rank=8, **size
    )


def embedding(bench: Bench) -> Any:
    """MiniLM over single verses."""
    count = bench.size(256, 32)
    data = write_lines(bench.folder / "race-verses.jsonl", [{"text": text} for text in bench.verses(count)])
    return EmbedJob(model=bench.minilm, data=data, segment_rows=count, segments=1)


def evaluation(bench: Bench) -> Any:
    """SmolLM2 over passages of one to twelve verses."""
    count, verses = bench.size(48, 6), bench.verses(6_500)
    passages, start = [], 0
    for number in range(count):
        size = 1 + number * 5 % 12
        passages.append({"text": "\n".join(verses[start : start + size])})
        start += size
    data = write_lines(bench.folder / "race-passages.jsonl", passages)
    return EvaluateJob(model=bench.smollm2, data=data, segment_rows=count, segments=1)


async def race(bench: Bench, work: str, spec: Any, turns: int) -> dict[str, Side]:
    """All sides in turns, after a first one that does not count."""
    manifest: Manifest = spec.manifest(Cid("model"), Cid("data"))
    order = {"work": work, "threads": THREADS, "model": str(spec.model), "data": str(spec.data)}
    order["manifest"] = msgspec.to_builtins(manifest)
    sides = {name: Side() for name in SIDES}
    processes = {name: await start(order | {"side": side}, variables) for name, (side, variables) in SIDES.items()}
    try:
        for _ in range(turns):
            for name, side in sides.items():
                await turn(processes[name], side)
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
    say(f"speed: {work}: {ratio(sides):.3f} of the plain time")
    return sides


async def start(order: dict[str, Any], variables: dict[str, str]) -> asyncio.subprocess.Process:
    script = Path(__file__).with_name("bench_exact_turns.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(script), json.dumps(order)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | variables
        | {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
    )
    await _read(process)
    return process


async def turn(process: asyncio.subprocess.Process, side: Side) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    report = await _read(process)
    side.seconds.append(report["seconds"])
    side.cpu_seconds.append(report["cpu_seconds"])
    side.peak_bytes, side.found = report["peak_bytes"], report["found"]


async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        sys.exit("a side of the race has ended; what it said is above")
    report: dict[str, Any] = json.loads(line)
    return report
