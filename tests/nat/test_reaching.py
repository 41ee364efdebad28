"""Peers behind real NATs reach each other: directly where the routers allow it, through a relay where they do not."""

import pytest

SIZE = 300_000


@pytest.fixture(scope="module")
def network(home_networks):
    """A relay, one more public peer, and homes of each kind; every peer behind one has a reservation."""
    homes = {
        "full-cone": "full-cone",
        "cone": "port-restricted",
        "other cone": "port-restricted",
        "symmetric": "symmetric",
        "other symmetric": "symmetric",
        "firewall": "firewall",
    }
    with home_networks.Internet() as net, home_networks.Peers() as programs:
        places = {name: net.public() for name in ("relay", "public", "visitor")}
        places |= {name: net.home(kind) for name, kind in homes.items()}
        places["double"] = net.home("port-restricted", behind=places["cone"])
        places["same home"] = net.second(places["cone"])
        peers = {name: programs.start(place) for name, place in places.items()}
        relay, public = peers["relay"], peers["public"]
        relay.tell("relay")
        for peer in peers.values():
            if peer not in (relay, public, peers["visitor"]):
                assert peer.tell("reserve", route=relay.route("relayed")) == {}
                assert peer.tell("connect", wallet=public.wallet, host=public.host.public, port=4433) == {}
        yield peers


def routes_to(network, peer):
    """What is told of a peer: where it would be without a router, and its relay."""
    return [peer.route(), network["relay"].route("relayed")]


def test_a_node_learns_what_it_is_behind(network):
    names = {"full-cone": "open", "cone": "cone", "symmetric": "symmetric", "firewall": "firewall", "double": "cone"}
    for name in names:
        network[name].begin("examine")
    for name, nat in names.items():
        found = network[name].answer()
        assert found["nat"] == nat
        assert {host for host, _ in found["observed"]} == {network[name].host.public}
        assert len(found["confirmed"]) == (nat == "open")


@pytest.mark.parametrize(
    ("caller", "host", "way"),
    [
        ("cone", "other cone", "punched"),
        ("firewall", "cone", "punched"),
        ("symmetric", "full-cone", "punched"),
        ("full-cone", "symmetric", "punched"),
        ("double", "other cone", "punched"),
        ("cone", "same home", "punched"),
        ("symmetric", "other cone", "relayed"),
        ("symmetric", "other symmetric", "relayed"),
        ("visitor", "cone", "punched"),
        ("visitor", "symmetric", "punched"),
    ],
)
def test_two_peers_reach_each_other(network, caller, host, way):
    one, other = network[caller], network[host]
    reached = one.tell("reach", wallet=other.wallet, routes=routes_to(network, other))
    assert reached["way"] in ("relayed", way)
    assert one.tell("wait", wallet=other.wallet, seconds=10 if way == "punched" else 0.5)["way"] == way
    assert one.tell("fetch", wallet=other.wallet, size=SIZE)["bytes"] == SIZE
    assert not one.tell("way", wallet=other.wallet)["lost"]
    one.tell("leave", wallet=other.wallet)
    other.tell("forgets", wallet=one.wallet)


def test_no_byte_goes_by_the_relay_once_a_connection_is_direct(network):
    one, other, relay = network["cone"], network["other cone"], network["relay"]
    one.tell("reach", wallet=other.wallet, routes=routes_to(network, other))
    assert one.tell("wait", wallet=other.wallet, seconds=10)["way"] == "punched"
    one.tell("fetch", wallet=other.wallet, size=1000)
    before = relay.tell("carried")["bytes"]
    cid = other.tell("put", size=SIZE)["cid"]
    assert one.tell("get", cid=cid, wallets=[other.wallet])["bytes"] == SIZE
    assert relay.tell("carried")["bytes"] - before < SIZE / 100
    one.tell("leave", wallet=other.wallet)
