"""What peers wrote goes before people as text, and never moves their cursor."""

import io
import logging

import pytest
from rich.console import Console

from proofyard.cli.logs import PlainFormatter
from proofyard.cli.output import emit, note, plain
from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId
from proofyard.sdk.following import Look
from proofyard.sdk.live import JobView

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08 \u202egnorw\u2066 \x00\ud800"


def is_plain(text: str) -> bool:
    return all(each.isprintable() or each in "\n\t" for each in text)


def test_terminal_commands_do_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    emit({}, as_json=False, text=f"{HOSTILE}\n\tnext")
    note(HOSTILE)
    shown = capsys.readouterr()
    assert is_plain(shown.out) and is_plain(shown.err)
    assert shown.out.endswith("\n\tnext\n")
    assert plain("Größe \N{SNOWMAN} 3 µs") == "Größe \N{SNOWMAN} 3 µs"


def test_a_log_message_is_one_line_whoever_wrote_it() -> None:
    forged = f"it failed\n2026-01-01T00:00:00Z INFO proofyard.node: all is well{HOSTILE}"
    record = logging.LogRecord("proofyard.node", logging.WARNING, "", 0, "it says %s", (forged,), None)
    line = PlainFormatter().format(record)
    assert is_plain(line)
    assert "\n" not in line


def test_a_jobs_log_shows_no_commands() -> None:
    out = io.StringIO()
    line = LogLine(seq=1, at=0.0, kind="failed", text=HOSTILE)
    with JobView({}, console=Console(file=out, width=200)) as view:
        view.show(Look(JobReport(JobId(1), "running", 1, 0, 0, None, "", ()), (line,)))
    assert is_plain(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
