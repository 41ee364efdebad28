import io

from rich.console import Console

from proofyard.protocol.messages import LogLine
from proofyard.protocol.types import Address, TaskIndex
from proofyard.sdk.live import JobView

NODE = Address("0x" + "a" * 40)


def line(at: float, kind: str, text: str = "", loss: float | None = None, step: int | None = None) -> LogLine:
    return LogLine(1, at, kind, text, TaskIndex(0), NODE, loss, step)


def shown(lines: list[LogLine], *, terminal: bool) -> str:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=120, no_color=True)
    with JobView({NODE: "node-1"}, console=console) as view:
        for entry in lines:
            view.show(entry)
    return sink.getvalue()


def test_off_a_terminal_every_event_is_one_plain_line_with_known_names() -> None:
    text = shown([line(1, "assigned", f"task 0 to {NODE}"), line(2, "committed", "done")], terminal=False)
    assert len(text.splitlines()) == 2
    assert "task 0 to node-1" in text
    assert "\x1b" not in text


def test_off_a_terminal_steps_are_told_now_and_then() -> None:
    text = shown([line(1000.0 + i, "progress", loss=3.0, step=i) for i in range(25)], terminal=False)
    assert len(text.splitlines()) == 3


def test_on_a_terminal_the_panel_shows_who_does_what() -> None:
    text = shown([line(1, "assigned"), line(2, "progress", loss=3.25, step=4)], terminal=True)
    assert "working on task 0" in text
    assert "3.250" in text


def test_times_count_from_the_first_line_that_is_told() -> None:
    text = shown([line(1000.0, "opened"), line(1002.5, "assigned")], terminal=False)
    assert [each.split("s ")[0].strip() for each in text.splitlines()] == ["0.0", "2.5"]
