"""What every part of the verifier works with, and the one way to wait for something to change."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proofyard.artifacts import BlockStore, fetch
from proofyard.chain import ChainClient, NodeRecord, Params, Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.messages import Announce, PeerHint
from proofyard.protocol.types import Address, Cid
from proofyard.transport import Connection, Endpoint
from proofyard.verifier.database import Database
from proofyard.verifier.settings import VerifierSettings
from proofyard.workloads.workload import Workload, load_workload

T = TypeVar("T")


@dataclass
class Member:
    """A node that is connected and has announced itself; `record` is what the Registry said of it then."""

    connection: Connection
    announce: Announce
    record: NodeRecord

    @property
    def hint(self) -> PeerHint:
        return PeerHint(self.connection.peer, self.connection.remote[0], self.announce.port)


@dataclass
class Context:
    """The verifier's parts. `members` are the nodes connected now, by address."""

    settings: VerifierSettings
    wallet: Wallet
    domain: Domain
    chain: ChainClient
    database: Database
    store: BlockStore
    endpoint: Endpoint
    members: dict[Address, Member] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _background: set[asyncio.Task[None]] = field(default_factory=set)
    _params: Params | None = None
    _manifests: dict[Cid, Manifest] = field(default_factory=dict)

    def changed(self) -> None:
        """Wake everything that waits in `wait`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until something changes, at most `seconds`."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; `close` cancels what is left of it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        left = list(self._background)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def on_chain(self, call: Callable[[], T]) -> T:
        """Run a blocking chain call in a thread."""
        return await asyncio.to_thread(call)

    def manifest(self, cid: Cid) -> Manifest:
        """A job's manifest, from the store."""
        if cid not in self._manifests:
            self._manifests[cid] = decode_manifest(self.store.get_bytes(cid, max_bytes=MAX_MANIFEST_BYTES))
        return self._manifests[cid]

    async def params(self) -> Params:
        """The Registry's parameters, which never change."""
        if self._params is None:
            self._params = await self.on_chain(self.chain.params)
        return self._params

    def workload(self, manifest: Manifest) -> Workload:
        return load_workload(manifest.workload)

    def providers(self, first: Address | None = None) -> list[Connection]:
        """Connections to ask for artifacts, the likeliest holder first."""
        order = sorted(self.members, key=lambda address: address != first)
        return [self.members[address].connection for address in order]

    async def obtain(self, cid: Cid, holder: Address | None, *, max_bytes: int) -> bytes:
        """An artifact's bytes, fetched from `holder` or any other connected node unless it is here already."""
        await fetch(self.store, cid, self.providers(holder), max_bytes=max_bytes)
        return await asyncio.to_thread(self.store.get_bytes, cid, max_bytes=max_bytes)


def now() -> float:
    """Unix seconds."""
    return time.time()
