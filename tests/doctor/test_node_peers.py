"""What doctor says of who reaches a node, and of whom it knows: with the one thing to do."""

import os
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from proofyard.doctor.checking import Skipped, State
from proofyard.doctor.node import known, reached
from proofyard.node.control import Status, write_status
from proofyard.node.presence import Presence
from proofyard.protocol.routes import Route
from proofyard.transport.mapping import Mapping
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


def mapped(here, mapping=None, outside="", refused=""):
    here._mapper = SimpleNamespace(found=mapping, outside=mapping.outside if mapping else outside, refused=refused)
    return here


def test_it_says_by_which_protocol_the_router_maps_the_port(tmp_path):
    here = mapped(presence(Nat.OPEN), Mapping(50_001, 7200, "UPnP", "192.0.2.1"))
    here._found = replace(here._found, confirmed=(Route("mapped", "192.0.2.1", 50_001),))
    seen = looked(tmp_path, reached, reached=here.summary())
    assert (seen.state, seen.found) == (
        State.FINE,
        "directly, at 192.0.2.1:50001, a port that the router maps by UPnP",
    )
    here._found = replace(here._found, confirmed=(Route("mapped", "192.0.2.1", 40_000),))
    assert here.summary() == "directly, at 192.0.2.1:40000", "which its own packets come from"


@pytest.mark.parametrize("mapping", [None, Mapping(50_001, 7200, "NAT-PMP", "100.64.3.2")])
def test_a_router_behind_another_one_is_said_to_be_that(tmp_path, mapping):
    here = mapped(presence(Nat.CONE), mapping, "100.64.3.2")
    seen = looked(tmp_path, reached, reached=here.summary())
    assert seen.state == State.NOTE
    assert seen.found.endswith("the router's own address 100.64.3.2 is not public, another router lies beyond it)")
    assert ("maps UDP port 50001 by NAT-PMP" in seen.found) == (mapping is not None)
    assert seen.todo.startswith("name relays in [node], or ask whoever runs the router beyond")


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("UPnP with error 501", "UPnP with error 501 and says no address of its own, as one does that has another"),
        ("PCP", "the router refuses a port by PCP)"),
    ],
)
def test_a_router_that_refuses_is_said_to_do_so(tmp_path, refused, said):
    seen = looked(tmp_path, reached, reached=mapped(presence(Nat.CONE), refused=refused).summary())
    assert said in seen.found


def test_an_address_that_is_somebody_elses_is_said_and_not_announced(tmp_path):
    here = mapped(presence(Nat.CONE, relays=("one",)), Mapping(50_001, 7200, "UPnP", "198.51.100.99"))
    assert "the router says that its address is 198.51.100.99, where nobody sees this node" in here.summary()
    assert here.routes() == ("one",)


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
