"""What a verifier tells nodes of each other: a node that is reached by relays is named by these, not by its address."""

from types import SimpleNamespace
from typing import Any, cast

from proofyard.protocol.messages import Announce
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.verifier.context import Member

NODE = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
RELAYED = Route("relayed", "192.0.2.1", 4433, NODE)
DIRECT = Route("direct", "198.51.100.7", 40_000)


def hint_of(*routes: Route) -> Any:
    connection = cast(Any, SimpleNamespace(peer=NODE, remote=("198.51.100.7", 51_234)))
    announce = Announce(workloads=(), memory_bytes=0, port=40_000, software="", routes=routes)
    return Member(connection, announce, cast(Any, None)).hint


def test_a_node_behind_relays_is_named_by_them_alone() -> None:
    hint = hint_of(RELAYED)
    assert (hint.host, hint.port, hint.routes) == (RELAYED.host, RELAYED.port, (RELAYED,))


def test_a_node_that_is_reached_is_named_by_that() -> None:
    assert (hint_of(DIRECT).host, hint_of(DIRECT).port) == (DIRECT.host, DIRECT.port)


def test_a_node_that_named_no_route_is_named_by_where_it_is_seen() -> None:
    assert (hint_of().host, hint_of().port, hint_of().routes) == ("198.51.100.7", 40_000, ())
