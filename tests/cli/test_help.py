"""What the command line says of itself: short, with examples that work, and without loading what it does not need."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from proofyard.cli import main
from proofyard.cli.app import COMPLETE, app
from proofyard.cli.tree import HELP_ALL, Command, Later

LINES, COLUMNS = 24, 80
HEAVY = (
    "torch",
    "transformers",
    "web3",
    "aioquic",
    "fastapi",
    "sqlmodel",
    "numpy",
    "pydantic_core",
    "requests",
    "msgspec",
)
MOST_MODULES = 400
"""Modules that `--help` loads, those of Python itself included; 260 when this was written."""
CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def contexts(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    yield command, context
    for name, member in getattr(command, "commands", {}).items():
        loaded = member.load() if isinstance(member, Later) else member
        yield from contexts(
            loaded, loaded.context_class(loaded, info_name=name, parent=context, terminal_width=COLUMNS)
        )


ROOT: Any = typer.main.get_command(app)
ALL = list(contexts(ROOT, ROOT.context_class(ROOT, info_name="proofyard", terminal_width=COLUMNS)))
COMMANDS = [(command, context) for command, context in ALL if isinstance(command, Command)]


@pytest.mark.parametrize(("command", "context"), ALL, ids=lambda each: getattr(each, "command_path", ""))
def test_every_help_fits_a_screen(command: Any, context: Any) -> None:
    lines = command.get_help(context).splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")], "a sentence is cut"


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=lambda each: getattr(each, "command_path", ""))
def test_every_example_is_a_call_that_the_command_takes(command: Any, context: Any) -> None:
    typed = shlex.split(command.epilog.partition(" >")[0].replace(" CID ", f" {CID} "))
    path = context.command_path.split()
    assert typed[: len(path)] == path
    with command.make_context(path[-1], typed[len(path) :], parent=context.parent) as made:
        assert made.params


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=lambda each: getattr(each, "command_path", ""))
def test_what_help_leaves_out_is_explained_on_demand(command: Any, context: Any, capsys: Any) -> None:
    rare = [param.opts[0] for param in command.params if getattr(param, "rich_help_panel", None) and not param.hidden]
    shown = command.get_help(context)
    assert bool(rare) == (HELP_ALL in shown)
    if rare:
        assert main([*context.command_path.split()[1:], HELP_ALL]) == 0
        explained = capsys.readouterr().out
        assert [name for name in rare if name.removeprefix("--") not in explained] == []


@pytest.mark.parametrize(
    "args", [[], ["wallet"], ["node"], ["verifier"], ["verifier", "dispute"], ["job"], ["artifact"]]
)
def test_a_bare_group_says_what_there_is(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: proofyard ")
    assert "Commands:" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("walet", "'wallet'"),
        ("wallet snd", "'send'"),
        ("verifier disptue", "'dispute'"),
        ("verifier dispute repaly 1", "'replay'"),
        ("job sumbit", "'submit'"),
        ("job status 1 --registyr x", "--registry"),
        ("wallet send a 1 --ehter", "--ether"),
        ("devnet --tinny", "--tiny"),
    ],
)
def test_what_was_meant_is_named(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert meant in said
    assert said.count("\n") == 1


def test_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("proofyard ")


@pytest.mark.parametrize("args", [["--help"], [], ["--version"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    program = (
        f"import sys; from proofyard.cli import main; code = main({args!r});"
        f"print(len(sys.modules), *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, *heavy = done.stderr.splitlines()[-1].split()
    assert heavy == []
    assert int(count) < MOST_MODULES


@pytest.mark.parametrize("group", [name for name, member in ROOT.commands.items() if isinstance(member, Later)])
def test_what_is_shown_before_a_group_is_loaded_is_what_it_says(group: str) -> None:
    stub = ROOT.commands[group]
    assert stub.help == stub.load().help.partition("\n\n")[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_reads_its_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert COMPLETE in script
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_zsh_answers_the_first_time_that_it_loads_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    """A script in `fpath` is read as the body of the function that is to complete, and then has to do so."""
    assert main(["completion", "zsh"]) == 0
    loaded, _, sourced = capsys.readouterr().out.partition("\nelse\n")
    assert loaded.endswith('if [[ ${funcstack[1]} == _proofyard ]]; then\n  _proofyard_completion "$@"')
    assert sourced.split() == ["compdef", "_proofyard_completion", "proofyard", "fi"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("completion csh", "error: Invalid value for 'SHELL': 'csh' is not one of 'bash', 'zsh', 'fish' (see"),
        ("devnet --nodes 0", "error: Invalid value for '--nodes': it should be greater than or equal to 1 (see"),
        ("job status x", "error: Invalid value for 'JOB': it should be a valid integer (see"),
        ("node claim", "error: Missing argument 'JOB' (see"),
        ("wallet new", "error: Missing argument 'NAME' (see"),
        ("verifier dispute replay x", "error: Invalid value for 'BATCH': it should be a valid integer (see"),
    ],
)
def test_what_was_typed_wrongly_is_said_in_words(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=lambda each: getattr(each, "command_path", ""))
def test_help_has_no_marks_twice(command: Any, context: Any) -> None:
    shown = command.get_help(context)
    assert [mark for mark in ("[[", "]]", "......", "default: (") if mark in shown] == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("proofyard wal", {"wallet"}),
        ("proofyard wallet s", {"send", "show"}),
        ("proofyard verifier dispute re", {"replay", "resolve"}),
        ("proofyard wallet send --eth", {"--ether"}),
    ],
)
def test_bash_completes_commands_and_options(typed: str, offered: set[str], tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, "-m", "proofyard.cli", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "proofyard").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m proofyard.cli "$@"\n')
    (tmp_path / "proofyard").chmod(0o700)
    words = typed.split()
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _proofyard_completion proofyard"
    program = f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"'
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=os.environ | path)
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize(
    ("variables", "offered"),
    [
        ({COMPLETE: "complete_zsh"}, '"send":"Send CREDIT'),
        ({COMPLETE: "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "send\tSend CREDIT"),
    ],
)
def test_the_other_shells_are_answered_too(variables: dict[str, str], offered: str) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "proofyard wallet s"} | variables
    command = [sys.executable, "-m", "proofyard.cli"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | asked)
    assert offered in done.stdout
