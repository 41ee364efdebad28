"""Every door that strangers can knock at, and what mutated input is made of there.

A door is opened once and knocked at many times: each knock is one input. What comes out may be an error of the
protocol; anything else is a crash. `DOORS` is the list; a door of another part of the product is one more entry.
"""

import asyncio
import contextlib
import io
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.tls import Epoch
from eth_account import Account
from msgspec import inspect as shapes

from fuzz_graphs import artifact_door
from proofyard.artifacts import GetBlocks
from proofyard.artifacts.car import car_pieces, read_car
from proofyard.artifacts.errors import CorruptArtifact, UnusableCar
from proofyard.artifacts.exchange import HasBlocks
from proofyard.artifacts.unixfs import Kind, Node, decode, directory_node, file_node, node_cid, symlink_node
from proofyard.artifacts.unixfs import Link as UnixLink
from proofyard.protocol import members, messages, record
from proofyard.protocol.cid import CidError, cid_bytes, raw_cid, spelt_cid
from proofyard.protocol.codec import CodecError, encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, decode_manifest, encode_manifest
from proofyard.protocol.signature import SignatureInvalid, recover
from proofyard.protocol.types import Address, Digest, ProofyardError, Signature
from proofyard.transport import Endpoint, TransportError, compiled
from proofyard.transport.connection import Connection, Handlers
from proofyard.transport.errors import RouterFailed
from proofyard.transport.frames import ReplyHeader, RequestHeader, frame, read_frame
from proofyard.transport.handshake import Challenge, Hello, Proof, Refusal, Welcome
from proofyard.transport.mapping import discovery, fetching, igd, pcp
from proofyard.transport.mapping.places import Place
from proofyard.transport.quic import Credentials, PeerQuic, configuration
from proofyard.transport.stream import Stream
from proofyard.workloads.compression import INT4, INT8, Codec, SignCodec, TopKCodec
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import load_workload, task_graph
from protocol_docs import example, tagged

Knock = Callable[[], Awaitable[None]]
"""Tries one input."""

