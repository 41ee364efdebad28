"""Is honesty the best reply? Honest owners against strategists, with the shipped parameters (`make bench-economics`).

Writes `out/bench/economics.json` and the measured part of `docs/economics.md`; exits with 1 where a cell is lost that
`LIMITS` does not name. A few minutes on 2 cores; `--quick` takes the corners of every range, plays few batches and
writes to `out/bench/` only.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import bench_economics_auditors
import bench_economics_batches
import bench_economics_court
import bench_economics_requesters
import bench_economics_verifiers
import bench_economics_workers
from bench_economics_report import render
from bench_economics_setup import ROOT, SEED, Bench, Cell, say
from bench_exact_report import replace_measured

SECTIONS: dict[str, Callable[[Bench], Iterator[Cell]]] = {
    "workers": bench_economics_workers.cells,
    "auditors": bench_economics_auditors.cells,
    "court": bench_economics_court.cells,
    "verifiers": bench_economics_verifiers.cells,
    "requesters": bench_economics_requesters.cells,
    "batches": bench_economics_batches.cells,
}
LIMITS = frozenset(
    {
        "juror repeats what the accused of a fault claims",
        "verifier quorum hides lists, and commits again until the draw is kind",
        "verifier signs records unseen",
        "verifier co-signs nothing",
    }
)
"""Strategies that pay somewhere: docs/economics.md says where, and what it takes."""

OUT = ROOT / "out" / "bench"
PAGE = ROOT / "docs" / "economics.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="corners and few batches, nothing written but to out/bench"
    )
    args = parser.parse_args()
    say(f"seed {SEED}")
    started = time.monotonic()
    cells = list(run(Bench(quick=args.quick)))
    say(f"{len(cells):,} cells in {time.monotonic() - started:.0f} s")
    write(cells, quick=args.quick)
    if new := unexpected(cells):
        sys.exit("lost, and not among the known limits: " + "; ".join(sorted(new)))


def run(bench: Bench, sections: Iterable[str] = SECTIONS) -> Iterator[Cell]:
    for name in sections:
        say(f"{name}: begins")
        yield from SECTIONS[name](bench)


def write(cells: Sequence[Cell], *, quick: bool) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / ("economics-quick.json" if quick else "economics.json")
    path.write_text(json.dumps(summary(cells), indent=1) + "\n")
    page = replace_measured(PAGE.read_text(), render(cells))
    (OUT / "economics.md" if quick else PAGE).write_text(page)
    print(f"{len(lost(cells)):,} of {len(cells):,} cells lost; see {path.relative_to(ROOT)}")


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """`cells`: how many; `cells_lost`: their names; `smallest_margin`, in tokens, of all cells, and of those won."""
    margins = {cell.name: cell.margin for cell in cells}
    worst = min(margins, key=lambda name: margins[name])
    won = [cell for cell in cells if not cell.lost]
    return {
        "seed": SEED,
        "cells": len(cells),
        "cells_lost": [cell.name for cell in lost(cells)],
        "strategies_lost": sorted({strategy(cell) for cell in lost(cells)}),
        "smallest_margin": margins[worst],
        "smallest_margin_in": worst,
        "smallest_margin_won": min((cell.margin for cell in won), default=None),
        "simulated_batches": int(sum(cell.where["batches"] for cell in cells if cell.simulated)),
        "margins": margins,
    }


def strategy(cell: Cell) -> str:
    return f"{cell.role} {cell.strategy}"


def lost(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.lost]


def unexpected(cells: Iterable[Cell]) -> set[str]:
    """Strategies that pay somewhere though no limit names them. A few simulated batches (`--quick`) decide nothing."""
    return {strategy(cell) for cell in lost(cells) if not (cell.simulated and cell.where["batches"] < 100)} - LIMITS


if __name__ == "__main__":
    main()
