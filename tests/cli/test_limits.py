"""Commands to a node on this machine, as a person types them; the node itself is tried in tests/node."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proofyard.cli import main
from proofyard.node import control

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "data").mkdir()
    toml = tmp_path / "proofyard.toml"
    toml.write_text('[node]\ndata_dir = "data"\nhours = "9-17"\n')

    def call(*args: str) -> tuple[int, Any, str]:
        code = main(["--config", str(toml), "node", *args, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    return call


def test_limits_are_shown_changed_and_taken_back(run: Run, tmp_path: Path) -> None:
    assert run("limits")[1]["limits"]["hours"] == "9-17"
    code, shown, said = run("limits", "--hours", "22-6", "--idle-only", "--max-celsius", "75")
    assert code == 0 and "no node runs here now" in said
    assert shown["commanded"] == ["hours", "idle_only", "max_celsius"]
    assert (shown["limits"]["hours"], shown["limits"]["idle_only"], shown["limits"]["max_celsius"]) == (
        "22-6",
        True,
        75,
    )
    assert control.read_orders(tmp_path / "data").limits == {"hours": "22-6", "idle_only": True, "max_celsius": 75}
    control.write_status(tmp_path / "data", control.Status(pid=7, at=time.time()))
    code, shown, said = run("limits", "--reset")
    assert code == 0 and shown["limits"]["hours"] == "9-17" and "process 7" in said


def test_a_node_is_paused_for_a_time_or_until_resumed(run: Run, tmp_path: Path) -> None:
    assert (
        run("pause")[1]["limits"]["paused_until"] == control.read_orders(tmp_path / "data").limits["paused_until"] == -1
    )
    before = time.time()
    _, shown, _ = run("pause", "--for", "90", "--now")
    assert before + 5400 <= shown["limits"]["paused_until"] <= time.time() + 5400
    assert control.read_orders(tmp_path / "data").hand_back
    _, shown, _ = run("resume")
    assert shown["limits"]["paused_until"] == 0 and not control.read_orders(tmp_path / "data").hand_back


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("limits", "--hours", "25-3"), "--hours"),
        (("limits", "--cheap-hours", "x"), "--cheap-hours"),
        (("limits", "--max-celsius", "999"), "--max-celsius"),
        (("limits", "--max-upload", "-1"), "--max-upload"),
        (("limits", "--reset", "--hours", "1-2"), "give it alone"),
        (("limits", "--data-dir", "/nowhere/at/all", "--hours", "1-2"), "proofyard node init"),
        (("pause", "--for", "0"), "--for"),
    ],
)
def test_what_is_no_limit_is_refused_by_its_name_and_changes_nothing(
    run: Run, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    code, shown, said = run(*args)
    assert code == 2 and shown is None and says in said
    assert not (tmp_path / "data" / control.LIMITS).exists()
