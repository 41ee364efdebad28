"""What `floods.py` does to a running peer: each attack in a process of its own, from wallets without stake.

    python scripts/flood_attacks.py NAME HOST PORT CHAIN_ID REGISTRY SECONDS API_PORT [BLOCK...]

Says what it did as one line of JSON. `ATTACKS` is the list; one of another kind is one more entry.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from aioquic.quic.packet import QuicFrameType
from aioquic.tls import Epoch
from eth_account import Account
from msgspec import inspect as shapes

from forged_frames import Frame, in_pieces, send_frames, varint
from proofyard.artifacts import BlockStore, GetBlocks, serve_blocks
from proofyard.artifacts.exchange import Blocks, HasBlocks
from proofyard.artifacts.unixfs import Link as UnixLink
from proofyard.artifacts.unixfs import Node, directory_node, node_cid
from proofyard.discovery import messages as discovery
from proofyard.protocol import messages
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import Address, Cid, Digest, JobId, ProofyardError, Signature
from proofyard.transport import Endpoint, TransportError
from proofyard.transport.connection import Connection, tag_of
from proofyard.transport.frames import RequestHeader, frame
from proofyard.transport.link import Link
from proofyard.transport.quic import PeerQuic, configuration
from protocol_docs import example

PER_S = 500
"""Requests a second of the floods of requests."""
SILENT_HOSTS, SILENT_EACH = 9, 32
GREEDY_WALLETS, GREEDY_REQUESTS = 4, 120
CROWD, CROWD_AT_ONCE = 300, 16
OF_ONE_WALLET_S = 1.5
"""How long packets are sent from one wallet."""


class Identity:
    """A wallet, a new one unless its key is given."""

    def __init__(self, key: str = "") -> None:
        self._account = Account.from_key(key) if key else Account.create()
        self.address = Address(self._account.address)

    def sign_digest(self, digest: Digest) -> Signature:
        return Signature(bytes(self._account.unsafe_sign_hash(digest).signature))


@dataclass
class Attack:
    """One attack under way: at whom, until when, and what became of it."""

    host: str
    port: int
    network: Domain
    until: float
    api_port: int = 0
    blocks: tuple[Cid, ...] = ()
    """Blocks that the target has."""
    counted: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """Why connections ended."""

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    async def its_end(self) -> None:
        await asyncio.sleep(max(0.0, self.until - time.monotonic()))

    @contextlib.asynccontextmanager
    async def peer(self, host: str = "127.0.0.1") -> AsyncIterator[Endpoint]:
        """A new wallet, on a socket of its own."""
        async with Endpoint(Identity(), network=self.network, host=host) as endpoint:
            yield endpoint

    async def connect(self, endpoint: Endpoint) -> Connection:
        connection = await endpoint.connect(self.host, self.port)
        self.counted["connections"] += 1
        return connection

    async def ask_again(self, endpoint: Endpoint) -> None:
        """Note whether its wallet is still welcome."""
        try:
            await endpoint.connect(self.host, self.port)
            self.ends["welcome again"] += 1
        except TransportError as error:
            self.ends[_kind_of(str(error))] += 1

    def ended(self, link: Link | Connection) -> bool:
        """Whether it is over; why is noted."""
        if link.closed.is_set():
            self.ends[_kind_of(link.reason)] += 1
        return link.closed.is_set()


def _kind_of(reason: str) -> str:
    """A reason without the numbers in it."""
    return reason.split(" s more: ")[-1][:80]


# Frames of whoever has shaken hands


def repeated(kind: int, content: bytes, each: int, packets: int) -> Iterator[list[Frame]]:
    for _ in range(packets):
        yield [(kind, content)] * each


def reset_streams(kind: int, per_packet: int = 60) -> Iterator[list[Frame]]:
    """New streams, as many as there may be at a time, each ended as soon as it is there."""
    for start in range(0, 60_000, per_packet):
        frames: list[Frame] = []
        for number in range(start, start + per_packet):
            stream = 4 * (number + 1)
            if kind == QuicFrameType.STOP_SENDING:
                frames.append((kind, varint(stream, 7)))
            frames.append((QuicFrameType.RESET_STREAM, varint(stream, 7, 0)))
        yield frames


def rapid_resets() -> Iterator[list[Frame]]:
    """Whole requests, each taken back with the next frame (as in CVE-2023-44487 for HTTP/2)."""
    head = frame(RequestHeader(1, "job-query", 5000, 0, msgspec.Raw(encode(messages.JobQuery(JobId(1))))))
    for start in range(0, 60_000, 20):
        frames: list[Frame] = []
        for number in range(start, start + 20):
            stream = 4 * (number + 1)
            frames.append((QuicFrameType.STREAM_BASE | 4 | 2, varint(stream, 0, len(head)) + head))
            frames.append((QuicFrameType.RESET_STREAM, varint(stream, 7, len(head))))
            frames.append((QuicFrameType.STOP_SENDING, varint(stream, 7)))
        yield frames


def new_ids(retire: bool) -> Iterator[list[Frame]]:
    """Connection IDs, each of which may retire all before it: we answer each with a frame."""
    for start in range(1, 40_000, 40):
        yield [
            (
                QuicFrameType.NEW_CONNECTION_ID,
                varint(number, number if retire else 0) + b"\x08" + number.to_bytes(8, "big") + bytes(16),
            )
            for number in range(start, start + 40)
        ]


def growing(kind: int, packets: int = 2000) -> Iterator[list[Frame]]:
    """A limit that grows by one with every frame."""
    for start in range(packets):
        yield [(kind, varint((1 << 40) + start * 50 + each)) for each in range(50)]


FRAMES: dict[str, Callable[[], Iterator[list[Frame]]]] = {
    "one stream in 60,000 pieces": lambda: in_pieces(60_000, 1),
    "60 streams in 60,000 pieces": lambda: in_pieces(60_000, 60),
    "its TLS messages in 60,000 pieces": lambda: (
        [(QuicFrameType.CRYPTO, varint(2 * each, 1) + b"x") for each in range(start, start + 100)]
        for start in range(1, 60_000, 100)
    ),
    "a TLS message that is far away": lambda: iter([[(QuicFrameType.CRYPTO, varint(200_000, 1) + b"x")]]),
    "acknowledgements of every other packet": lambda: repeated(
        QuicFrameType.ACK, varint(60_000, 0, 7000, 0) + varint(0, 0) * 7000, 1, 200
    ),
    "acknowledgements in 500 ranges": lambda: repeated(
        QuicFrameType.ACK, varint(60_000, 0, 500, 0) + varint(0, 0) * 500, 10, 4000
    ),
    "pings, a packet full each": lambda: repeated(QuicFrameType.PING, b"", 15_000, 2000),
    "pings, one in a packet": lambda: repeated(QuicFrameType.PING, b"", 1, 200_000),
    "limits that change nothing": lambda: repeated(QuicFrameType.MAX_DATA, varint(1), 6000, 2000),
    "limits that grow by one": lambda: growing(QuicFrameType.MAX_DATA),
    "numbers of streams that grow by one": lambda: growing(QuicFrameType.MAX_STREAMS_BIDI),
    "words about streams that were never used": lambda: repeated(
        QuicFrameType.STREAM_DATA_BLOCKED, varint(4 * 40, 5), 3000, 2000
    ),
    "blocked, says it": lambda: repeated(QuicFrameType.DATA_BLOCKED, varint(5), 3000, 2000),
    "streams that are reset": lambda: reset_streams(QuicFrameType.RESET_STREAM),
    "streams that are stopped and reset": lambda: reset_streams(QuicFrameType.STOP_SENDING),
    "requests that are taken back": rapid_resets,
    "challenges of the path": lambda: (
        [(QuicFrameType.PATH_CHALLENGE, random.randbytes(8)) for _ in range(1000)] for _ in range(2000)
    ),
    "challenges of the path, few in a packet": lambda: (
        [(QuicFrameType.PATH_CHALLENGE, random.randbytes(8)) for _ in range(10)] for _ in range(50_000)
    ),
    "answers to no challenge": lambda: repeated(QuicFrameType.PATH_RESPONSE, bytes(8), 100, 2000),
    "connection IDs": lambda: new_ids(False),
    "connection IDs that retire each other": lambda: new_ids(True),
    "retired connection IDs": lambda: (
        [(QuicFrameType.RETIRE_CONNECTION_ID, varint(number)) for number in range(start, start + 5)]
        for start in range(0, 50_000, 5)
    ),
    "datagrams": lambda: repeated(QuicFrameType.DATAGRAM_WITH_LENGTH, varint(4) + b"data", 100, 2000),
    "the end of the handshake, again": lambda: repeated(QuicFrameType.HANDSHAKE_DONE, b"", 100, 2000),
    "packets whose numbers have gaps": lambda: ([(QuicFrameType.PING, b"")] for _ in range(200_000)),
    "frames that nobody knows": lambda: repeated(0x2F, bytes(8), 20, 2000),
}  # fmt: skip


async def send_packets(attack: Attack, packets: Callable[[], Iterator[list[Frame]]], *, skipped: int = 0) -> None:
    """Packets as fast as they come, from one who is deaf to what is said to it; whoever is cut off comes again with
    another wallet."""
    while attack.goes_on():
        async with attack.peer() as endpoint:
            try:
                link = (await attack.connect(endpoint))._link
            except TransportError as error:
                attack.ends[_kind_of(str(error))] += 1
                await asyncio.sleep(0.1)
                continue
            link.receive = lambda datagrams, seconds=0.0: None  # type: ignore[method-assign]
            until = min(attack.until, time.monotonic() + OF_ONE_WALLET_S)
            for number, frames in enumerate(packets()):
                send_frames(link, frames, skipped=skipped)
                attack.counted["packets"] += 1
                await asyncio.sleep(0.001 if number % 50 == 49 else 0)
                if time.monotonic() > until:
                    break
            link.close(0, "")
            await attack.ask_again(endpoint)


# Before a handshake


def first_packets(count: int) -> list[bytes]:
    """Initial packets that each open a connection."""
    made = []
    for _ in range(count):
        client = PeerQuic(configuration=configuration(None))
        client.connect(("192.0.2.1", 1), 0.0)
        made.append(client.datagrams_to_send(0.0)[0][0])
    return made


def loopback_host() -> str:
    """Some address of this machine's own network: what a sender of spoofed packets has as many of as it likes."""
    return f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"


