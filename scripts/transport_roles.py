"""The processes that `bench_transport.py` measures: each prints one JSON line when ready and one when done.

seed FILE [--link] [--host H] [--rate B] [--folder F]       serves an artifact until stdin ends
leech CID HOST:PORT... [--host H] [--folder F]              fetches it, checked and stored
stock-seed FILE [--host H]     stock-leech HOST PORT        aioquic's own server and client, with its defaults
hub                            crowd PORT COUNT             idle connections
tcp-seed FILE [--host H]       tcp-leech HOST PORT          one plain TCP stream
"""
# ruff: noqa: ASYNC230  (both contenders read their file the same way)

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from eth_account import Account

from proofyard.artifacts import BlockStore, fetch, serve_blocks
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address, Cid, Digest, Signature
from proofyard.transport import Body, Connection, Endpoint
from proofyard.transport.quic import Credentials

NETWORK = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
CHUNK = 256 << 10
CROWD_PER_WALLET = 8


class Ping(msgspec.Struct, frozen=True, tag="bench-ping"):
    number: int


class Identity:
    """A throw-away wallet."""

    def __init__(self) -> None:
        self._account = Account.create()
        self.address = Address(self._account.address)

    def sign_digest(self, digest: Digest) -> Signature:
        return Signature(bytes(self._account.unsafe_sign_hash(digest).signature))


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def peak_rss() -> int:
    """The highest resident set of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return rss()


async def until_told() -> None:
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def place(folder: str | None) -> Iterator[str]:
    """Where a store may be: a new place in `folder`, which stays, or one that goes at the end. For a while after many
    files were deleted ext4 is much slower at making new ones, which is not what a transfer is measured for."""
    if folder is not None:
        yield tempfile.mkdtemp(dir=folder)
        return
    with tempfile.TemporaryDirectory() as passing:
        yield passing


async def seed(options: argparse.Namespace) -> None:
    with place(options.folder) as folder:
        store = BlockStore(folder)
        cid = (store.link_file if options.link else store.put_file)(options.file)
        async with Endpoint(Identity(), network=NETWORK, host=options.host) as endpoint:
            serve_blocks(endpoint, store, upload_bytes_per_s=options.rate)
            before = rss()
            say(port=endpoint.port, cid=cid)
            await until_told()
            say(extra=peak_rss() - before)


async def leech(options: argparse.Namespace) -> None:
    with place(options.folder) as folder:
        store = BlockStore(folder)
        async with Endpoint(Identity(), network=NETWORK, host=options.host) as endpoint:
            targets = [target.rsplit(":", 1) for target in options.peers]
            providers = [await endpoint.connect(host, int(port)) for host, port in targets]
            before, start = rss(), time.perf_counter()
            await fetch(store, Cid(options.cid), providers, max_bytes=1 << 40)
            seconds = time.perf_counter() - start
            say(seconds=seconds, bytes=store.size(Cid(options.cid)), extra=peak_rss() - before)


async def answer(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a file to whoever asks, as the contenders do."""
    await reader.readexactly(4)
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.write_eof()


async def stock_seed(options: argparse.Namespace) -> None:
    credentials = Credentials.fresh()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["bench"])
    configuration.certificate, configuration.private_key = credentials.certificate, credentials.key
    tasks: set[asyncio.Task[None]] = set()

    server = await serve(
        options.host,
        0,
        configuration=configuration,
        stream_handler=lambda reader, writer: tasks.add(asyncio.ensure_future(answer(options.file, reader, writer))),
    )
    say(port=server._transport.get_extra_info("sockname")[1])  # type: ignore[union-attr]
    await until_told()
    server.close()


async def stock_leech(options: argparse.Namespace) -> None:
    configuration = QuicConfiguration(alpn_protocols=["bench"], verify_mode=0)
    async with connect(options.peer, options.port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        await receive(reader, writer)


async def tcp_seed(options: argparse.Namespace) -> None:
    server = await asyncio.start_server(partial(answer, options.file), options.host, 0)
    say(port=server.sockets[0].getsockname()[1])
    await until_told()
    server.close()


async def tcp_leech(options: argparse.Namespace) -> None:
    reader, writer = await asyncio.open_connection(options.peer, options.port)
    await receive(reader, writer)
    writer.close()


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask, then check and store what comes, as an artifact is."""
    start, size, digest = time.perf_counter(), 0, hashlib.sha256()
    writer.write(b"send")
    with tempfile.TemporaryFile() as file:
        while chunk := await reader.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    say(seconds=time.perf_counter() - start, bytes=size)


async def hub(options: argparse.Namespace) -> None:
    async def pong(connection: Connection, message: Ping, body: Body) -> Ping:
        return message

    async with Endpoint(Identity(), network=NETWORK, strangers=4096) as endpoint:
        endpoint.on(Ping, pong)
        before = rss()
        say(port=endpoint.port)
        await until_told()
        say(extra=rss() - before, rss=rss(), wallets=len(endpoint.connections))


async def crowd(options: argparse.Namespace) -> None:
    """COUNT idle connections; then 200 small requests at once over one of them, five times."""
    endpoints = [Endpoint(Identity(), network=NETWORK) for _ in range(-(-options.count // CROWD_PER_WALLET))]
    connections: list[Connection] = []
    try:
        for endpoint in endpoints:
            await endpoint.__aenter__()
            for _ in range(min(CROWD_PER_WALLET, options.count - len(connections))):
                connections.append(await endpoint.connect("127.0.0.1", options.port))
        latencies = []
        for _ in range(5):
            latencies += await asyncio.gather(*(timed(connections[-1], number) for number in range(200)))
        latencies.sort()
        say(connections=len(connections), p99_ms=1000 * latencies[int(0.99 * len(latencies))])
        await until_told()
    finally:
        for endpoint in endpoints:
            await endpoint.close()


async def timed(connection: Connection, number: int) -> float:
    start = time.perf_counter()
    await connection.request(Ping(number), reply=Ping)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    for name, role in (("seed", seed), ("stock-seed", stock_seed), ("tcp-seed", tcp_seed)):
        command = roles.add_parser(name)
        command.set_defaults(run=role)
        command.add_argument("file")
        command.add_argument("--host", default="127.0.0.1")
        command.add_argument("--link", action="store_true")
        command.add_argument("--rate", type=float)
        command.add_argument("--folder")
    command = roles.add_parser("leech")
    command.set_defaults(run=leech)
    command.add_argument("cid")
    command.add_argument("peers", nargs="+")
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--folder")
    for name, role in (("stock-leech", stock_leech), ("tcp-leech", tcp_leech)):
        command = roles.add_parser(name)
        command.set_defaults(run=role)
        command.add_argument("peer")
        command.add_argument("port", type=int)
    roles.add_parser("hub").set_defaults(run=hub)
    command = roles.add_parser("crowd")
    command.set_defaults(run=crowd)
    command.add_argument("port", type=int)
    command.add_argument("count", type=int)
    options = parser.parse_args()
    asyncio.run(options.run(options))


if __name__ == "__main__":
    main()
