"""What QUIC is not asked for because there is nothing to send, held against what it would have sent; and which
acknowledgements go alone."""

import asyncio
import os

import msgspec
import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder

from proofyard.transport import DeadlineExceeded
from proofyard.transport.link import EARLY_S, Link
from proofyard.transport.quic import KEEP_ALIVE, KEEP_ALIVE_NEAR, PeerQuic
from proofyard.transport.udp import UdpSocket


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    seconds: float = 0.0


class Told(msgspec.Struct, frozen=True, tag="told"):
    size: int


async def answer(connection, message, body):
    await asyncio.sleep(message.seconds)
    data = await body.read_all(1 << 30)
    return Told(len(data)), data


async def connected(peer):
    server, client = await peer(), await peer()
    for endpoint in (server, client):
        endpoint.on(Ask, answer)
    there = await client.connect("127.0.0.1", server.port, expect=server.address)
    return there, server.connections[client.address]


@pytest.fixture
def looks(monkeypatch):
    """How often a connection was found quiet, after a look at what it would have sent all the same."""
    found = []
    is_quiet = PeerQuic._is_quiet

    def held_against_aioquic(self, space, now):
        quiet = is_quiet(self, space, now)
        if quiet:
            sent = QuicConnection.datagrams_to_send(self, now)
            found.append(len(sent))
        return quiet

    monkeypatch.setattr(PeerQuic, "_is_quiet", held_against_aioquic)
    return found


async def test_a_connection_is_quiet_only_where_aioquic_sends_nothing(peer, looks):
    forth, back = await connected(peer)
    for size in (0, 100, 3 << 20):
        for side in (forth, back):
            async with side.exchange(Ask(), reply=Told, body=os.urandom(size)) as reply:
                assert len(await reply.body.read_all(size)) == size
    with pytest.raises(DeadlineExceeded):
        await forth.request(Ask(30.0), reply=Told, timeout=0.2)
    # An answer's body that nobody reads, and more requests than streams are allowed at a time.
    await asyncio.gather(*(forth.request(Ask(), reply=Told, body=bytes(20_000)) for _ in range(300)))
    assert looks
    assert not any(looks)


async def test_no_packet_is_begun_that_has_nothing_in_it(peer, monkeypatch):
    """Streams that are over, and a packet that took all there was, are no reason to begin one."""
    forth, back = await connected(peer)
    await forth.request(Ask(), reply=Told)
    await asyncio.sleep(0.1)
    begun, sent = [], []
    start, send = QuicPacketBuilder.start_packet, UdpSocket.send
    monkeypatch.setattr(QuicPacketBuilder, "start_packet", lambda *args: begun.append(args) or start(*args))
    monkeypatch.setattr(UdpSocket, "send", lambda self, datagrams: sent.extend(datagrams) or send(self, datagrams))
    for side in (forth, back):
        for _ in range(20):
            await side.request(Ask(), reply=Told)
    async with asyncio.timeout(60):
        while forth._link.quic._streams or back._link.quic._streams:
            await asyncio.sleep(0.01)
    assert len(begun) == len(sent) > 80
    # More than fits into one packet is sent all the same.
    async with forth.exchange(Ask(), reply=Told, body=os.urandom(1 << 20)) as reply:
        assert reply.message == Told(1 << 20)


async def test_small_requests_and_answers_carry_each_others_acknowledgements(peer, monkeypatch):
    monkeypatch.setattr("proofyard.transport.quic.ACK_DELAY", 10.0)  # however long this machine pauses
    forth, _ = await connected(peer)
    await forth.request(Ask(), reply=Told)
    await asyncio.sleep(0.1)
    sent = []
    send = UdpSocket.send

    def counted(self, datagrams):
        sent.extend(datagrams)
        send(self, datagrams)

    monkeypatch.setattr(UdpSocket, "send", counted)
    for _ in range(50):
        await forth.request(Ask(), reply=Told)
    # Two for each request, and some for more streams to be allowed.
    assert len(sent) < 3 * 50


async def test_an_idle_endpoint_sleeps_until_its_ping_is_due_and_looks_after_what_is_under_way(peer, monkeypatch):
    monkeypatch.setattr("proofyard.transport.endpoint.LOOK_S", 0.02)
    forth, _ = await connected(peer)
    looked = []
    is_busy = Link.is_busy
    monkeypatch.setattr(Link, "is_busy", lambda self: looked.append(self) or is_busy(self))
    under_way = asyncio.create_task(forth.request(Ask(0.5), reply=Told))
    await asyncio.sleep(0)
    await under_way
    assert len(looked) > 4, "somebody looks whether it stalls"
    await asyncio.sleep(0.2)
    looked.clear()
    await asyncio.sleep(0.5)
    assert not looked, "nothing wakes what is idle"


async def test_a_silent_connection_is_pinged_by_who_made_it(peer, monkeypatch):
    monkeypatch.setattr("proofyard.transport.link.KEEP_ALIVE_NEAR", 0.05)
    monkeypatch.setattr("proofyard.transport.endpoint.KEEP_ALIVE", 0.05)
    pinged = []
    ping = Link.ping
    monkeypatch.setattr(Link, "ping", lambda self: pinged.append(self) or ping(self))
    forth, back = await connected(peer)
    async with asyncio.timeout(60):
        while len(pinged) < 3:
            await asyncio.sleep(0.05)
    assert set(pinged) == {forth._link}
    assert not back.closed.is_set()


async def test_what_is_heard_needs_no_ping_and_what_is_far_needs_it_sooner(peer, monkeypatch):
    forth, _ = await connected(peer)
    before = forth._link.ping_at
    assert before == forth._link.heard_at + KEEP_ALIVE_NEAR
    await asyncio.sleep(0.01)
    await forth.request(Ask(), reply=Told)
    assert forth._link.ping_at == forth._link.heard_at + KEEP_ALIVE_NEAR > before
    monkeypatch.setattr(Link, "address", ("198.51.100.7", 4433))
    assert forth._link.ping_at == forth._link.heard_at + KEEP_ALIVE


async def test_a_timer_for_what_was_acknowledged_wakes_nobody(peer):
    forth, _ = await connected(peer)
    await forth.request(Ask(), reply=Told)
    async with asyncio.timeout(60):
        while forth._link.is_busy() or forth._link.quic.get_timer() < asyncio.get_running_loop().time() + EARLY_S:
            await asyncio.sleep(0.01)
    assert forth._link._timer.when() > asyncio.get_running_loop().time() + EARLY_S
