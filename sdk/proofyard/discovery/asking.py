"""How often peers may ask: each of them, all of one host, and all together."""

from dataclasses import dataclass

from proofyard.protocol.types import Address
from proofyard.runtime.recent import Recent
from proofyard.transport.guard import Allowance, host_key

KEPT = 4096
"""Peers and hosts of which it is remembered how much they asked."""


@dataclass(frozen=True)
class Rate:
    """Questions a second in the long run, and saved up."""

    per_s: float
    at_once: float

    def allowance(self) -> Allowance:
        return Allowance(self.per_s, self.at_once)


class Askers:
    def __init__(self, of_peer: Rate, of_host: Rate, of_all: Rate) -> None:
        self._of_peer, self._of_host = of_peer, of_host
        self._all = of_all.allowance()
        self._kept: Recent[str, Allowance] = Recent(KEPT)

    def may(self, peer: Address, host: str, port: int, now: float) -> bool:
        """Count a question of a peer's at an address; False for one too many. `now`: monotonic seconds."""
        for key, rate in ((peer, self._of_peer), (host_key(host, port), self._of_host)):
            allowance = self._kept.get(key) or self._kept.put(key, rate.allowance())
            if not allowance.take(now):
                return False
        return self._all.take(now)
