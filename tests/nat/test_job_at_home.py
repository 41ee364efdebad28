"""A job whose nodes are behind routers: nothing of it passes through the verifier but what that looks at itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "home_demo.py"
KINDS = ("port-restricted", "full-cone", "port-restricted", "symmetric")


@pytest.mark.timeout(600)
def test_nodes_behind_routers_do_a_job_and_bring_each_other_what_it_takes(internet, tmp_path):
    here, relay = internet.public(), internet.public()
    homes = [internet.home(kind) for kind in KINDS]
    options = ["--here", here.address, "--relay", f"{relay.namespace}={relay.address}", "--tiny"]
    options += [part for home in homes for part in ("--home", home.namespace)]
    command = here.command(sys.executable, str(SCRIPT), str(tmp_path), *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["done"] and found["same_adapter"]
    assert found["verifier_bytes_share"] < 0.05, found
