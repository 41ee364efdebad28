"""Which address a requester sends from."""

import pytest

from proofyard.sdk import PeerAddress
from proofyard.sdk.artifacts import local_host


@pytest.mark.parametrize(
    ("endpoints", "host"),
    [
        (["127.0.0.1:4444", "localhost:4445", "[::1]:4446"], "127.0.0.1"),
        (["127.0.0.1:4444", "192.0.2.7:4444"], "0.0.0.0"),
        (["verifier.example:4444"], "0.0.0.0"),
    ],
)
def test_only_a_network_on_this_machine_is_reached_from_loopback(endpoints: list[str], host: str) -> None:
    assert local_host(PeerAddress.parse(endpoint) for endpoint in endpoints) == host
