"""Mutated input at every door. `make fuzz` is the long mode.

Whatever comes in, only the errors of the protocol come out, and memory stays bounded.
"""

import asyncio
import contextlib
import os
import random
import resource

import msgspec
import pytest

from proofyard.artifacts import Blocks, CorruptArtifact, GetBlocks
from proofyard.artifacts.exchange import HasBlocks, Held
from proofyard.artifacts.unixfs import Link as UnixLink
from proofyard.artifacts.unixfs import Node, decode, directory_node, file_node, node_cid
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.messages import Ack, JobQuery
from proofyard.transport import Endpoint, TransportError
from proofyard.transport.connection import Connection, Routes
from proofyard.transport.frames import ReplyHeader, RequestHeader, frame, read_frame
from proofyard.transport.handshake import Challenge, Hello, Proof, Refusal, Welcome
from proofyard.transport.quic import Credentials, PeerQuic, configuration
from proofyard.transport.stream import Stream

INPUTS = int(os.environ.get("FUZZ_INPUTS", "3000"))
WALLET = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
EXTREMES = [b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0" * 4, b"\xcf" + b"\xff" * 8, b"\xdd\xff\xff\xff\xff", b"\xc1"]


def mutate(chance: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with some of: flipped bits, cut ends, repeated parts, extreme numbers, parts of another."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = data[at : at + chance.randrange(1, 30)]
            case 3:
                extreme = chance.choice(EXTREMES)
                data[at : at + len(extreme)] = extreme
            case 4:
                other = chance.choice(corpus)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


class Nowhere:
    """The connection of a stream that has none."""

    def stream_send(self, stream_id, data, end): ...

    def stream_unacknowledged(self, stream_id):
        return 0

    def stream_may_send(self):
        return True

    def stream_consumed(self, stream_id, count, limit): ...

    def stream_reset(self, stream_id, code): ...

    def stream_stop(self, stream_id, code): ...


def stream_of(data: bytes) -> Stream:
    stream = Stream(Nowhere(), 0)
    stream.feed(data, True)
    return stream


@pytest.fixture(autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


async def test_mutated_requests_are_answered_or_refused():
    async def serve(connection, message, body):
        assert isinstance(message, JobQuery | GetBlocks | HasBlocks)
        await body.read_all(1 << 16)
        return Ack()

    routes = Routes()
    routes.add(JobQuery, serve)
    routes.add(GetBlocks, serve)
    routes.add(HasBlocks, serve)
    connection = Connection(None, WALLET, False, routes, lambda *_: None)
    corpus = [
        frame(RequestHeader(1, tag, 1000, len(body), msgspec.Raw(encode(message)))) + body
        for tag, message, body in (
            ("job-query", JobQuery(7), b""),
            ("job-query", JobQuery(7, 9), b"a body"),
            ("get-blocks", GetBlocks(bytes(72)), bytes(500)),
            ("has-blocks", HasBlocks(bytes(72)), b""),
            ("unknown", JobQuery(1), b""),
        )
    ]
    chance = random.Random(1)
    for _ in range(INPUTS):
        try:
            head, _ = await connection._answer(stream_of(mutate(chance, corpus)))
        except TransportError:
            continue
        reply = await read_frame(stream_of(head), ReplyHeader, 1)
        assert reply.error is None or reply.error.code != "internal"


async def test_mutated_greetings_and_replies_are_decoded_or_refused():
    kinds = [Hello, Proof, Challenge | Welcome | Refusal, ReplyHeader, Blocks | Held]
    corpus = [
        frame(value)
        for value in (
            Hello(1, WALLET, bytes(32)),
            Challenge(WALLET, bytes(32)),
            Proof(bytes(65)),
            Welcome(bytes(65)),
            Refusal("no"),
            ReplyHeader(1, 5, msgspec.Raw(encode(Ack()))),
            Blocks((5, -1, 1 << 18)),
            Held(b"\1\0\1"),
        )
    ]
    chance = random.Random(2)
    for i in range(INPUTS):
        with contextlib.suppress(TransportError):
            await read_frame(stream_of(mutate(chance, corpus)), kinds[i % len(kinds)], 1, 2048)


def test_mutated_nodes_are_decoded_or_refused():
    links = [UnixLink(raw_cid(bytes([i])), f"name{i}", 5) for i in range(4)]
    corpus = [
        directory_node(links).encode(),
        file_node([UnixLink(link.cid, "", 5) for link in links], [5, 5, 5, 5]).encode(),
        Node(2, (), b"inline", 6).encode(),
    ]
    chance = random.Random(3)
    for _ in range(INPUTS):
        block = mutate(chance, corpus)
        with contextlib.suppress(CorruptArtifact):
            decode(node_cid(block), block)


async def test_mutated_datagrams_leave_the_endpoint_alive(new_identity, network):
    client = PeerQuic(configuration=configuration(None))
    server = PeerQuic(
        configuration=configuration(Credentials.fresh()),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    corpus = []
    client.connect(("192.0.2.1", 1), 0.0)
    for _ in range(4):
        for side, other in ((client, server), (server, client)):
            for data, _ in side.datagrams_to_send(0.0):
                corpus.append(data)
                other.receive_datagram(data, ("192.0.2.1", 1), 0.0)
    endpoint = Endpoint(new_identity(), network=network)
    chance = random.Random(4)
    for i in range(INPUTS // 10):
        endpoint._board.receive([(mutate(chance, corpus), ("192.0.2.1", 1 + i % 60_000)) for _ in range(3)])
        if i % 100 == 0:
            await asyncio.sleep(0)
    assert len(endpoint._open) <= 256
    for link in list(endpoint._open):
        link.close(0, "")
    for task in list(endpoint._tasks):
        task.cancel()
    await asyncio.gather(*endpoint._tasks, return_exceptions=True)
