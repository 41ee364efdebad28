"""What every part of the verifier works with, and the one way to wait for something to change."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proofyard.artifacts import BlockStore, fetch
from proofyard.chain import ChainClient, NodeRecord, Params, VerifierRecord, Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.members import Member as CommittedMember
from proofyard.protocol.messages import Announce, PeerHint
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, Cid
from proofyard.runtime.recent import Recent
from proofyard.transport import Connection, Endpoint, TransportError
from proofyard.verifier.database import Database
from proofyard.verifier.settings import VerifierSettings
from proofyard.workloads.workload import Workload, load_workload

T = TypeVar("T")

FIND_S = 60.0
"""A manifest, list or record is waited for no longer in one attempt; what came of it stays for the next. Who commits to
one and lets it trickle holds up nobody else's batch."""
LISTS_BYTES = 64 << 20
"""Of member lists that are kept decoded."""
FRESH_S = 5.0
"""How long what the chain says of its operators is taken as still true, where nothing but work depends on it."""


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
class _Read:
    """Something read from the chain, and when by the monotonic clock."""

    at: float
    value: Any


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
    changes: int = 0
    """How often `changed` was called."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _background: set[asyncio.Task[None]] = field(default_factory=set)
    _params: Params | None = None
    _own: OperatorId | None = None
    _manifests: dict[Cid, Manifest] = field(default_factory=dict)
    _graphs: dict[Cid, tuple[TaskSpec, ...]] = field(default_factory=dict)
    _reads: dict[str, _Read] = field(default_factory=dict)
    _resting: dict[tuple[int, int, str], float] = field(default_factory=dict)
    _block_time: _Read = field(default_factory=lambda: _Read(0.0, 0))
    lists: Recent[Hashable, tuple[CommittedMember, ...]] = field(default_factory=lambda: Recent(LISTS_BYTES))
    """Member lists that fit their root: every draw and every pass of the scheduler needs those of all open batches."""
    memory: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while large artifacts are in memory: one at a time."""

    def changed(self) -> None:
        """Wake everything that waits in `wait`."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float, *, since: int | None = None) -> None:
        """Until something changes, at most `seconds`. `since` is what `changes` was when its caller last looked: what
        has changed after that is not waited for."""
        if since is not None and since != self.changes:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def rest(self, job: int, task: int, node: str, seconds: float) -> None:
        """Do not offer a task to a node for so long."""
        at = time.monotonic()
        self._resting = {key: until for key, until in self._resting.items() if until > at}
        self._resting[job, task, node] = at + seconds

    def rests(self, job: int, task: int, node: str) -> bool:
        return self._resting.get((job, task, node), 0.0) > time.monotonic()

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

    # The chain

    async def on_chain(self, call: Callable[[], T]) -> T:
        """Run a blocking chain call in a thread."""
        return await asyncio.to_thread(call)

    async def params(self) -> Params:
        """The Registry's parameters, which never change."""
        if self._params is None:
            self._params = await self.on_chain(self.chain.params)
        return self._params

    async def own(self) -> OperatorId | None:
        """This verifier's operator, for life; None while it is not registered."""
        if self._own is None:
            self._own = await self.on_chain(lambda: self.chain.operator_of(self.wallet.address))
        return self._own

    async def active_nodes(self) -> list[NodeRecord]:
        """All active nodes, as they were at most `FRESH_S` seconds ago."""
        return await self.recent("nodes", self._on_chain(self.chain.active_nodes))

    async def verifiers(self) -> list[VerifierRecord]:
        """All seated verifiers, as they were at most `FRESH_S` seconds ago."""
        return await self.recent("verifiers", self._on_chain(self.chain.active_verifiers))

    def _on_chain(self, call: Callable[[], T]) -> Callable[[], Awaitable[T]]:
        return lambda: self.on_chain(call)

    async def recent(self, name: str, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gave at most `FRESH_S` seconds ago under this name."""
        known = self._reads.get(name)
        if known is None or known.at < time.monotonic() - FRESH_S:
            known = _Read(time.monotonic(), await read())
            self._reads[name] = known
        value: T = known.value
        return value

    def saw_block(self, timestamp: int) -> None:
        """The latest block's time, for `chain_time`."""
        self._block_time = _Read(time.monotonic(), timestamp)

    def chain_time(self) -> float:
        """What the next block's time will be at least, in Unix seconds: deadlines go by the chain's clock. A chain
        whose last block is old has the wall's time in its next one."""
        return max(time.time(), float(self._block_time.value) + time.monotonic() - self._block_time.at)

    # Artifacts

    def manifest(self, cid: Cid) -> Manifest:
        """A job's manifest, from the store."""
        if cid not in self._manifests:
            self._manifests[cid] = decode_manifest(self.store.get_bytes(cid, max_bytes=MAX_MANIFEST_BYTES))
        return self._manifests[cid]

    def graph(self, cid: Cid) -> tuple[TaskSpec, ...]:
        """The task graph of a manifest in the store. Raises `ManifestRefused`."""
        if cid not in self._graphs:
            manifest = self.manifest(cid)
            workload = self.workload(manifest)
            workload.check(manifest)
            self._graphs[cid] = tuple(workload.graph(manifest))
        return self._graphs[cid]

    def workload(self, manifest: Manifest) -> Workload:
        return load_workload(manifest.workload)

    def providers(self, first: Address | None = None) -> list[Connection]:
        """Connections to ask for artifacts, the likeliest holder first."""
        order = sorted(self.members, key=lambda address: address != first)
        return [self.members[address].connection for address in order]

    async def others(self) -> list[Connection]:
        """Connections to the other seated verifiers that can be reached."""
        known = [v for v in await self.verifiers() if v.node != self.wallet.address]
        dialled = await asyncio.gather(*(self.dial(v.node, v.endpoint) for v in known), return_exceptions=True)
        return [peer for peer in dialled if not isinstance(peer, BaseException)]

    async def dial(self, peer: Address, endpoint: str) -> Connection:
        """A connection to a peer whose `endpoint` (host:port) the Registry shows. Raises `TransportError`."""
        host, _, port = endpoint.rpartition(":")
        try:
            number = int(port or 0)
        except ValueError:
            raise TransportError(f"{peer} has the endpoint {endpoint!r}, which is not host:port") from None
        return await self.endpoint.connect(host.strip("[]"), number, expect=peer)

    async def have(self, cid: Cid, holder: Address | None, *, max_bytes: int) -> None:
        """Have an artifact in the store, from `holder` or any other connected node unless it is here already."""
        await fetch(self.store, cid, self.providers(holder), max_bytes=max_bytes)

    async def obtain(self, cid: Cid, holder: Address | None, *, max_bytes: int) -> bytes:
        """The same, and its bytes."""
        await self.have(cid, holder, max_bytes=max_bytes)
        return await asyncio.to_thread(self.store.get_bytes, cid, max_bytes=max_bytes)

    def has_all(self, cid: Cid) -> bool:
        """Whether an artifact is in the store, whole."""
        return not any(self.store.missing(cid))

    async def find(self, cid: Cid, *, max_bytes: int, first: Connection | None = None) -> bytes:
        """An artifact's bytes from `first`, other verifiers or any connected node. Raises `ArtifactError`, also for one
        that is not here within `FIND_S`."""
        if not await asyncio.to_thread(self.has_all, cid):
            peers = [*([] if first is None else [first]), *await self.others(), *self.providers()]
            await fetch(self.store, cid, peers, max_bytes=max_bytes, within_s=FIND_S)
        return await asyncio.to_thread(self.store.get_bytes, cid, max_bytes=max_bytes)


def now() -> float:
    """Unix seconds, for leases among peers."""
    return time.time()
