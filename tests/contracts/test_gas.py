import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_whole_transactions_stay_within_their_gas_limits_and_the_snapshot() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "gas.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
