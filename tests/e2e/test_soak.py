"""A small version of the soak, in a process of its own: it puts a workload of its own in the place of `lora`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proofyard.devnet.postgres import NoPostgres, PostgresServer

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"

pytestmark = pytest.mark.timeout(700)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], capture_output=True, text=True, timeout=650, check=False
    )


def test_a_storm_of_kills_and_reorganisations_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    try:
        PostgresServer().close()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    out = tmp_path / "soak.json"
    faults = ("--only", "kill", "reorg", "stop", "rpc")
    done = run(
        "soak.py", "--minutes", "0.1", "--storm", "15", "--seed", "5", "--nodes", "5", "--out", str(out), *faults
    )
    found: dict[str, Any] = json.loads(out.read_text())
    assert done.returncode == 0, (found["found"], done.stderr[-2000:])
    assert found["jobs"] and found["kills"] and found["conserved"]
    assert [found[key] for key in ("paid_twice", "unpaid", "stuck", "lost", "wronged", "died", "hot")] == [0] * 7
