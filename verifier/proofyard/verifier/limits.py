"""How often one peer may ask for what costs this verifier something."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from proofyard.transport import RequestFailed

PEERS = 4096
"""Peers that are remembered; whoever was silent longest is forgotten first."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class Limiter:
    """A bucket of `burst` requests for each peer, refilled at `per_s`."""

    def __init__(self, what: str, *, per_s: float, burst: int) -> None:
        self._what, self._per_s, self._burst = what, per_s, burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, peer: str) -> None:
        """Count a request. Raises `RequestFailed` for one too many."""
        if not self.allows(peer):
            raise RequestFailed("busy", f"{self._what}: more than {self._per_s:g} a second; try again later")

    def has_left(self, peer: str) -> bool:
        """Whether one more would be allowed; nothing is counted."""
        bucket = self._buckets.get(peer)
        return bucket is None or bucket.tokens + (time.monotonic() - bucket.at) * self._per_s >= 1

    def allows(self, peer: str) -> bool:
        """Count a request, if it is not one too many."""
        return self.over(peer, 1) == 0

    def over(self, peer: str, count: int) -> int:
        """Count so many at once, as far as they are allowed, and say how many are not."""
        now = time.monotonic()
        bucket = self._buckets.pop(peer, None) or _Bucket(float(self._burst), now)
        bucket.tokens = min(float(self._burst), bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        self._buckets[peer] = bucket
        if len(self._buckets) > PEERS:
            self._buckets.popitem(last=False)
        allowed = min(count, int(bucket.tokens))
        bucket.tokens -= allowed
        return count - allowed
