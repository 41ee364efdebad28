import re
import subprocess
import sys
from importlib.metadata import requires
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


def packages_of(extra: str) -> set[str]:
    """What an extra installs, of its own, by the names that are imported where these are the distributions'."""
    lines = [line for line in requires("proofyard") or () if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for line in lines}


@pytest.mark.parametrize("extra", sorted(extras.EXTRAS))
def test_what_a_part_needs_comes_with_it(extra: str) -> None:
    """Else the command that is told installs nothing that is missing, and tells the same again."""
    assert set(extras.EXTRAS[extra]) <= packages_of(extra)


@pytest.mark.parametrize(
    ("part", "other", "modules"),
    [
        ("node", "verifier", "proofyard.cli.node_init, proofyard.node.service, proofyard.disputes.judging"),
        ("verifier", "node", "proofyard.verifier.service, proofyard.verifier.api.process"),
    ],
)
def test_each_service_runs_without_what_only_the_other_has(part: str, other: str, modules: str) -> None:
    hidden = packages_of(other) - packages_of(part) - {"aiohttp"}  # which web3 brings
    program = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class Hidden(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {hidden!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"import proofyard.cli.run, {modules}\n"
    )
    assert hidden & {"sqlmodel", "torch"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_a_devnet_names_all_that_it_needs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "fastapi" else find_spec(name))
    with pytest.raises(MissingExtra, match=r"\[node,verifier\]"):
        extras.require("node,verifier", "proofyard devnet")
