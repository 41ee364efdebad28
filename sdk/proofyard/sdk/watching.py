"""A job that is watched: a panel on a terminal, plain lines off it (`live`), in a notebook a table that changes."""

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from proofyard.protocol.types import JobId, ProofyardError
from proofyard.sdk.events import Journal, Standing
from proofyard.sdk.following import Look

if TYPE_CHECKING:
    from proofyard.sdk.handles import JobHandle

Show = Callable[[Look], object]
NEWEST = 5
"""Lines of the log below a notebook's bar."""


@contextmanager
def shown(job: JobId) -> Iterator[Show]:
    """Somebody to show each look at a job to, in order, wherever people are."""
    if in_notebook():
        yield _Cell(job).show
        return
    from proofyard.sdk.live import JobView

    with JobView({}, title=f"job {job}") as view:
        yield view.show


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, which shows HTML."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return shell is not None and hasattr(shell, "kernel")


class _Cell:
    """A notebook's output of one job: one display, that is replaced with each look."""

    def __init__(self, job: JobId) -> None:
        self._job = job
        self._journal = Journal()
        self._newest: list[str] = []
        self._display: Any = None

    def show(self, look: Look) -> None:
        for line in look.fresh:
            self._newest.append(self._journal.take(look.report, line).kind + " " + line.text)
        self._newest = self._newest[-NEWEST:]
        made = _Html(bar_of(self._job, self._journal.standing(look.report)) + _list_of(self._newest))
        if self._display is None:
            from IPython.display import display

            self._display = display(made, display_id=True)
        else:
            self._display.update(made)


class _Html:
    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text


def bar_of(job: JobId, standing: Standing) -> str:
    """How far a job is, as HTML. What a verifier says of it is escaped."""
    left = "" if not standing.left_s else f", about {standing.left_s:.0f} s left"
    text = (
        f"job {job}: {standing.state}, {standing.worked} of {standing.tasks} tasks worked, {standing.valid} accepted, "
        f"{standing.seconds:.0f} s{left}"
    )
    return f'<div><progress max="1" value="{standing.fraction:.3f}"></progress> {html.escape(text)}</div>'


def html_of(handle: "JobHandle") -> str:
    """A handle in a notebook: how its job is doing now, or why that is not known."""
    try:
        return bar_of(handle.job_id, Journal().standing(handle.status()))
    except ProofyardError as error:
        return f"<div>job {handle.job_id}: {html.escape(str(error))}</div>"


def _list_of(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
