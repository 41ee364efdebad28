import asyncio
import os

import msgspec
import pytest

from proofyard.protocol.types import ProofyardError
from proofyard.transport import (
    Connection,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    ProtocolViolation,
    RequestFailed,
    Source,
)
from proofyard.transport.quic import CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    text: str = ""
    number: int = 0


class Told(msgspec.Struct, frozen=True, tag="told"):
    text: str
    body_bytes: int = 0


async def echo(connection, message, body):
    return Told(message.text, len(await body.read_all(1 << 30)))


async def pair(peer, handler=echo):
    server, client = await peer(), await peer()
    for endpoint in (server, client):
        endpoint.on(Ask, handler)
    connection = await client.connect("127.0.0.1", server.port, expect=server.address)
    return connection, server.connections[client.address]


async def test_either_side_asks_over_one_connection(peer):
    forth, back = await pair(peer)
    assert await forth.request(Ask("to the server"), reply=Told) == Told("to the server")
    assert await back.request(Ask("to the client"), reply=Told) == Told("to the client")


async def test_many_requests_at_once(peer):
    forth, back = await pair(peer)
    answers = await asyncio.gather(
        *(side.request(Ask(str(i)), reply=Told) for i in range(150) for side in (forth, back))
    )
    assert [answer.text for answer in answers[::2]] == [str(i) for i in range(150)]


async def test_big_bodies_in_both_directions(peer):
    data = os.urandom(20 << 20)

    async def swap(connection, message, body):
        return Told("", body.size), await body.read_all(1 << 30)

    forth, _ = await pair(peer, swap)
    async with forth.exchange(Ask(), reply=Told, body=data) as reply:
        assert reply.message.body_bytes == len(data)
        assert await reply.body.read_all(1 << 30) == data


async def test_a_source_is_sent_as_it_is_made(peer):
    async def pieces():
        for i in range(10):
            yield bytes([i]) * 1000

    forth, _ = await pair(peer)
    answer = await forth.request(Ask(), reply=Told, body=Source(10_000, pieces()))
    assert answer.body_bytes == 10_000


async def test_a_body_that_nobody_reads_holds_its_sender_back(peer):
    sent = 0

    async def pieces():
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    async def endless(connection, message, body):
        return Told(""), Source(1 << 40, pieces())

    forth, _ = await pair(peer, endless)
    async with forth.exchange(Ask(), reply=Told) as reply:
        await reply.body.read(1)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert sent <= STREAM_WINDOW + SEND_BUFFER + (1 << 20)


async def test_unread_bodies_do_not_use_up_the_connection(peer):
    async def big(connection, message, body):
        return Told(""), bytes(1 << 20)

    forth, _ = await pair(peer, big)
    for _ in range(2 * CONNECTION_WINDOW >> 20):
        assert await forth.request(Ask(), reply=Told) == Told("")
    async with forth.exchange(Ask(), reply=Told) as reply:
        assert len(await reply.body.read_all(1 << 20)) == 1 << 20


async def test_a_body_over_the_callers_limit_is_not_read(peer):
    async def big(connection, message, body):
        return Told(""), bytes(1000)

    forth, _ = await pair(peer, big)
    async with forth.exchange(Ask(), reply=Told) as reply:
        with pytest.raises(MessageTooLarge, match="1000 bytes is over the limit of 999"):
            await reply.body.read_all(999)


async def test_a_deadline_ends_both_sides(peer):
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(connection, message, body):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    forth, _ = await pair(peer, slow)
    while not started.is_set():  # on a busy machine the time may be over before the request is there
        with pytest.raises((DeadlineExceeded, RequestFailed)):
            await forth.request(Ask(), reply=Told, timeout=0.2)
    await asyncio.wait_for(ended.wait(), 60)


async def test_giving_up_cancels_the_handler(peer):
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(connection, message, body):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    forth, _ = await pair(peer, slow)
    asking = asyncio.create_task(forth.request(Ask(), reply=Told, timeout=60))
    await started.wait()
    asking.cancel()
    await asyncio.wait_for(ended.wait(), 60)
    assert asking.cancelled() or asking.cancelling()


async def test_a_handlers_refusal_arrives_with_its_code(peer):
    async def refuse(connection, message, body):
        raise RequestFailed("busy", "all seats are taken")

    forth, _ = await pair(peer, refuse)
    with pytest.raises(RequestFailed, match="all seats") as caught:
        await forth.request(Ask(), reply=Told, body=bytes(5 << 20))
    assert caught.value.code == "busy"


async def test_known_errors_are_told_and_unknown_ones_are_not(peer, caplog):
    async def fail(connection, message, body):
        raise ProofyardError("the disk is full") if message.text == "known" else ZeroDivisionError("secret")

    forth, _ = await pair(peer, fail)
    with pytest.raises(RequestFailed, match="failed: the disk is full"):
        await forth.request(Ask("known"), reply=Told)
    with pytest.raises(RequestFailed, match="internal") as caught:
        await forth.request(Ask(), reply=Told)
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError" in caplog.text


async def test_a_request_that_nobody_serves_is_refused_politely(peer):
    class Strange(msgspec.Struct, frozen=True, tag="strange"):
        pass

    forth, _ = await pair(peer)
    with pytest.raises(RequestFailed, match=r"unknown-request.*'strange'"):
        await forth.request(Strange(), reply=Told)
    assert await forth.request(Ask("still here"), reply=Told) == Told("still here")


async def test_a_request_of_the_wrong_shape_is_refused(peer):
    class Bent(msgspec.Struct, frozen=True, tag="ask"):
        text: int = 5

    forth, _ = await pair(peer)
    with pytest.raises(RequestFailed, match=r"bad-request.*text"):
        await forth.request(Bent(), reply=Told)


async def test_unknown_fields_are_ignored(peer):
    class Newer(msgspec.Struct, frozen=True, tag="ask"):
        text: str = "hello"
        colour: str = "blue"

    forth, _ = await pair(peer)
    assert await forth.request(Newer(), reply=Told) == Told("hello")


async def test_an_answer_of_another_type_is_a_violation(peer):
    class Other(msgspec.Struct, frozen=True, tag="other"):
        pass

    forth, _ = await pair(peer)
    with pytest.raises(ProtocolViolation):
        await forth.request(Ask(), reply=Other)


async def test_an_oversized_message_is_not_sent(peer):
    forth, _ = await pair(peer)
    with pytest.raises(MessageTooLarge):
        await forth.request(Ask("x" * (1 << 20)), reply=Told)


async def test_requests_fail_when_the_connection_ends(peer):
    async def hang_up(connection: Connection, message, body):
        asyncio.get_running_loop().call_later(0.05, asyncio.ensure_future, connection.close("bye"))
        await asyncio.sleep(60)

    forth, _ = await pair(peer, hang_up)
    with pytest.raises(ConnectionLost, match="bye"):
        await forth.request(Ask(), reply=Told, timeout=60)
    with pytest.raises(ConnectionLost):
        await forth.request(Ask(), reply=Told)
