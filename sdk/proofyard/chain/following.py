"""Reading the events of Registry and Court in the order of the log, in bounded ranges, with a cursor that survives a
reorganisation.

A cursor is a few recent (block, hash) checkpoints. Where the chain no longer has the newest one, reading goes back to
the newest that it still has and says so with a `Rollback`; what lay behind it is read again. Applying an event twice
must therefore change nothing, which `position` makes easy.

An endpoint that is only behind, because it is one of many or has just started, is no reorganisation: nothing is read
from it until it has caught up. Nor is one of another chain, which differs from its first block on: nothing is read from
it at all. Where many nodes share an address, one that is behind has no logs of the last blocks and does not say so: a
range is asked for together with its last block, in one request, and counts only where whoever answers has that block,
and it is the one that is meant. Ranges become smaller where an endpoint refuses them, and slowly larger again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from web3 import Web3
from web3.exceptions import BlockNotFound, Web3RPCError
from web3.types import RPCEndpoint

from proofyard.chain.errors import AnotherChain, ChainBehind, ChainUnreachable
from proofyard.chain.events import Event, decode_logs
from proofyard.chain.rpc import CATCH_UP_POLL_S, CATCH_UP_S, BatchRefused, Provider, mapped_errors, result_of
from proofyard.chain.troubles import Trouble, trouble_of
from proofyard.protocol.types import Address, Digest

MAX_RANGE = 2000
"""Blocks asked for at once; many public endpoints refuse more."""
WORKED_TO_GROW = 16
"""After so many ranges in a row that were taken, one of twice the blocks is tried."""
LATE_S = 60.0
"""An endpoint whose chain is shorter than what was read of it is taken to be behind for so long."""
KEPT_CHECKPOINTS = 64
NOTHING = Digest(b"")

LAG_BLOCKS = 32
"""So far behind one of the nodes may be that share an address which takes no batches."""

TOO_MUCH = ("HTTP status 413", "HTTP status 500", "HTTP status 504", "no answer in", "over the limit")
"""What fewer blocks may help against."""

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
    """How far the events were read: `next_block` is the first one not yet read. `genesis` is the hash of the chain's
    first block, empty before anything is read."""

    next_block: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()
    genesis: Digest = NOTHING


class RangeSize:
    """How many blocks are asked for at once: half as many when that is refused, twice as many once it goes well."""

    def __init__(self) -> None:
        self.blocks = MAX_RANGE
        self._worked = 0

    def refused(self, blocks: int) -> None:
        self.blocks, self._worked = max(1, min(self.blocks, blocks) // 2), 0

    def worked(self) -> None:
        self._worked += 1
        if self._worked >= WORKED_TO_GROW and self.blocks < MAX_RANGE:
            self.blocks, self._worked = min(MAX_RANGE, 2 * self.blocks), 0


class EventReader:
    """Reads the events of one Registry and its Court. Store the cursor together with what the events changed."""

    def __init__(self, w3: Web3, rpc_url: str, registry: Address, court: Address) -> None:
        self._w3 = w3
        self._rpc_url = rpc_url
        self._contracts = [Web3.to_checksum_address(address) for address in (registry, court)]
        self._range = RangeSize()
        self._late_since: float | None = None

    def read(self, cursor: Cursor, *, confirmations: int = 0) -> tuple[list[Event | Rollback], Cursor]:
        """The next events, from at most `MAX_RANGE` blocks, and the cursor behind them; the same cursor when there is
        nothing new. Blocks younger than `confirmations` are left for later. Raises `ChainBehind` where the endpoint
        does not have what was read before, and `AnotherChain` where that was of another chain."""
        with mapped_errors(self._rpc_url):
            kept = list(cursor.checkpoints)
            latest = self._w3.eth.get_block("latest")
            head, head_hash = int(latest["number"]), Digest(bytes(latest["hash"]))
            if kept and (kept[-1].block, kept[-1].block_hash) == (head, head_hash) and not confirmations:
                return [], cursor
            self._require_caught_up(kept, head)
            while kept and self._shown_hash(kept[-1].block) != kept[-1].block_hash:
                kept.pop()
            found: list[Event | Rollback] = []
            next_block = cursor.next_block
            if len(kept) < len(cursor.checkpoints):
                self._require_same_chain(cursor.genesis)
                next_block = kept[-1].block + 1 if kept else 0
                found.append(Rollback(next_block - 1))
            last = min(head - confirmations, next_block + MAX_RANGE - 1)
            if last >= next_block:
                last_hash = head_hash if last == head else self._hash(last)
                if last_hash is None:
                    return [], cursor
                if last == next_block:
                    found += self._of_block(last_hash)
                else:
                    for end, end_hash, events in self._ranges(next_block, last):
                        if end_hash != (last_hash if end == last else self._hash(end)):
                            return [], cursor  # it changed while reading: the next call starts over
                        found += events
                kept.append(Checkpoint(last, last_hash))
                next_block = last + 1
            genesis = cursor.genesis or self._hash(0) or NOTHING
        return found, Cursor(next_block, tuple(kept[-KEPT_CHECKPOINTS:]), genesis)

    def between(self, first: int, last: int, topics: Sequence[Topic] = ()) -> list[Event]:
        """The events of blocks `first` to `last`, both included, oldest first; a topic may be a choice.

        They are asked for in as many requests as the endpoint makes necessary.
        """
        return [event for _, _, events in self._ranges(first, last, topics) for event in events]

    def _ranges(self, first: int, last: int, topics: Sequence[Topic] = ()) -> Iterator[tuple[int, Digest, list[Event]]]:
        """The events of `between` by ranges: the last block of each, and its hash where the events come from."""
        while first <= last:
            end = min(last, first + self._range.blocks - 1)
            try:
                end_hash, logs = self._of_range(first, end, topics)
            except (Web3RPCError, ChainUnreachable) as error:
                if end == first or not _is_about_size(error):
                    raise
                self._range.refused(end - first + 1)
                continue
            self._range.worked()
            yield end, end_hash, decode_logs(logs)
            first = end + 1

    def _of_range(self, first: int, end: int, topics: Sequence[Topic]) -> tuple[Digest, list[dict[str, Any]]]:
        """The hash of block `end`, and the logs that the same node has of all blocks up to it."""
        provider = self._w3.provider
        assert isinstance(provider, Provider)
        wanted = {"address": self._contracts, "fromBlock": hex(first), "toBlock": hex(end), "topics": list(topics)}
        try:
            answers = provider.together(("eth_getBlockByNumber", [hex(end), False]), ("eth_getLogs", [wanted]))
        except BatchRefused:
            return self._block_by_block(first, end, topics)
        block, logs = map(result_of, answers)
        return Digest(bytes.fromhex(block["hash"][2:])), logs

    def _block_by_block(self, first: int, end: int, topics: Sequence[Topic]) -> tuple[Digest, list[dict[str, Any]]]:
        """The same from an endpoint that takes one request at a time: young blocks one by one, by their hashes."""
        sure = min(end, int(self._w3.eth.block_number) - LAG_BLOCKS)
        logs: list[dict[str, Any]] = []
        if sure >= first:
            logs += self._logs({"fromBlock": hex(first), "toBlock": hex(sure), "topics": list(topics)})
        for number in range(max(first, sure + 1), end + 1):
            logs += self._logs({"blockHash": "0x" + self._patient_hash(number).hex(), "topics": list(topics)})
        return self._patient_hash(end), logs

    def _of_block(self, block_hash: Digest) -> list[Event]:
        """The events of one block. An endpoint that does not have it says so, instead of giving none."""
        return decode_logs(self._logs({"blockHash": "0x" + block_hash.hex()}))

    def _logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """As JSON-RPC has them: what web3 would make of each takes longer than all the rest, and `decode_logs` knows
        their types."""
        asked = {"address": self._contracts, **wanted}
        found: list[dict[str, Any]] = self._w3.manager.request_blocking(RPCEndpoint("eth_getLogs"), [asked])
        return found

    def _require_caught_up(self, kept: Sequence[Checkpoint], head: int) -> None:
        """Raise `ChainBehind` where the chain that the endpoint shows ends before what was read of it, and is no
        other chain as far as it goes."""
        if not kept or head >= kept[-1].block:
            self._late_since = None
            return
        known = next((each for each in reversed(kept) if each.block <= head), None)
        if known is not None and self._shown_hash(known.block) != known.block_hash:
            return
        self._late_since = self._late_since or time.monotonic()
        if time.monotonic() - self._late_since < LATE_S:
            raise ChainBehind(self._rpc_url, f"its newest block is {head}, and {kept[-1].block} was read before")

    def _require_same_chain(self, genesis: Digest) -> None:
        """Raise `AnotherChain` where an endpoint shows one, which looks like a reorganisation of everything."""
        if isinstance(self._w3.provider, Provider):
            self._w3.provider.doubt()
        first = self._hash(0)
        if genesis and first is not None and first != genesis:
            raise AnotherChain(self._rpc_url)

    def _shown_hash(self, number: int) -> Digest:
        """The hash of a block that is there. Raises `ChainBehind` where the endpoint has not heard of it yet."""
        found = self._hash(number)
        if found is None:
            raise ChainBehind(self._rpc_url, f"it shows a newer block, and not block {number}")
        return found

    def _patient_hash(self, number: int) -> Digest:
        """The same, from whoever of the nodes behind an address has it."""
        until = time.monotonic() + CATCH_UP_S
        while (found := self._hash(number)) is None and time.monotonic() < until:
            time.sleep(CATCH_UP_POLL_S)
        return found or self._shown_hash(number)

    def _hash(self, number: int) -> Digest | None:
        try:
            return Digest(bytes(self._w3.eth.get_block(number)["hash"]))
        except BlockNotFound:
            return None


def _is_about_size(error: Exception) -> bool:
    """Whether fewer blocks may be what an endpoint wants: it has other words for it each time."""
    if isinstance(error, Web3RPCError):
        return trouble_of(error) in (Trouble.RANGE, Trouble.SLOW, None)
    return isinstance(error, ChainUnreachable) and any(sign in error.reason for sign in TOO_MUCH)
