"""Builds, checks and tests the contracts: `python scripts/contracts.py build|check|test`."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from proofyard.chain.foundry import find_tool
from proofyard.protocol.types import ProofyardError

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ABI = ROOT / "sdk" / "proofyard" / "chain" / "abi"
MAX_DEPLOYED_BYTES = 24_576
"""EIP-170."""

DEPLOYED = {
    "Credit": "Credit",
    "Registry": "Registry",
    "Court": "libraries/Court",
    "Dial": "libraries/Dial",
    "Operators": "libraries/Operators",
    "Settling": "libraries/Settling",
}
"""What is deployed, and its source below src/ without the suffix. Libraries are linked into the Registry."""


def forge(*args: str) -> None:
    """Run forge in contracts/; ends this program with forge's exit code when it fails."""
    result = subprocess.run([find_tool("forge"), *args], cwd=CONTRACTS, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)


def artifacts() -> dict[str, str]:
    """Compile, and return the text of each file of `chain/abi` by its name.

    `links` maps a placeholder in the bytecode to the library whose address belongs there.
    """
    forge("build", "--quiet", "src")
    files = {}
    for name, source in DEPLOYED.items():
        built: dict[str, Any] = json.loads(
            (CONTRACTS / "out" / f"{Path(source).name}.sol" / f"{name}.json").read_text()
        )
        size = len(built["deployedBytecode"]["object"]) // 2 - 1
        if size >= MAX_DEPLOYED_BYTES:
            sys.exit(f"contracts: {name} has {size} bytes, at most {MAX_DEPLOYED_BYTES - 1} can be deployed")
        bytecode = built["bytecode"]["object"]
        links = {}
        for libraries in built["bytecode"]["linkReferences"].values():
            for library, places in libraries.items():
                start = 2 + 2 * places[0]["start"]
                links[bytecode[start : start + 40]] = library
        content = {"abi": built["abi"], "bytecode": bytecode, "links": links}
        files[f"{name}.json"] = json.dumps(content, indent=1, sort_keys=True) + "\n"
    return files


def build() -> None:
    for name, text in artifacts().items():
        (ABI / name).write_text(text)


def check() -> None:
    """Fail when a formatted, freshly compiled tree would differ from what is committed."""
    forge("fmt", "--check")
    for name, text in artifacts().items():
        path = ABI / name
        if not path.is_file() or path.read_text() != text:
            sys.exit(f"contracts: {path.relative_to(ROOT)} is not what the sources give; run `make contracts`")


def test() -> None:
    forge("test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["build", "check", "test"])
    action = parser.parse_args().action
    try:
        {"build": build, "check": check, "test": test}[action]()
    except ProofyardError as error:
        sys.exit(f"contracts: {error}")


if __name__ == "__main__":
    main()