async def throw(attack: Attack, datagrams: Callable[[], bytes], *, hosts: int = 64) -> None:
    """Datagrams from many addresses, as fast as the machine takes them; what comes back is not read."""
    sockets = []
    for _ in range(hosts):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((loopback_host(), 0))
        sockets.append(sock)
    while attack.goes_on():
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.sendto(datagrams(), (attack.host, attack.port))
                attack.counted["packets"] += 1
        await asyncio.sleep(0.002)
    for sock in sockets:
        sock.close()


async def initials(attack: Attack) -> None:
    """Connections that are opened from everywhere, and nobody goes on with."""
    corpus = first_packets(1500)
    await throw(attack, lambda: random.choice(corpus))


async def broken_initials(attack: Attack) -> None:
    """The same, and what is in them cannot be decrypted: each has a connection ID of its own."""
    first = first_packets(1)[0]

    def one() -> bytes:
        return first[:6] + random.randbytes(8) + first[14:]

    await throw(attack, one)


async def tokens(attack: Attack) -> None:
    """Initial packets with a token that nobody gave out: RSA is asked about each."""
    first = first_packets(1)[0]
    source_end = 7 + first[5] + first[6 + first[5]]

    def one() -> bytes:
        token = random.randbytes(256)
        return (
            first[:6]
            + random.randbytes(8)
            + first[14:source_end]
            + varint(len(token))
            + token
            + first[source_end + 1 :]
        )

    await throw(attack, one)


