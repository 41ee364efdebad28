"""What every part of the verifier's shell works with."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from proofyard.artifacts import BlockStore, fetch
from proofyard.artifacts.gathering import Gatherer
from proofyard.chain import Anchor, ChainClient, NodeRecord, Params, VerifierRecord, Wallet
from proofyard.disputes.committed import closed_of
from proofyard.disputes.rounds import Counted
from proofyard.disputes.settled import Outcomes
from proofyard.protocol.closing import ClosedRound, open_tasks
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, TaskSpec, decode_manifest
from proofyard.protocol.members import Member as CommittedMember
from proofyard.protocol.members import MemberTree
from proofyard.protocol.messages import Announce, PeerHint
from proofyard.protocol.routes import Route, believable
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, JobId
from proofyard.runtime.hops import Hops
from proofyard.runtime.recent import Recent
from proofyard.transport import Connection, Endpoint
from proofyard.verifier.engine.world import Rows
from proofyard.verifier.mail import Mail
from proofyard.verifier.outbox import Outbox
from proofyard.verifier.planned import Planned
from proofyard.verifier.proven import Proven
from proofyard.verifier.runner import Runner
from proofyard.verifier.settings import VerifierSettings
from proofyard.verifier.store.claims import Claims
from proofyard.verifier.store.database import Database
from proofyard.workloads.workload import Workload, all_tasks, load_workload, rounds_of

T = TypeVar("T")

KEPT, COUNTED = 256, 4096
"""Manifests and task graphs that are kept in memory, and batches of jobs whose rounds do not wait for everybody."""
UNUSED_S = 120.0
"""Manifests, graphs and member lists that nobody needed for so long are decoded again when somebody does."""
CALLS_AT_ONCE = 8
FIND_S = 60.0
"""A manifest, list or record is waited for no longer in one attempt; what came of it stays for the next. Who commits to
one and lets it trickle holds up nobody else's batch."""
LISTS_BYTES = 64 << 20
"""Of member lists that are kept decoded."""
PLANS_KEPT = 8
SENDS_AT_ONCE = 32
"""Transactions that are waited for at a time; each has a thread."""
MOVES_S = 120.0
"""A chain of which no new block was seen for so long stands."""
ASK_AGAIN_S = 15.0
"""How often a chain that stands is asked which time its next block would have."""
FRESH_S = 5.0
"""How long what the chain says of its operators is taken as still true, where nothing but work depends on it."""


@dataclass
class Member:
    """A node that is connected and has announced itself; `record` is what the Registry says of it, asked for at
    `read_at` by the monotonic clock and followed since; `proven` what it has shown of its machine. `tokens_per_s`: what
    it last said of a task's speed; `subnet`: where it was seen when it said last that it is there."""

    connection: Connection
    announce: Announce
    record: NodeRecord
    read_at: float = float("-inf")
    proven: Proven = field(default_factory=Proven)
    tokens_per_s: float | None = None
    subnet: str = ""

    @property
    def hint(self) -> PeerHint:
        """Where others find it: by the routes that it announced. Where it is seen they are told only if it named
        none."""
        seen = self.connection.remote[0]
        routes = believable(self.announce.routes, seen)
        host, port = (routes[0].host, routes[0].port) if routes else (seen, self.announce.port)
        return PeerHint(self.connection.peer, host, port, routes)

    @property
    def relay(self) -> Route | None:
        """The route by this node for others; None where it is no relay, or nobody has got through to it."""
        direct = [route for route in self.hint.routes if route.kind != "relayed"]
        if not self.announce.relay or not direct:
            return None
        return Route("relayed", direct[0].host, direct[0].port, self.connection.peer)


@dataclass
class _Read:
    """Something read from the chain, and when by the monotonic clock."""

    at: float
    value: Any


@dataclass(frozen=True)
class Taking:
    """A job that is about to be taken on chain; `subject` names it, the block it was opened in and what the chain says
    of it, so that one that was lost meanwhile is taken anew. `done` says whether it was."""

    job: JobId
    subject: str
    anchor: Anchor
    done: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass
