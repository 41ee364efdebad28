from importlib.util import find_spec

import pytest

from proofyard.cli import extras
from proofyard.cli.errors import MissingExtra


def test_a_missing_part_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    with pytest.raises(MissingExtra, match=r"needs the package torch.*: pip install '(\.|/.+)\[node\]'"):
        extras.require("node", "proofyard node run")


def test_installed_parts_are_fine() -> None:
    extras.require("node", "proofyard node run")
    extras.require("verifier", "proofyard verifier run")
