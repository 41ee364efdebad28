"""`proofyard node data`, as an operator types it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.cli import main
from proofyard.workloads.tiny import write_tiny_model

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    toml = tmp_path / "proofyard.toml"
    toml.write_text('[node]\ndata_dir = "home"\n')

    def call(*args: str) -> tuple[int, Any, str]:
        code = main(["--config", str(toml), "node", "data", *args, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    return call


def test_a_data_set_is_added_shown_and_removed(run: Run, tmp_path: Path) -> None:
    assert run("list")[:2] == (0, [])
    notes = tmp_path / "notes.csv"
    notes.write_text("text\nfirst\nsecond\n")
    code, added, said = run("add", "ward-3", str(notes))
    assert code == 0 and "local:ward-3" in said
    assert (added["schema"], added["lines"]) == ("text", "2")
    (shown,) = run("list")[1]
    file = Path(shown["file"])
    assert file.is_relative_to(tmp_path / "home" / "local")
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == ["first", "second"]
    assert shown["digest"] == cid_of_bytes(file.read_bytes()) == added["digest"]
    assert run("remove", "ward-3")[0] == 0
    assert not file.exists()
    code, _, said = run("remove", "ward-3")
    assert code == 2 and "no data set 'ward-3'" in said


def test_what_is_no_data_set_is_refused_and_nothing_kept(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"txt": 1}\n')
    for args, reason in (
        (("Ward 3", str(bad)), "NAME"),
        (("../out", str(bad)), "NAME"),
        (("ward", str(tmp_path / "none")), "is no file"),
        (("ward", str(bad)), "line 2"),
    ):
        code, _, said = run("add", *args)
        assert code == 2 and reason in said
    assert run("list")[1] == []


def test_conversations_are_rendered_with_the_jobs_model(run: Run, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "how?"}, {"role": "assistant", "content": "so."}]
    chats.write_text(json.dumps({"messages": turns}) + "\n")
    code, _, said = run("add", "talks", str(chats))
    assert code == 2 and "give --model" in said
    model = write_tiny_model(tmp_path / "model")
    code, added, _ = run(
        "add", "talks", str(chats), "--model", str(model), "--chat-template", "chatml", "--seq-len", "128"
    )
    assert (code, added["schema"]) == (0, "chat")
    assert "trained" in Path(run("list")[1][0]["file"]).read_text()
