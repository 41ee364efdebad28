"""Blocks between peers: `GetBlocks` asks for some by CID, the reply's body is those that are there, in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Protocol

import msgspec

from proofyard.artifacts.store import BlockStore
from proofyard.artifacts.unixfs import MAX_BLOCK_BYTES
from proofyard.protocol.cid import CID_BYTES, CidError, cid_bytes, cid_from_bytes
from proofyard.protocol.types import Cid
from proofyard.transport import Body, Connection, Endpoint, ProtocolViolation, RequestFailed, Source

MAX_BLOCKS = 64
"""Blocks that one request may ask for."""

ABSENT = -1
REPLY_SECONDS = 15.0


class GetBlocks(msgspec.Struct, frozen=True, tag="get-blocks"):
    """Ask for at most `MAX_BLOCKS` blocks; `cids` are the CIDs' 36 bytes, joined."""

    cids: Annotated[bytes, msgspec.Meta(max_length=MAX_BLOCKS * CID_BYTES)]


class Blocks(msgspec.Struct, frozen=True, tag="blocks"):
    """The size of each block in the body, in the order of the request; `ABSENT` where the peer does not have it."""

    sizes: tuple[int, ...]


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


def serve_blocks(endpoint: Endpoint, store: BlockStore, *, upload_bytes_per_s: float | None = None) -> None:
    """Answer `GetBlocks` on every connection of `endpoint` from `store`, at no more than the given rate in all."""
    throttle = None if upload_bytes_per_s is None else Throttle(upload_bytes_per_s)

    async def read(cids: Sequence[Cid]) -> AsyncIterator[bytes]:
        for cid in cids:
            block = await asyncio.to_thread(store.get_block, cid)
            if throttle is not None:
                await throttle.wait(len(block))
            yield block

    async def get_blocks(connection: Connection, request: GetBlocks, body: Body) -> tuple[Blocks, Source]:
        cids = _split(request.cids)
        sizes = [store.block_size(cid) for cid in cids]
        present = [cid for cid, size in zip(cids, sizes, strict=True) if size is not None]
        answer = Blocks(tuple(ABSENT if size is None else size for size in sizes))
        return answer, Source(sum(size or 0 for size in sizes), read(present))

    endpoint.on(GetBlocks, get_blocks)


class BlockProvider(Protocol):
    """Somebody who may have blocks."""

    @property
    def name(self) -> str: ...

    def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        """The blocks, not yet checked, as they arrive; None for those that are not there."""
        ...

    def penalise(self, points: float, reason: str) -> None: ...


class PeerBlocks:
    """A connected peer as a provider of blocks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.name: str = connection.peer

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        """Raises `TransportError`, of which `ProtocolViolation` for an answer that cannot be right."""
        request = GetBlocks(b"".join(map(cid_bytes, cids)))
        async with self._connection.exchange(request, reply=Blocks, timeout=REPLY_SECONDS) as reply:
            sizes = reply.message.sizes
            if len(sizes) != len(cids) or any(not ABSENT <= size <= MAX_BLOCK_BYTES for size in sizes):
                raise ProtocolViolation("a peer's list of block sizes does not fit the request")
            for cid, size in zip(cids, sizes, strict=True):
                yield cid, None if size == ABSENT else await reply.body.read_exactly(size)

    def penalise(self, points: float, reason: str) -> None:
        self._connection.penalise(points, reason)


def _split(joined: bytes) -> list[Cid]:
    try:
        return [cid_from_bytes(joined[at : at + CID_BYTES]) for at in range(0, len(joined), CID_BYTES)]
    except CidError as error:
        raise RequestFailed("bad-request", str(error)) from None
