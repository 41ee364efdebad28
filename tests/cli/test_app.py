import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from proofyard.cli import main
from proofyard.cli.app import app
from proofyard.cli.options import parse_address
from proofyard.cli.tree import Later
from proofyard.protocol.types import ProofyardError


def test_version_is_data_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["version"]
    assert printed.err == ""


@pytest.mark.parametrize("args", [["nonsense"], ["version", "--nonsense"], ["--log-level", "loud", "version"]])
def test_a_wrong_call_is_one_line_and_exit_code_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--config", "--log-level"])
def test_an_option_that_comes_too_late_is_said_to_go_before_the_command(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["version", option, "x"]) == 2
    assert "it goes before the command" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a", "0x12", "0x" + "g" * 40, "0xB175D682578F2f5e58C154C99e4C8DDF0DA7EEE2", "1" * 42])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no address.*copy it from"):
        parse_address(text)


def test_addresses_are_taken_in_any_case() -> None:
    address = "0xb175D682578F2f5e58c154C99e4C8DDF0DA7EEE2"
    assert {parse_address(text) for text in (address, address.lower(), "0x" + address[2:].upper())} == {address}


def test_an_interrupted_command_says_that_the_job_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proofyard.cli.output.emit", interrupted)
    assert main(["version"]) == 130
    assert "a job goes on" in capsys.readouterr().err


class Unmatched(ProofyardError):
    exit_code = 4


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (Unmatched("the proof does not match; run it again"), 4, "error: the proof does not match; run it again\n"),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x'; run it again with PROOFYARD_DEBUG=1"),
        (KeyboardInterrupt(), 130, "interrupted; what was sent before stays"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied; check the path"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "error: /x: No such file; check the path; make the folder"),
        (
            NotADirectoryError(20, "Not a directory"),
            1,
            "error: Not a directory; check the path: something else is there",
        ),
        (OSError(30, "Read-only file system"), 1, "error: Read-only file system; check the path and who may use it"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device; check the path"),
    ],
)
def test_every_error_becomes_one_line_and_its_exit_code(
    raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("typer.main.Typer.__call__", fail)
    assert main(["version"]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(said)
    assert "Traceback" not in printed.err


def test_the_traceback_is_there_on_demand() -> None:
    env = {**os.environ, "PROOFYARD_DEBUG": "1", "PROOFYARD_CONFIG": "/nowhere/proofyard.toml"}
    command = [sys.executable, "-m", "proofyard.cli", "node", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.endswith(
        "no settings file /nowhere/proofyard.toml; give --config, or PROOFYARD_CONFIG, the path of one\n"
    )


def test_the_page_about_the_command_line_names_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    tree: Any = typer.main.get_command(app)
    loaded = {name: each.load() if isinstance(each, Later) else each for name, each in tree.commands.items()}
    groups = {name: group for name, group in loaded.items() if hasattr(group, "commands")}
    groups["verifier dispute"] = groups["verifier"].commands["dispute"]
    for name, group in groups.items():
        rows = [line for line in page.splitlines() if f"`proofyard {name} " in line]
        named = set(re.findall(r"[a-z]+", " ".join(rows)))
        assert {command for command in group.commands if command != "dispute"} <= named, name


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_lead_nowhere(tmp_path: Path, closed: str) -> None:
    """The next file that is opened would have their number."""
    (tmp_path / "text.txt").write_text("kept")
    code = """
import os, sys
from proofyard.cli import app
app.main(["--version"])
numbers = [os.open("text.txt", os.O_RDWR) for _ in range(3)]
print("into nothing")
print("into nothing", file=sys.stderr)
os.system("echo 'a child, too'; echo 'a child, too' >&2")
sys.stdin.isatty()
sys.exit(min(numbers))
"""
    shell = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert done.returncode > 2, done.stderr
    assert (tmp_path / "text.txt").read_text() == "kept"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_of_another_encoding_gets_escapes(encoding: str, tmp_path: Path) -> None:
    """What was done is said, whatever a file is called: an error here would come after the work."""
    (tmp_path / "\N{CJK UNIFIED IDEOGRAPH-65E5}.txt").write_text("x")
    environ = os.environ | {"PYTHONIOENCODING": encoding, "PROOFYARD_ARTIFACT_STORE": str(tmp_path / "store")}
    said = ""
    for args in (["put", str(next(tmp_path.iterdir()))], ["ls"]):
        command = [sys.executable, "-m", "proofyard.cli", "artifact", *args]
        done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
        assert (done.returncode, b"unexpected" in done.stderr) == (0, False), done.stderr
        said = done.stdout.decode(encoding)
    assert ("\N{CJK UNIFIED IDEOGRAPH-65E5}.txt" if encoding == "utf-8" else "\\u65e5.txt") in said


def test_a_question_to_nobody_is_one_line(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m proofyard.cli wallet new home <&-"
    environ = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the wallet home needs a new password and there is no terminal to ask on;")
