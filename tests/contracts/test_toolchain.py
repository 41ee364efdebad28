"""A Solidity test that fails must turn the build red: npm's launchers of Foundry hide it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEST = "contract OneTest {{ function test_it() public pure {{ require({}); }} }}"


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/contracts.py`, working on an empty Foundry project."""
    spec = importlib.util.spec_from_file_location("contracts", ROOT / "scripts" / "contracts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "test").mkdir()
    solc = ROOT / "contracts" / "tools" / "solc"
    (tmp_path / "foundry.toml").write_text(f'[profile.default]\nsolc = "{solc}"\noffline = true\n')
    monkeypatch.setattr(module, "CONTRACTS", tmp_path)
    return module


def test_a_failing_solidity_test_fails_the_command(contracts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test" / "One.t.sol").write_text("pragma solidity 0.8.37;\n" + TEST.format("true"))
    contracts.test()
    (tmp_path / "test" / "One.t.sol").write_text("pragma solidity 0.8.37;\n" + TEST.format("false"))
    with pytest.raises(SystemExit) as failed:
        contracts.test()
    assert failed.value.code not in (0, None)
