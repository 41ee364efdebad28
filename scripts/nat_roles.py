"""The processes of tests/nat and `bench_nat.py`, one in each namespace: a peer that does what it is told.

It is told by lines of JSON with `do`, each answered with a line of JSON; its first line says which wallet and port it
has. Importing takes seconds, so one process imports and then forks for each peer: it reads lines with `namespace`,
`orders` and `answers` (FIFOs), `host` and `port` from stdin, and everything ends with that.

    relay [limits]         carry for others               reserve ROUTE          be reachable through a relay
    reach WALLET ROUTES    connect by the first route     examine                how others reach it
    fetch WALLET SIZE      have so many bytes sent        way WALLET             how a peer is reached now
    wait WALLET SECONDS    until it is direct             carried                bytes that this relay has carried
    leave WALLET           close the connection           forgets WALLET         until the peer has done so
    put SIZE / get CID     artifacts                      limit BYTES_S          send no more than that
    served                 blocks that others were sent  map / renew / unmap    have the router map its port
    at_home [seconds]      who is found in the local network
"""

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import msgspec

from proofyard.artifacts import BlockStore, fetch, serve_blocks
from proofyard.discovery import Gossip
from proofyard.discovery.local import LocalNetwork
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.transport import Body, Connection, Endpoint
from proofyard.transport.mapping import Mapper
from proofyard.transport.relay import RelayLimits
from transport_roles import NETWORK, Identity

CLONE_NEWNET = 0x40000000


class Send(msgspec.Struct, frozen=True, tag="nat-send"):
    size: int


class Sent(msgspec.Struct, frozen=True, tag="nat-sent"):
    way: str