IN_MEMORY = next((folder for folder in ("/dev/shm",) if Path(folder).is_dir()), None)  # noqa: S108
"""Where a store of graphs costs no disk."""
WALLET = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
EXTREMES = [b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\0" * 4, b"\xcf" + b"\xff" * 8, b"\xdd\xff\xff\xff\xff", b"\xc1"]


@dataclass(frozen=True)
class Door:
    """`share`: how many of a hundred inputs it gets in the long mode, dearer doors less."""

    name: str
    share: float
    opened: Callable[[random.Random], AbstractAsyncContextManager[Knock]]


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

    def stream_send(self, stream_id: int, data: bytes | memoryview, end: bool) -> None: ...
    def stream_unacknowledged(self, stream_id: int) -> int:
        return 0

    def stream_may_send(self) -> bool:
        return True

    def stream_consumed(self, stream_id: int, count: int, limit: int) -> None: ...
    def stream_reset(self, stream_id: int, code: int) -> None: ...
    def stream_stop(self, stream_id: int, code: int) -> None: ...


def stream_of(data: bytes) -> Stream:
    stream = Stream(Nowhere(), 0)
    stream.feed(data, True)
    return stream


@asynccontextmanager
async def requests(chance: random.Random) -> AsyncIterator[Knock]:
    """Requests of every kind, with and without bodies, up to the handler."""

    async def serve(connection: Connection, message: Any, body: Any) -> messages.Ack:
        await body.read_all(1 << 16)
        return messages.Ack()

    routes, corpus = Handlers(), []
    kinds: list[type[msgspec.Struct]] = [*tagged(messages), GetBlocks, HasBlocks]
    for kind in kinds:
        routes.add(kind, serve)
        message: msgspec.Struct = example(shapes.type_info(kind))
        tag = str(kind.__struct_config__.tag)
        for body in (b"", b"a body"):
            header = RequestHeader(1, tag, 1000, len(body), msgspec.Raw(encode(message)))
            corpus.append(frame(header) + body)
    penalties: list[float] = []
    connection = Connection(SimpleNamespace(), WALLET, False, routes, lambda *_: penalties.clear())  # type: ignore[arg-type]
    connection._allowance = SimpleNamespace(take=lambda now: True)  # type: ignore[assignment]

    async def knock() -> None:
        try:
            head, _ = await connection._answer(stream_of(mutate(chance, corpus)))
        except TransportError:
            return
        reply = await read_frame(stream_of(head), ReplyHeader, 1)
        if reply.error is not None and reply.error.code == "internal":
            raise RuntimeError("a handler failed")

    yield knock


@asynccontextmanager
async def greetings(chance: random.Random) -> AsyncIterator[Knock]:
    """What either side of a handshake reads, and the headers and structs of answers."""
    kinds: list[Any] = [Hello, Proof, Challenge | Welcome | Refusal, ReplyHeader]
    greeting = [Hello(1, WALLET, bytes(32)), Challenge(WALLET, bytes(32)), Proof(Signature(bytes(65)))]
    corpus = [
        frame(value)
        for value in (*greeting, Welcome(Signature(bytes(65))), Refusal("no"), ReplyHeader(1, 5, msgspec.Raw(b"\xc0")))
    ]

    async def knock() -> None:
        with contextlib.suppress(TransportError):
            await read_frame(stream_of(mutate(chance, corpus)), chance.choice(kinds), 1, 2048)

    yield knock


@asynccontextmanager
async def structures(chance: random.Random) -> AsyncIterator[Knock]:
    """Records, member lists and every message, decoded; what a commitment is hashed over, and signatures."""
    kinds: list[Any] = [*tagged(messages), record.BatchRecord, members.Member]
    corpus = {kind: [encode(example(shapes.type_info(kind)))] for kind in kinds}
    lists = [encode((example(shapes.type_info(members.Member)),) * 3)]

    async def knock() -> None:
        kind = chance.choice(kinds)
        with contextlib.suppress(CodecError):
            if kind is members.Member:
                for member in members.decode_members(mutate(chance, lists)):
                    with contextlib.suppress(CidError):
                        member.commitment.struct_hash()
                    with contextlib.suppress(SignatureInvalid):
                        recover(Digest(bytes(32)), member.signature)
            elif kind is record.BatchRecord:
                record.decode_record(mutate(chance, corpus[kind]))
            else:
                messages_decode(mutate(chance, corpus[kind]), kind)

    yield knock


def messages_decode(data: bytes, kind: Any) -> None:
    from proofyard.protocol.codec import decode as decode_struct

    decode_struct(data, kind)


@asynccontextmanager
async def nodes(chance: random.Random) -> AsyncIterator[Knock]:
    """Blocks of dag-pb."""
    links = [UnixLink(raw_cid(bytes([i])), f"name{i}", 5) for i in range(4)]
    corpus = [
        directory_node(links).encode(),
        file_node([UnixLink(link.cid, "", 5) for link in links], [5, 5, 5, 5]).encode(),
        Node(2, (), b"inline", 6).encode(),  # type: ignore[arg-type]
        Node(Kind.SHARD, tuple(UnixLink(raw_cid(b"x"), f"0{n}a", 5) for n in range(3)), b"\x07", fanout=256).encode(),
        symlink_node("../elsewhere").encode(),
    ]

    async def knock() -> None:
        block = mutate(chance, corpus)
        with contextlib.suppress(CorruptArtifact):
            decode(node_cid(block), block)

    yield knock


@asynccontextmanager
async def names(chance: random.Random) -> AsyncIterator[Knock]:
    """CIDs and addresses of peers as text."""
    from proofyard.sdk import BadPeer, PeerAddress

    cids = [raw_cid(b"example").encode(), node_cid(b"example").encode()]
    peers = [b"127.0.0.1:4433", b"[2001:db8::1]:4433", b"verifier.example.org:4433"]

    async def knock() -> None:
        with contextlib.suppress(CidError):
            cid_bytes(mutate(chance, cids).decode(errors="replace"))
        with contextlib.suppress(BadPeer):
            PeerAddress.parse(mutate(chance, peers).decode(errors="replace"))

    yield knock


@asynccontextmanager
async def routers(chance: random.Random) -> AsyncIterator[Knock]:
    """What a home's router, or whoever speaks for it, says by UPnP, PCP and NAT-PMP."""
    service = igd.Service(igd.KINDS[0], Place(80, "/control"))
    fields = f"<serviceType>{igd.KINDS[1]}</serviceType><controlURL>/control?a=b</controlURL>"
    described = f'<?xml version="1.0"?><root><URLBase>http://10.0.0.1:80</URLBase><service>{fields}</service></root>'
    corpus = [
        b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLocation: http://10.0.0.1:5000/root.xml\r\n\r\n",
        described.encode(),
        igd.call(service, "AddPortMapping", igd.mapping_of(50_000, "10.0.0.2", 4433, "proofyard", 0))[1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<a/>\r\n0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\n<a/>",
        bytes((2, 0x81)) + bytes(58),
        bytes((0, 0x81)) + bytes(14),
    ]

    async def knock() -> None:
        data = mutate(chance, corpus)
        discovery.read_answer(data, "10.0.0.1")
        for found in (pcp.pcp_mapping(data, bytes(12), 0), pcp.pmp_mapping(data, 0)):
            if found is not None and not 0 < found.port < 65_536:
                raise RuntimeError("a port that is none")
        pcp.pmp_outside(data), pcp.is_spoken(data)
        with contextlib.suppress(ValueError):
            if any(each.kind not in igd.KINDS for each in igd.read_services(data, "10.0.0.1", service.control)):
                raise RuntimeError("a service that nobody asked for")
        with contextlib.suppress(ValueError):
            igd.read_reply(data)
        with contextlib.suppress(RouterFailed):
            fetching.read(data, "10.0.0.1", 80)

    yield knock


@asynccontextmanager
async def manifests(chance: random.Random) -> AsyncIterator[Knock]:
    """Jobs, up to their task graphs."""
    data = raw_cid(b"data")
    params: list[tuple[str, dict[str, Any]]] = [
        ("map", {"rows": 10, "segment_rows": 2, "segments": 2}),
        ("embed", {"rows": 10, "segment_rows": 2, "segments": 2}),
        ("lora", {"rounds": 2, "workers": 2, "segments": 2, "segment_steps": 1}),
        ("evaluate", {"rows": 10, "segment_rows": 2, "segments": 2}),
        ("sweep", {}),
    ]
    corpus = [encode_manifest(Manifest(workload=name, params=each, data=data, model=data)) for name, each in params]

    async def knock() -> None:
        with contextlib.suppress(CodecError, ManifestRefused, ProofyardError):
            manifest = decode_manifest(mutate(chance, corpus))
            task_graph(load_workload(manifest.workload), manifest)

    yield knock


@asynccontextmanager
async def states(chance: random.Random) -> AsyncIterator[Knock]:
    """States and results, in safetensors."""
    corpus = [
        encode_state({"a": np.zeros((2, 3), np.float32), "step": np.array([3], np.int64)}),
        encode_state({}),
        encode_state({"text": np.frombuffer(b"some text", np.uint8), "ends": np.array([9], np.int64)}),
    ]

    async def knock() -> None:
        with contextlib.suppress(StateRefused):
            decode_state(mutate(chance, corpus), max_bytes=1 << 20)

    yield knock


@asynccontextmanager
async def encodings(chance: random.Random) -> AsyncIterator[Knock]:
    """Small deltas, as results have them."""
    codecs: list[Codec] = [INT8, INT4, SignCodec(3, 1), TopKCodec(64), TopKCodec(400)]
    values = np.array([chance.gauss(0, 1) for _ in range(900)], np.float32)
    corpus = [(codec, codec.encode(values).tobytes()) for codec in codecs]

    async def knock() -> None:
        codec, data = chance.choice(corpus)
        mutated = mutate(chance, [data])
        with contextlib.suppress(StateRefused):
            codec.decode(np.frombuffer(mutated[: len(data)].ljust(len(data), b"\0"), np.uint8), values.size)

    yield knock


def _joined() -> tuple[PeerQuic, PeerQuic, list[bytes]]:
    """A client and a server that have shaken hands, and every datagram that it took."""
    client = PeerQuic(configuration=configuration(None))
    server = PeerQuic(
        configuration=configuration(Credentials.fresh()),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    client.connect(("192.0.2.1", 1), 0.0)
    datagrams = []
    for _ in range(6):
        for side, other in ((client, server), (server, client)):
            for data, _address in side.datagrams_to_send(0.0):
                datagrams.append(data)
                other.receive_datagram(data, ("192.0.2.1", 1), 0.0)
    return client, server, datagrams


@asynccontextmanager
async def datagrams(chance: random.Random) -> AsyncIterator[Knock]:
    """What comes in at the socket, before anything is decrypted."""
    corpus = _joined()[2]
    identity = Account.create()
    wallet: Any = SimpleNamespace(address=identity.address, sign_digest=lambda digest: bytes(65))
    endpoint = Endpoint(wallet, network=Domain(31_337, WALLET))
    knocks = 0

    async def knock() -> None:
        nonlocal knocks
        knocks += 1
        endpoint._board.receive([(mutate(chance, corpus), ("192.0.2.1", 1 + knocks % 60_000))])
        if knocks % 100 == 0:
            await asyncio.sleep(0)
        if len(endpoint._open) > 256:
            raise RuntimeError("more connections are open than there are places for")

    yield knock
    for link in list(endpoint._open):
        link.close(0, "")
    for task in list(endpoint._tasks):
        task.cancel()
    await asyncio.gather(*endpoint._tasks, return_exceptions=True)


WELL_FORMED: list[tuple[int, str]] = [
    (QuicFrameType.PING, ""),
    (QuicFrameType.ACK, "ozzz"),
    (QuicFrameType.RESET_STREAM, "snn"),
    (QuicFrameType.STOP_SENDING, "sn"),
    (QuicFrameType.CRYPTO, "oz"),
    (QuicFrameType.STREAM_BASE | 4 | 2, "soz"),
    (QuicFrameType.STREAM_BASE | 4 | 2 | 1, "soz"),
    (QuicFrameType.MAX_DATA, "n"),
    (QuicFrameType.MAX_STREAM_DATA, "sn"),
    (QuicFrameType.MAX_STREAMS_BIDI, "n"),
    (QuicFrameType.DATA_BLOCKED, "n"),
    (QuicFrameType.STREAM_DATA_BLOCKED, "sn"),
    (QuicFrameType.STREAMS_BLOCKED_BIDI, "n"),
    (QuicFrameType.PATH_CHALLENGE, "8"),
    (QuicFrameType.PATH_RESPONSE, "8"),
]
"""Types of frames and their fields: numbers of streams (s), of anything (n), zero (z), offsets (o),
and eight bytes (8)."""


@asynccontextmanager
async def packets(chance: random.Random) -> AsyncIterator[Knock]:
    """Frames of whoever has shaken hands: of every type, in any order, with numbers that make no sense; alone and in
    groups, which C takes where there is a compiler."""
    compiled.load()
    client, server, _ = _joined()
    address, sent, clock = ("192.0.2.1", 1), 0, 0.0
    numbers = [0, 1, 2, 3, 4, 5, 7, 63, 64, 1000, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1]

    def some_frame() -> tuple[int, bytes]:
        content = b"".join(encode_uint_var(chance.choice(numbers)) for _ in range(chance.randrange(5)))
        return chance.randrange(0x32), content + chance.randbytes(chance.randrange(12))

    def right_frame() -> tuple[int, bytes]:
        """One that may be there, so that what follows it is looked at as well."""
        kind, shape = chance.choice(WELL_FORMED)
        stream = 4 * chance.randrange(8)
        values = {"s": stream, "n": chance.choice(numbers[:10]), "z": 0, "o": chance.randrange(2000)}
        content = b"".join(encode_uint_var(values[each]) for each in shape if each in values)
        return kind, content + (chance.randbytes(8) if "8" in shape else b"")

    def frames() -> list[tuple[int, bytes]]:
        right = [right_frame() for _ in range(chance.randint(1, 20))]
        return right if chance.random() < 0.8 else [*right[:3], *(some_frame() for _ in range(chance.randint(1, 5)))]

    def bulk_frame() -> tuple[int, bytes]:
        """One that looks like the next piece of a stream, and may be."""
        stream = server._streams.get(number := 4 * chance.randrange(8))
        following = 0 if stream is None else stream.receiver._buffer_start
        offset, length = max(0, following + chance.choice([0, 0, 0, 0, 1, -1])), chance.choice([700, 700, 700, 701, 0])
        size = 2 if chance.random() < 0.95 else chance.randrange(4)
        head = (size << 30 | offset).to_bytes(4, "big") + (0x4000 | length).to_bytes(2, "big")
        return 0x0E, encode_uint_var(number) + head + bytes(700)

    def packet() -> list[bytes]:
        builder = QuicPacketBuilder(
            host_cid=client.host_cid,
            is_client=True,
            max_datagram_size=1200,
            packet_number=client._packet_number,
            peer_cid=client._peer_cid.cid,
            version=QuicProtocolVersion.VERSION_1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, client._cryptos[Epoch.ONE_RTT])
        with contextlib.suppress(QuicPacketBuilderStop):
            for kind, content in [bulk_frame()] if chance.random() < 0.5 else frames():
                builder.start_frame(kind, capacity=len(content) + 2).push_bytes(content)
        made, client._packet_number = builder.flush()[0], builder.packet_number
        return made

    async def knock() -> None:
        nonlocal client, server, sent, clock
        sent, clock = sent + 1, clock + 0.01
        group = [(data, address) for _ in range(chance.choice([1, 1, 6])) for data in packet()]
        if chance.random() < 0.1:
            chance.shuffle(group)
        server.receive_datagrams(group, clock)
        while server.next_event() is not None:
            pass
        server.datagrams_to_send(clock)
        if server._close_event is not None or server.tally.abuse:
            client, server, _ = _joined()
            clock = 0.0

    yield knock


@asynccontextmanager
async def graphs(chance: random.Random) -> AsyncIterator[Knock]:
    """Blocks that link to one another in any way, through everything that reads an artifact."""
    with TemporaryDirectory(prefix="proofyard-fuzz-", dir=IN_MEMORY) as folder:
        door = artifact_door(Path(folder))

        async def knock() -> None:
            door(chance.randbytes(chance.randrange(200)))

        yield knock


@asynccontextmanager
async def cars(chance: random.Random) -> AsyncIterator[Knock]:
    """CAR files, and CIDs as people write them."""
    blocks = [(raw_cid(data), data) for data in (b"", b"one", b"two")]
    plain = b"".join(car_pieces([raw_cid(b"one")], blocks))
    wrapped = bytes.fromhex("0aa16776657273696f6e02") + bytes(16) + struct.pack("<QQQ", 51, len(plain), 0) + plain
    spelt = [text.encode() for text in (raw_cid(b"x"), raw_cid(b"x").upper(), "Qm" + "a" * 44, "f0155" + "12" * 34)]

    async def knock() -> None:
        with contextlib.suppress(UnusableCar):
            for _ in read_car(io.BytesIO(mutate(chance, [plain, wrapped]))).blocks:
                pass
        with contextlib.suppress(CidError):
            spelt_cid(mutate(chance, spelt).decode(errors="replace"))

    yield knock


DOORS = (
    Door("requests", 14, requests),
    Door("greetings", 18, greetings),
    Door("structures", 18, structures),
    Door("nodes", 14, nodes),
    Door("cars", 4, cars),
    Door("graphs", 0.2, graphs),
    Door("names", 7.8, names),
    Door("routers", 2, routers),
    Door("states", 6, states),
    Door("encodings", 4, encodings),
    Door("manifests", 9, manifests),
    Door("datagrams", 2, datagrams),
    Door("packets", 1, packets),
)
