"""What was decoded lately, as far as it fits: large artifacts that are needed again and again."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Values whose sources have at most `limit` bytes together; those that were not needed for longest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._values: OrderedDict[Hashable, tuple[int, V]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][1]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Keep a value that was made of `size` bytes."""
        if key in self._values or size > self._limit:
            return
        self._values[key] = (size, value)
        self._bytes += size
        while self._bytes > self._limit:
            self._bytes -= self._values.popitem(last=False)[1][0]