async def versions(attack: Attack) -> None:
    """Packets of a version that nobody speaks."""
    await throw(attack, lambda: b"\xc0" + random.randbytes(4) + b"\x08" + random.randbytes(8) + b"\x04" + bytes(1184))


async def garbage(attack: Attack) -> None:
    await throw(attack, lambda: random.randbytes(random.choice((1, 20, 1200, 8000))))


async def early_data(attack: Attack) -> None:
    """0-RTT packets for connections that there are not."""
    await throw(attack, lambda: b"\xd0\0\0\0\1\x08" + random.randbytes(8) + b"\x08" + random.randbytes(1185))


async def silent(attack: Attack) -> None:
    """Nine hosts with 32 connections each, on which nobody greets."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(attack.peer(f"127.0.0.{n + 10}")) for n in range(SILENT_HOSTS)]
        links: list[Link] = []
        while attack.goes_on():
            for endpoint in peers:
                mine = [link for link in endpoint._open if not link.closed.is_set()]
                for _ in range(SILENT_EACH - len(mine)):
                    link = endpoint._board.dial((attack.host, attack.port))
                    endpoint._open[link] = None
                    links.append(link)
                    attack.counted["connections"] += 1
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
        for link in links:
            attack.ended(link)


# Requests


def requests() -> dict[str, msgspec.Struct]:
    """One of every kind, about things that there may be."""
    kinds: list[type[msgspec.Struct]] = [*messages.REQUESTS, *discovery.REQUESTS, GetBlocks, HasBlocks]
    return {tag_of(kind): example(shapes.type_info(kind)) for kind in kinds}


async def ask(connection: Connection, message: msgspec.Struct, attack: Attack) -> None:
    try:
        await connection.request(message, reply=messages.Ack, timeout=20.0)
    except ProofyardError as error:
        attack.counted[f"{type(error).__name__} {getattr(error, 'code', '')}".strip()] += 1
    else:
        attack.counted["answers"] += 1


async def flood(attack: Attack, make: Callable[[int], msgspec.Struct], *, per_s: int = PER_S) -> None:
    """So many requests a second from one wallet, another one when that is banned."""
    number = 0
    while attack.goes_on():
        async with attack.peer() as endpoint:
            try:
                connection = await attack.connect(endpoint)
            except TransportError as error:
                attack.ends[_kind_of(str(error))] += 1
                await asyncio.sleep(0.1)
                continue
            asked: set[asyncio.Task[None]] = set()
            began, sent = time.monotonic(), 0
            while attack.goes_on() and not connection.closed.is_set():
                while sent < (time.monotonic() - began) * per_s and len(asked) < 4 * per_s:
                    number, sent = number + 1, sent + 1
                    task = asyncio.create_task(ask(connection, make(number), attack))
                    asked.add(task)
                    task.add_done_callback(asked.discard)
                await asyncio.sleep(0.01)
            attack.counted["requests"] += sent
            attack.ended(connection)
            await connection.close()
            await asyncio.gather(*asked, return_exceptions=True)


def kind_of_request(tag: str) -> Callable[[Attack], Awaitable[None]]:
    async def run(attack: Attack) -> None:
        message = requests()[tag]
        await flood(attack, lambda _: message)

    return run


def lists_of(tag: str, field: str, times: int) -> Callable[[Attack], Awaitable[None]]:
    """Full lists of what one wallet has no business with: the items of an example, so many times."""

    async def run(attack: Attack) -> None:
        one = requests()[tag]
        many = msgspec.structs.replace(one, **{field: getattr(one, field) * times})
        await flood(attack, lambda _: many)

    return run


async def states(attack: Attack) -> None:
    """States out of "records" that are other artifacts of the target's, each read and decoded first."""
    await flood(attack, lambda n: messages.ObtainState(attack.blocks[n % len(attack.blocks)], JobId(1), 0, 0))  # type: ignore[arg-type]


