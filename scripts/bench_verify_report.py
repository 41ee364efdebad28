"""Turn the figures of `bench_verify.py` into `docs/verification.md` with an SVG plot beside it."""

import math
from pathlib import Path
from typing import Any

Row = tuple[str, float, float]
WIDTH, LINE, LEFT, RIGHT = 720, 22, 190, 20


def write_report(summary: dict[str, Any], dest: Path) -> None:
    """Write the page and its plot."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    distances = dest.with_name(dest.stem + "-distances.svg")
    distances.write_text(distance_plot(summary))
    detection = dest.with_name(dest.stem + "-detection.svg")
    detection.write_text(detection_plot(summary["detection"]))
    dest.write_text(page(summary, distances.name, detection.name))


def page(summary: dict[str, Any], distances: str, detection: str) -> str:
    parts = [
        "# Verified execution, measured",
        "Written by `make bench-verify`; every figure was measured in that run. Distances are relative L2 distances of "
        "a segment's update, the largest over adapter, first and second moment, estimated from sketches of 1 KiB each "
        f"(standard error 4.4%). A segment is flagged above the tolerance of {summary['tolerance']:g}.",
        "## Honest segments",
        f"**{summary['honest_flagged']} of {summary['honest_segments']} flagged**; the largest distance was "
        f"{summary['honest_largest_distance']:.1e}. Each was executed once on this machine's best kernels and once as "
        "named; where no release of torch is named, both runs are one build.",
        table(["model", "executed with", "segments", "largest distance"], _honest(summary)),
        "## Cheats",
        table(["kind", "audited", "missed", "median distance", "smallest distance"], _cheats(summary)),
        f"![Distances of honest and cheated segments]({distances})",
        _below(summary),
        "`copied-result` hands in another worker's trace, which an audit sees as the wrong shard. A first state that "
        "is not the one the inputs give, or a result that is not the last state's, is no matter of tolerance: the "
        "verifier recomputes both exactly, for every task.",
        "## What an audit costs",
        table(["", ""], _cost(summary)),
        "## Chance of detection",
        "A task of 64 segments of which a share is faked, 2 segments an audited task, drawn as the audit plan draws "
        "them; the formula is 1 - (C(N - F, m) / C(N, m))^audits. Simulated chances have the standard error given.",
        table(
            ["share faked", "audited tasks", "simulated", "standard error", "formula"],
            [
                [
                    f"{r['share']:.0%}",
                    f"{r['audits']:.0f}",
                    f"{r['simulated']:.3f}",
                    f"{r['error']:.3f}",
                    f"{r['formula']:.3f}",
                ]
                for r in summary["detection"]
            ],
        ),
        f"![Chance of detection by audited tasks, a curve for each share faked]({detection})",
    ]
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _honest(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [model, name, str(row["segments"]), f"{row['largest']:.1e}"]
        for model, figures in summary["models"].items()
        for name, row in figures["honest"].items()
    ]


def _cheats(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            kind,
            str(row["audited"]),
            str(row["missed"]),
            f"{row['median_distance']:.1e}",
            f"{row['smallest_distance']:.1e}",
        ]
        for kind, row in summary["cheats"].items()
    ]


def _below(summary: dict[str, Any]) -> str:
    below = {kind: row for kind, row in summary["cheats"].items() if row["smallest_distance"] <= summary["tolerance"]}
    missed = ", ".join(f"`{kind}` ({row['missed']} of {row['audited']} pass)" for kind, row in below.items())
    return f"Below the tolerance nothing is seen, and nothing is saved by staying there: {missed or 'none here'}."


def _cost(summary: dict[str, Any]) -> list[list[str]]:
    return [
        ["segments of the task (N), audited (m), auditors (k)", f"{summary['segments']:.0f}, 2, 3"],
        ["cost of auditing, of the task's own time", f"{summary['audit_cost_fraction']:.1%}"],
        ["plain 3-fold redundancy, of the task's own time", f"{summary['naive_redundancy_fraction']:.0%}"],
        ["seconds: the 3 auditors together", f"{summary['audit_cost_fraction'] * summary['task_seconds']:.1f}"],
        ["seconds: 3 whole executions", f"{summary['naive_redundancy_fraction'] * summary['task_seconds']:.1f}"],
        ["seconds: the task once, the plain loop once", "{task_seconds:.1f}, {plain_seconds:.1f}".format(**summary)],
        ["time over the same steps in a plain PEFT loop", f"{summary['protocol_overhead']:+.1%}"],
        ["bytes an auditor moves, state before included", f"{summary['audit_bytes']:,.0f}"],
        ["of these beyond the state before", f"{summary['audit_bytes_beyond_state']:,.0f}"],
        ["load average before and after", f"{summary['load_before']:.1f}, {summary['load_after']:.1f}"],
    ]


def distance_plot(summary: dict[str, Any]) -> str:
    """A range for each kind on a logarithmic axis, honest ones above, with the tolerance as a line."""
    rows: list[tuple[Row, str]] = []
    for model, figures in summary["models"].items():
        largest = max(row["largest"] for row in figures["honest"].values())
        rows.append(((f"honest, {model}", 1e-8, max(largest, 1e-8)), "#2a7"))
    rows += [((k, r["smallest_distance"], r["median_distance"]), "#c43") for k, r in summary["cheats"].items()]
    height = LINE * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for exponent in range(-8, 1, 2):
        at = _x(10.0**exponent)
        parts.append(f'<line x1="{at:.0f}" x2="{at:.0f}" y1="0" y2="{height - LINE}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.0f}" y="{height - 7}" text-anchor="middle" fill="#555">1e{exponent}</text>')
    for number, ((name, low, high), colour) in enumerate(rows):
        y = LINE * number + 6
        parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end" fill="#222">{name}</text>')
        width = max(4.0, _x(high) - _x(low))
        parts.append(
            f'<rect x="{_x(low):.0f}" y="{y}" width="{width:.0f}" height="{LINE - 10}" rx="3" fill="{colour}"/>'
        )
    at = _x(summary["tolerance"])
    parts.append(
        f'<line x1="{at:.0f}" x2="{at:.0f}" y1="0" y2="{height - LINE}" stroke="#000" stroke-dasharray="4 3"/>'
    )
    parts.append(f'<text x="{at + 5:.0f}" y="{height - LINE - 6}" fill="#000">tolerance</text></svg>')
    return "\n".join(parts) + "\n"


def detection_plot(detection: list[dict[str, float]]) -> str:
    """Chance of detection over audited tasks (logarithmic): the formula as lines, simulations as dots."""
    height, top, bottom = 300, 20, 40
    most = max(row["audits"] for row in detection)

    def at(audits: float, chance: float) -> tuple[float, float]:
        across = 60 + math.log2(audits) / math.log2(most) * (WIDTH - 200)
        return across, height - bottom - chance * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for chance in (0.0, 0.25, 0.5, 0.75, 1.0):
        (left, y), (right, _) = at(1, chance), at(most, chance)
        parts.append(f'<line x1="{left:.0f}" x2="{right:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8:.0f}" y="{y + 4:.0f}" text-anchor="end" fill="#555">{chance:.0%}</text>')
    for audits in sorted({row["audits"] for row in detection}):
        x, y = at(audits, 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle" fill="#555">{audits:.0f}</text>')
    parts.append(f'<text x="{WIDTH // 2 - 40}" y="{height - 6}" text-anchor="middle" fill="#222">audited tasks</text>')
    for share in sorted({row["share"] for row in detection}):
        rows = [row for row in detection if row["share"] == share]
        line = " ".join("{:.1f},{:.1f}".format(*at(row["audits"], row["formula"])) for row in rows)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#36c" stroke-width="1.5"/>')
        parts += [
            '<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="#c43"/>'.format(*at(row["audits"], row["simulated"]))
            for row in rows
        ]
        x, y = at(rows[0]["audits"], rows[0]["formula"])
        parts.append(f'<text x="{x + 10:.0f}" y="{y + 12:.0f}" fill="#222">{share:.0%} faked</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(value: float) -> float:
    exponent = math.log10(min(max(value, 1e-8), 2.0))
    return LEFT + (exponent + 8) / 8.5 * (WIDTH - LEFT - RIGHT)
