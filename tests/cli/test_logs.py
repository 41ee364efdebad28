"""Logs: what a line is about is in it, in either form, and secrets never are."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from proofyard.cli import logs
from proofyard.cli.logs import LogFormat, LogLevel, configure, hide, hide_in, without_secrets
from proofyard.runtime.about import being_about


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("proofyard")
    before = root.handlers, root.level, own.level
    monkeypatch.setattr(logs, "_secrets", set())
    yield
    root.handlers, root.level, own.level = before[0], before[1], before[2]


def logged(form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure(LogLevel.INFO, form)
    with being_about(job=3, peer="0xab", task=None):
        logging.getLogger("proofyard.verifier.runner").info("a line\nof two", extra={"batch": 5})
    try:
        raise ValueError("it broke")
    except ValueError:
        logging.getLogger("proofyard.node").exception("an error with hunter22")
    return stream.getvalue()


def test_a_json_line_has_its_subject_as_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in logged(LogFormat.JSON, monkeypatch).splitlines()]
    assert len(lines) == 2
    assert {key: lines[0][key] for key in ("level", "logger", "message", "job", "batch", "peer")} == {
        "level": "info",
        "logger": "proofyard.verifier.runner",
        "message": "a line\nof two",
        "job": "3",
        "batch": "5",
        "peer": "0xab",
    }
    assert "task" not in lines[0] and lines[0]["time"].endswith("Z")
    assert "job" not in lines[1] and "it broke" in lines[1]["error"]


def test_a_text_line_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    first = logged(LogFormat.TEXT, monkeypatch).splitlines()[0]
    text = "a line\N{REPLACEMENT CHARACTER}of two"
    assert first.endswith(f"Z INFO proofyard.verifier.runner job=3 batch=5 peer=0xab: {text}")


@pytest.mark.parametrize("form", list(LogFormat))
def test_secrets_are_in_no_line(form: LogFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    hide("hunter22")
    assert "hunter22" not in logged(form, monkeypatch)


@pytest.mark.parametrize(
    ("url", "secret", "stays"),
    [
        ("https://user:pa55word@rpc.example.org", "pa55word", "rpc.example.org"),
        ("https://rpc.example.org/v3/0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef", "/v3/"),
        ("https://rpc.example.org/?apikey=topsecret", "topsecret", "apikey"),
        ("postgresql+psycopg://proofyard:pa55word@db/proofyard", "pa55word", "proofyard"),
    ],
)
def test_what_gives_access_in_a_url_is_hidden(url: str, secret: str, stays: str) -> None:
    hide_in(url)
    said = without_secrets(f"no answer from {url}")
    assert secret not in said and stays in said


def test_a_path_is_not_taken_for_a_key() -> None:
    hide_in("sqlite:////var/lib/proofyard-verifier-of-a-long-name/verifier.db")
    hide_in("http://127.0.0.1:8545")
    hide_in("http://[broken")
    assert logs._secrets == set()


def test_the_log_goes_to_what_stderr_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, current = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", closed)
    configure(LogLevel.INFO)
    closed.close()
    monkeypatch.setattr("sys.stderr", current)
    logging.getLogger("proofyard.node").info("joined %s", "somebody")
    assert current.getvalue().endswith("INFO proofyard.node: joined somebody\n")
