"""What a peer that does not follow the protocol can do: lose its connection, and nothing else."""

import asyncio
import os
import random
import socket

import msgspec
import pytest

from proofyard.transport import (
    ConnectionLost,
    DeadlineExceeded,
    Endpoint,
    ProtocolViolation,
    RequestCancelled,
    RequestFailed,
    TransportError,
)
from proofyard.transport import connection as connections
from proofyard.transport.frames import MAX_HEADER_BYTES, ReplyHeader, RequestHeader, frame, read_frame
from proofyard.transport.link import Link
from proofyard.transport.quic import GREETING_WINDOW, SEND_BUFFER
from proofyard.transport.switchboard import MAX_GREETINGS_OF_HOST


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    text: str = ""


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str


async def answer(connection, message, body):
    return Told(message.text)


async def stranger(endpoint: Endpoint, port: int) -> Link:
    """A QUIC connection of `endpoint` to `port` on which nobody has greeted."""
    link = endpoint._board.dial(("127.0.0.1", port))
    await link.secured.wait()
    return link


async def serves(peer, server: Endpoint) -> bool:
    visitor = await peer()
    connection = await visitor.connect("127.0.0.1", server.port)
    return await connection.request(Ask("well?"), reply=Told) == Told("well?")


async def test_garbage_datagrams_are_ignored(peer):
    server = await peer()
    server.on(Ask, answer)
    noise = random.Random(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in (0, 1, 5, 6, 7, 20, 1199, 1200, 1500, 9000):
            for first in (0x00, 0x40, 0x80, 0xC0, 0xC3, 0xFF):
                data = bytearray(noise.randbytes(size))
                data[:1] = bytes([first])[: len(data)]
                sock.sendto(data, ("127.0.0.1", server.port))
                if size > 5:
                    data[1:5] = b"\0\0\0\1"
                    data[5] = 8
                    sock.sendto(data, ("127.0.0.1", server.port))
    assert await serves(peer, server)
    assert len(server._open) == 1


async def test_another_version_of_quic_is_answered_with_ours(peer):
    server = await peer()
    probe = b"\xc0" + (0x1A2A3A4A).to_bytes(4, "big") + b"\x08AAAAAAAA\x04BBBB"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", server.port))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, probe.ljust(1200, b"\0"))
        reply = await asyncio.wait_for(loop.sock_recv(sock, 2000), 60)
    assert reply[1:5] == b"\0\0\0\0"
    assert reply.endswith(b"\0\0\0\1")


async def test_handshakes_that_lead_nowhere_are_limited(peer):
    server, attacker = await peer(), await peer()
    for _ in range(MAX_GREETINGS_OF_HOST + 20):
        attacker._board.dial(("127.0.0.1", server.port))
    await asyncio.sleep(0.2)
    assert len(server._open) <= MAX_GREETINGS_OF_HOST


async def test_a_stranger_gets_no_answer_and_little_memory(peer):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    link = await stranger(client, server.port)
    request = frame(RequestHeader(v=1, kind="ask", deadline_ms=1000, body=0, payload=msgspec.Raw(b"\x80")))
    first = await link.open_stream()
    await first.write(b"\0\0", 60)
    second = await link.open_stream()
    with pytest.raises(DeadlineExceeded):
        await second.write(request + bytes(SEND_BUFFER), 0.3)
    with pytest.raises(DeadlineExceeded):
        await second.read(1, 0.1)
    (inside,) = server._open
    assert inside.quic._local_max_data.used <= GREETING_WINDOW


@pytest.mark.parametrize(
    "greeting",
    [
        os.urandom(64),
        (1 << 30).to_bytes(4, "big") + b"x",
        b"\xff" * 12,
        b"\0\0\0\1\xc1",
        b"\0\0\0\0",
    ],
    ids=["noise", "a gigabyte", "all ones", "reserved byte", "nothing"],
)
async def test_a_senseless_greeting_ends_the_connection(peer, greeting):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    link = await stranger(client, server.port)
    await (await link.open_stream()).write(greeting, 60)
    await asyncio.wait_for(link.closed.wait(), 60)
    assert await serves(peer, server)


@pytest.mark.parametrize(
    "sent",
    [
        (MAX_HEADER_BYTES + 1).to_bytes(4, "big"),
        b"\xff\xff\xff\xff",
        b"\0\0\0\5hello",
        b"\0\0\0\2\xde\xff",
        b"\0\0\0\5\xdd\xff\xff\xff\xff",
        frame(RequestHeader(v=1, kind="ask", deadline_ms=1, body=0, payload=msgspec.Raw(b"\xc0"))).replace(
            b"\xa4body\x00", b"\xa4body\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
        ),
    ],
    ids=["over the limit", "4 GiB", "no msgpack", "huge map", "huge array", "a body of 2^64 bytes"],
)
async def test_a_senseless_request_ends_the_connection_with_a_reason(peer, sent):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    stream = await connection._link.open_stream()
    await stream.write(sent, 60)
    with pytest.raises((ConnectionLost, TransportError)):
        await stream.read(1, 60)
    await asyncio.wait_for(connection.closed.wait(), 60)
    assert "limit" in connection.reason or "decoded" in connection.reason
    assert await serves(peer, server)


async def test_a_peer_that_keeps_sending_nonsense_is_banned(peer):
    server, client = await peer(), await peer()
    with pytest.raises(TransportError, match="banned"):
        for _ in range(13):
            connection = await client.connect("127.0.0.1", server.port)
            await (await connection._link.open_stream()).write(b"\xff" * 8, 60)
            await asyncio.wait_for(connection.closed.wait(), 60)


async def test_a_body_that_ends_early_is_noticed(peer):
    server, client = await peer(), await peer()
    noticed = asyncio.get_running_loop().create_future()

    async def read(connection, message, body):
        try:
            await body.read_all(1 << 20)
        except ProtocolViolation as error:
            noticed.set_result(str(error))
            raise
        return Told("")

    server.on(Ask, read)
    connection = await client.connect("127.0.0.1", server.port)
    stream = await connection._link.open_stream()
    head = frame(
        RequestHeader(v=1, kind="ask", deadline_ms=60_000, body=100, payload=msgspec.Raw(msgspec.msgpack.encode(Ask())))
    )
    await stream.write(head + b"only this", 60)
    stream.finish()
    assert "91 bytes early" in await asyncio.wait_for(noticed, 60)


async def test_a_request_that_drips_in_is_given_up(peer, monkeypatch):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    stream = await connection._link.open_stream()
    await stream.write(MAX_HEADER_BYTES.to_bytes(4, "big"), 60)
    with pytest.raises(RequestCancelled):
        while True:
            await stream.write(b"x", 60)
            await asyncio.sleep(0.01)
    assert not server.connections[client.address].tasks
    monkeypatch.undo()
    assert await connection.request(Ask("on"), reply=Told) == Told("on")


async def test_a_body_that_claims_to_be_endless_is_refused_before_it_is_read(peer):
    server, client = await peer(), await peer()

    async def read(connection, message, body):
        return Told(str(len(await body.read_all(1 << 20))))

    server.on(Ask, read)
    connection = await client.connect("127.0.0.1", server.port)
    stream = await connection._link.open_stream()
    payload = msgspec.Raw(msgspec.msgpack.encode(Ask()))
    await stream.write(frame(RequestHeader(v=1, kind="ask", deadline_ms=60_000, body=1 << 62, payload=payload)), 60)
    reply = await read_frame(stream, ReplyHeader, 60)
    assert reply.error is not None
    assert reply.error.code == "too-large"
    assert await connection.request(Ask(), reply=Told, body=b"123") == Told("3")


async def test_a_reset_before_anything_else_costs_nothing(peer):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    for _ in range(300):
        (await connection._link.open_stream()).abort(7)
    assert await connection.request(Ask("still here"), reply=Told) == Told("still here")
    assert not server.connections[client.address]._tasks


async def test_a_future_version_of_requests_is_refused_politely(peer):
    server, client = await peer(), await peer()
    server.on(Ask, answer)
    connection = await client.connect("127.0.0.1", server.port)
    stream = await connection._link.open_stream()
    head = RequestHeader(v=2, kind="ask", deadline_ms=60_000, body=0, payload=msgspec.Raw(b"\x80"))
    await stream.write(frame(head), 60)
    stream.finish()
    reply = await stream.read(1000, 60)
    assert b"version 2 of requests is not served here" in reply
    assert await connection.request(Ask("on"), reply=Told) == Told("on")


async def test_a_lost_handler_answer_is_no_leak(peer):
    server, client = await peer(), await peer()

    async def refuse(connection, message, body):
        raise RequestFailed("busy", "later")

    server.on(Ask, refuse)
    connection = await client.connect("127.0.0.1", server.port)
    for _ in range(300):
        with pytest.raises(RequestFailed):
            await connection.request(Ask(), reply=Told)
    assert len(connection._link._streams) < 5
    assert len(server.connections[client.address]._link._streams) < 5