async def questions(attack: Attack) -> None:
    """How job 1 is, from a hundred wallets at once: each is within its own limit."""
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(attack.peer()) for _ in range(100)]
        connections = [await attack.connect(each) for each in peers]
        while attack.goes_on():
            began = time.monotonic()
            await asyncio.gather(*(ask(each, messages.JobQuery(JobId(1)), attack) for each in connections))
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))


async def greedy(attack: Attack) -> None:
    """Four wallets with 120 requests for 64 blocks each, acknowledged and never read."""
    async with contextlib.AsyncExitStack() as stack:
        wanted = GetBlocks(b"".join(cid_bytes(attack.blocks[n % len(attack.blocks)]) for n in range(64)))
        waiting = []
        for _ in range(GREEDY_WALLETS):
            endpoint = await stack.enter_async_context(attack.peer())
            connection = await attack.connect(endpoint)
            connection._link._grant = lambda: None  # type: ignore[method-assign]
            waiting += [
                asyncio.ensure_future(stack.enter_async_context(connection.exchange(wanted, reply=Blocks, timeout=60)))
                for _ in range(GREEDY_REQUESTS)
            ]
        attack.counted["requests"] = len(waiting)
        await attack.its_end()
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def acknowledging(attack: Attack) -> None:
    """Blocks are on their way, and acknowledgements say again and again that every other packet came."""
    wanted = GetBlocks(b"".join(cid_bytes(attack.blocks[n % len(attack.blocks)]) for n in range(64)))
    while attack.goes_on():
        async with attack.peer() as endpoint:
            with contextlib.suppress(TransportError):
                connection = await attack.connect(endpoint)
                link = connection._link
                asks = [asyncio.create_task(ask(connection, wanted, attack)) for _ in range(8)]
                await asyncio.sleep(0.05)
                space = link.quic._spaces[Epoch.ONE_RTT]
                link.receive = lambda datagrams, seconds=0.0: None  # type: ignore[method-assign]
                until = min(attack.until, time.monotonic() + OF_ONE_WALLET_S)
                largest = space.expected_packet_number + 1000
                while time.monotonic() < until:
                    # Ranges of one packet with one between them, 60 in a frame.
                    send_frames(link, [(QuicFrameType.ACK, varint(largest, 0, 60, 0) + varint(0, 0) * 60)] * 4)
                    attack.counted["packets"] += 1
                    await asyncio.sleep(0.001 if attack.counted["packets"] % 50 == 49 else 0)
                for each in asks:
                    each.cancel()
                link.close(0, "")
                await attack.ask_again(endpoint)


