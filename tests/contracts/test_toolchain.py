"""A Solidity test that fails must turn the build red: npm's launchers of Foundry hide it."""

import importlib.util
import sys
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


STAND_IN = """#!{python}
# In the place of Halmos, which these tests do not install: what it reports of two proofs, given so long for branches.
import json, re, sys
told = dict(zip(sys.argv, sys.argv[1:]))
long = told["--solver-timeout-branching"] == {enough!r}
found = [name for name in ("check_one(uint256)", "check_two(uint256)") if re.search(told["--match-test"], name)]
results = [dict(name=name, num_bounded_loops=int("two" in name and not long)) for name in found]
open(told["--json-output"], "w").write(json.dumps(dict(test_results=dict(file=results))))
print(told["--solver-timeout-branching"], *found, flush=True)
"""


@pytest.mark.parametrize(("enough", "rounds"), [("1ms", 1), ("10s", 3), ("never", 3)])
def test_a_proof_whose_loop_was_cut_short_gets_more_time(
    contracts: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], enough: str, rounds: int
) -> None:
    halmos, built = tmp_path / "tools" / "bin" / "halmos", tmp_path / "built"
    halmos.parent.mkdir(parents=True)
    built.mkdir()
    halmos.write_text(STAND_IN.format(python=sys.executable, enough=enough))
    halmos.chmod(0o755)
    if enough == "never":
        with pytest.raises(SystemExit, match=r"cut short: \['check_two\(uint256\)'\]"):
            contracts.prove(halmos, built, "0", "^check_")
    else:
        assert contracts.prove(halmos, built, "0", "^check_") == 2
    said = ["1ms check_one(uint256) check_two(uint256)", "100ms check_two(uint256)", "10s check_two(uint256)"]
    assert capfd.readouterr().out.splitlines() == said[:rounds]
