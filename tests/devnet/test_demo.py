"""`make demo` with a tiny model: the same programs, the same claims."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.mark.timeout(300)
def test_the_demo_keeps_its_claims_and_leaves_its_results(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, str(DEMO), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\x1b" not in done.stdout + done.stderr

    summary = json.loads((out / "summary.json").read_text())
    assert summary["loss_after"] < 0.95 * summary["loss_before"]
    assert summary["conserved"] is True
    assert list(summary["slashed"].values()) == [str(100 * 10**18)]
    cheat = summary["balances"][next(iter(summary["slashed"]))]
    assert int(cheat["before"]) - int(cheat["after"]) == 100 * 10**18
    assert sum(int(row["before"]) - int(row["after"]) for row in summary["balances"].values()) == 0
    *_, registry = summary["balances"].values()
    assert 0 <= int(summary["refundable"]) <= int(registry["after"]) < 200 * 10**18, "audits may take all of their fee"
    assert int(summary["verifiers_earned"]) > 0
    assert 0 < summary["gas_per_task"] < 10**6
    faulty = {audit["worker"] for audit in summary["audits"] if audit["verdict"] == "fault"}
    assert len(faulty) == 1, "every segment that was found wrong is the cheat's"
    assert 10**8 < summary["peak_rss_bytes"] < 14 * 10**9
    assert (Path(summary["adapter_dir"]) / "adapter_model.safetensors").is_file()
    assert summary["adapter_cid"].startswith("bafy")
    assert "node-5" in (out / "report.html").read_text()
    assert "node-5 lost 100.00 CREDIT" in done.stdout
