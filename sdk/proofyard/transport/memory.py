"""How much of this process's memory is in the buffers of connections, and who may have how much of it.

Two kinds of bytes are kept for a peer: what was sent and is not acknowledged, and what it sent and nobody has consumed.
Each kind has a `Pool`. What one peer (a wallet over all its connections, or a stranger's connection) may have of it
follows from what is free, as in the shared buffers of a switch (Choudhury and Hahne, Dynamic Queue Length Thresholds,
1998): a quarter of that, so a few that never read cannot crowd out the others, and everybody always has a little.
"""

from collections.abc import Hashable

SENDING_BYTES = 256 << 20
RECEIVING_BYTES = 512 << 20
MOST_OF_PEER = 16 << 20
"""Bytes of one peer on all its connections, of what it is sent."""

MOST_OF_CONNECTION = 8 << 20
"""The same on one of them: two transfers at a time, each with all that a stream may have (`SEND_BUFFER`)."""

LEAST_OF_PEER = 256 << 10
"""So much everybody may have however little is free: small requests and answers always pass."""


class Pool:
    """Bytes of one kind, by peer; at most about `total` of them."""

    def __init__(self, total: int, most: int) -> None:
        self.total, self.most = total, most
        self.used = 0
        self._of: dict[Hashable, int] = {}

    def of(self, peer: Hashable) -> int:
        """Bytes that are kept for a peer."""
        return self._of.get(peer, 0)

    def limit(self) -> int:
        """What one peer may have at present."""
        return max(LEAST_OF_PEER, min(self.most, (self.total - self.used) // 4))

    def change(self, peer: Hashable, count: int) -> None:
        """`count` more bytes are kept for a peer, or fewer."""
        left = self._of.get(peer, 0) + count
        self.used += count
        if left:
            self._of[peer] = left
        else:
            self._of.pop(peer, None)

    def greediest(self) -> Hashable:
        """Who has most."""
        return max(self._of, key=lambda peer: self._of[peer])


class Memory:
    """The pools of one endpoint."""

    def __init__(self, sending: int = SENDING_BYTES, receiving: int = RECEIVING_BYTES) -> None:
        self.sending = Pool(sending, MOST_OF_PEER)
        self.receiving = Pool(receiving, receiving)


class Account:
    """What one connection has of both pools. Its peer is itself until its wallet is known."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._peer: Hashable = self
        self._sending = self._receiving = 0

    def belongs_to(self, peer: Hashable) -> None:
        """From now on it counts as this peer's."""
        sending, receiving = self._sending, self._receiving
        self.settle(0, 0)
        self._peer = peer
        self.settle(sending, receiving)

    def settle(self, sending: int, receiving: int) -> None:
        """So many bytes it has now."""
        if sending != self._sending:
            self._memory.sending.change(self._peer, sending - self._sending)
            self._sending = sending
        if receiving != self._receiving:
            self._memory.receiving.change(self._peer, receiving - self._receiving)
            self._receiving = receiving

    @property
    def sending(self) -> int:
        return self._sending

    @property
    def total(self) -> int:
        return self._sending + self._receiving

    def sent(self, count: int) -> None:
        """So many more bytes are kept until the peer acknowledges them."""
        if count:
            self._sending += count
            self._memory.sending.change(self._peer, count)

    def consumed(self, count: int) -> None:
        """So many bytes that the peer sent were read."""
        count = min(count, self._receiving)
        if count:
            self._receiving -= count
            self._memory.receiving.change(self._peer, -count)

    def may_send(self) -> bool:
        """Whether more may be kept for its peer until that acknowledges it."""
        pool = self._memory.sending
        return self._sending < MOST_OF_CONNECTION and pool.of(self._peer) < pool.limit()

    def is_over(self) -> bool:
        """Whether too much is unread in this process, and its peer has more of that than anybody else."""
        pool = self._memory.receiving
        return pool.used > pool.total and pool.greediest() == self._peer
