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
    """For each key the values it had, oldest first. Memory grows with the changes, a lookup is a bisection."""

    def __init__(self) -> None:
        self._times: dict[K, list[When]] = {}
        self._values: dict[K, list[V]] = {}

    def put(self, key: K, at: When, value: V) -> None:
        """`key` has a new value from `at` on, which lies behind all its changes before."""
        self._times.setdefault(key, []).append(at)
        self._values.setdefault(key, []).append(value)

    def at(self, key: K, moment: When) -> V | None:
        """What the value was just after `moment`; None before its first."""
        count = self._count(key, moment)
        return self._values[key][count - 1] if count else None

    def changes(self, key: K, moment: When) -> list[tuple[When, V]]:
        """Every value until `moment`, with the time from which it was so."""
        count = self._count(key, moment)
        return list(zip(self._times[key][:count], self._values[key][:count], strict=True)) if count else []

    def known(self, moment: When) -> Iterator[tuple[K, V]]:
        """Each key that had a value at `moment`, in the order of their first ones, with that value."""
        for key in self._times:
            value = self.at(key, moment)
            if value is not None:
                yield key, value

    def undo(self, block: int) -> None:
        """Forget what changed behind `block`."""
        for key in list(self._times):
            count = self._count(key, end_of(block))
            del self._times[key][count:], self._values[key][count:]
            if not count:
                del self._times[key], self._values[key]

    def _count(self, key: K, moment: When) -> int:
        return bisect_right(self._times.get(key, ()), moment)
