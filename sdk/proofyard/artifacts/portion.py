"""A large artifact that several peers want at the same time from one that has it: each takes a portion from there, and
the rest from the others.

Who takes which block follows from the block and from who takes part (rendezvous hashing), so nobody need agree on
anything. Peers that see the others differently take a block twice or leave it to each other: whoever does not come
further has to ask for all of it.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from proofyard.artifacts.exchange import BlockProvider
from proofyard.protocol.cid import RAW, cid_bytes, cid_codec
from proofyard.protocol.types import Address, Cid


class Portion:
    """`source`, as far as its blocks fall to `own` among `others`; those that lead to others fall to everybody."""

    def __init__(self, source: BlockProvider, own: Address, others: Sequence[Address]) -> None:
        self.name = source.name
        self._source = source
        self._own = own
        self._all = sorted({own, *others})

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        own = [cid for cid in cids if self._is_own(cid)]
        for cid in cids:
            if not self._is_own(cid):
                yield cid, None
        if own:
            async with aclosing(self._source.blocks(own)) as blocks:
                async for found in blocks:
                    yield found

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        own = [cid for cid in cids if self._is_own(cid)]
        lacking = set(await self._source.lacks(own)) if own else set()
        return [cid for cid in cids if cid in lacking or not self._is_own(cid)]

    def penalise(self, points: float, reason: str) -> None:
        self._source.penalise(points, reason)

    def _is_own(self, cid: Cid) -> bool:
        return cid_codec(cid) != RAW or self._own == max(self._all, key=lambda each: _weight(cid, each))


def _weight(cid: Cid, peer: Address) -> bytes:
    return hashlib.sha256(cid_bytes(cid) + peer.encode()).digest()
