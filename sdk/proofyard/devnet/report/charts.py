"""The two drawings, as inline SVG: the loss curve and the timeline. Colours are CSS classes of the page."""

import math
from collections.abc import Callable, Sequence
from html import escape

from proofyard.devnet.report.data import LossPoint, Mark, Span

WIDTH = 920
LEFT = 74
RIGHT = 18
LANE = 30
MAX_COLOURS = 8
MEAN_OF = 16


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that divide [low, high] into about `count` parts, at steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def colour_of(node: str, nodes: Sequence[str]) -> str:
    """The CSS class of a node's colour; more than eight nodes share them."""
    return f"c{nodes.index(node) % MAX_COLOURS}"


def rolling_mean(losses: Sequence[LossPoint]) -> list[tuple[float, float]]:
    """(seconds, mean of the last `MEAN_OF` losses) in the order of time, whoever reported them; from the first full
    window on."""
    points = sorted(losses, key=lambda point: point.at)
    return [
        (points[end - 1].at, sum(point.loss for point in points[end - MEAN_OF : end]) / MEAN_OF)
        for end in range(MEAN_OF, len(points) + 1)
    ]


def loss_chart(
    losses: Sequence[LossPoint], nodes: Sequence[str], *, before: float, after: float, seconds: float
) -> str:
    """Training loss of every node over time; the held-out loss before and after as points on a dashed line."""
    height, top, bottom = 320, 16, 36
    values = [point.loss for point in losses] + [before, after]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.1
    low, high = low - pad, high + pad

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / max(seconds, 1e-9)

    def y(loss: float) -> float:
        return top + (height - top - bottom) * (high - loss) / (high - low)

    parts = [_frame(height, "Training loss of each node over time, and held-out loss before and after")]
    for value in ticks(low, high):
        parts.append(_line("grid", LEFT, y(value), WIDTH - RIGHT, y(value)))
        parts.append(_text("tick end", LEFT - 10, y(value) + 4, f"{value:.2f}"))
    parts += _time_axis(x, seconds, height - bottom, grid_top=top)
    for node in nodes:
        colour = colour_of(node, nodes)
        for task in dict.fromkeys(point.task for point in losses if point.node == node):
            points = [point for point in losses if point.node == node and point.task == task]
            path = " ".join(f"{x(p.at):.1f},{y(p.loss):.1f}" for p in points)
            parts.append(f'<polyline class="series {colour}" points="{path}"/>')
            parts += [
                f'<circle class="dot {colour}" cx="{x(p.at):.1f}" cy="{y(p.loss):.1f}" r="2.6">'
                f"<title>{escape(f'{p.node}, {p.task}: loss {p.loss:.3f} at {p.at:.0f} s')}</title></circle>"
                for p in points
            ]
    mean = " ".join(f"{x(at):.1f},{y(loss):.1f}" for at, loss in rolling_mean(losses))
    parts.append(f'<polyline class="mean" points="{mean}"/>')
    parts.append(_line("heldout", x(0), y(before), x(seconds), y(after)))
    for at, loss, anchor, shift in ((0.0, before, "start", 10), (seconds, after, "end", -10)):
        parts.append(f'<circle class="heldout-dot" cx="{x(at):.1f}" cy="{y(loss):.1f}" r="5"/>')
        parts.append(_text(f"label {anchor}", x(at) + shift, y(loss) - 9, f"held-out {loss:.3f}"))
    return "".join(parts) + "</svg>"


def timeline(spans: Sequence[Span], marks: Sequence[Mark], nodes: Sequence[str], *, seconds: float) -> str:
    """One lane a node with what it was busy with, and a lane of chain events below."""
    top = 8
    bottom_of_lanes = top + LANE * (len(nodes) + 1)
    height = bottom_of_lanes + 36

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / max(seconds, 1e-9)

    parts = [_frame(height, "Who trained and audited when")]
    parts += _time_axis(x, seconds, bottom_of_lanes, grid_top=top)
    for lane, name in enumerate((*nodes, "chain")):
        middle = top + LANE * lane + LANE / 2
        parts.append(_line("grid", LEFT, middle + LANE / 2, WIDTH - RIGHT, middle + LANE / 2))
        parts.append(_text("tick end", LEFT - 10, middle + 4, name))
        for span in (span for span in spans if span.node == name):
            left, wide = x(span.start), max(2.0, x(span.end) - x(span.start))
            told = f"{name}: {span.kind} {span.label}, {span.start:.0f} to {span.end:.0f} s, {span.outcome}"
            parts.append(
                f'<rect class="span {span.kind} {span.outcome}" x="{left:.1f}" y="{middle - 9:.1f}" '
                f'width="{wide:.1f}" height="18" rx="3"><title>{escape(told)}</title></rect>'
            )
    middle = top + LANE * len(nodes) + LANE / 2
    for mark in marks:
        parts.append(
            f'<g class="mark {escape(mark.kind)}"><circle cx="{x(mark.at):.1f}" cy="{middle:.1f}" r="5"/>'
            f"<title>{escape(f'{mark.text}, at {mark.at:.0f} s')}</title></g>"
        )
    return "".join(parts) + "</svg>"


def _frame(height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'


def _time_axis(x: Callable[[float], float], seconds: float, base: float, *, grid_top: float) -> list[str]:
    parts = [_line("axis", LEFT, base, WIDTH - RIGHT, base)]
    for value in ticks(0, seconds, 8):
        parts.append(_line("grid", x(value), grid_top, x(value), base))
        parts.append(_text("tick middle", x(value), base + 18, f"{value:g} s"))
    return parts


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
