"""Blocks between peers: `GetBlocks` asks for some by CID, the reply's body is those that are there, in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated

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


def serve_blocks(endpoint: Endpoint, store: BlockStore) -> None:
    """Answer `GetBlocks` on every connection of `endpoint` from `store`."""

    async def get_blocks(connection: Connection, request: GetBlocks, body: Body) -> tuple[Blocks, Source]:
        cids = _split(request.cids)
        sizes = [store.block_size(cid) for cid in cids]
        present = [cid for cid, size in zip(cids, sizes, strict=True) if size is not None]
        total = sum(size or 0 for size in sizes)
        answer = Blocks(tuple(ABSENT if size is None else size for size in sizes))
        return answer, Source(total, _read(store, present))

    endpoint.on(GetBlocks, get_blocks)


async def get_blocks(connection: Connection, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
    """The blocks, not yet checked, as they arrive from a peer; None for those it does not have.

    Raises `TransportError`, of which `ProtocolViolation` for an answer that cannot be right.
    """
    request = GetBlocks(b"".join(map(cid_bytes, cids)))
    async with connection.exchange(request, reply=Blocks, timeout=REPLY_SECONDS) as reply:
        sizes = reply.message.sizes
        if len(sizes) != len(cids) or any(not ABSENT <= size <= MAX_BLOCK_BYTES for size in sizes):
            raise ProtocolViolation("a peer's list of block sizes does not fit the request")
        for cid, size in zip(cids, sizes, strict=True):
            yield cid, None if size == ABSENT else await reply.body.read_exactly(size)


def _split(joined: bytes) -> list[Cid]:
    try:
        return [cid_from_bytes(joined[at : at + CID_BYTES]) for at in range(0, len(joined), CID_BYTES)]
    except CidError as error:
        raise RequestFailed("bad-request", str(error)) from None


async def _read(store: BlockStore, cids: Sequence[Cid]) -> AsyncIterator[bytes]:
    for cid in cids:
        yield await asyncio.to_thread(store.get_block, cid)
