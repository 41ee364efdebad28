"""What peers may say of the ways to them, and what is passed on of it."""

import pytest

from proofyard.protocol.routes import MAX_RELAYS, MAX_ROUTES, Route, believable, best_first, is_home_address, read_relay

RELAY = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def test_the_best_routes_come_first_and_not_too_many() -> None:
    kinds = ("relayed", "mapped", "direct", "lan")
    routes = [Route(kind, "192.0.2.1", port) for kind in kinds for port in (1, 2, 3, 1)]  # type: ignore[arg-type]
    found = best_first(routes)
    assert [route.kind for route in found] == ["lan"] * 3 + ["direct"] * 3 + ["mapped"] * 2
    assert len(found) == MAX_ROUTES


def test_nobody_has_others_dial_a_third() -> None:
    """A peer's own address is where its packets come from."""
    own, victim = "192.0.2.1", "198.51.100.9"
    routes = [Route("direct", victim, 4433), Route("mapped", own, 40_000), Route("lan", "192.168.1.1", 4433)]
    relays = [Route("relayed", f"203.0.113.{number}", 4433, RELAY) for number in range(5)]
    found = believable([*routes, Route("relayed", victim, 4433), *relays], own)
    assert found[0] == Route("mapped", own, 40_000)
    assert len(found) <= 1 + MAX_RELAYS
    assert all(route.relay for route in found[1:])


@pytest.mark.parametrize(
    ("host", "home"),
    [
        *((host, True) for host in ("10.0.0.1", "192.168.1.1", "172.16.5.5", "100.64.0.1", "fd00::1", "fe80::1%eth0")),
        *((host, False) for host in ("192.0.2.1", "172.32.0.1", "2001:db8::1", "100.128.0.1")),
    ],
)
def test_addresses_of_home_networks_are_known(host: str, home: bool) -> None:
    assert is_home_address(host) == home


def test_a_relay_is_written_as_its_wallet_and_where_it_is() -> None:
    assert read_relay(f"{RELAY}@relay.example.org:4433") == Route("relayed", "relay.example.org", 4433, RELAY)
    assert read_relay(f"{RELAY.lower()}@[2001:db8::1]:4433") == Route("relayed", "2001:db8::1", 4433, RELAY)
    for wrong in (
        "",
        RELAY,
        "192.0.2.1:4433",
        f"{RELAY}@192.0.2.1",
        f"{RELAY}@:4433",
        f"{RELAY}@h:0",
        f"{RELAY}@h:65536",
    ):
        with pytest.raises(ValueError, match="WALLET@HOST:PORT"):
            read_relay(wrong)
    with pytest.raises(ValueError, match="no address"):
        read_relay("0x12@h:4433")
