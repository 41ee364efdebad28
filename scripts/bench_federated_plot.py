"""Losses over rounds as pictures for docs/federated.md, from what `bench_federated.py` has found."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench_exact_setup import ROOT

PLOTS = ROOT / "docs" / "performance"
WIDTH, HEIGHT, LEFT, RIGHT = 900, 300, 60, 250
COLOURS = ("#24292f", "#cf222e", "#8250df", "#bf8700", "#1f6feb", "#2da44e", "#1b7c83", "#bc4c00", "#a475f9")
Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Round and loss, by what is drawn."""


def draw(report: Mapping[str, Any]) -> None:
    """One picture for the methods, one for each rule under attack that was measured beside the honest mean."""
    methods = report.get("methods", {}).get("rows", {})
    if methods:
        curves = {
            name: [(int(number), loss) for number, loss in row["losses"].items()] for name, row in methods.items()
        }
        (PLOTS / "federated_methods.svg").write_text(picture(curves))
    rows = report.get("hostile", {}).get("rules", {})
    honest = rows.get("mean: nobody")
    for rule in dict.fromkeys(name.partition(": ")[0] for name in rows):
        attacked = {name.partition(": ")[2]: row for name, row in rows.items() if name.startswith(f"{rule}: ")}
        known = {"honest mean": honest} | attacked if honest else attacked
        curves = {
            name: list(enumerate(row["losses"])) for name, row in known.items() if (rule, name) != ("mean", "nobody")
        }
        if len(curves) > 1:
            (PLOTS / f"federated_{rule.replace('-', '_')}.svg").write_text(picture(curves))


def picture(curves: Curves) -> str:
    """Curves with their names at the right, those that end highest first."""
    losses = [loss for curve in curves.values() for _, loss in curve]
    last = max(number for curve in curves.values() for number, _ in curve)
    low, high = min(losses), max(losses)
    parts = []
    for tick in range(5):
        loss = low + (high - low) * tick / 4
        y = _y(loss, low, high)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:.2f}</text>')
    for number in range(last + 1):
        x = _x(number, last)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number or "before"}</text>')
    ranked = sorted(curves, key=lambda name: -curves[name][-1][1])
    for row, name in enumerate(ranked):
        colour = COLOURS[list(curves).index(name) % len(COLOURS)]
        points = " ".join(f"{_x(number, last):.1f},{_y(loss, low, high):.1f}" for number, loss in curves[name])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = 24 + 22 * row
        parts.append(f'<rect x="{WIDTH - RIGHT + 24}" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 42}" y="{y}">{name}, {curves[name][-1][1]:.3f}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return head + ' font-size="13" fill="#57606a">\n' + "\n".join(parts) + "\n</svg>\n"


def _x(number: int, last: int) -> float:
    return LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * number / max(1, last)


def _y(loss: float, low: float, high: float) -> float:
    return 20 + (HEIGHT - 60) * (high - loss) / max(1e-9, high - low)
