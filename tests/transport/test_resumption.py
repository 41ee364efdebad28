"""Peers that meet again: recognised by TLS, idempotent requests in the first flight, nothing else there."""

import asyncio
import socket
from typing import ClassVar

import msgspec
import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from proofyard.transport import ConnectionLost, HandshakeRejected, WrongPeer
from proofyard.transport import connection as connections
from proofyard.transport.udp import UdpSocket


class Look(msgspec.Struct, frozen=True, tag="look"):
    idempotent: ClassVar[bool] = True


class Act(msgspec.Struct, frozen=True, tag="act"):
    pass


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    pass


async def acquaintances(peer, **options):
    """A server, and a client that has been connected to it and holds a ticket; `handled` collects the requests."""
    server, client = await peer(**options), await peer()
    handled = []

    async def handle(connection, message, body):
        handled.append((type(message), connection._link.secured.is_set()))
        return Seen()

    server.on(Look, handle)
    server.on(Act, handle)
    connection = await client.connect("127.0.0.1", server.port, expect=server.address)
    await connection.request(Act(), reply=Seen)
    await leave(server, client, connection)
    handled.clear()
    return server, client, handled


def packets(data):
    """The types of the packets in a datagram, as far as they have long headers."""
    buffer, found = Buffer(data=data), []
    while not buffer.eof() and data[buffer.tell()] & 0x80:
        start = buffer.tell()
        header = pull_quic_header(buffer, host_cid_length=8)
        found.append(header.packet_type)
        buffer.seek(start + header.packet_length)
    return found


async def leave(server, client, connection):
    gone = asyncio.Event()
    server.on_disconnected.append(lambda _: gone.set())
    await connection.close()
    await asyncio.wait_for(gone.wait(), 60)


async def test_a_peer_that_comes_back_need_not_sign(peer, monkeypatch):
    server, client, _ = await acquaintances(peer)
    for endpoint in (server, client):
        monkeypatch.setattr(endpoint.identity, "sign_digest", None)
    connection = await client.connect("127.0.0.1", server.port, expect=server.address)
    assert connection._link.resumed
    assert await connection.request(Act(), reply=Seen) == Seen()
    assert server.connections[client.address].peer == client.address
    assert client.connections[server.address].peer == server.address


async def test_an_idempotent_request_goes_with_the_first_packets(peer):
    server, client, handled = await acquaintances(peer)
    connection = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
    assert not connection.settled.is_set()
    assert await connection.request(Look(), reply=Seen) == Seen()
    await connection.settled.wait()
    assert connection._link.early_accepted
    assert await connection.request(Act(), reply=Seen) == Seen()
    assert [kind for kind, _ in handled] == [Look, Act]
    assert client.connections[server.address] is connection


async def test_the_next_visit_has_a_ticket_of_its_own(peer):
    server, client, _ = await acquaintances(peer)
    for _ in range(3):
        connection = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
        await connection.request(Look(), reply=Seen)
        await connection.request(Act(), reply=Seen)
        assert connection._link.early_accepted
        await leave(server, client, connection)


async def test_no_other_request_is_sent_as_early_data(peer):
    server, client, _ = await acquaintances(peer)
    arrived = asyncio.Queue()
    _, ticket = client._tickets._kept.popitem()
    silent = UdpSocket.bind("127.0.0.1", 0, lambda batch: [arrived.put_nowait(data) for data, _ in batch])
    client._tickets.keep(silent.address, ticket)
    connection = await client.connect("127.0.0.1", silent.address[1], expect=server.address, early=True)
    asking = [asyncio.create_task(connection.request(message, reply=Seen, timeout=60)) for message in (Act(), Look())]
    while QuicPacketType.ZERO_RTT not in packets(await asyncio.wait_for(arrived.get(), 60)):
        pass
    assert len(connection._link._streams) == 1
    connection._link.close(0, "enough")
    for failed in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(failed, ConnectionLost)
    silent.close()


async def test_a_server_holds_other_requests_back_until_the_client_is_there(peer, monkeypatch):
    server, client, handled = await acquaintances(peer)
    send, first, held = client._board.send, [], []

    def hold_the_rest(datagrams):
        for datagram in datagrams:
            is_first = not first or QuicPacketType.ZERO_RTT in packets(datagram[0])
            (first if is_first else held).append(datagram)
            if is_first:
                send([datagram])

    monkeypatch.setattr(client._board, "send", hold_the_rest)
    reckless = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
    holding = connections.is_idempotent
    monkeypatch.setattr(connections, "is_idempotent", lambda kind: True)
    asking = [asyncio.create_task(reckless.request(message, reply=Seen, timeout=60)) for message in (Act(), Look())]
    await asyncio.sleep(0)  # both are on their way, as if both were idempotent
    monkeypatch.setattr(connections, "is_idempotent", holding)
    while not handled:
        await asyncio.sleep(0.01)
    assert handled == [(Look, False)]
    monkeypatch.setattr(client._board, "send", send)
    send(held)
    await asyncio.gather(*asking)
    assert handled == [(Look, False), (Act, True)]


async def test_a_first_flight_that_is_sent_again_does_nothing(peer):
    server, client, handled = await acquaintances(peer)
    flight = []
    send = client._board.send
    client._board.send = lambda datagrams: (flight.extend(datagrams), send(datagrams))
    connection = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
    await connection.request(Look(), reply=Seen)
    await leave(server, client, connection)
    replayed = [data for data, _ in flight if {QuicPacketType.INITIAL, QuicPacketType.ZERO_RTT} & set(packets(data))]
    assert any(QuicPacketType.ZERO_RTT in packets(data) for data in replayed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        attacker.setblocking(False)
        for data in replayed:
            attacker.sendto(data, ("127.0.0.1", server.port))
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(attacker, 2000), 60)  # it was answered
    visitor = await peer()
    later = await visitor.connect("127.0.0.1", server.port)
    await later.request(Act(), reply=Seen)
    assert [kind for kind, _ in handled] == [Look, Act]
    assert list(server.connections) == [visitor.address]


async def test_a_server_that_forgot_is_met_anew(peer):
    server, client, handled = await acquaintances(peer)
    server._tickets._given.clear()
    connection = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
    with pytest.raises(ConnectionLost, match="does not remember"):
        await connection.request(Look(), reply=Seen)
    again = await client.connect("127.0.0.1", server.port, expect=server.address, early=True)
    assert not again._link.resumed
    assert await again.request(Look(), reply=Seen) == Seen()
    assert [kind for kind, _ in handled] == [Look]


async def test_a_peer_banned_meanwhile_is_not_let_in_by_its_ticket(peer):
    server, client, handled = await acquaintances(peer)
    server.penalise(client.address, 100, "sent a forged block")
    with pytest.raises(HandshakeRejected, match="forged block"):
        await client.connect("127.0.0.1", server.port, expect=server.address)
    assert not handled


async def test_a_ticket_is_not_used_for_another_wallet(peer, new_identity):
    server, client, _ = await acquaintances(peer)
    with pytest.raises(WrongPeer):
        await client.connect("127.0.0.1", server.port, expect=new_identity().address, early=True)
