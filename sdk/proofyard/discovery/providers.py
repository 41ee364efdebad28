"""Who announced to have which artifact: bounded in all, by wallet and by network, and forgotten after a while.

Whoever announces speaks of itself alone, on a connection that proves its wallet. What it says is a claim: a peer that
has nothing costs whoever asks it a question, since every block is checked by its CID.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from random import Random

from proofyard.discovery.table import networks_of
from proofyard.protocol.types import Address, Cid
from proofyard.runtime.chance import chance

HOLDS_S = 1800.0
"""How long an announcement is remembered."""
MOST_OF_CID, MOST_OF_NETWORK = 16, 4
"""Providers of an artifact, and those of them in one network (/24, IPv6 /48)."""
MOST_OF_NODE = 256
MOST, MOST_FROM_NETWORK = 16_384, 2048
"""Announcements in all, and those from one network."""


@dataclass(frozen=True)
class _Said:
    record: bytes
    network: str
    until: float


class ProviderTable:
    """Announcements by artifact. Times are seconds of one clock, passed in."""

    def __init__(self, choose: Random = chance) -> None:
        self._choose = choose
        self._of_cid: dict[Cid, OrderedDict[Address, _Said]] = {}
        self._of_node: dict[Address, OrderedDict[Cid, None]] = {}
        self._from: Counter[str] = Counter()
        self._order: OrderedDict[tuple[Cid, Address], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, cid: Cid, node: Address, record: bytes, host: str, now: float) -> bool:
        """Remember that `node`, which speaks from the IP address `host`, has an artifact; whether there was a place.
        Its own oldest gives way to its newest; of one artifact's providers nobody does."""
        self.forget_old(now)
        others = {each: said for each, said in self._of_cid.get(cid, {}).items() if each != node}
        network = networks_of(host)[0]
        crowd = sum(said.network == network for said in others.values())
        if len(others) >= MOST_OF_CID or crowd >= MOST_OF_NETWORK:
            return False
        self._drop(cid, node)
        mine = self._of_node.get(node, OrderedDict())
        if len(mine) >= MOST_OF_NODE:
            self._drop(next(iter(mine)), node)
        if self._from[network] >= MOST_FROM_NETWORK:
            return False
        if len(self._order) >= MOST:
            self._drop(*next(iter(self._order)))
        self._of_cid.setdefault(cid, OrderedDict())[node] = _Said(record, network, now + HOLDS_S)
        self._of_node.setdefault(node, OrderedDict())[cid] = None
        self._order[(cid, node)] = now + HOLDS_S
        self._from[network] += 1
        return True

    def find(self, cid: Cid, count: int, now: float) -> list[tuple[Address, bytes]]:
        """Some who have it, and their records as they were signed; in no order."""
        self.forget_old(now)
        found = [(node, said.record) for node, said in self._of_cid.get(cid, {}).items()]
        return self._choose.sample(found, min(count, len(found)))

    def forget_old(self, now: float) -> None:
        """All hold equally long, so the oldest go first."""
        while self._order:
            (cid, node), until = next(iter(self._order.items()))
            if until > now:
                return
            self._drop(cid, node)

    def _drop(self, cid: Cid, node: Address) -> None:
        if self._order.pop((cid, node), None) is None:
            return
        said = self._of_cid[cid].pop(node)
        del self._of_node[node][cid]
        self._from[said.network] -= 1
        if not self._of_cid[cid]:
            del self._of_cid[cid]
        if not self._of_node[node]:
            del self._of_node[node]
        if not self._from[said.network]:
            del self._from[said.network]
