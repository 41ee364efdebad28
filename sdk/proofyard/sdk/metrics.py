"""A job's steps as a table, and its losses as a picture. What its verifier heard from workers: nobody's proof."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.sdk.errors import PackageMissing

COLUMNS = ("seconds", "task", "node", "step", "loss")


async def all_lines(ask: Callable[[int], Awaitable[JobReport]], most: int) -> list[LogLine]:
    """The log of a job so far, its first `most` lines. A verifier that tells the same again is not heard out."""
    found: list[LogLine] = []
    while len(found) < most:
        seen = found[-1].seq if found else 0
        fresh = sorted((line for line in (await ask(seen)).log if line.seq > seen), key=lambda line: line.seq)
        if not fresh:
            break
        found += fresh
    return found[:most]


def rows_of(lines: Sequence[LogLine]) -> list[dict[str, Any]]:
    """One row a step, by `COLUMNS`; seconds count from the first line."""
    began = lines[0].at if lines else 0.0
    steps = (line for line in lines if line.kind == "progress")
    return [
        dict(zip(COLUMNS, (line.at - began, line.task, line.node, line.step, line.loss), strict=True)) for line in steps
    ]


def frame_of(lines: Sequence[LogLine]) -> Any:
    """The rows as a pandas DataFrame. Raises `PackageMissing`."""
    try:
        import pandas
    except ImportError:
        raise PackageMissing("metrics()", "pandas", "log() gives the lines without it") from None
    return pandas.DataFrame(rows_of(lines), columns=list(COLUMNS))


def figure_of(lines: Sequence[LogLine], title: str) -> Any:
    """The losses over time, a line for each task, as a matplotlib figure. Raises `PackageMissing`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise PackageMissing("plot()", "matplotlib", "metrics() gives the figures without it") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows_of(lines) if row["loss"] is not None]
    for task in sorted({row["task"] for row in rows}, key=lambda task: (task is None, task or 0)):
        own = [row for row in rows if row["task"] == task]
        axes.plot([row["seconds"] for row in own], [row["loss"] for row in own], label=f"task {task}", marker=".")
    axes.set(title=title, xlabel="seconds", ylabel="loss")
    if 0 < len(axes.lines) <= 12:
        axes.legend(fontsize="small")
    return figure
