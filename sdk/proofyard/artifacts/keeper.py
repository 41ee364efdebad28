"""What a store keeps: pins, some of them leases that end, and the collection of everything else.

Pins are files beside the blocks, written whole like them, so they survive a crash. Linked and exported artifacts
count as pinned: their nodes are the only copy of the tree above a file that lies elsewhere.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proofyard.artifacts.dag import children
from proofyard.artifacts.errors import BlockMissing, CorruptArtifact, StoreUnusable
from proofyard.artifacts.store import BlockStore
from proofyard.protocol.cid import DAG_PB, CidError, cid_bytes, cid_codec
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.types import Cid

logger = logging.getLogger("proofyard.artifacts")

GRACE_SECONDS = 3600.0
"""A block younger than this is kept: an artifact that is still arriving has no pin yet."""


class Pin(msgspec.Struct, frozen=True):
    """Keep `cid` and what is below it until `until` (Unix seconds), or for good when that is None."""

    cid: Cid
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Collected:
    """What a collection deleted, and what the store holds after it."""

    blocks: int
    bytes: int
    bytes_left: int


class Keeper:
    """Pins and collection for one store."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._folder = store.path / "pins"
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreUnusable(self._folder, error.strerror or str(error)) from None

    def pin(self, cid: Cid, *, until: float | None = None, reason: str = "") -> None:
        """Keep an artifact; with `until` it is a lease. Replaces an earlier pin of it."""
        cid_bytes(cid)
        self._store.write_whole(self._folder / cid, encode(Pin(cid, until, reason)))

    def unpin(self, cid: Cid) -> None:
        """Let an artifact go at the next collection. Idempotent."""
        cid_bytes(cid)
        (self._folder / cid).unlink(missing_ok=True)

    def pins(self, now: float) -> list[Pin]:
        """What is pinned at `now` (Unix seconds), leases that have ended left out."""
        pins = [pin for file in sorted(self._folder.iterdir()) if (pin := self._read(file)) is not None]
        return [pin for pin in pins if pin.until is None or pin.until > now]

    def _read(self, file: Path) -> Pin | None:
        try:
            pin = decode(file.read_bytes(), Pin)
            cid_bytes(pin.cid)
        except FileNotFoundError:
            return None
        except (CodecError, CidError) as error:
            logger.warning("the pin %s is unreadable and is deleted: %s", file.name, error)
            file.unlink(missing_ok=True)
            return None
        return pin

    def used_bytes(self) -> int:
        """Bytes of all blocks in the store, linked files not counted."""
        return sum(block.size for block in self._store.blocks())

    def collect(self, now: float, *, quota_bytes: int = 0, grace_s: float = GRACE_SECONDS) -> Collected:
        """Delete blocks that nothing pinned needs, the oldest first, until the store holds at most `quota_bytes`.

        Blocks younger than `grace_s` seconds stay, and so does what a put needs that is under way, in whichever
        process. `now` is Unix seconds. Ended leases are forgotten, and links to what is no longer there.
        """
        before = min(now - grace_s, self._store.oldest_put())
        pins = self.pins(now)
        self._forget_ended(now)
        linked = self._store.linked()
        self._store.forget_lost()
        needed = self._needed([*(pin.cid for pin in pins), *linked])
        stored = list(self._store.blocks())
        total = sum(block.size for block in stored)
        count = size = 0
        for block in sorted(stored, key=lambda block: block.at):
            if total - size <= quota_bytes:
                break
            if block.cid not in needed and block.at < before and self._store.delete_older(block.cid, before):
                count += 1
                size += block.size
        return Collected(count, size, total - size)

    def _forget_ended(self, now: float) -> None:
        for file in self._folder.iterdir():
            # Read again: another process may have pinned it anew.
            pin = self._read(file)
            if pin is not None and pin.until is not None and pin.until <= now:
                file.unlink(missing_ok=True)

    def _needed(self, roots: list[Cid]) -> set[Cid]:
        needed: set[Cid] = set()
        stack = list(roots)
        while stack:
            here = stack.pop()
            if here in needed:
                continue
            needed.add(here)
            if cid_codec(here) == DAG_PB:
                # What is not here, or no node, has nothing below it that could be kept.
                with contextlib.suppress(BlockMissing, CorruptArtifact):
                    stack += children(self._store.get_block, here)
        return needed
