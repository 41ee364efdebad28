"""What a service of the local network says is taken as far as it is of that network."""

import pytest

from proofyard.discovery.local import MOST_OF_HOST, SERVICE, read_service
from proofyard.protocol.routes import Route

WALLET = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
NETWORKS = ["192.168.1.7/255.255.255.0"]


def test_addresses_of_the_same_network_are_taken():
    found = read_service(f"{WALLET}.{SERVICE}", ["192.168.1.9", "198.51.100.7", "10.0.0.1"], 4000, NETWORKS)
    assert found == (WALLET, (Route("lan", "192.168.1.9", 4000),))


@pytest.mark.parametrize(
    ("name", "addresses", "port"),
    [
        (WALLET, ["198.51.100.7"], 4000),
        (WALLET, ["192.168.2.9"], 4000),
        (WALLET, ["127.0.0.1"], 4000),
        (WALLET, ["192.168.1.9"], 0),
        (WALLET, [], 4000),
        (WALLET, ["fe80::1%eth0", "nonsense"], 4000),
        ("printer", ["192.168.1.9"], 4000),
    ],
)
def test_whatever_else_is_said_is_nobody(name, addresses, port):
    assert read_service(f"{name}.{SERVICE}", addresses, port, NETWORKS) is None


def test_few_addresses_of_one_peer_are_taken():
    many = [f"192.168.1.{number}" for number in range(20, 40)]
    found = read_service(f"{WALLET}.{SERVICE}", many, 4000, NETWORKS)
    assert len(found[1]) == MOST_OF_HOST
