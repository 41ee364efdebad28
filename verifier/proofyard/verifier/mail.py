"""What is about to be sent to nodes. Everything for one node leaves at the same moment, so that the steps of the last
moments go in one message of each kind, and these in few packets, as do their answers: a packet costs both sides more
than what is in it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proofyard.protocol.types import Address

LINGER_S, MOST_LINGER_S = 0.02, 4.0
"""How long something for a node waits for more, at least and at most."""
NODES_PER_S = 80.0
"""What would leave for more nodes a second waits longer, so that more goes with it."""
SAVED_S, SOON_S = 4.0, 1.0
"""What might have left in so much of a quiet time may leave soon after it, when nobody is busy: audits, which come one
after the other, within the second time, and what is whole at once."""
WHOLE = "tasks"
"""Of these a node is given at one moment all that it has room for."""
T = TypeVar("T")


@dataclass
class _Bag:
    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    kinds: dict[str, list[Any]] = field(default_factory=dict)


class Mail:
    """A bag for each node."""

    def __init__(self) -> None:
        self._bags: dict[Address, _Bag] = {}
        self._next = 0.0
        """When the next bag would leave, by the event loop's clock, if they left evenly."""

    async def collect(self, node: Address, kind: str, items: Sequence[T]) -> list[T]:
        """All of a kind that comes for a node until its bag leaves; nothing for all who ask but the first."""
        bag = self._bags.get(node) or self._new_bag(node, kind)
        waiting: list[T] | None = bag.kinds.get(kind)
        if waiting is not None:
            waiting += items
            return []
        bag.kinds[kind] = waiting = list(items)
        try:
            await bag.leaves.wait()
        finally:
            del bag.kinds[kind]
        return waiting

    def _new_bag(self, node: Address, kind: str) -> _Bag:
        bag = self._bags[node] = _Bag()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._next = min(max(self._next, now - SAVED_S) + 1 / NODES_PER_S, now + MOST_LINGER_S)
        evenly = min(MOST_LINGER_S, max(LINGER_S, len(self._bags) / NODES_PER_S))
        soon = LINGER_S if kind == WHOLE else SOON_S
        loop.call_later(min(evenly, max(soon, self._next - now)), self._leave, node)
        return bag

    def _leave(self, node: Address) -> None:
        self._bags.pop(node).leaves.set()
