"""Nothing gets out: every attempt of `escapes`, with bubblewrap and with Landlock and seccomp alone."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import escapes
import surroundings

from proofyard.workloads.sandbox import found_here

HERE = found_here()
LACKING = {
    "landlock": "" if HERE.landlock and HERE.seccomp else "this kernel has no Landlock or no seccomp",
    "bubblewrap": "" if HERE.bubblewrap and HERE.seccomp else "bubblewrap is not installed, or does not work here",
}


def tried(mode: str, *more: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "surroundings.py"), mode, *more],
        capture_output=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    if b"unshare failed" in done.stderr:
        pytest.skip("a machine of its own for the attempts cannot be made here: unshare(1) is not permitted")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("who", ["as whoever tests", "as a plain user"])
@pytest.mark.parametrize("mode", LACKING)
def test_nothing_that_an_intruder_tries_gets_out(mode: str, who: str) -> None:
    if LACKING[mode]:
        pytest.skip(LACKING[mode])
    if who == "as a plain user" and os.getuid() != 0:
        pytest.skip("whoever tests is one")
    found = tried(mode, *(["--plain-user"] if who == "as a plain user" else []))
    assert found.keys() == escapes.ATTEMPTS.keys() and len(found) >= 40
    assert {name: got for name, got in found.items() if got} == {}


@pytest.mark.parametrize("mode", ["seccomp-alone", "landlock-alone"])
def test_the_attempts_are_real_each_mechanism_alone_lets_some_through(mode: str) -> None:
    """What one holds the other does not, or the test above would show nothing."""
    if LACKING["landlock"]:
        pytest.skip(LACKING["landlock"])
    found = tried(mode, "read", "sockets")
    got = {name for name, what in found.items() if what}
    assert ("read_the_keystore" in got) == (mode == "seccomp-alone")
    assert ("call_the_node_over_udp" in got) == (mode == "landlock-alone")


def test_what_holds_is_two_things_together() -> None:
    for lacking in ({"seccomp": False}, {"landlock": 0, "bubblewrap": ""}):
        assert not replace(HERE, **lacking).holds


def test_modes_are_named_for_what_is_there() -> None:
    assert {"seccomp-alone"} <= surroundings.modes().keys()
