"""Peers behind a router that counts its ports are reached directly from behind one that lets in whom its host has sent
something to."""

import pytest

SIZE = 100_000


@pytest.fixture(scope="module")
def network(home_networks):
    """Every peer behind a router is seen by a relay and by one more, without which it could not tell."""
    with home_networks.Internet() as net, home_networks.Peers() as programs:
        places = {name: net.public() for name in ("relay", "public")}
        places |= {kind: net.home(kind) for kind in ("counting", "counting-even", "symmetric")}
        places |= {"cone": net.home("port-restricted")}
        peers = {name: programs.start(place) for name, place in places.items()}
        relay, public = peers["relay"], peers["public"]
        relay.tell("relay")
        for peer in list(peers.values())[2:]:
            assert peer.tell("reserve", route=relay.route("relayed")) == {}
            assert peer.tell("connect", wallet=public.wallet, host=public.host.public, port=4433) == {}
        yield peers


@pytest.mark.parametrize(
    ("caller", "host", "way"),
    [
        ("counting", "cone", "punched"),
        ("cone", "counting", "punched"),
        ("cone", "counting-even", "punched"),
        ("counting", "symmetric", "relayed"),
    ],
)
def test_who_gives_ports_by_an_easy_rule_is_met(network, caller, host, way):
    one, other = network[caller], network[host]
    for _ in range(2 if way == "punched" else 1):
        one.tell("reach", wallet=other.wallet, routes=[other.route(), network["relay"].route("relayed")])
        assert one.tell("wait", wallet=other.wallet, seconds=20 if way == "punched" else 1)["way"] == way
        assert one.tell("fetch", wallet=other.wallet, size=SIZE)["bytes"] == SIZE
        one.tell("leave", wallet=other.wallet)
        other.tell("forgets", wallet=one.wallet)
