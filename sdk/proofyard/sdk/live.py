"""A job as it goes, on stderr: a panel that redraws itself on a terminal, a few plain lines (`milestones`) off it."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proofyard.protocol.messages import LogLine
from proofyard.protocol.types import Address
from proofyard.runtime.fitting import fitted, width_of
from proofyard.runtime.plain import plain
from proofyard.sdk.following import Look
from proofyard.sdk.milestones import Milestones

COLUMNS = ("node", "doing", "step", "loss", "audits done", "valid", "faults")
LESS, WIDE = ("step", "audits done", "valid"), 80
"""What a terminal of fewer columns leaves out."""

_STYLES = {
    "fault": "bold red",
    "slashed": "bold red",
    "audit-mismatch": "red",
    "lost": "yellow",
    "failed": "red",
    "settled": "green",
    "valid": "green",
    "audit-match": "green",
    "done": "bold green",
}


@dataclass(frozen=True)
class NodeState:
    """What a node was last heard to do."""

    doing: str = "idle"
    step: int | None = None
    loss: float | None = None
    audits: int = 0
    valid: int = 0
    faults: int = 0


class JobView:
    """Shows each look at a job. `names` gives addresses the names that people know; others are shortened."""

    def __init__(self, names: Mapping[Address, str], *, title: str = "job", console: Console | None = None) -> None:
        self._names = dict(names)
        self._title = title
        self._console = console or Console(stderr=True)
        self._nodes: dict[str, NodeState] = {name: NodeState() for name in names.values()}
        self._recent: deque[Text] = deque(maxlen=8)
        self._milestones = Milestones()
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self._live: Live | None = None

    def __enter__(self) -> "JobView":
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, look: Look) -> None:
        """Take the next look, in their order; safe to call from any thread. Times count from its first line, by the
        verifier's clock."""
        for line in look.fresh:
            self._first = line.at if self._first is None else self._first
            self._last = max(self._last, line.at - self._first)
            if line.node:
                name = self.name_of(line.node)
                self._nodes[name] = _advance(self._nodes.get(name, NodeState()), line)
            if line.kind != "progress" and self._live:
                self._recent.append(self._format(line))
        for told in () if self._live else self._milestones.of(look):
            text = self._format(told) if isinstance(told, LogLine) else self._entry(self._last, "running", told)
            shown = fitted(text.plain.rstrip(), width_of(sys.stderr))
            self._console.print(Text(shown), soft_wrap=True, highlight=False)

    def name_of(self, node: Address) -> str:
        return self._names.get(node, f"{node[:8]}…{node[-4:]}")

    def _format(self, line: LogLine) -> Text:
        text = f"step {line.step}, loss {line.loss:.3f}" if line.loss is not None else line.text
        for address, name in self._names.items():
            text = text.replace(address, name)
        who = self.name_of(line.node) if line.node else ""
        return self._entry(line.at - (self._first or line.at), line.kind, f"{plain(who, keep=''):<13} {text}")

    def _entry(self, seconds: float, kind: str, text: str) -> Text:
        return Text.assemble(
            (f"{seconds:6.1f}s ", "dim"),
            (f"{plain(kind, keep=''):<15}", _STYLES.get(kind, "cyan")),
            plain(text, keep=""),
        )

    def _render(self) -> Group:
        table = Table(
            title=f"{self._title}, {max(self._last, time.monotonic() - self._began):.0f} s",
            title_justify="left",
            expand=False,
        )
        left_out = LESS if self._console.width < WIDE else ()
        for column in COLUMNS:
            if column not in left_out:
                table.add_column(column, justify="left" if column in ("node", "doing") else "right", no_wrap=True)
        for name, state in self._nodes.items():
            cells: tuple[str | Text, ...] = (
                name,
                state.doing,
                "" if state.step is None else str(state.step),
                "" if state.loss is None else f"{state.loss:.3f}",
                str(state.audits),
                str(state.valid),
                Text(str(state.faults), style="bold red" if state.faults else ""),
            )
            table.add_row(*(cell for column, cell in zip(COLUMNS, cells, strict=True) if column not in left_out))
        return Group(table, *self._recent)


def _advance(state: NodeState, line: LogLine) -> NodeState:
    match line.kind:
        case "assigned":
            return replace(state, doing=f"working on task {line.task}", step=None)
        case "progress":
            return replace(state, step=line.step, loss=line.loss if line.loss is not None else state.loss)
        case "committed":
            return replace(state, doing=f"committed task {line.task}", step=None)
        case "audit-assigned":
            return replace(state, doing=f"auditing task {line.task}", step=None)
        case "sealed":
            return replace(state, doing="idle", audits=state.audits + 1)
        case "valid":
            return replace(state, valid=state.valid + 1)
        case "fault":
            return replace(state, faults=state.faults + 1)
        case "lost" | "failed":
            return replace(state, doing="silent" if line.kind == "lost" else "idle", step=None)
        case "slashed":
            return replace(state, doing="slashed")
    return state
