"""`proofyard job explain`: what a verifier says is printed with what shows it, whatever it says."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proofyard.cli import main

SAID = {
    "job": "1",
    "task": 3,
    "state": "accepted",
    "because": [
        {
            "about": "paid",
            "text": "operator 4 earned 2 CREDIT for work and 0 CREDIT for audits in batch 5",
            "task": 3,
            "node": "0xAb",
            "facts": {"work": "2000000000000000000"},
            "shown": {"batch": "5", "record": "bafyrecord", "replay": "proofyard verifier dispute replay 5"},
        },
        {
            "about": "given",
            "text": "attempt 1 went to 0xAb \x1b[2J",
            "task": 3,
            "node": "0xAb",
            "facts": {},
            "shown": {"batch": None, "record": None, "replay": ""},
        },
        {
            "about": "node",
            "text": "it is busy",
            "task": 3,
            "node": "0x" + "Cd" * 20,
            "facts": {},
            "shown": {"batch": None, "record": None, "replay": ""},
        },
    ],
    "cut": False,
}


@pytest.fixture
def verifier() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """An API that answers what a test puts into it, by path."""
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b'{"error": "not-found", "reason": "there is no such thing"}'))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()
    thread.join()


def test_each_statement_is_printed_with_what_shows_it(
    verifier: tuple[str, dict[str, tuple[int, bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, answers = verifier
    answers["/v1/jobs/1/tasks/3/explain"] = (200, json.dumps(SAID).encode())
    assert main(["job", "explain", "1", "3", "--api", url]) == 0
    said = capsys.readouterr()
    assert said.out.index("who had it") < said.out.index("who was paid what") < said.out.index("why nodes get no work")
    assert "shown by batch 5, record bafyrecord" in said.out
    assert "\x1b" not in said.out
    assert "proofyard verifier dispute replay 5" in said.err


def test_as_json_it_is_what_the_verifier_says_of_the_node(
    verifier: tuple[str, dict[str, tuple[int, bytes]]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, answers = verifier
    answers["/v1/jobs/1/explain"] = (200, json.dumps(SAID).encode())
    assert main(["job", "explain", "1", "--api", url, "--node", "0x" + "cd" * 20, "--json"]) == 0
    assert [each["text"] for each in json.loads(capsys.readouterr().out)["because"]] == ["it is busy"]


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (404, b'{"error": "not-found", "reason": "there is no such thing here"}', 2, "knows no job"),
        (500, b"<html>", 1, "gives no reason"),
        (200, b"[]", 1, "is no explanation"),
        (200, b'{"job": 1}', 1, "is no explanation"),
    ],
)
def test_what_is_no_explanation_is_an_error(
    verifier: tuple[str, dict[str, tuple[int, bytes]]],
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    code: int,
    says: str,
) -> None:
    url, answers = verifier
    answers["/v1/jobs/1/explain"] = (status, body)
    assert main(["job", "explain", "1", "--api", url]) == code
    assert says in capsys.readouterr().err


def test_the_settings_name_the_verifier_that_is_asked(
    verifier: tuple[str, dict[str, tuple[int, bytes]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = verifier
    answers["/v1/jobs/1/explain"] = (200, json.dumps(SAID).encode())
    toml = tmp_path / "proofyard.toml"
    toml.write_text(f'[requester]\nwallet = "w.json"\napi = "{url}"\n')
    assert main(["--config", str(toml), "job", "explain", "1"]) == 0
    monkeypatch.setenv("PROOFYARD_API", "http://127.0.0.1:1")
    assert main(["--config", str(toml), "job", "explain", "1"]) == 3
    assert main(["--config", str(toml), "job", "explain", "1", "--api", url]) == 0


def test_nobody_there_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "explain", "1", "--api", "http://127.0.0.1:1"]) == 3
    assert "--api" in capsys.readouterr().err
