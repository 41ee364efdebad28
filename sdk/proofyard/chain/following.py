"""Reading the events of Registry and Court in the order of the log, in bounded ranges, with a cursor that survives a
reorganisation.

A cursor is a few recent (block, hash) checkpoints. Where the chain no longer has the newest one, reading goes back to
the newest that it still has and says so with a `Rollback`; what lay behind it is read again. Applying an event twice
must therefore change nothing, which `position` makes easy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from web3 import Web3
from web3.exceptions import BlockNotFound

from proofyard.chain.events import Event, decode_logs
from proofyard.chain.rpc import mapped_errors
from proofyard.protocol.types import Address, Digest

MAX_RANGE = 2000
"""Blocks asked for at once; public endpoints refuse more."""
KEPT_CHECKPOINTS = 64

Topic = str | list[str] | None
"""What a log's topic must be: this, one of these, or anything."""


@dataclass(frozen=True)
class Rollback:
    """Everything behind block `to_block` that was read before is undone; what follows is read again."""

    to_block: int


@dataclass(frozen=True)
class Checkpoint:
    block: int
    block_hash: Digest


@dataclass(frozen=True)
class Cursor:
    """How far the events were read: `next_block` is the first one not yet read."""

    next_block: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()


class EventReader:
    """Reads the events of one Registry and its Court. Holds no state: store the cursor together with what the events
    changed."""

    def __init__(self, w3: Web3, rpc_url: str, registry: Address, court: Address) -> None:
        self._w3 = w3
        self._rpc_url = rpc_url
        self._contracts = [Web3.to_checksum_address(address) for address in (registry, court)]

    def read(self, cursor: Cursor, *, confirmations: int = 0) -> tuple[list[Event | Rollback], Cursor]:
        """The next events, from at most `MAX_RANGE` blocks, and the cursor behind them; the same cursor when there is
        nothing new. Blocks younger than `confirmations` are left for later."""
        with mapped_errors(self._rpc_url):
            kept = list(cursor.checkpoints)
            latest = self._w3.eth.get_block("latest")
            head, head_hash = int(latest["number"]), Digest(bytes(latest["hash"]))
            if kept and (kept[-1].block, kept[-1].block_hash) == (head, head_hash) and not confirmations:
                return [], cursor
            while kept and self._hash(kept[-1].block) != kept[-1].block_hash:
                kept.pop()
            found: list[Event | Rollback] = []
            next_block = cursor.next_block
            if len(kept) < len(cursor.checkpoints):
                next_block = kept[-1].block + 1 if kept else 0
                found.append(Rollback(next_block - 1))
            last = min(head - confirmations, next_block + MAX_RANGE - 1)
            if last >= next_block:
                before = head_hash if last == head else self._hash(last)
                found += self.between(next_block, last)
                if before is None or self._hash(last) != before:
                    return [], cursor  # it changed while reading: the next call starts over
                kept.append(Checkpoint(last, before))
                next_block = last + 1
        return found, Cursor(next_block, tuple(kept[-KEPT_CHECKPOINTS:]))

    def between(self, first: int, last: int, topics: Sequence[Topic] = ()) -> list[Event]:
        """The events of blocks `first` to `last`, both included, at most `MAX_RANGE` of them; a topic may be a
        choice."""
        logs = self._w3.eth.get_logs(
            {
                "address": self._contracts,
                "fromBlock": first,
                "toBlock": last,
                "topics": cast(Any, list(topics)),
            }
        )
        return decode_logs(logs)

    def _hash(self, number: int) -> Digest | None:
        try:
            return Digest(bytes(self._w3.eth.get_block(number)["hash"]))
        except BlockNotFound:
            return None
