"""Builds, checks and tests the contracts: `python scripts/contracts.py build|check|test|coverage`."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from proofyard.chain.foundry import find_tool
from proofyard.protocol.types import ProofyardError

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
ABI = ROOT / "sdk" / "proofyard" / "chain" / "abi"
SLITHER = ROOT / ".cache" / "slither"
SLITHER_PINS = ROOT / "contracts" / "tools" / "slither.txt"
HALMOS = ROOT / ".cache" / "halmos"
HALMOS_PINS = ROOT / "contracts" / "tools" / "halmos.txt"
PROOFS = ROOT / "contracts" / "proofs"
LONG = (r"check_settlement\(", "check_commit_reserves_")
"""Proofs of which each takes nearly as long as all others."""
BRANCHES = ("1ms", "100ms", "10s")
"""How long Halmos may ask whether a branch can be taken, one after another for those proofs that need more."""
CORES = 2
FUZZ_RUNS_OF_CI = 10_000
MAX_DEPLOYED_BYTES = 24_576
"""EIP-170."""

MIN_COVERAGE = 0.95
"""Of the lines of contracts/src."""

LIBRARIES = ("Equivocation", "Evidence", "Faults", "Jobs", "Jury", "Operators", "Settling", "Verdicts")
"""What Registry and Court are linked with."""

DEPLOYED = {name: name for name in ("Credit", "Registry", "Court", "Lens")} | {
    name: f"libraries/{name}" for name in LIBRARIES
}
"""What is deployed, and its source below src/ without the suffix."""


def run(program: Path, *args: str, **env: str) -> None:
    """Run a program in contracts/ with `env` added to the environment; ends this one with its exit code if it fails."""
    result = subprocess.run([program, *args], cwd=CONTRACTS, env=os.environ | env, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)


def forge(*args: str, **env: str) -> None:
    run(find_tool("forge"), *args, **env)


def artifacts() -> dict[str, str]:
    """Compile, and return the text of each file of `chain/abi` by its name.

    `links` maps a placeholder in the bytecode to the library whose address belongs there.
    """
    forge("build", "--quiet", *(f"src/{source}.sol" for source in DEPLOYED.values()))
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
    """Fail when a formatted, freshly compiled tree would differ from what is committed, where a tool finds something, a
    proof does not hold or too few lines are tested. Most parts use one core: two run at a time, the longest first."""
    forge("fmt", "--check")
    forge("fmt", "--check", str(PROOFS))
    with ThreadPoolExecutor(CORES) as pool:
        counts = list(pool.map(_counted, (*proofs(), coverage, compare, slither)))
    print(f"contracts: {sum(counts)} proofs hold")


def _counted(part: Callable[[], int | None]) -> int:
    return part() or 0


def compare() -> None:
    """Fail when what is compiled is not what is committed."""
    for name, text in artifacts().items():
        path = ABI / name
        if not path.is_file() or path.read_text() != text:
            sys.exit(f"contracts: {path.relative_to(ROOT)} is not what the sources give; run `make contracts`")


def slither() -> None:
    """Fail on anything that Slither finds; what it is not asked about is answered in docs/contracts.md."""
    out = "cache/slither"
    shutil.rmtree(CONTRACTS / out, ignore_errors=True)
    places = {"FOUNDRY_PROFILE": "analysis", "FOUNDRY_OUT": f"{out}/out", "FOUNDRY_CACHE_PATH": out}
    forge("build", "--quiet", "--build-info", "src", **places)
    tools = str(find_tool("forge").parent) + os.pathsep + os.environ["PATH"]
    named = ["--ignore-compile", "--foundry-out-directory", f"{out}/out"]
    run(program("slither", SLITHER, SLITHER_PINS), ".", *named, **places, PATH=tools)


def proofs() -> list[Callable[[], int]]:
    """What proves, for all values, what contracts/proofs states, in parts; each returns how many proofs hold. Halmos
    uses one core."""
    halmos = program("halmos", HALMOS, HALMOS_PINS)
    shutil.rmtree(CONTRACTS / "cache" / "symbolic", ignore_errors=True)
    tree = CONTRACTS / "cache" / "symbolic" / "built"
    shutil.copytree(CONTRACTS / "src", tree / "src")
    shutil.copytree(CONTRACTS / "node_modules" / "solady" / "src" / "utils", tree / "solady" / "utils")
    shutil.copytree(PROOFS / "stubs", tree, dirs_exist_ok=True)
    shutil.copytree(PROOFS, tree / "test", ignore=shutil.ignore_patterns("stubs", "foundry.toml"))
    shutil.copy(PROOFS / "foundry.toml", tree)
    for shared in ("node_modules", "tools"):
        (tree / shared).symlink_to(CONTRACTS / shared)
    forge("build", "--quiet", "--ast", "--root", str(tree), "--extra-output", "storageLayout", "metadata")
    parts = [f"^check_(?!{'|'.join(name.removeprefix('check_') for name in LONG)})", *(f"^{name}" for name in LONG)]
    return [partial(prove, halmos, tree, str(number), which) for number, which in enumerate(parts)]


def prove(halmos: Path, built: Path, name: str, which: str) -> int:
    """Prove what `which` matches, in a copy of the sources with the stubs in their places; how many proofs hold.

    Halmos follows a branch that its solver cannot rule out in time, and cuts a loop short that it follows too long: on
    a busy machine also one that ends. Short times are the quickest nearly everywhere, so those proofs get more time
    that need it."""
    tree = shutil.copytree(built, built.with_name(name), symlinks=True)
    tools = str(find_tool("forge").parent) + os.pathsep + os.environ["PATH"]
    # It looks for its solvers where an activated environment is, which may be another one.
    env = {"PATH": tools, "VIRTUAL_ENV": str(halmos.parents[1])}
    report, proven = tree / "report.json", 0
    for time in BRANCHES:
        told = ["--no-status", "--disable-gc", "--default-array-lengths", "0", "--solver-timeout-branching", time]
        run(halmos, "--root", str(tree), *told, "--match-test", which, "--json-output", str(report), **env)
        results = [r for group in json.loads(report.read_text())["test_results"].values() for r in group]
        if not results:
            sys.exit(f"contracts: there is no proof {which}")
        cut = [r["name"] for r in results if r["num_bounded_loops"]]
        proven += len(results) - len(cut)
        if not cut:
            return proven
        which = f"^({'|'.join(map(re.escape, cut))})$"
    sys.exit(f"contracts: loops of proofs were cut short: {cut}")


def program(name: str, place: Path, wanted: Path) -> Path:
    """A Python program in an environment of its own, made when it is missing or its pins have changed."""
    pins, stamp = wanted.read_text(), place / "pins.txt"
    if not stamp.is_file() or stamp.read_text() != pins:
        print(f"contracts: installing {name} into {place.relative_to(ROOT)}", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        pip = ["-m", "pip", "--disable-pip-version-check", "-qq", "install", "-r", str(wanted)]
        run(place / "bin" / "python", *pip)
        stamp.write_text(pins)
    return place / "bin" / name


def test(runs: int | None = None) -> None:
    """All Solidity tests, with `runs` of each fuzz test, or what foundry.toml says, or as many as are worth CI's time
    where CI says so (`CI` is set), unless a test says itself how many its cases need. They compile without the IR
    pipeline, in a fifth of the time; what is deployed is tested by tests/chain."""
    runs = runs or (FUZZ_RUNS_OF_CI if os.environ.get("CI") else None)
    forge("test", *(["--fuzz-runs", str(runs)] if runs else []), FOUNDRY_PROFILE="analysis")


def coverage() -> None:
    """Fail when the tests execute less than 95% of the lines of src/. Fuzz tests run a few times each; bounds on gas
    are those of optimised code, which is not what is measured here."""
    report = CONTRACTS / "cache" / "lcov.info"
    places = {"FOUNDRY_TEST": "covered", "FOUNDRY_OUT": "cache/coverage/out", "FOUNDRY_CACHE_PATH": "cache/coverage"}
    select = ["--no-match-contract", "InvariantsTest", "--no-match-test", "bounded_gas"]
    select += ["--fuzz-runs", "20", "--exclude-tests"]
    tests = CONTRACTS / places["FOUNDRY_TEST"]
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(CONTRACTS / "test", tests)
    for file in tests.rglob("*.sol"):  # how often a test says that it is to run goes before what is said here
        file.write_text(re.sub(r"/// forge-config: default\.fuzz\.runs = \d+", "", file.read_text()))
    try:
        forge("coverage", "--quiet", *select, "--report", "lcov", "--report-file", str(report), **places)
    finally:
        shutil.rmtree(tests)
    lines, missed, source = 0, [], ""
    for entry in report.read_text().splitlines():
        kind, _, value = entry.partition(":")
        if kind == "SF":
            source = value
        elif kind == "DA" and source.startswith("src/"):
            line, count = value.split(",")[:2]
            lines += 1
            missed += [f"{source}:{line}"] if count == "0" else []
    hit = lines - len(missed)
    print(f"contracts: {hit} of {lines} lines of src/ are covered, {hit / lines:.1%}")
    if hit < lines * MIN_COVERAGE:
        sys.exit(f"contracts: at least {MIN_COVERAGE:.0%} must be; these are not: {' '.join(missed)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["build", "check", "test", "coverage"])
    parser.add_argument("--fuzz-runs", type=int, help="of each fuzz test")
    parser.add_argument(
        "--beside", action="store_true", help="take what others leave of the CPUs, in a process group of its own"
    )
    said = parser.parse_args()
    if said.beside:
        os.setpgid(0, 0)
        os.nice(19)
    actions: dict[str, Callable[[], None]] = {"build": build, "check": check, "coverage": coverage}
    actions["test"] = partial(test, said.fuzz_runs)
    try:
        actions[said.action]()
    except ProofyardError as error:
        sys.exit(f"contracts: {error}")


if __name__ == "__main__":
    main()
