"""Blocks between peers: `GetBlocks` asks for some by CID, the reply's body is those that are there, in order.

`HasBlocks` asks who could send what, so that a fetch can begin with what few peers have.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, ClassVar, Protocol, TypeVar
from weakref import WeakValueDictionary

import msgspec

from proofyard.artifacts.store import BlockStore
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES
from proofyard.protocol.cid import CID_BYTES, CidError, cid_bytes, cid_from_bytes
from proofyard.protocol.types import Address, Cid
from proofyard.runtime.hops import SMALL_BYTES, Aside
from proofyard.transport import Body, Connection, Endpoint, ProtocolViolation, Reply, RequestFailed, Source

R = TypeVar("R", bound=msgspec.Struct)

MAX_BLOCKS = 64
"""Blocks that one request may ask for."""

MAX_ASKED = 1024
"""CIDs that one `HasBlocks` may name."""

READ_BYTES = 256 << 10
"""Blocks that are served are read so many bytes at a time: going to a thread costs more than reading a small one."""

READS_OF_PEER = 8
"""Answers to one peer for which blocks are in memory at a time; the others wait before they read."""

LOOKS_PER_S, LOOKS_SAVED_S = 20_000.0, 1.0
"""CIDs that are looked for, for one peer, in the long run; more wait. A gigabyte has 4,000 blocks."""

FEW = 64
"""So many are looked for at once; for more a thread is worth it."""

PEERS = 4096
"""Peers of which it is remembered how much they asked."""

ABSENT = -1
REPLY_SECONDS = 15.0


class GetBlocks(msgspec.Struct, frozen=True, tag="get-blocks"):
    """Ask for at most `MAX_BLOCKS` blocks of at most `largest` bytes; `cids` are the CIDs' 36 bytes, joined.
    Idempotent."""

    idempotent: ClassVar[bool] = True
    cids: Annotated[bytes, msgspec.Meta(max_length=MAX_BLOCKS * CID_BYTES)]
    largest: int = MAX_BLOCK_BYTES


class Blocks(msgspec.Struct, frozen=True, tag="blocks"):
    """The size of each block in the body, in the order of the request; `ABSENT` where the peer does not have it, or it
    is larger than was asked for."""

    sizes: tuple[int, ...]


class HasBlocks(msgspec.Struct, frozen=True, tag="has-blocks"):
    """Ask which of at most `MAX_ASKED` blocks the peer has; `cids` are the CIDs' 36 bytes, joined. Idempotent."""

    idempotent: ClassVar[bool] = True
    cids: Annotated[bytes, msgspec.Meta(max_length=MAX_ASKED * CID_BYTES)]


class Held(msgspec.Struct, frozen=True, tag="held"):
    """One byte for each CID of the request, in its order: 1 where the peer has the block, else 0."""

    held: bytes


class Throttle:
    """Keeps what is sent below a rate, over all peers together; for the uplink of a home line."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def wait(self, size: int) -> None:
        """Return when `size` bytes may go."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._free_at)
        self._free_at = start + size / self._rate
        await asyncio.sleep(start - now)


class Looks:
    """How many CIDs peers ask about: each costs a look at the disk."""

    def __init__(self) -> None:
        self._free_at: OrderedDict[Address, float] = OrderedDict()

    async def wait(self, peer: Address, count: int) -> None:
        """Return when so many may be looked for."""
        now = asyncio.get_running_loop().time()
        start = max(now - LOOKS_SAVED_S, self._free_at.pop(peer, 0.0))
        self._free_at[peer] = start + count / LOOKS_PER_S
        if len(self._free_at) > PEERS:
            self._free_at.popitem(last=False)
        if start > now:
            await asyncio.sleep(start - now)


Prepare = Callable[[Sequence[Cid], bool], Awaitable[None]]
"""Has blocks made that are owed and not here; the flag says that they are to be sent, and not only asked about."""

OnSent = Callable[[Address, int], object]
"""A peer, and the bytes of a block that it is sent."""


