"""py-libp2p as a contender of `bench_transport.py`; runs in an environment of its own that has `libp2p`.

seed FILE (quic|tcp)          serves the file's bytes to whoever opens a stream, until stdin ends
leech MULTIADDRESS (quic|tcp) fetches, checks and stores them; prints seconds and bytes as JSON
"""
# mypy: ignore-errors
# It has an environment of its own, where the type checker does not look.
# ruff: noqa: ASYNC230, ASYNC240  (all contenders read their file the same way)

import hashlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

PROTOCOL = TProtocol("/bench/1.0.0")
CHUNK = 64 << 10


def listen_address(kind: str) -> Multiaddr:
    return Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1" if kind == "quic" else "/ip4/127.0.0.1/tcp/0")


async def seed(path: str, kind: str) -> None:
    host = new_host(enable_quic=kind == "quic", listen_addrs=[listen_address(kind)])

    async def answer(stream) -> None:
        size = Path(path).stat().st_size
        await stream.write(size.to_bytes(8, "big"))
        with Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                await stream.write(chunk)
        await stream.close()

    async with host.run(listen_addrs=[listen_address(kind)]):
        host.set_stream_handler(PROTOCOL, answer)
        address = str(host.get_addrs()[0])
        if "/p2p/" not in address:
            address += f"/p2p/{host.get_id()}"
        print(json.dumps({"address": address}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def leech(address: str, kind: str) -> None:
    host = new_host(enable_quic=kind == "quic")
    async with host.run(listen_addrs=[]):
        peer = info_from_p2p_addr(Multiaddr(address))
        await host.connect(peer)
        stream = await host.new_stream(peer.peer_id, [PROTOCOL])
        start, done, digest = time.perf_counter(), 0, hashlib.sha256()
        head = b""
        while len(head) < 8:
            head += await stream.read(8 - len(head))
        size = int.from_bytes(head, "big")
        with tempfile.TemporaryFile() as file:
            while done < size:
                chunk = await stream.read(CHUNK)
                if not chunk:
                    raise EOFError(f"{done} of {size} bytes")
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
        print(json.dumps({"seconds": time.perf_counter() - start, "bytes": done}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    trio.run(seed if sys.argv[1] == "seed" else leech, sys.argv[2], sys.argv[3])
