import asyncio
import os
import socket

import msgspec
import pytest

from proofyard.transport import HandshakeRejected, PeerUnreachable, RequestFailed
from proofyard.transport.connection import REQUESTS_AT_ONCE
from proofyard.transport.endpoint import MAX_CONNECTIONS_OF_WALLET
from proofyard.transport.guard import BAN_SCORE, BAN_SECONDS, MAX_ENTRIES, Allowance, Guard, host_key
from proofyard.transport.switchboard import RETRY_ABOVE


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    pass


class Told(msgspec.Struct, frozen=True, tag="told"):
    pass


async def answer(connection, message, body):
    return Told()


class Nat(asyncio.DatagramProtocol):
    """Forwards between one inside peer and `target`; `rebind` gives it another port on the outside."""

    def __init__(self, target):
        self._target = target
        self._inside = None
        self._outsides = []

    async def start(self):
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        await self.rebind()
        return self._transport.get_extra_info("sockname")[1]

    async def rebind(self):
        outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        outside.setblocking(False)
        outside.bind(("127.0.0.1", 0))
        loop = asyncio.get_running_loop()
        if self._outsides:
            loop.remove_reader(self._outsides[-1])
        self._outsides.append(outside)
        loop.add_reader(outside, lambda: self._transport.sendto(outside.recv(65_535), self._inside))

    def datagram_received(self, data, address):
        self._inside = address
        self._outsides[-1].sendto(data, self._target)

    def close(self):
        asyncio.get_running_loop().remove_reader(self._outsides[-1])
        self._transport.close()
        for outside in self._outsides:
            outside.close()


async def test_a_connection_survives_a_nat_that_rebinds(peer):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    client.on(Ask, answer)
    nat = Nat(("127.0.0.1", server.port))
    connection = await client.connect("127.0.0.1", await nat.start(), expect=server.address)
    await connection.request(Ask(), reply=Told)
    before = server.connections[client.address].remote
    await nat.rebind()
    await connection.request(Ask(), reply=Told, timeout=60)
    assert server.connections[client.address].remote != before
    await server.connections[client.address].request(Ask(), reply=Told, timeout=60)
    nat.close()


async def test_a_transfer_goes_on_when_the_clients_port_changes(peer):
    data = os.urandom(12 << 20)

    async def send(connection, message, body):
        return Told(), data

    server, client = await peer(), await peer()
    server.on(Ask, send)
    nat = Nat(("127.0.0.1", server.port))
    connection = await client.connect("127.0.0.1", await nat.start(), expect=server.address)
    before = server.connections[client.address].remote
    received = bytearray()
    async with connection.exchange(Ask(), reply=Told) as reply:
        while chunk := await reply.body.read():
            received += chunk
            if len(received) > len(data) // 3 and len(nat._outsides) == 1:
                await nat.rebind()
    assert received == data
    assert server.connections[client.address].remote != before
    nat.close()


async def test_a_crowd_of_strangers_makes_newcomers_prove_their_address(peer):
    server, crowd, client = await peer(), [await peer() for _ in range(5)], await peer()
    server.on(Ask, answer)
    for endpoint in crowd:
        links = [endpoint._board.dial(("127.0.0.1", server.port)) for _ in range(16)]
        await asyncio.gather(*(link.secured.wait() for link in links))
    assert len(server._board._greeting) >= RETRY_ABOVE
    connection = await client.connect("127.0.0.1", server.port, expect=server.address)
    assert connection._link.quic._retry_count == 1
    await connection.request(Ask(), reply=Told)


async def test_requests_under_way_finish_when_a_peer_drains(peer):
    started, finish = asyncio.Event(), asyncio.Event()

    async def work(connection, message, body):
        started.set()
        await finish.wait()
        return Told()

    server, client = await peer(), await peer()
    server.on(Ask, work)
    connection = await client.connect("127.0.0.1", server.port)
    under_way = asyncio.create_task(connection.request(Ask(), reply=Told))
    await started.wait()
    closing = asyncio.create_task(server.close(drain_seconds=60))
    await asyncio.sleep(0)
    with pytest.raises(RequestFailed, match="busy: this peer shuts down"):
        await connection.request(Ask(), reply=Told)
    finish.set()
    assert await under_way == Told()
    await closing
    await asyncio.wait_for(connection.closed.wait(), 60)


