"""Measure exact execution: bits, verdicts, speed, quality, deterrence (`make bench-exact`).

Writes `out/bench/exact.json` and the measured part of `docs/verification.md`; exits with 1 where a bound is missed.
About 40 minutes on 2 cores. `--quick` takes a few and writes to `out/bench/` only. Another release of torch, installed
beside ours in `.cache/`, takes part: `OTHER_TORCH=2.14.1` installs it first (5 GB), later runs find it there.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_exact_loss
import bench_exact_manifests
import bench_exact_segments
import bench_exact_speed
import bench_exact_wire
import bench_exact_zoo
from bench_exact_report import render, replace_measured
from bench_exact_setup import ROOT, SEED, Bench, code_version, describe_machine, prepare, say
from bench_exact_variants import installed_torch

Section = Callable[[Bench], Awaitable[dict[str, Any]]]

SECTIONS: dict[str, Section] = {
    "wire": bench_exact_wire.measure,
    "speed": bench_exact_speed.measure,
    "loss": bench_exact_loss.measure,
    "zoo": bench_exact_zoo.measure,
    "manifests": bench_exact_manifests.measure,
    "segments": bench_exact_segments.measure,
}
OUT = ROOT / "out" / "bench"
PAGE = ROOT / "docs" / "verification.md"


@dataclass(frozen=True)
class Bound:
    """What a figure must reach. `counted`: it follows from the size of the run, and a quick one is spared."""

    words: str
    holds: Callable[[Any], bool]
    counted: bool = False


def _at_least(least: float) -> Bound:
    return Bound(f"at least {least:,g}", lambda value: value >= least, counted=True)


def _at_most(most: float) -> Bound:
    return Bound(f"at most {most:g}", lambda value: value <= most)


BOUNDS = {
    "segments": _at_least(11_000),
    "segments_details.lora": _at_least(10_000),
    "segments_details.of_these_smollm2": _at_least(150),
    "segments_details.rows": _at_least(1_000),
    "segments_details.torch_releases": _at_least(2),
    "different": _at_most(0),
    "manifests": _at_least(1_000),
    "manifests_different": _at_most(0),
    "lora_step_ratio": _at_most(1.35),
    "embed_ratio": _at_most(1.25),
    "evaluate_ratio": _at_most(1.25),
    "memory_ratio": _at_most(1.3),
    "loss_ratio": Bound("within 0.3% of 1", lambda value: abs(value - 1) <= 0.003),
    "audit_bytes": Bound("below 1,024", lambda value: value < 1024),
    "one_lie_expected_gain": Bound("below 0", lambda value: value < 0),
    "zoo_details.least_drawn": _at_least(100),
    "zoo_missed": _at_most(0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small counts, nothing written but to out/bench")
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(SECTIONS)}")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(SECTIONS)
    if unknown := set(chosen) - SECTIONS.keys():
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    path = OUT / ("exact-quick.json" if args.quick else "exact.json")
    other = os.environ.get("OTHER_TORCH") or installed_torch()
    say(f"seed {SEED}, other torch: {other or 'none'}, code {code_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-exact-") as folder:
        bench = prepare(Path(folder), quick=args.quick, other_torch=other)
        summary = asyncio.run(run(bench, chosen, path, fresh=not args.only))
    page = replace_measured(PAGE.read_text(), render(summary))
    (OUT / "verification.md" if args.quick else PAGE).write_text(page)
    if missed := missed_bounds(summary, quick=args.quick):
        sys.exit("bounds missed: " + "; ".join(missed) + f"; see {path.relative_to(ROOT)}")
    print(f"every bound is kept; see {path.relative_to(ROOT)}")


async def run(bench: Bench, chosen: list[str], path: Path, *, fresh: bool) -> dict[str, Any]:
    """Run the sections one after the other; what has been measured is written after each."""
    origin: dict[str, Any] = {"machine": describe_machine(), "seed": SEED, "quick": bench.quick}
    summary = origin | {"sections": {}} if fresh else kept(path, origin)
    for name in chosen:
        say(f"{name}: begins")
        started, load = time.monotonic(), os.getloadavg()[0]
        summary |= await SECTIONS[name](bench)
        summary["sections"][name] = {
            "code": code_version(),
            "seconds": round(time.monotonic() - started, 1),
            "load_before": round(load, 2),
            "load_after": round(os.getloadavg()[0], 2),
            "ended": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        summary["seconds"] = round(sum(section["seconds"] for section in summary["sections"].values()), 1)
        write(path, summary)
        say(f"{name}: {summary['sections'][name]['seconds']:.0f} s")
    return summary


def write(path: Path, summary: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=1) + "\n")


def kept(path: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """An earlier summary of the same machine and size, or the beginning of a new one. Each section names its code."""
    try:
        earlier: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        earlier = {}
    if all(earlier.get(key) == value for key, value in origin.items()):
        return earlier
    return origin | {"sections": {}}


def figure(summary: dict[str, Any], path: str) -> Any:
    """The value under a dotted path, None where it was not measured."""
    found: Any = summary
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def missed_bounds(summary: dict[str, Any], *, quick: bool) -> list[str]:
    """Bounds that measured figures miss, in words."""
    missed = []
    for path, bound in BOUNDS.items():
        value = figure(summary, path)
        if value is not None and not (quick and bound.counted) and not bound.holds(value):
            missed.append(f"{path} is {value:,.4g}, must be {bound.words}")
    return missed


if __name__ == "__main__":
    main()
