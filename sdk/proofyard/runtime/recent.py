"""What was decoded or read lately, as far as it fits: what is needed again and again."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values whose sizes (of what they were made of, in bytes; or 1 each) are at most `limit` together; those that were
    not needed for longest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._values: OrderedDict[K, tuple[int, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][1]

    def put(self, key: K, value: V, size: int = 1) -> V:
        """Keep a value, in place of what was kept under this key, and return it."""
        self.drop(key)
        if size <= self._limit:
            self._values[key] = (size, value)
            self._size += size
        while self._size > self._limit:
            self._size -= self._values.popitem(last=False)[1][0]
        return value

    def drop(self, key: K) -> None:
        self._size -= self._values.pop(key, (0, None))[0]
