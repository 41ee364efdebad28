"""What `proofyard.sdk` offers, and what it costs to import."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import proofyard.sdk

LIBRARIES = {
    *("torch", "transformers", "peft", "numpy", "tokenizers", "safetensors", "pandas", "matplotlib", "datasets"),
    *("web3", "eth_account", "eth_abi", "py_ecc", "aioquic", "aiohttp", "requests", "ipfshttpclient", "rich", "typer"),
}
ROOT = Path(__file__).parents[2]
INSIDE = re.compile(r"(?:from|import) proofyard\.sdk\.(\w+)")
COST = """
import time, sys
before = set(sys.modules)
started = time.process_time()
{line}
print(__import__("json").dumps([time.process_time() - started, sorted(set(sys.modules) - before)]))
"""


def cost_of(line: str) -> tuple[float, set[str]]:
    """CPU seconds that a line takes in a fresh interpreter, and the modules that it loads."""
    done = subprocess.run([sys.executable, "-c", COST.format(line=line)], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, {name.partition(".")[0] for name in modules} | {f"all {len(modules)}"}


def test_importing_the_sdk_costs_next_to_nothing() -> None:
    seconds, modules = cost_of("import proofyard.sdk")
    assert not modules & LIBRARIES
    assert seconds < 0.4


def test_the_names_are_sorted_and_are_there() -> None:
    names = proofyard.sdk.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert set(names) == set(proofyard.sdk._WHERE)
    assert all(getattr(proofyard.sdk, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        proofyard.sdk.__getattr__("Clinet")


def test_type_checkers_find_each_name_where_it_is_loaded_from() -> None:
    tree = ast.parse(Path(proofyard.sdk.__file__ or "").read_text())
    found = {
        alias.name: (node.module or "").removeprefix("proofyard.sdk.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found == proofyard.sdk._WHERE


def test_nothing_of_the_inside_is_documented_as_public() -> None:
    """The modules below `proofyard.sdk` are private whatever they are called: pages use its names alone."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "examples").iterdir()]
    pages += [*(ROOT / "examples").rglob("*.py"), *(ROOT / "examples").rglob("*.md")]
    texts = {page: page.read_text() for page in pages if page.is_file() and page.name != "decisions.md"}
    assert {page: found for page, text in texts.items() if (found := INSIDE.findall(text))} == {}
    names = {name for text in texts.values() for name in re.findall(r"proofyard\.sdk\.(\w+)(?![\w/]*\.py)", text)}
    assert names <= {*proofyard.sdk.__all__}, "what pages name is public"
    imported = re.findall(r"from proofyard\.sdk import ([^\n\"\\]+)", "\n".join(texts.values()))
    assert {each for line in imported for each in re.findall(r"\w+", line)} <= {*proofyard.sdk.__all__}
