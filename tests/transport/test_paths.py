"""Real kernels, real packets: two processes in network namespaces of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROLES = Path(__file__).parents[2] / "scripts" / "transport_roles.py"
SIZE = 1_500_000


def role(link, side, *arguments):
    command = [*link.command(side), sys.executable, str(ROLES), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "path",
    [
        {"delay_s": 0.02, "loss": 0.02, "mtu": 1400},
        {"delay_s": 0.01, "rate": 2e6},
    ],
    ids=["2% loss and an MTU of 1,400", "2 MB/s"],
)
def test_an_artifact_crosses_a_bad_path(links, path, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE))
    with links.ShapedLink(**path) as link:
        here, there = link.addresses["a"], link.addresses["b"]
        with role(link, "a", "seed", source, "--host", here) as seed:
            ready = json.loads(seed.stdout.readline())
            with role(link, "b", "leech", ready["cid"], f"{here}:{ready['port']}", "--host", there) as leech:
                done = json.loads(leech.stdout.readline())
            seed.stdin.close()
    assert done["bytes"] == SIZE
