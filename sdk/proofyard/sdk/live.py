"""A job as it goes: a panel that redraws itself on a terminal, plain lines anywhere else. Always on stderr."""

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
from proofyard.runtime.plain import plain

STEP_LINES_EVERY_S = 10.0
"""Off a terminal, training steps of one node are told at most this often."""

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
    """Shows a job's log lines. `names` gives addresses the names that people know; others are shortened."""

    def __init__(self, names: Mapping[Address, str], *, title: str = "job", console: Console | None = None) -> None:
        self._names = dict(names)
        self._title = title
        self._console = console or Console(stderr=True)
        self._nodes: dict[str, NodeState] = {name: NodeState() for name in names.values()}
        self._recent: deque[Text] = deque(maxlen=8)
        self._told: dict[str, float] = {}
        self._started = time.time()
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

    def show(self, line: LogLine) -> None:
        """Take one log line; safe to call from any thread, in the order of `seq`. Times count from the first one, or
        from when this began."""
        self._started = min(self._started, line.at)
        name = self.name_of(line.node) if line.node else ""
        if name:
            self._nodes[name] = _advance(self._nodes.get(name, NodeState()), line)
        if line.kind == "progress":
            if not self._live and line.at - self._told.get(name, 0.0) >= STEP_LINES_EVERY_S:
                self._told[name] = line.at
                self._print(line)
        elif self._live:
            self._recent.append(self._format(line))
        else:
            self._print(line)

    def name_of(self, node: Address) -> str:
        return self._names.get(node, f"{node[:8]}…{node[-4:]}")

    def _print(self, line: LogLine) -> None:
        self._console.print(self._format(line), soft_wrap=True, highlight=False)

    def _format(self, line: LogLine) -> Text:
        text = f"step {line.step}, loss {line.loss:.3f}" if line.loss is not None else line.text
        for address, name in self._names.items():
            text = text.replace(address, name)
        who = self.name_of(line.node) if line.node else ""
        return Text.assemble(
            (f"{line.at - self._started:6.1f}s ", "dim"),
            (f"{plain(line.kind, keep=''):<15}", _STYLES.get(line.kind, "cyan")),
            f"{plain(who, keep=''):<13} {plain(text, keep='')}",
        )

    def _render(self) -> Group:
        table = Table(title=f"{self._title}, {time.time() - self._started:.0f} s", title_justify="left", expand=False)
        for column in ("node", "doing", "step", "loss", "audits done", "valid", "faults"):
            table.add_column(column, justify="left" if column in ("node", "doing") else "right")
        for name, state in self._nodes.items():
            table.add_row(
                name,
                state.doing,
                "" if state.step is None else str(state.step),
                "" if state.loss is None else f"{state.loss:.3f}",
                str(state.audits),
                str(state.valid),
                Text(str(state.faults), style="bold red" if state.faults else ""),
            )
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
