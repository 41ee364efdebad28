"""The measured part of `docs/performance.md`: a table and two plots, from what `bench_verifier.py` found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path("docs/performance.md")
PLOTS = Path("docs/performance")
MARKER = "<!-- Written by `make bench-verifier`. -->"

FIGURES = (
    ("tasks_per_s", "tasks a second: scheduled, committed, audited (k = 2, every task) and settled", "150"),
    ("tasks_per_s_by_trust", "the same, audited by the dial of nodes that have been paid before", "400"),
    ("cost_growth", "verifier's CPU a task in `large` over that in `small`, a tenth of it", "1.2"),
    ("api_p95_ms", "95th percentile of the API with 50 clients meanwhile, ms", "50"),
    ("gas_per_task_100_jobs", "gas a task, 100 jobs of 10 tasks at once", "3,000"),
    ("idle_node_ms_s", "CPU of an idle node, ms a second", "0.1"),
    ("idle_node_rpc_s", "requests of an idle node to the chain, a second", "0"),
    ("memory_bytes_per_job", "memory that the verifier keeps of a small job, bytes", "none beyond the database"),
)
"""Key, meaning, and what it must reach."""
COSTS = (("verifier_ms", "verifier"), ("nodes_ms", "nodes"), ("chain_ms", "anvil"))
COLOURS = ("#1f6feb", "#2da44e", "#bf8700")
WIDTH, HEIGHT, BAR = 640, 36, 18


def write_page(results: dict[str, Any]) -> None:
    """The end of docs/performance.md, and its plots."""
    rows = [f"| {meaning} | {shown(results.get(key))} | {goal} |" for key, meaning, goal in FIGURES]
    parts = [
        MARKER,
        f"{results['nodes']} nodes. *Load* is the machine's average of the last minute before a job: what else ran "
        "there takes from the rate by the clock.\n",
        "| figure | measured | must reach |\n|---|---|---|\n" + "\n".join(rows),
        "\nCPU of a task, in ms:\n",
        costs(results),
        "\n![CPU of a task](performance/cpu.svg)\n",
        answers(results.get("large", {}).get("api", {})),
        "![Memory of the verifier](performance/memory.svg)",
    ]
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / "cpu.svg").write_text(bars(results))
    (PLOTS / "memory.svg").write_text(line(results.get("memory", {}).get("bytes", [])))
    PAGE.write_text(PAGE.read_text().split(MARKER)[0] + "\n".join(parts) + "\n")


def costs(results: dict[str, Any]) -> str:
    lines = ["| job | tasks | " + " | ".join(name for _, name in COSTS)]
    lines[0] += " | tasks a second | of CPU alone | audited | load |"
    lines.append("|---|---|" + "---|" * (len(COSTS) + 4))
    for name in ("small", "large", "trusted", "many"):
        run = results.get(name)
        if run:
            each = " | ".join(f"{run[key]:.1f}" for key, _ in COSTS)
            rates = f"{run['tasks_per_s']:.0f} | {run['cpu_bound_tasks_per_s']:.0f} | {run['audited_share']:.0%}"
            rates += f" | {run['load_before']:.1f}"
            lines.append(f"| {name} | {run['tasks']:,} | {each} | {rates} |")
    return "\n".join(lines)


def answers(api: dict[str, Any]) -> str:
    """How long the API took, page by page."""
    if not api:
        return ""
    head = f"Of {api['requests']:,} answers of the API during `large` half came within {api['p50_ms']:.0f} ms; "
    pages = ", ".join(f"`{route}` {each:.0f}" for route, each in api["p95_ms_of"].items())
    failed = "".join(f" ({count} of `{kind}`)" for kind, count in api["failures"].items())
    return head + f"{api['failed']} failed{failed}. 95th percentile by page, ms: {pages}.\n"


def bars(results: dict[str, Any]) -> str:
    """One bar for each run: the CPU of a task by process."""
    runs = [(name, results[name]) for name in ("small", "large", "trusted", "many") if name in results]
    most = max((sum(run[key] for key, _ in COSTS) for _, run in runs), default=1.0)
    parts = []
    for row, (name, run) in enumerate(runs):
        x, y = 90.0, row * HEIGHT + 10
        parts.append(f'<text x="0" y="{y + 14}">{name}</text>')
        for (key, label), colour in zip(COSTS, COLOURS, strict=True):
            width = run[key] / most * (WIDTH - 100)
            title = f"<title>{label}: {run[key]:.1f} ms</title>"
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}">{title}</rect>')
            x += width
    y = len(runs) * HEIGHT + 24
    for number, ((_, label), colour) in enumerate(zip(COSTS, COLOURS, strict=True)):
        x = 90 + 130 * number
        parts.append(f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{label}</text>')
    return svg(parts, y + 12)


def line(sizes: Sequence[int]) -> str:
    """Resident memory by job."""
    if len(sizes) < 2:
        return svg(['<text x="0" y="16">not measured</text>'], 24)
    low, high = min(sizes), max(sizes)
    spread = max(1, high - low)
    points = " ".join(
        f"{60 + number / (len(sizes) - 1) * (WIDTH - 70):.1f},{10 + 160 * (high - size) / spread:.1f}"
        for number, size in enumerate(sizes)
    )
    parts = [
        f'<polyline points="{points}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.5"/>',
        f'<text x="0" y="16">{high / 1e6:.0f} MB</text>',
        f'<text x="0" y="176">{low / 1e6:.0f} MB</text>',
        f'<text x="60" y="196">job 1</text><text x="{WIDTH - 60}" y="196">job {len(sizes)}</text>',
    ]
    return svg(parts, 204)


def svg(parts: Sequence[str], height: int) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    return head + ' font-size="13" fill="#57606a">\n' + "\n".join(parts) + "\n</svg>\n"


def shown(value: Any) -> str:
    if value is None:
        return "left out"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
