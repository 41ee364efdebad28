"""A home's line takes as long and carries as much as it says, and ends with whoever drew it."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from home_networks import Internet, Link
with Internet(sys.argv[2]) as net:
    print(net.home("firewall", link=Link()).namespace, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def lines(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    networks = importlib.import_module("home_networks")
    if reason := networks.unavailable() or networks.links_unavailable():
        pytest.skip(reason)
    return networks


def test_a_line_delays_and_limits_what_goes_over_it(lines):
    rates = importlib.import_module("home_rates").rates
    with lines.Internet() as net:
        home = net.home("port-restricted", link=lines.Link(down_mbit=8, up_mbit=2, delay_ms=40))
        found = rates(net.public(), home, down_bytes=500_000, up_bytes=125_000)
    assert 80 <= found.round_trip_ms < 400, found
    assert 0.8 < found.down_mbit < 9, found
    assert 0.2 < found.up_mbit < 2.5, found


def test_a_line_ends_with_whoever_drew_it(lines):
    prefix = f"pk{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", OWNER, SCRIPTS, prefix], stdout=subprocess.PIPE, text=True) as owner:
        try:
            space = owner.stdout.readline().strip()
            assert has_device(space, "wan")
            owner.kill()
            deadline = time.monotonic() + 60
            while has_device(space, "wan") and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not has_device(space, "wan")
        finally:
            owner.kill()
            names = subprocess.check_output(["ip", "netns", "list"], text=True).split()
            for name in (name for name in names if name.startswith(f"{prefix}n")):
                subprocess.run(["ip", "netns", "del", name], check=True)


def has_device(space: str, name: str) -> bool:
    return subprocess.run(["ip", "-n", space, "link", "show", name], capture_output=True).returncode == 0
