"""What a machine may have, on a network of processes of its own: see `scripts/soak_troubles.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proofyard.devnet.postgres import NoPostgres, PostgresServer

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "soak_troubles.py"
CANNOT_MOUNT = 3

pytestmark = pytest.mark.timeout(700)


def test_clocks_that_are_wrong_full_disks_and_a_chain_and_a_database_that_are_away_cost_nobody_anything() -> None:
    pytest.importorskip("psycopg")
    try:
        PostgresServer().close()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=650, check=False)
    if done.returncode == CANNOT_MOUNT:
        pytest.skip(done.stderr)
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["found"] == []
    assert all(found[each] for each in ("in_time", "clocks", "away", "disks", "right", "nobody_ended"))
