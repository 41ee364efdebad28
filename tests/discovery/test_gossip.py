"""Real peers on loopback, each in a network of its own: they find each other, and hear nothing unasked."""

import asyncio
import itertools
import time

import msgspec
import pytest
from crowd import at, gossip_of

from proofyard.chain import Wallet
from proofyard.discovery import PeerTable, gossip
from proofyard.discovery.messages import MOST_TOLD, ExchangePeers, KnownPeers
from proofyard.discovery.saved import restore, save
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.peer_record import LIFETIME_S, PeerRecord, SignedRecord, seal_record
from proofyard.protocol.routes import Route
from proofyard.transport import RequestFailed


def record_of(endpoint, *routes, **fields):
    fields = {"sequence": 1, "expires": int(time.time()) + 60, "node": endpoint.address, **fields}
    record = PeerRecord(routes=routes, **fields)
    return seal_record(record, endpoint.identity.sign_digest(endpoint.network.typed_digest(record.struct_hash())))


async def test_peers_that_know_one_find_all(peer):
    endpoints = [await peer(number) for number in range(1, 8)]
    all_ = [gossip_of(each, endpoints[0]) for each in endpoints]
    for each in all_:
        each.serve()
    # Whom one asks, and of whom it is told, is drawn: three rounds are enough but for one time in sixty.
    async with asyncio.timeout(60):
        for number in itertools.count(1):
            for each in all_[1:]:
                await each.step()
            if number >= 3 and all(len(each.table) == len(endpoints) - 1 for each in all_[1:]):
                break
    for each in all_[1:]:
        assert each.table.tried >= 1
        assert len(each.neighbours()) >= 3


async def test_who_is_linked_anyway_hears_of_every_change_and_once(peer):
    verifier, node = await peer(1), await peer(2)
    told = gossip_of(verifier)
    told.serve()
    link = await node.connect(verifier.host, verifier.port, expect=verifier.address)
    routes = []
    one = gossip_of(node, routes=lambda: tuple(routes), linked=lambda: [link])
    await one.step()
    assert node.address not in told.table, "there is nothing to tell"
    routes.append(at(node))
    await one.step()
    assert [each.record.routes for each in told.table] == [(at(node),)] and told.table.met([node.address], time.time())
    sequence = one.sequence
    await one.step()
    assert one.sequence == sequence and not one._untold()
    routes[:] = [Route("mapped", node.host, node.port)]
    await one.step()
    assert [each.record.routes for each in told.table] == [tuple(routes)]


async def test_a_peer_comes_back_with_nobody_but_those_on_its_disk(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(gossip, "DIAL_S", 2.0)
    first, second, wallet = await peer(1), await peer(2), Wallet.generate()
    others = [gossip_of(first), gossip_of(second, first)]
    for each in others:
        each.serve()
    await others[1].step()
    before = await peer(3, wallet)
    one = gossip_of(before, first)
    await one.step()
    await one.step()
    assert len(one.table) == 2
    save(tmp_path / "peers", one.table, one.sequence)
    await before.close()
    await first.close()
    again = await peer(3, wallet)
    table = PeerTable(again.address)
    sequence = restore(tmp_path / "peers", table, again.network, time.time() + LIFETIME_S, here=True)
    assert sequence == one.sequence
    assert len(table) == 2
    back = gossip_of(again, table=table, sequence=sequence)
    await until_joined(back)
    assert [each.peer for each in back.neighbours()] == [second.address]


async def until_joined(each):
    async with asyncio.timeout(60):
        while not each.neighbours():
            await each.step()


async def test_a_file_that_is_none_is_left_out(peer, tmp_path):
    endpoint = await peer(1)
    (tmp_path / "peers").write_bytes(b"\xff" * 99)
    table = PeerTable(endpoint.address)
    assert restore(tmp_path / "peers", table, endpoint.network, time.time()) == 0
    assert len(table) == 0


async def test_a_record_is_taken_from_its_own_peer_alone(peer):
    server, client, other = await peer(1), await peer(2), await peer(3)
    here = gossip_of(server)
    here.serve()
    connection = await client.connect(server.host, server.port)
    await connection.request(ExchangePeers(record_of(other, at(other)), 9), reply=KnownPeers)
    assert len(here.table) == 0
    await connection.request(ExchangePeers(record_of(client, at(client)), 9), reply=KnownPeers)
    assert [each.met for each in here.table] == [True]


async def test_an_address_that_a_peer_does_not_speak_from_is_passed_on_by_nobody(peer):
    server, liar, asker = await peer(1), await peer(2), await peer(3)
    here = gossip_of(server)
    here.serve()
    connection = await liar.connect(server.host, server.port)
    victim = Route("direct", "127.99.0.1", 4433)
    await connection.request(ExchangePeers(record_of(liar, victim), 9), reply=KnownPeers)
    asking = await asker.connect(server.host, server.port)
    answer = await asking.request(ExchangePeers(b"", 9), reply=KnownPeers)
    assert answer.records == ()
    assert answer.record


async def test_whoever_asks_again_and_again_is_refused(peer):
    server, client = await peer(1), await peer(2)
    gossip_of(server).serve()
    connection = await client.connect(server.host, server.port)
    with pytest.raises(RequestFailed, match="busy"):
        for _ in range(int(gossip.OF_PEER.at_once) + 2):
            await connection.request(ExchangePeers(b"", 1), reply=KnownPeers)


async def test_what_is_no_record_is_left_out_and_the_rest_taken(peer):
    server, client, third = await peer(1), await peer(2), await peer(3)
    good = record_of(third, at(third))
    forged = encode(SignedRecord(msgspec.structs.replace(decode(good, SignedRecord).record, sequence=9), bytes(65)))

    async def answer(*_):
        return KnownPeers(b"junk", (b"junk", forged, record_of(client, at(server)), good))

    server.on(ExchangePeers, answer)
    here = gossip_of(client, server)
    await here.step()
    assert [each.record.node for each in here.table] == [third.address]
    assert here.table.get(third.address).record.sequence == 1


async def test_an_own_record_is_signed_anew_when_routes_change_and_taken_back_when_there_are_none(peer):
    endpoint, now, routes = await peer(1), [1e9], [()]
    here = gossip_of(endpoint, routes=lambda: routes[0], clock=lambda: now[0])
    assert here.record() == b""
    routes[0] = (at(endpoint), Route("lan", "192.168.1.2", 4000))
    first = here.record()
    assert first == here.record()
    assert decode(first, SignedRecord).record.routes == (at(endpoint),)
    now[0] -= 100
    routes[0] = ()
    last = decode(here.record(), SignedRecord).record
    assert last.routes == ()
    assert last.sequence > decode(first, SignedRecord).record.sequence
    now[0] += LIFETIME_S
    assert decode(here.record(), SignedRecord).record.expires > now[0]


async def test_neighbours_of_the_local_network_are_connected_and_told_to_nobody(peer):
    one, other = await peer(1), await peer(2)
    gossip_of(one, routes=tuple).serve()
    here = gossip_of(other, local=lambda: [(one.address, (Route("lan", one.host, one.port),))])
    here.serve()
    await here.step()
    assert [each.peer for each in here.at_home()] == [one.address]
    assert len(here.table) == 0


def test_an_answer_fits_a_message():
    assert MOST_TOLD * 768 < 1 << 16