class Copied:
    """What is here of a batch that another verifier settled: its record and manifests, and what a job's result is made
    of, with its bytes. `whole`: nothing is left to do; `again_at`, by the monotonic clock, when more is tried."""

    named: set[Cid] = field(default_factory=set)
    results: dict[JobId, dict[Cid, int]] = field(default_factory=dict)
    whole: bool = False
    again_at: float = float("-inf")


@dataclass
class Turns:
    """Whoever uses `free`, or waits for it, is one of `users`."""

    free: asyncio.Semaphore
    users: int = 0


@dataclass
class Context:
    """The verifier's parts. `members` are the nodes connected now, by address; `runner` holds the engine, whose rows
    are read on the event loop and never written here."""

    settings: VerifierSettings
    wallet: Wallet
    domain: Domain
    chain: ChainClient
    database: Database
    store: BlockStore
    endpoint: Endpoint
    members: dict[Address, Member] = field(default_factory=dict)
    looked_at: dict[BatchId, float] = field(default_factory=dict)
    """When it was last tried to take over a batch, by the monotonic clock."""
    look_at_jobs: dict[JobId, float] = field(default_factory=dict)
    """When it is next looked whether a job of another verifier's is free, by the monotonic clock."""
    asked_jobs: dict[JobId, None] = field(default_factory=dict)
    """Jobs of which the engine wants to know what they are on chain, in the order in which it asked."""
    copies: dict[BatchId, Copied] = field(default_factory=dict)
    """Of settled batches of others, until they are final."""
    members_kept: "OrderedDict[bytes, asyncio.Future[MemberTree]]" = field(default_factory=OrderedDict)
    """Member lists of own batches that are looked at, decoded."""
    hops: Hops = field(default_factory=lambda: Hops("short"))
    """Short work on the bytes and signatures that peers send."""
    sizes: dict[JobId, int] = field(default_factory=dict)
    """Bytes of memory that the work of a job takes at least, as far as that is known."""
    mail: Mail = field(default_factory=Mail)
    takings: list[Taking] = field(default_factory=list)
    """Jobs that the next transaction takes."""
    takes: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a transaction that takes jobs is in flight."""
    fetches: dict[Address, Turns] = field(default_factory=dict)
    """Whose artifacts are being fetched that did not come in a list."""
    memory: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while large artifacts are in memory: one at a time."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    outbox: Outbox | None = None
    """Keeps the wallet's transactions; without one they are sent one at a time and waited for."""
    claims: Claims | None = None
    """What this process has, where several share the database."""
    leads: bool = True
    """Whether this process does what is no process's in particular."""
    looked_for_dead_at: float = float("-inf")
    told_to: int = -1
    """The last block whose events the engine was told, with what went before. Nothing that rests on a later one may be
    kept: where that block goes away again before it is told of, nobody hears of it."""
    caught_up_at: float = float("-inf")
    """When it was last begun to read the chain's events and nothing was new, by the monotonic clock."""
    _runner: Runner | None = None
    _background: set[asyncio.Task[None]] = field(default_factory=set)
    _params: Params | None = None
    _own: OperatorId | None = None
    _manifests: Recent[Cid, Manifest] = field(default_factory=lambda: Recent(KEPT, unused_s=UNUSED_S))
    _graphs: Recent[Cid, tuple[TaskSpec, ...]] = field(default_factory=lambda: Recent(KEPT, unused_s=UNUSED_S))
    _counted: Counted = field(default_factory=lambda: Counted(COUNTED))
    _reads: dict[str, _Read] = field(default_factory=dict)
    _block_time: _Read = field(default_factory=lambda: _Read(0.0, 0))
    lists: Recent[Hashable, tuple[CommittedMember, ...]] = field(
        default_factory=lambda: Recent(LISTS_BYTES, unused_s=UNUSED_S)
    )
    """Member lists that fit their root: every draw and every look at exposure needs those of all open batches."""
    plans: Recent[BatchId, Planned] = field(default_factory=lambda: Recent(PLANS_KEPT))
    _head: int = 0
    _pace_s: float = 0.0
    """Between the last two blocks that were seen, by the chain's clock."""
    _moved_at: float = float("-inf")
    """When a block was seen that is not the first one, by the monotonic clock."""
    _moves: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and made anew, when a block is seen."""
    _next_time: _Read = field(default_factory=lambda: _Read(float("-inf"), 0))
    """Which time the next block of a chain that stands would have."""
    _read_at: float = float("-inf")
    _calls: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(CALLS_AT_ONCE, "chain"))
    _sends: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(SENDS_AT_ONCE, "transactions"))

    @cached_property
    def gatherer(self) -> Gatherer:
        return Gatherer(self.store, self.hops.run)

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "the verifier does not run yet"
        return self._runner

    @runner.setter
    def runner(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def rows(self) -> Rows:
        """The engine's rows, for reading on the event loop."""
        return self.runner.engine.world.rows

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; `close` cancels what is left of it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        if self.outbox is not None:
            await asyncio.to_thread(self.outbox.close)
        left = list(self._background)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self.hops.close()
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._sends.shutdown(wait=False, cancel_futures=True)

    # The chain

    async def on_chain(self, call: Callable[[], T]) -> T:
        """Run a blocking chain call in a thread of its own pool: a chain that hangs holds up nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, call)

    async def send(self, subject: str | None, call: Callable[[ChainClient], T]) -> T:
        """What `call` returns once its transaction is mined. A subject is sent once: `call` may be repeated, also after
        a restart. None: a subject of its own. Raises `Refused` where the contract refuses."""
        outbox = self.outbox
        if outbox is None:
            return await self.on_chain(lambda: call(self.chain))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._sends, lambda: call(outbox.client(subject)))

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

    @property
    def registered(self) -> OperatorId | None:
        """The same, as far as it is known."""
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
            # Whoever asks meanwhile waits for the same answer.
            known = self._reads[name] = _Read(time.monotonic(), asyncio.ensure_future(read()))
            known.value.add_done_callback(lambda _: self._forget_failed(name, known))
        value: T = await asyncio.shield(known.value)
        return value

    def _forget_failed(self, name: str, read: _Read) -> None:
        if (read.value.cancelled() or read.value.exception() is not None) and self._reads.get(name) is read:
            del self._reads[name]

    async def look_at_clock(self) -> tuple[int, int]:
        """The latest block's number and time, for `clock` as well."""
        head, block_time = await self.on_chain(self.chain.head)
        self.saw_block(head, block_time)
        at = time.monotonic()
        if at - self._moved_at >= MOVES_S and at - self._next_time.at >= ASK_AGAIN_S:
            self._next_time = _Read(at, await self.on_chain(self.chain.next_time))
        return head, block_time

    def saw_block(self, number: int, timestamp: int) -> None:
        """The latest block, for `clock`."""
        at = time.monotonic()
        if (number, timestamp) != (self._head, self._block_time.value):
            self._moved_at = at if self._head else float("-inf")
            self._pace_s = timestamp - self._block_time.value if self._head else 0.0
            self._block_time, self._head = _Read(at, timestamp), number
            self._next_time = _Read(float("-inf"), 0)
            self._moves.set()
            self._moves = asyncio.Event()
        self._read_at = at

    async def next_block(self) -> None:
        """Until a block is seen that is not the newest one now."""
        await self._moves.wait()

    def clock(self) -> tuple[float, int]:
        """What the chain's clock and newest block are, as far as is known here."""
        return self.chain_time(), self._head

    def followed_s(self) -> float:
        """Seconds since the chain was last read; infinite before the first time."""
        return time.monotonic() - self._read_at

    def next_block_in_s(self) -> float:
        """When the next block comes if it takes as long as the last one, in seconds; negative where it is late."""
        return self._block_time.at + self._pace_s - time.monotonic()

    def block_time(self) -> float:
        """The newest block's time, in Unix seconds."""
        return float(self._block_time.value)

    def chain_time(self) -> float:
        """What the next block's time will be at least, in Unix seconds: deadlines go by the chain's clock, never by
        this machine's, which may be wrong. 0 before the chain was read."""
        at, reads = time.monotonic(), (self._block_time, self._next_time)
        return max((float(read.value) + at - read.at for read in reads if read.value), default=0.0)

    def clock_off_s(self) -> float:
        """How far this machine's clock is ahead of the chain's, as far as that can be told; negative if it is
        behind."""
        return time.time() - self.chain_time()

    def went_back(self) -> None:
        """Forget what was read of blocks that may have gone."""
        self.outcomes.clear()

    # Artifacts

    async def job_of(self, cid: Cid) -> tuple[Manifest, tuple[TaskSpec, ...]]:
        """A manifest and its task graph, from the store. Raises as `graph` does."""
        manifest, graph = self._manifests.get(cid), self._graphs.get(cid)
        if manifest is not None and graph is not None:
            return manifest, graph
        return await asyncio.to_thread(lambda: (self.manifest(cid), self.graph(cid)))

    def manifest(self, cid: Cid) -> Manifest:
        """A job's manifest, from the store."""
        found = self._manifests.get(cid)
        if found is None:
            found = decode_manifest(self.store.get_bytes(cid, max_bytes=MAX_MANIFEST_BYTES))
            self._manifests.put(cid, found)
        return found

    def graph(self, cid: Cid) -> tuple[TaskSpec, ...]:
        """All tasks of a manifest in the store (`all_tasks`). Raises `ManifestRefused`."""
        found = self._graphs.get(cid)
        if found is None:
            manifest = self.manifest(cid)
            found = all_tasks(self.workload(manifest), manifest)
            self._graphs.put(cid, found)
        return found

    async def graph_of(self, job: JobId, cid: Cid, first: Connection | None = None) -> tuple[TaskSpec, ...]:
        """The task graph of a job on chain with this manifest, which is in the store; where its rounds do not wait for
        everybody, as far as they are open. Raises `ManifestRefused`, `ListWithheld` and `ChainError`."""
        manifest, specs = await self.job_of(cid)
        rounds = rounds_of(self.workload(manifest), manifest)
        return specs if rounds is None else open_tasks(specs, rounds, await self.closed_of(job, manifest, first))

    async def closed_of(
        self, job: JobId, manifest: Manifest, first: Connection | None = None
    ) -> tuple[ClosedRound, ...]:
        """The rounds of a job that are closed: `disputes.committed.closed_of`."""

        async def read(cid: Cid, max_bytes: int) -> bytes:
            return await self.find(cid, max_bytes=max_bytes, first=first)

        return await closed_of(self.chain, read, job, manifest, self._counted)

    def workload(self, manifest: Manifest) -> Workload:
        return load_workload(manifest.workload)

    def connection(self, node: Address) -> Connection | None:
        """The connection to a node; None while it is away."""
        member = self.members.get(node)
        return None if member is None else member.connection

    def providers(self, first: Address | None = None) -> list[Connection]:
        """Connections to ask for artifacts, the likeliest holder first."""
        order = sorted(self.members, key=lambda address: address != first)
        return [self.members[address].connection for address in order]

    async def others(self) -> list[Connection]:
        """Connections to the other seated verifiers that can be reached; none for a process that stands by: to the
        others its verifier is whoever they are connected with."""
        if not self.leads:
            return []
        known = [v for v in await self.verifiers() if v.node != self.wallet.address]
        dialled = await asyncio.gather(*(self.dial(v.node, v.endpoint) for v in known), return_exceptions=True)
        return [peer for peer in dialled if not isinstance(peer, BaseException)]

    async def dial(self, peer: Address, endpoint: str) -> Connection:
        """A connection to a peer whose `endpoint` (host:port) the Registry shows. Raises `TransportError`."""
        return await self.endpoint.connect_to(endpoint, expect=peer)

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
