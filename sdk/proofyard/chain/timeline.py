"""Values that change with blocks: what each was at any block, and what they are again when blocks are undone."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Generic, TypeVar

from proofyard.chain.events import Position

K = TypeVar("K")
V = TypeVar("V")

When = tuple[int, int]
"""A block and an index among its logs."""
AFTER_ALL_LOGS = 1 << 62


def when(position: Position) -> When:
    return (position.block, position.index)


def end_of(block: int) -> When:
    """After everything in a block: the state that a call at this block sees."""
    return (block, AFTER_ALL_LOGS)


class Timeline(Generic[K, V]):
    """For each key the values it had, oldest first. Memory grows with the changes; a lookup is a bisection, and undoing
    takes as long as there are changes to undo."""

    def __init__(self) -> None:
        self._changes: dict[K, list[tuple[When, V]]] = {}
        self._order: list[K] = []
        """The key of each change, oldest first."""

    def put(self, key: K, at: When, value: V) -> None:
        """`key` has a new value from `at` on, which lies behind all changes before, of any key."""
        self._changes.setdefault(key, []).append((at, value))
        self._order.append(key)

    def at(self, key: K, moment: When) -> V | None:
        """What the value was just after `moment`; None before its first."""
        changes = self._changes.get(key)
        if not changes:
            return None
        if changes[-1][0] <= moment:
            return changes[-1][1]
        count = bisect_right(changes, moment, key=_time)
        return changes[count - 1][1] if count else None

    def changes(self, key: K, moment: When) -> list[tuple[When, V]]:
        """Every value until `moment`, with the time from which it was so."""
        changes = self._changes.get(key, [])
        return changes[: bisect_right(changes, moment, key=_time)]

    def known(self, moment: When) -> Iterator[tuple[K, V]]:
        """Each key that had a value at `moment`, in the order of their first ones, with that value; not what comes
        while they are looked at."""
        for key in list(self._changes):
            value = self.at(key, moment)
            if value is not None:
                yield key, value

    def undo(self, block: int) -> None:
        """Forget what changed behind `block`."""
        end = end_of(block)
        while self._order and self._changes[self._order[-1]][-1][0] > end:
            key = self._order.pop()
            self._changes[key].pop()
            if not self._changes[key]:
                del self._changes[key]


def _time(change: tuple[When, object]) -> When:
    return change[0]
