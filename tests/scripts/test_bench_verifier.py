"""The verifier's benchmark at its smallest: a few real nodes, one job, and the page that comes of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_a_small_job_is_measured_from_its_opening_to_its_settlement(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench_verifier.py", "--quick", "--nodes", "8", "--tasks", "16"]
    subprocess.run([*command, "--only", "small", "--out", str(tmp_path)], cwd=ROOT, check=True, timeout=380)
    found = json.loads((tmp_path / "verifier.json").read_text())
    assert found["small"]["tasks"] == 16
    for key in ("tasks_per_s", "verifier_ms", "nodes_ms", "gas_per_task", "cpu_bound_tasks_per_s"):
        assert found["small"][key] > 0, key
    assert [path.name for path in tmp_path.iterdir()] == ["verifier.json"]