async def test_a_wallet_has_only_so_many_connections(peer):
    server, client = await peer(), await peer()
    made = [await client.connect("127.0.0.1", server.port) for _ in range(MAX_CONNECTIONS_OF_WALLET + 2)]
    await asyncio.wait_for(made[1].closed.wait(), 60)
    assert len(server._open) == MAX_CONNECTIONS_OF_WALLET
    assert not made[-1].closed.is_set()


async def test_too_many_requests_are_refused(peer):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    server.connections[client.address]._allowance = Allowance(rate=0.001, burst=3)
    for _ in range(3):
        await connection.request(Ask(), reply=Told)
    with pytest.raises(RequestFailed, match="requests a second"):
        await connection.request(Ask(), reply=Told)
    assert REQUESTS_AT_ONCE >= 200


async def test_a_trace_is_written_where_asked_for(peer, tmp_path):
    server, client = await peer(), await peer(qlog=tmp_path)
    connection = await client.connect("127.0.0.1", server.port)
    link = connection._link
    link.quic._close_end()  # the end of the draining period, without waiting for it
    assert [file.suffix for file in tmp_path.iterdir()] == [".qlog"]


async def test_a_client_refuses_a_server_that_it_has_banned(peer):
    server, client = await peer(), await peer()
    client.penalise(server.address, 100, "sent a forged block")
    with pytest.raises(HandshakeRejected, match="forged block"):
        await client.connect("127.0.0.1", server.port)


def test_points_add_up_fade_and_ban():
    guard = Guard()
    assert not guard.penalise("peer", BAN_SCORE - 1, "rude", now=0.0)
    assert not guard.penalise("peer", 10, "rude again", now=200.0)
    assert guard.ban_reason("peer", 200.0) is None
    assert guard.penalise("peer", BAN_SCORE, "forged", now=201.0)
    assert guard.ban_reason("peer", 202.0) == "banned for 599 s more: forged"
    assert guard.ban_reason("peer", 202.0 + BAN_SECONDS) is None


def test_the_guards_memory_is_bounded():
    guard = Guard()
    for i in range(MAX_ENTRIES + 10):
        guard.penalise(str(i), 1, "noise", now=0.0)
    assert len(guard._entries) == MAX_ENTRIES


def test_strangers_on_loopback_are_told_apart_by_port():
    assert host_key("127.0.0.1", 5) != host_key("127.0.0.1", 6)
    assert host_key("192.0.2.1", 5) == host_key("192.0.2.1", 6)


@pytest.mark.parametrize("port", [0, -1, 65_536, 1 << 70])
async def test_an_address_that_is_none_costs_nobody_else_a_connection(peer, port):
    """Ports come from the Registry, from announcements and from offers, that is from anybody."""
    client, server = await peer(), await peer()
    with pytest.raises(PeerUnreachable, match="no UDP port"):
        await client.connect("127.0.0.1", port)
    assert (await client.connect("127.0.0.1", server.port)).peer == server.address


async def test_a_request_that_a_handler_fails_at_does_not_fill_the_log(peer, caplog):
    """A stranger that finds one such request may send hundreds a second."""
    client, server = await peer(), await peer()

    async def fail(connection, message, body):
        raise KeyError("what nobody foresaw")

    server.on(Ask, fail)
    connection = await client.connect("127.0.0.1", server.port)
    for _ in range(100):
        with pytest.raises(RequestFailed, match="internal"):
            await connection.request(Ask(), reply=Told)
    assert 0 < len([record for record in caplog.records if record.exc_info]) <= 40
