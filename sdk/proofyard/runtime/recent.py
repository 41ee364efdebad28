"""What was decoded or read lately, as far as it fits: what is needed again and again."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values whose sizes (of what they were made of, in bytes; or 1 each) are at most `limit` together; those that were
    not needed for longest go, and with the next call those that nobody needed for `unused_s` seconds. For use from any
    thread."""

    def __init__(self, limit: int, *, unused_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._unused_s, self._clock = limit, unused_s, clock
        self._size = 0
        self._values: OrderedDict[K, tuple[int, V, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._renew(key, found[0], found[1])
            self._forget()
        return None if found is None else found[1]

    def put(self, key: K, value: V, size: int = 1) -> V:
        """Keep a value, in place of what was kept under this key, and return it."""
        with self._lock:
            self._drop(key)
            if size <= self._limit:
                self._renew(key, size, value)
                self._size += size
            self._forget()
        return value

    def drop(self, key: K) -> None:
        with self._lock:
            self._drop(key)

    def _renew(self, key: K, size: int, value: V) -> None:
        self._values[key] = (size, value, self._clock())
        self._values.move_to_end(key)

    def _drop(self, key: K) -> None:
        found = self._values.pop(key, None)
        self._size -= 0 if found is None else found[0]

    def _forget(self) -> None:
        before = self._clock() - self._unused_s
        while self._values and (self._size > self._limit or next(iter(self._values.values()))[2] < before):
            self._size -= self._values.popitem(last=False)[1][0]
