"""What doctor says of who reaches a node, and of whom it knows: with the one thing to do."""

import os
import time
from types import SimpleNamespace

import pytest

from proofyard.doctor.checking import Skipped, State
from proofyard.doctor.node import known, reached
from proofyard.node.control import Status, write_status
from proofyard.node.presence import Presence
from proofyard.transport.reachability import Nat, Reachability


def presence(nat, *, relays=(), connections=("somebody",), hide=False):
    endpoint = SimpleNamespace(host="::", port=4000, connections=connections, relays=lambda: list(relays))
    here = Presence(SimpleNamespace(relays=(), hide_address=hide, map_port=False), endpoint, None)
    here._found = Reachability(nat, (("192.0.2.1", 4000),))
    return here


def looked(folder, look, **said):
    write_status(folder, Status(pid=os.getpid(), at=time.time(), **said))
    return look(folder)


@pytest.mark.parametrize(
    ("here", "todo"),
    [
        (presence(Nat.CONE), "name relays in [node], or have the router forward UDP port 4000"),
        (presence(Nat.FIREWALL), "have the firewall let UDP port 4000 in, or name relays in [node]"),
        (presence(Nat.OPEN, hide=True), "name relays in [node], or set hide_address = false"),
        (presence(Nat.UNKNOWN, connections=()), "see that a firewall lets UDP out, and that [node] names the network"),
    ],
)
def test_a_node_that_nobody_reaches_is_told_one_thing_to_do(tmp_path, here, todo):
    seen = looked(tmp_path, reached, reached=here.summary())
    assert (seen.state, seen.todo) == (State.NOTE, todo)


def test_a_node_that_relays_carry_for_has_nothing_to_do(tmp_path):
    seen = looked(tmp_path, reached, reached=presence(Nat.CONE, relays=("one", "two")).summary())
    assert seen.state == State.FINE


def test_a_node_that_knows_nobody_is_told_to_name_somebody(tmp_path):
    assert looked(tmp_path, known, knows="0 peers, of whom 0 answered").state == State.NOTE
    assert looked(tmp_path, known, knows="9 peers, of whom 3 answered").state == State.FINE
    with pytest.raises(Skipped):
        looked(tmp_path, known)
    with pytest.raises(Skipped):
        looked(tmp_path, known, knows="9 peers", running=False)
