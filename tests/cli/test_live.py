import io
import re

import pytest
from msgspec.structs import replace
from rich.console import Console

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import Address, JobId, TaskIndex
from proofyard.sdk.following import Look
from proofyard.sdk.live import JobView
from proofyard.sdk.milestones import MOST_FAULTS, Milestones

NODE = Address("0x" + "a" * 40)


def line(at: float, kind: str, text: str = "", loss: float | None = None, step: int | None = None) -> LogLine:
    return LogLine(1, at, kind, text, TaskIndex(0), NODE, loss, step)


def shown(lines: list[LogLine], *, terminal: bool) -> str:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=120, no_color=True)
    with JobView({NODE: "node-1"}, console=console) as view:
        for entry in lines:
            view.show(look(entry))
    return sink.getvalue()


def look(*fresh: LogLine, state: str = "running", tasks: int = 8, valid: int = 0, reason: str = "") -> Look:
    return Look(JobReport(JobId(1), state, tasks, valid, 0, None, reason, ()), fresh)


def test_off_a_terminal_what_nobody_should_miss_is_one_plain_line_with_known_names() -> None:
    told = [line(1, "opened", "lora job"), line(2, "committed"), line(3, "fault", f"of {NODE}"), line(4, "done", "x")]
    text = shown(told, terminal=False)
    assert [each.split()[1] for each in text.splitlines()] == ["opened", "fault", "done"]
    assert "of node-1" in text
    assert "\x1b" not in text


def a_job(seconds: int, tasks: int) -> list[tuple[float, Look]]:
    """Each second's look at a job whose tasks are worked, and later accepted, at an even pace."""
    looks = [(0.0, look(line(0, "opened"), tasks=tasks))]
    done = 0
    for second in range(1, seconds):
        fresh = [line(second, "progress", loss=3.0, step=second), line(second, "assigned"), line(second, "sealed")]
        while done < tasks * second // seconds:
            fresh.append(replace(line(second, "committed"), task=TaskIndex(done)))
            done += 1
        looks.append((float(second), look(*fresh, tasks=tasks, valid=max(0, done - 2))))
    return [*looks, (float(seconds), look(line(seconds, "done"), state="done", tasks=tasks, valid=tasks))]


@pytest.mark.parametrize(("seconds", "tasks", "lines"), [(12, 8, 2), (120, 8, 10), (120, 500, 10), (36_000, 500, 22)])
def test_off_a_terminal_a_job_is_told_in_few_lines_with_its_share_and_what_is_left(
    seconds: int, tasks: int, lines: int
) -> None:
    now = [0.0]
    milestones, told = Milestones(lambda: now[0]), list[str | LogLine]()
    for now[0], each in a_job(seconds, tasks):
        told += milestones.of(each)
    assert len(told) <= lines
    sentences = [each for each in told if isinstance(each, str)]
    assert len(told) - len(sentences) == 2
    for sentence in sentences:
        assert re.match(r"\d+%: \d+ of \d+ tasks worked, \d+ accepted, loss 3.000, about .* left$", sentence)
    shares = [int(sentence.partition("%")[0]) for sentence in sentences]
    assert shares == sorted(set(shares))
    assert (len(shares) > 5) == (seconds > 60)


def test_off_a_terminal_what_a_job_waits_for_is_told_once() -> None:
    now = [0.0]
    milestones, told = Milestones(lambda: now[0]), list[str | LogLine]()
    for second in range(300):
        now[0] = float(second)
        told += milestones.of(look(reason="task 0 waits: no node is connected" if second < 200 else "another"))
    assert told == [
        "0%: 0 of 8 tasks worked, 0 accepted, task 0 waits: no node is connected",
        "0%: 0 of 8 tasks worked, 0 accepted, another",
    ]


def test_a_verifier_that_tells_of_faults_without_end_is_not_heard_out() -> None:
    milestones = Milestones(lambda: 0.0)
    story = [replace(line(n, "fault"), node=Address(f"0x{n:040x}")) for n in range(1000)]
    assert len(list(milestones.of(look(*story)))) == MOST_FAULTS


def test_on_a_terminal_the_panel_shows_who_does_what() -> None:
    text = shown([line(1, "assigned"), line(2, "progress", loss=3.25, step=4)], terminal=True)
    assert "working on task 0" in text
    assert "3.250" in text


def test_times_count_from_the_first_line_that_is_told() -> None:
    text = shown([line(1000.0, "opened"), line(1002.5, "done")], terminal=False)
    assert [each.split("s ")[0].strip() for each in text.splitlines()] == ["0.0", "2.5"]