class Peer:
    """What one process can be told to do."""

    def __init__(self, endpoint: Endpoint, store: BlockStore) -> None:
        self._endpoint = endpoint
        self._store = store
        self._tried: dict[Address, float] = {}
        self._local = LocalNetwork(endpoint)
        self._gossip = Gossip(endpoint, local=self._local.peers)
        self._looking: set[asyncio.Task[None]] = set()
        self._served: list[int] = []
        self._mapper = Mapper(endpoint.port, endpoint.address)
        endpoint.on(Send, self._send)
        serve_blocks(endpoint, store, on_sent=lambda _, size: self._served.append(size))

    async def _send(self, connection: Connection, message: Send, _body: Body) -> tuple[Sent, bytes]:
        return Sent(connection.way), bytes(message.size)

    def _connection(self, wallet: str) -> Connection:
        return self._endpoint.connections[Address(wallet)]

    async def relay(self, **limits: Any) -> dict[str, Any]:
        self._endpoint.become_relay(RelayLimits(**limits))
        return {}

    async def reserve(self, route: dict[str, Any]) -> dict[str, Any]:
        await self._endpoint.reserve(msgspec.convert(route, Route))
        return {}

    async def reach(self, wallet: str, routes: list[dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        connection = await self._endpoint.connect_by(msgspec.convert(routes, list[Route]), expect=Address(wallet))
        self._tried[connection.peer] = start
        return {"way": connection.way, "seconds": time.perf_counter() - start}

    async def connect(self, wallet: str, host: str, port: int) -> dict[str, Any]:
        await self._endpoint.connect(host, port, expect=Address(wallet))
        return {}

    async def wait(self, wallet: str, seconds: float) -> dict[str, Any]:
        """Until the connection is direct; counted from when it was asked for."""
        connection, end = self._connection(wallet), time.perf_counter() + seconds
        while connection.way == "relayed" and time.perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return {"way": connection.way, "seconds": time.perf_counter() - self._tried[connection.peer]}

    async def way(self, wallet: str) -> dict[str, Any]:
        connection = self._connection(wallet)
        return {"way": connection.way, "remote": connection.remote, "lost": connection.closed.is_set()}

    async def fetch(self, wallet: str, size: int) -> dict[str, Any]:
        connection, start = self._connection(wallet), time.perf_counter()
        async with connection.exchange(Send(size), reply=Sent, timeout=120) as reply:
            data = await reply.body.read_all(size)
        return {"bytes": len(data), "way": reply.message.way, "seconds": time.perf_counter() - start}

    async def examine(self) -> dict[str, Any]:
        found = await self._endpoint.examine()
        return {"nat": found.nat, "observed": found.observed, "confirmed": [str(each) for each in found.confirmed]}

    async def map(self) -> dict[str, Any]:
        await self._mapper.ask()
        found = await self._endpoint.examine(published=self._mapper.public)
        return {
            "port": self._mapper.public,
            "by": self._mapper.found and self._mapper.found.protocol,
            "outside": self._mapper.outside,
            "refused": self._mapper.refused,
            "confirmed": [str(each) for each in found.confirmed],
        }

    async def renew(self) -> dict[str, Any]:
        await self._mapper.ask()
        return {"port": self._mapper.public}

    async def unmap(self) -> dict[str, Any]:
        await self._mapper.release()
        return {}

    async def carried(self) -> dict[str, Any]:
        relay = self._endpoint.relay
        assert relay is not None
        return {"bytes": relay.carried_bytes, "circuits": relay.circuits, "reservations": relay.reservations}

    async def leave(self, wallet: str) -> dict[str, Any]:
        while connection := self._endpoint.connections.get(Address(wallet)):
            await connection.close("told to")
        return {}

    async def forgets(self, wallet: str) -> dict[str, Any]:
        """Until the peer has left."""
        while Address(wallet) in self._endpoint.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return {}

    async def put(self, size: int) -> dict[str, Any]:
        data = os.urandom(size)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return {"cid": await asyncio.to_thread(self._store.put_file, file.name)}

    async def at_home(self, seconds: float = 0.0) -> dict[str, Any]:
        """Look around in the local network, for so long or until somebody is there."""
        if not self._looking:
            self._looking = {asyncio.create_task(each.run()) for each in (self._local, self._gossip)}
        end = time.perf_counter() + seconds
        while not self._gossip.at_home() and time.perf_counter() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return {"peers": {each.peer: each.way for each in self._gossip.at_home()}}

    async def get(self, cid: str, wallets: list[str]) -> dict[str, Any]:
        """`pause`: the longest time without a block, in seconds."""
        times = [time.perf_counter()]
        providers = [self._connection(each) for each in wallets]
        note = lambda *_: times.append(time.perf_counter())  # noqa: E731
        await fetch(self._store, Cid(cid), providers, max_bytes=1 << 32, on_progress=note)
        pause = max(after - before for before, after in pairwise(times))
        return {"bytes": self._store.size(Cid(cid)), "seconds": times[-1] - times[0], "pause": pause}

    async def limit(self, bytes_s: float) -> dict[str, Any]:
        self._endpoint.limit_upload(bytes_s)
        return {}

    async def served(self) -> dict[str, Any]:
        found, self._served[:] = list(self._served), []
        return {"blocks": len(found), "bytes": sum(found)}


async def run(orders: TextIO, answers: TextIO, host: str, port: int) -> None:
    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        async with Endpoint(Identity(), network=NETWORK, host=host, port=port) as endpoint:
            peer = Peer(endpoint, BlockStore(folder))
            say(wallet=endpoint.address, port=endpoint.port)
            while line := await asyncio.to_thread(orders.readline):
                wanted = json.loads(line)
                try:
                    answer = await getattr(peer, wanted.pop("do"))(**wanted)
                except ProofyardError as error:
                    answer = {"error": str(error)}
                say(**answer)


def enter(namespace: str) -> None:
    """Have this process, which must have one thread, be in a network namespace."""
    handle = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(handle)


def serve() -> None:
    """Fork a peer for each line of stdin."""
    children: list[int] = []
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if not child:
            enter(wanted["namespace"])
            with Path(wanted["orders"]).open() as orders, Path(wanted["answers"]).open("w") as answers:
                asyncio.run(run(orders, answers, wanted["host"], wanted["port"]))
            os._exit(0)
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    if os.environ.get("NAT_LOG"):
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    serve()