async def of_the_api(attack: Attack) -> None:
    """A thousand connections to the status API: silent, with half a request, with one that is dear."""
    said = [b"", b"GET /jobs HTTP/1.1\r\nHost: x\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"]
    said += [b"GET /batches?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /" + b"a" * 60_000]
    writers: list[asyncio.StreamWriter] = []
    while attack.goes_on():
        try:
            _, writer = await asyncio.open_connection(attack.host, attack.api_port)
            writer.write(said[len(writers) % len(said)])
            writers.append(writer)
            attack.counted["connections"] += 1
        except OSError as error:
            attack.ends[error.strerror or repr(error)] += 1
            await asyncio.sleep(0.05)
        if len(writers) >= 1000:
            writers.pop(0).close()
        await asyncio.sleep(0.001)


async def has_blocks(attack: Attack) -> None:
    """A thousand CIDs in each question who has what."""
    many = b"".join(cid_bytes(attack.blocks[n % len(attack.blocks)]) for n in range(1024))
    await flood(attack, lambda _: HasBlocks(many))


async def publications(attack: Attack) -> None:
    """A hundred artifacts with total_bytes = 1, sixteen, and single blocks, all of which are there to be fetched."""
    with TemporaryDirectory() as folder:
        store = BlockStore(Path(folder))
        raw = [store.put_bytes(random.randbytes(1 << 18)) for _ in range(100)]
        leaf = store.put_bytes(b"leaf")
        sub = directory_node([UnixLink(leaf, f"{n:04}", 4) for n in range(1000)])
        store.put_block(node_cid(sub.encode()), sub.encode())
        wide = directory_node([UnixLink(node_cid(sub.encode()), f"{n:05}", 4) for n in range(20_000)])
        store.put_block(node_cid(wide.encode()), wide.encode())
        asked = [
            messages.Publish(tuple(raw), 1),
            messages.Publish(tuple(raw[:16]), 1),
            messages.Publish(tuple(raw[16:32]), 64 << 10),
            messages.Publish((node_cid(wide.encode()),), 1),
            messages.Publish((node_cid(wide.encode()),), 1, JobId(1)),
            messages.Publish((leaf,), 1, JobId(1 << 40)),
        ]
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for _ in range(4):
                endpoint = await stack.enter_async_context(attack.peer())
                serve_blocks(endpoint, store)
                connection = await attack.connect(endpoint)
                tasks.append(asyncio.create_task(_publish_again(attack, connection, asked)))
            await asyncio.gather(*tasks)


class Bombs:
    """Inputs of a job that are small to send: files that unfold to a gigabyte, 40,000 links to one folder."""

    def __init__(self, folder: Path) -> None:
        self.store = BlockStore(folder)
        leaf = self.store.put_bytes(bytes(1 << 18))
        self.model = self._put(directory_node([UnixLink(leaf, f"{n:05}", 0) for n in range(4096)]))
        small = self._put(directory_node([UnixLink(leaf, f"{n:04}", 4) for n in range(1000)]))
        self.data = self._put(directory_node([UnixLink(small, f"{n:05}", 4) for n in range(40_000)]))
        manifest = Manifest(workload="map", params={"rows": 10, "segments": 2}, data=self.data, model=self.model)
        self.manifest = self.store.put_bytes(encode_manifest(manifest))

    def _put(self, node: Node) -> Cid:
        block = node.encode()
        self.store.put_block(node_cid(block), block)
        return node_cid(block)


async def bombs(attack: Attack) -> None:
    """The inputs of an open job of the sender's own, whose escrow was paid, which unfold to petabytes."""
    number, key = JobId(int(os.environ["JOB"])), os.environ["KEY"]
    with TemporaryDirectory() as folder:
        made = Bombs(Path(folder))
        async with Endpoint(Identity(key), network=attack.network) as endpoint:
            serve_blocks(endpoint, made.store)
            connection = await attack.connect(endpoint)
            asked = [
                messages.Publish((made.manifest, made.model, made.data), 16 << 30, number),
                messages.Publish((made.manifest, made.model), 1, number),
                messages.Publish((made.manifest, made.data), 1 << 20, number),
            ]
            await _publish_again(attack, connection, asked)


