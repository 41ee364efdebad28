"""The architecture's arrows: which package may stand on which."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = ("sdk", "node", "verifier")

ALLOWED = {
    "protocol": set(),
    "runtime": {"protocol"},
    "pages": set(),
    "chain": {"protocol", "runtime"},
    "transport": {"protocol", "runtime"},
    "artifacts": {"protocol", "runtime", "transport"},
    "discovery": {"protocol", "runtime", "transport"},
    "workloads": {"protocol", "runtime", "artifacts"},
    "sdk": {"disputes", "discovery", "protocol", "runtime", "chain", "transport", "artifacts", "workloads"},
    "disputes": {"protocol", "chain", "transport", "artifacts", "workloads"},
    "node": {"disputes", "protocol", "runtime", "pages", "chain", "transport", "discovery", "artifacts", "workloads"},
    "verifier": {
        "disputes",
        "protocol",
        "runtime",
        "pages",
        "chain",
        "transport",
        "discovery",
        "artifacts",
        "workloads",
    },
    "devnet": {"protocol", "runtime", "chain", "transport", "artifacts", "workloads", "sdk"},
    "doctor": {"protocol", "runtime", "chain", "transport", "artifacts", "workloads", "node", "verifier"},
    "cli": {
        *("protocol", "runtime", "chain", "transport", "artifacts", "workloads", "disputes"),
        *("sdk", "devnet", "discovery", "doctor", "node", "verifier"),
    },
}
TORCH = {"torch", "transformers", "peft"}


def modules() -> list[Path]:
    return [path for root in ROOTS for path in sorted((ROOT / root / "proofyard").rglob("*.py"))]


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    own = path.parts[path.parts.index("proofyard") + 1]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("proofyard.")}
    assert used <= ALLOWED[own] | {own}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_workloads_know_torch(path: Path) -> None:
    if path.parts[path.parts.index("proofyard") + 1] != "workloads":
        assert not {name.split(".")[0] for name in imports(path)} & TORCH


def test_no_package_file_at_the_namespace_level() -> None:
    assert not [root for root in ROOTS if (ROOT / root / "proofyard" / "__init__.py").exists()]


@pytest.mark.parametrize(
    "module", ["proofyard.sdk", "proofyard.node.service", "proofyard.verifier.service", "proofyard.workloads.lora"]
)
def test_importing_a_program_does_not_load_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit(bool({{'torch', 'transformers', 'peft'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["proofyard.workloads.child", "proofyard.workloads.inspection"])
def test_a_process_in_the_sandbox_imports_nothing_of_chains(module: str) -> None:
    """There is one for each job: what it does not need would be most of the time that its start takes."""
    needless = {"web3", "eth_abi", "eth_account", "eth_utils", "py_ecc.bls", "pydantic"}
    code = f"import {module}, sys; sys.exit(', '.join({needless} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
