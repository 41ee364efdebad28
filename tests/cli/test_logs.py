"""Logs: what a line is about is in it, in either form, and secrets never are."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofyard.cli import main
from proofyard.cli.logs import LogFormat, LogLevel, configure
from proofyard.runtime import secrets
from proofyard.runtime.about import being_about
from proofyard.runtime.secrets import hide, hide_in, without_secrets


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("proofyard")
    before = root.handlers, root.level, own.level
    monkeypatch.setattr(secrets, "_secrets", set())
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
        ("postgresql://u:p@pa55word@db/name", "pa55word", "db/name"),
        ("postgresql://u:pa55word/x@db/name", "pa55word/x", "db/name"),
        ("postgresql://u:pa55word%40x@db/name", "pa55word@x", "db/name"),
        ("postgresql://u:pa55word@[::1/name", "pa55word", "[::1/name"),
        ("postgresql://db/name?user=u&password=pa55word&sslmode=x", "pa55word", "db/name"),
        ("postgresql://db/name?password=pa55+word", "pa55 word", "db/name"),
        ("https://topsecrettoken@rpc.example.org", "topsecrettoken", "rpc.example.org"),
        ("https://:topsecret@rpc.example.org", "topsecret", "rpc.example.org"),
        ("https://rpc.example.org/?topsecret", "topsecret", "rpc.example.org"),
        ("https://rpc.example.org/?key=topsecret;x=1", "topsecret", "rpc.example.org"),
        ("https://rpc.example.org/#topsecret", "topsecret", "rpc.example.org"),
        ("https://rpc.example.org/abc123-key", "abc123-key", "rpc.example.org"),
        ("wss://rpc.example.org/ws/0123456789abcdef01234", "0123456789abcdef01234", "rpc.example.org"),
        ("HTTPS://user:pa55word@rpc.example.org", "pa55word", "rpc.example.org"),
        ("http://a.example, http://user:pa55word@b.example", "pa55word", "b.example"),
    ],
)
def test_what_gives_access_in_a_url_is_hidden(url: str, secret: str, stays: str) -> None:
    hide_in(url)
    said = without_secrets(f"no answer from {url} ({secret})")
    assert secret not in said and stays in said


@pytest.mark.parametrize(
    "url", ["postgresql://db/name?connect_timeout=5", "http://u:1@host", "http://host/v2", "http://host/?a=1&b="]
)
def test_what_is_short_does_not_spoil_every_line(url: str) -> None:
    hide_in(url)
    line = "job 15 of /v2 waits for 1 block"
    assert without_secrets(line) == line


def test_nothing_that_was_typed_or_set_comes_back_in_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, address = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318", "0x" + "1" * 40
    monkeypatch.setenv("PROOFYARD_API", "http://user:hunter22@127.0.0.1:1/")
    monkeypatch.setenv("PROOFYARD_KEYSTORE_DIR", str(tmp_path))
    monkeypatch.setenv("PROOFYARD_DEBUG", "1")
    rpc = ["--rpc-url", "http://user:hunter22@127.0.0.1:1/", "--registry", address]
    for call in (
        ["wallet", "import", "alice", "0x" + key],
        ["wallet", "import", "alice", key, "--password-file", "x"],
        ["wallet", "show", key],
        ["job", "close", "1", "--wallet", "0x" + key.upper(), *rpc],
        ["job", "explain", "1"],
        ["job", "show", "http://user:hunter22@127.0.0.1:1/"],
        ["wallet", "balance", address, *rpc],
        ["--config", "http://user:hunter22@host", "wallet", "balance", address],
        ["artifact", "get", "http://user:hunter22@host/x", "there"],
    ):
        assert main(call) != 0
        said = capsys.readouterr()
        for secret in (key, key.upper(), "hunter22"):
            assert secret not in said.err + said.out, call


def test_a_path_is_not_taken_for_a_key() -> None:
    hide_in("sqlite:////var/lib/proofyard-verifier-of-a-long-name/verifier.db")
    hide_in("http://127.0.0.1:8545")
    hide_in("http://[broken")
    assert secrets._secrets == set()


def test_the_log_goes_to_what_stderr_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, current = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", closed)
    configure(LogLevel.INFO)
    closed.close()
    monkeypatch.setattr("sys.stderr", current)
    logging.getLogger("proofyard.node").info("joined %s", "somebody")
    assert current.getvalue().endswith("INFO proofyard.node: joined somebody\n")
