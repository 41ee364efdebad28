"""The four journeys, as far as seconds allow: what they type stands in the documents, and is made of real commands.
`make journeys` does them on a devnet."""

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from proofyard.cli import main

SCRIPT = Path(__file__).parents[2] / "scripts" / "journeys.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("journeys_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


journeys = load()


@pytest.mark.parametrize("journey", journeys.JOURNEYS, ids=lambda journey: journey.name)
def test_what_is_typed_stands_in_the_documents_and_the_page_is_typed_whole(journey) -> None:
    assert journey.undocumented() == []
    assert journey.not_typed() == []


def test_what_stands_nowhere_is_counted() -> None:
    steps = (journeys.Type("proofyard job magic 1"), journeys.Save("magic.py"), journeys.Type(journeys.CONFIG))
    odd = journeys.Journey("owner", steps)
    assert odd.undocumented() == ["proofyard job magic 1", "magic.py"]
    assert "proofyard node init" in odd.not_typed()


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a --b 1   # what it is\n", ["a --b 1"]),
        ("# only words\n\na\n", ["a"]),
        ("a \\\n  --b \\\n  --c\nd\n", ["a --b --c", "d"]),
        ("a '#1'\n", ["a '#1'"]),
        ("curl http://x/#y\n", ["curl http://x/#y"]),
    ],
)
def test_commands_are_read_from_a_block_as_a_person_reads_them(text: str, commands: list[str]) -> None:
    assert journeys.commands_of(text) == commands


def test_blocks_know_their_language_and_the_file_that_is_named_before() -> None:
    page = "Save it, `a.py`:\n\n```python\nx = 1\n```\n\nand\n```sh\nrun\n```\n"
    assert [(b.language, b.text, b.file) for b in journeys.blocks_of(page)] == [
        ("python", "x = 1\n", "a.py"),
        ("sh", "run\n", ""),
    ]


def commands() -> list[str]:
    typed = {command for journey in journeys.JOURNEYS for command in journey.typed()}
    return sorted(command for command in typed if command.startswith("proofyard "))


@pytest.mark.parametrize("command", commands())
def test_every_command_and_every_flag_is_real(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    flags = [word for word in words if word.startswith("--")]
    groups = ("wallet", "node", "job", "verifier", "dispute")
    depth = 1 + sum(word in groups for word in words[:2])
    assert main([*words[:depth], "--help-all"]) in (0, 2)
    told = capsys.readouterr()
    text = told.out or told.err
    if not told.out:
        assert main([*words[:depth], "--help"]) == 0
        text = capsys.readouterr().out
    for flag in flags:
        assert flag in text, flag
