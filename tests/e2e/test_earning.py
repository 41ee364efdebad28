"""What docs/cli.md says of earning on a devnet, typed literally in terminals of 60 columns, and how it looks there."""

import importlib.util
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "journeys.py"
COLUMNS = 60
MORE = (
    "proofyard",
    "proofyard job submit --help",
    "proofyard wallet list",
    "proofyard wallet show owner",
    "proofyard job list",
    "proofyard job status 1",
    "proofyard job show 1",
    "proofyard job logs 1",
    "proofyard job explain 1",
    "proofyard job estimate --model out/devnet-tiny/model --data out/devnet-tiny/text.jsonl --reward 9 --audit-fee 20 "
    "--epochs 2",
    "proofyard node limits",
    "proofyard verifier seats",
    "proofyard verifier dispute list",
    "proofyard verifier dispute replay 1",
    "proofyard doctor machine chain wallet",
)
LOGGED = re.compile(r"\d{4}-\d\d-\d\dT\S+ [A-Z]+ proofyard")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("journeys_walked", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def is_readable(line: str) -> bool:
    """Whether a line fits, or is a key that was typed, a service's log, or one thing to be copied."""
    if len(line) <= COLUMNS or line.startswith("$ ") or LOGGED.search(line):
        return True
    words = line.split()
    return len(words) == 1 or words[0] in ("cd", "export") or line.startswith(("Password of ", "New password "))


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (shutil.which("tmux") and shutil.which("bash")), reason="tmux and bash are needed")
def test_the_commands_of_the_page_work_as_printed_and_look_well_in_narrow_terminals() -> None:
    journeys: Any = load()
    (earner,) = (each for each in journeys.JOURNEYS if each.name == "earner")
    assert earner.undocumented() == earner.not_typed() == []
    first = replace(earner.steps[0], command="proofyard devnet --tiny --rpc-port 0")  # others may use the usual port
    (journeys.OUT / "journeys").mkdir(parents=True, exist_ok=True)
    with journeys.walk(replace(earner, name="earner-narrow", steps=(first, *earner.steps[1:])), COLUMNS) as going:
        going.go()
        for command in MORE:
            behind = " doctor " in command  # the chain's clock was moved: the machine's is behind
            going._do(journeys.Type(command, code=1 if behind else 0))
        shown = {name: terminal.text() for name, terminal in going.tmux.terminals.items()}
    torn = [line for text in shown.values() for line in text.splitlines() if not is_readable(line)]
    assert torn == []
    said = " ".join(shown["you"].split())
    for text in ("2 epochs of 9", "WORKLOAD", "tasks_valid", "1 fault found", "the same"):
        assert text in said, text