def serve_blocks(
    endpoint: Endpoint,
    store: BlockStore,
    *,
    upload_bytes_per_s: float | None = None,
    short: Aside = asyncio.to_thread,
    prepare: Prepare | None = None,
    owes: Callable[[Cid], bool] = lambda cid: False,
    on_sent: OnSent = lambda peer, size: None,
) -> None:
    """Answer `GetBlocks` and `HasBlocks` on every connection of `endpoint` from `store`, at no more than the given rate
    in all. `short` is for reading little. What it `owes` counts as here. `on_sent` hears of every block that goes out.
    """
    throttle = None if upload_bytes_per_s is None else Throttle(upload_bytes_per_s)
    turns: WeakValueDictionary[Address, asyncio.Semaphore] = WeakValueDictionary()
    looks = Looks()

    async def read(peer: Address, present: Sequence[tuple[Cid, int]]) -> AsyncGenerator[bytes, None]:
        turn = turns.setdefault(peer, asyncio.Semaphore(READS_OF_PEER))
        aside = short if sum(size for _, size in present) <= SMALL_BYTES else asyncio.to_thread
        for part in _parts(present):
            # What is read lies in memory until the peer takes it, and one that never does may ask again and again.
            async with turn:
                for block in await aside(partial(list, map(store.get_block, part))):
                    if throttle is not None:
                        await throttle.wait(len(block))
                    on_sent(peer, len(block))
                    yield block
                    del block  # whoever waits for its next turn holds nothing

    async def asked(connection: Connection, joined: bytes, *, to_send: bool) -> list[Cid]:
        await looks.wait(connection.peer, len(joined) // CID_BYTES)
        cids = _split(joined)
        if prepare is not None:
            await prepare(cids, to_send)
        return cids

    async def get_blocks(connection: Connection, request: GetBlocks, body: Body) -> tuple[Blocks, Source]:
        cids = await asked(connection, request.cids, to_send=True)
        sizes = [store.block_size(cid) for cid in cids]
        sizes = [None if size is not None and size > request.largest else size for size in sizes]
        present = [(cid, size) for cid, size in zip(cids, sizes, strict=True) if size is not None]
        answer = Blocks(tuple(ABSENT if size is None else size for size in sizes))
        return answer, Source(sum(size or 0 for size in sizes), read(connection.peer, present))

    async def has_blocks(connection: Connection, request: HasBlocks, body: Body) -> Held:
        cids = await asked(connection, request.cids, to_send=False)
        if len(cids) <= FEW:
            here = list(map(store.has, cids))
        else:
            here = await asyncio.to_thread(lambda: list(map(store.has, cids)))
        return Held(bytes(held or owes(cid) for held, cid in zip(here, cids, strict=True)))

    endpoint.on(GetBlocks, get_blocks)
    endpoint.on(HasBlocks, has_blocks)


def _parts(blocks: Sequence[tuple[Cid, int]]) -> Iterator[list[Cid]]:
    """Blocks that are read in one go: a large one alone, small ones together."""
    part: list[Cid] = []
    total = 0
    for cid, size in blocks:
        if part and total + size > READ_BYTES:
            yield part
            part, total = [], 0
        part.append(cid)
        total += size
    if part:
        yield part


class BlockProvider(Protocol):
    """Somebody who may have blocks."""

    @property
    def name(self) -> str: ...

    def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        """The blocks, not yet checked, as they arrive; None for those that are not there."""
        ...

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of at most `MAX_ASKED` blocks that it is known not to have."""
        ...

    def penalise(self, points: float, reason: str) -> None: ...


class PeerBlocks:
    """A connected peer as a provider of blocks of at most `largest` bytes. Its methods raise `TransportError`, of which
    `ProtocolViolation` for an answer that cannot be right."""

    def __init__(self, connection: Connection, largest: int = MAX_BLOCK_BYTES) -> None:
        self._connection = connection
        self._largest = largest
        self.name: str = connection.peer

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        request = GetBlocks(_join(cids), self._largest)
        async with self._exchange(request, Blocks) as reply:
            sizes = reply.message.sizes
            if len(sizes) != len(cids) or any(not ABSENT <= size <= MAX_BLOCK_BYTES for size in sizes):
                raise ProtocolViolation("a peer's list of block sizes does not fit the request")
            for cid, size in zip(cids, sizes, strict=True):
                yield cid, None if size == ABSENT else await reply.body.read_exactly(size)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        async with self._exchange(HasBlocks(_join(cids)), Held) as reply:
            held = reply.message.held
        if len(held) != len(cids):
            raise ProtocolViolation("a peer's list of blocks does not fit the request")
        return [cid for cid, has in zip(cids, held, strict=True) if not has]

    def penalise(self, points: float, reason: str) -> None:
        self._connection.penalise(points, reason)

    @asynccontextmanager
    async def _exchange(self, request: msgspec.Struct, reply: type[R]) -> AsyncIterator[Reply[R]]:
        async with self._connection.exchange(request, reply=reply, timeout=REPLY_SECONDS) as answer:
            yield answer


class RemoteBlocks(PeerBlocks):
    """A peer that is connected to when it is needed, and again after the connection was lost.

    `wallet` is who must answer at `host`:`port`; without it whoever answers first.
    """

    def __init__(self, endpoint: Endpoint, host: str, port: int, wallet: Address | None = None) -> None:
        self.name = f"{host}:{port}"
        self._connect = partial(endpoint.connect, host, port, early=True)
        self._largest = MAX_BLOCK_BYTES
        self._wallet = wallet

    @asynccontextmanager
    async def _exchange(self, request: msgspec.Struct, reply: type[R]) -> AsyncIterator[Reply[R]]:
        self._connection = await self._connect(expect=self._wallet)
        self._wallet = self._connection.peer
        async with super()._exchange(request, reply) as answer:
            yield answer


def _join(cids: Sequence[Cid]) -> bytes:
    return b"".join(map(cid_bytes, cids))


def _split(joined: bytes) -> list[Cid]:
    try:
        return [cid_from_bytes(joined[at : at + CID_BYTES]) for at in range(0, len(joined), CID_BYTES)]
    except CidError as error:
        raise RequestFailed("bad-request", str(error)) from None
