"""The part of `docs/performance.md` that `bench_pipeline.py` writes: figures, where the time goes, and each worker's
time line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_pipeline_timeline import Span, window

PAGE = Path("docs/performance.md")
PLOTS = Path("docs/performance")
BEGIN = "<!-- Begin: written by `make bench-pipeline`. -->"
END = "<!-- End: written by `make bench-pipeline`. -->"

FIGURES = (
    ("compute_share_12s", "share of the time between first and last step in which workers train, 12 s blocks", "0.90"),
    ("overhead_vs_unverified", "time of the job over that of the same run without verification, 2 s blocks", "1.10"),
    ("overhead_without_audit_compute", "the same without the CPU of audits", "1.03"),
    ("time_to_final", "from the last step until all verdicts are settled, s, 2 s blocks", "12"),
    ("cpu_vs_unverified", "CPU of everything over that of the same run without verification", ""),
    ("cpu_without_audits_vs_unverified", "the same without audits", ""),
    ("redo_share", "done again for one cheat, beside its own task, over the look-ahead", "1"),
    ("gas_per_task_demo", "gas of the demo's batches by its tasks", "60,000"),
)
"""Key, meaning, and what it must reach."""
RUNS = (
    ("plain", "without verification"),
    ("fast_known", "2 s blocks"),
    ("fast", "2 s blocks, new nodes"),
    ("slow", "12 s blocks"),
)
COLOURS = {"train": "#2da44e", "audit": "#bf8700", "task": "#d0d7de", "segment": "#eac54f"}
LABELS = {"train": "training", "task": "rest of a task", "audit": "auditing", "segment": "rest of an audit"}
WIDTH, LEFT, ROW, BAR = 900, 70, 26, 16


def write_page(results: Mapping[str, Any], spans: Mapping[str, Sequence[Span]]) -> None:
    """Figures, tables and plots between the two marks of docs/performance.md."""
    plain = results.get("plain", {}).get("compute_share")
    parts = [
        BEGIN,
        _figures(results),
        "",
        _runs(results),
        "",
        "Parts of the workers' time between the first and the last step"
        + (f" (without verification they train for {plain:.1%} of it):\n" if plain else ":\n"),
        _shares(results),
    ]
    PLOTS.mkdir(exist_ok=True)
    for name, title in RUNS:
        if name in spans:
            (PLOTS / f"pipeline_{name}.svg").write_text(time_line(spans[name]))
        if (PLOTS / f"pipeline_{name}.svg").exists():
            parts.append(f"\n![Time line of the workers, {title}](performance/pipeline_{name}.svg)")
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + "\n".join(parts) + "\n" + END + after)


def _figures(results: Mapping[str, Any]) -> str:
    rows = [f"| {meaning} | {_shown(results.get(key))} | {goal} |" for key, meaning, goal in FIGURES]
    return "| figure | measured | must reach |\n|---|---|---|\n" + "\n".join(rows)


def _runs(results: Mapping[str, Any]) -> str:
    lines = ["| run | s | from first to last step | a step | CPU, s | audited segments | batches | load before |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, title in RUNS:
        if run := results.get(name):
            cpu = run["cpu_seconds"]
            shown = (
                f"{run['seconds']:.0f}",
                f"{run['training_seconds']:.0f}",
                f"{run['step_seconds']:.2f}",
                f"{cpu if isinstance(cpu, float) else sum(cpu.values()):.0f}",
                str(run.get("audited_segments", "")),
                str(run.get("batches", "")),
                f"{run['load_before']:.0f}",
            )
            lines.append(f"| {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shares(results: Mapping[str, Any]) -> str:
    runs = [(title, results[name]["shares"]) for name, title in RUNS if "shares" in results.get(name, {})]
    lines = ["| | " + " | ".join(title for title, _ in runs) + " |", "|---|" + "---|" * len(runs)]
    for part in dict.fromkeys(part for _, shares in runs for part in shares):
        cells = (f"{shares.get(part, 0):.1%}" for _, shares in runs)
        lines.append(f"| {part.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def time_line(spans: Sequence[Span]) -> str:
    """One row for each worker; white is waiting."""
    start = min(span.start for span in spans)
    end = max(max(span.end for span in spans), window(spans)[1])
    workers = sorted({span.worker for span in spans})

    def x(at: float) -> float:
        return LEFT + (at - start) / (end - start) * (WIDTH - LEFT - 10)

    parts = []
    for row, worker in enumerate(workers):
        y = 8 + row * ROW
        parts.append(f'<text x="0" y="{y + 13}">{worker}</text>')
        for kind in ("task", "segment", "train", "audit"):
            for span in (span for span in spans if span.worker == worker and span.what == kind):
                width = max(0.3, x(span.end) - x(span.start))
                title = f"<title>{LABELS[kind]}, task {span.task}: {span.seconds:.2f} s</title>"
                parts.append(
                    f'<rect x="{x(span.start):.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[kind]}">'
                    f"{title}</rect>"
                )
    y = 8 + len(workers) * ROW
    parts.append(f'<text x="{LEFT}" y="{y + 12}">0 s</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{y + 12}" text-anchor="end">{end - start:.0f} s</text>')
    for number, (kind, label) in enumerate(LABELS.items()):
        at = LEFT + 90 + 160 * number
        parts.append(f'<rect x="{at}" y="{y + 2}" width="12" height="12" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{at + 18}" y="{y + 12}">{label}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 22}" font-family="sans-serif"'
    return head + ' font-size="13" fill="#57606a">\n' + "\n".join(parts) + "\n</svg>\n"


def _shown(value: Any) -> str:
    if value is None:
        return "left out"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
