"""Who has an artifact is found without a verifier; announcements are bounded by wallet, network and time."""

from random import Random

import pytest
from crowd import at, gossip_of
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.discovery import providers
from proofyard.discovery.finder import Finder
from proofyard.discovery.messages import FindProviders, Provide, Provided, Providers
from proofyard.discovery.providers import HOLDS_S, MOST_OF_CID, MOST_OF_NETWORK, ProviderTable
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.types import Address
from proofyard.transport import RequestFailed

CID = raw_cid(b"an artifact")


def wallet(number):
    return Address(f"0x{number:040x}")


async def test_a_peer_that_joined_elsewhere_finds_who_has_it(peer):
    endpoints = [await peer(number) for number in range(1, 7)]
    all_ = [gossip_of(each, endpoints[0]) for each in endpoints]
    finders = [Finder(endpoint, each) for endpoint, each in zip(endpoints, all_, strict=True)]
    for each in (*all_, *finders):
        each.serve()
    for _ in range(3):
        for each in all_[1:]:
            await each.step()
    finders[1].have(CID)
    await finders[1].announce()
    found = await finders[5].find(CID)
    assert found == [(endpoints[1].address, (at(endpoints[1]),))]
    assert await finders[5].find(raw_cid(b"another")) == []
    assert await finders[1].find(CID) == []


async def test_nobody_announces_for_another(peer):
    server, client, other = await peer(1), await peer(2), await peer(3)
    here = Finder(server, gossip_of(server))
    here.serve()
    connection = await client.connect(server.host, server.port)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(Provide(gossip_of(other).record(), cid_bytes(CID)), reply=Provided)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(Provide(gossip_of(client).record(), bytes(36)), reply=Provided)
    with pytest.raises(RequestFailed, match="bad-request"):
        await connection.request(FindProviders(bytes(36)), reply=Providers)
    assert len(here.providers) == 0


def test_one_network_and_one_wallet_have_few_places():
    here = ProviderTable(Random(1))
    assert (
        sum(here.add(CID, wallet(number), b"", f"198.51.100.{number}", 0.0) for number in range(20)) == MOST_OF_NETWORK
    )
    assert sum(here.add(CID, wallet(100 + number), b"", f"{number + 1}.0.0.1", 0.0) for number in range(20)) == 12
    assert len(here.find(CID, 99, 1.0)) == MOST_OF_CID
    for number in range(providers.MOST_OF_NODE + 5):
        here.add(raw_cid(b"%d" % number), wallet(1), b"", "198.51.100.1", 2.0)
    assert len(here.find(raw_cid(b"0"), 9, 3.0)) == 0
    assert len(here.find(raw_cid(b"9"), 9, 3.0)) == 1
    assert here.find(raw_cid(b"9"), 9, 2.0 + HOLDS_S) == []
    assert len(here) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3), st.integers(0, 900)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_announcements_stay_within_their_bounds(told):
    here, now = ProviderTable(Random(2)), 0.0
    for cid, node, network, seconds in told:
        now += seconds
        here.add(raw_cid(bytes([cid])), wallet(node), bytes([node]), f"{network + 1}.0.0.1", now)
        assert sum(here._from.values()) == len(here) == sum(map(len, here._of_cid.values()))
        assert len(here) == sum(map(len, here._of_node.values()))
        for each in here._of_cid.values():
            networks = [said.network for said in each.values()]
            assert max(map(networks.count, networks)) <= MOST_OF_NETWORK
            assert all(said.until > now for said in each.values())