async def _publish_again(attack: Attack, connection: Connection, asked: list[messages.Publish]) -> None:
    under_way: set[asyncio.Task[None]] = set()
    while attack.goes_on() and not connection.closed.is_set():
        for message in asked:
            task = asyncio.create_task(ask(connection, message, attack))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.2)
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)


async def crowd(attack: Attack) -> None:
    """300 wallets that are let in, and ask now and then."""
    async with contextlib.AsyncExitStack() as stack:
        connections: list[Connection] = []
        room = asyncio.Semaphore(CROWD_AT_ONCE)

        async def come() -> None:
            async with room:
                endpoint = await stack.enter_async_context(attack.peer())
                with contextlib.suppress(TransportError):
                    connections.append(await attack.connect(endpoint))

        await asyncio.gather(*(come() for _ in range(CROWD)))
        attack.counted["welcomed"] = len(connections)
        while attack.goes_on():
            live = [each for each in connections if not each.closed.is_set()]
            await asyncio.gather(*(ask(each, messages.JobQuery(JobId(1)), attack) for each in live))
            await asyncio.sleep(0.5)
        for connection in connections:
            attack.ended(connection)


async def comings_and_goings(attack: Attack) -> None:
    """New wallets one after the other, each greeted and gone: two signatures are checked for each."""

    async def one() -> None:
        while attack.goes_on():
            async with attack.peer() as endpoint:
                with contextlib.suppress(TransportError):
                    await (await attack.connect(endpoint)).close()

    await asyncio.gather(*(one() for _ in range(8)))


async def unfinished(attack: Attack) -> None:
    """As many requests as there may be streams, of which the last byte never comes."""
    head = frame(RequestHeader(1, "publish", 60_000, 1 << 20, msgspec.Raw(encode(messages.Publish((), 1)))))
    while attack.goes_on():
        async with attack.peer() as endpoint:
            with contextlib.suppress(TransportError):
                link = (await attack.connect(endpoint))._link
                for _ in range(128):
                    stream = await link.open_stream()
                    await stream.write(head[:-1] + b"", 5)
                    attack.counted["requests"] += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(link.closed.wait(), max(0.0, attack.until - time.monotonic()))
                attack.ended(link)


def frames_of(name: str) -> Callable[[Attack], Awaitable[None]]:
    return lambda attack: send_packets(attack, FRAMES[name], skipped=int("gaps" in name))


ATTACKS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    **{name: frames_of(name) for name in FRAMES},
    "first packets from everywhere": initials,
    "first packets that say nothing": broken_initials,
    "tokens that nobody gave out": tokens,
    "versions that nobody speaks": versions,
    "noise": garbage,
    "early data out of nowhere": early_data,
    "silent connections of nine hosts": silent,
    "blocks that nobody reads": greedy,
    "acknowledgements while blocks come": acknowledging,
    "connections to the API": of_the_api,
    "who has a thousand blocks": has_blocks,
    "publications": publications,
    "inputs that unfold": bombs,
    "lists of commitments": lists_of("submit-commitments", "works", 100),
    "lists of seals": lists_of("submit-seals", "seals", 250),
    "lists of answers": lists_of("open-seals", "seals", 250),
    "lists of offers": lists_of("task-offers", "offers", 100),
    "states out of what is no record": states,
    "questions of a hundred wallets": questions,
    "a crowd of 300": crowd,
    "comings and goings": comings_and_goings,
    "requests without an end": unfinished,
    **{f"{tag}, {PER_S} a second": kind_of_request(tag) for tag in requests()},
}


async def run(name: str, attack: Attack) -> None:
    await ATTACKS[name](attack)


def main() -> None:
    name, host, port, chain_id, registry, seconds, api_port, *blocks = sys.argv[1:]
    network = Domain(int(chain_id), Address(registry))
    attack = Attack(host, int(port), network, time.monotonic() + float(seconds), int(api_port), tuple(map(Cid, blocks)))
    problem = ""
    try:
        asyncio.run(run(name, attack))
    except Exception as error:
        problem = repr(error)[:300]
    print(json.dumps({"counted": dict(attack.counted), "ends": dict(attack.ends.most_common(4)), "problem": problem}))


if __name__ == "__main__":
    main()
