"""Packets of one connection inside another one, by way of a relay.

To QUIC a peer behind a relay has an address as every other: one of the discard prefix 100::/64 (RFC 6666), which nobody
has on any wire, so that nothing that comes from a socket is taken for carried, nor the reverse. Packets travel as
DATAGRAM frames (RFC 9221) of the connection to the relay, with the number of the flow before them, which the relay
gives out. The relay sees the packets of the inner connection, encrypted between its two ends.

One frame holds at most `PIECE_BYTES` of a packet, as every path passes them; the padded packets of a handshake are
larger and travel in two pieces.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from proofyard.transport.udp import SocketAddress

PREFIX = "100::"
HEAD_BYTES = 4
FROM_RELAY = 1 << 31
"""Set in a flow's number on the way from the relay: either end of a connection may be the other's relay."""

PIECE_BYTES = 1150
MAX_FLOWS = 256
"""Connections that are carried for one endpoint at a time."""

MAX_FLOWS_OF_RELAY = 96
"""The same by one relay, which could make up callers so that no other relay has a place."""

HALVES_KEPT = 4
_WHOLE, _FIRST, _SECOND = 0, 1, 2


class Outer(Protocol):
    """The connection to a relay."""

    def carry(self, data: bytes) -> bool: ...


class Inner(Protocol):
    """A connection that is carried."""

    def close(self, code: int, reason: str) -> None: ...


def is_carried(host: str) -> bool:
    """Whether the IP address `host` stands for a peer behind a relay."""
    return host.startswith(PREFIX)


def cut(packet: bytes, number: int) -> list[bytes]:
    """The pieces of a packet; those of one packet have the same `number`, modulo 256."""
    if len(packet) <= PIECE_BYTES:
        return [bytes((_WHOLE, 0)) + packet]
    half = (len(packet) + 1) // 2
    return [bytes((_FIRST, number % 256)) + packet[:half], bytes((_SECOND, number % 256)) + packet[half:]]


class Joiner:
    """Makes packets of pieces. A half whose other half is lost is forgotten for the next ones."""

    def __init__(self) -> None:
        self._halves: dict[int, tuple[int, bytes]] = {}

    def take(self, piece: bytes) -> bytes | None:
        """A whole packet, if this piece completes one."""
        if len(piece) < 2:
            return None
        kind, number, data = piece[0], piece[1], piece[2:]
        if kind == _WHOLE:
            return data
        other = self._halves.pop(number, None)
        if other is None or other[0] == kind:
            self._halves[number] = (kind, data)
            if len(self._halves) > HALVES_KEPT:
                del self._halves[next(iter(self._halves))]
            return None
        return other[1] + data if kind == _SECOND else data + other[1]


@dataclass
class _Flow:
    outer: Outer
    number: int
    address: SocketAddress
    incoming: bool
    joiner: Joiner = field(default_factory=Joiner)
    sent: int = 0


class Carrier:
    """The flows of one endpoint. `deliver` gets each packet, the address it comes from, and whether it may open a
    connection."""

    def __init__(self, deliver: Callable[[bytes, SocketAddress, bool], None]) -> None:
        self._deliver = deliver
        self._count = 0
        self._flows: dict[SocketAddress, _Flow] = {}
        self._by_number: dict[tuple[Outer, int], _Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def open(self, outer: Outer, number: int, *, incoming: bool) -> SocketAddress | None:
        """An address for the peer at the other end of a flow; None where too many are carried already."""
        of_relay = sum(flow.outer is outer for flow in self._flows.values())
        if len(self._flows) >= MAX_FLOWS or of_relay >= MAX_FLOWS_OF_RELAY or (outer, number) in self._by_number:
            return None
        self._count += 1
        address = (f"{PREFIX}{self._count >> 16 & 0xFFFF:x}:{self._count & 0xFFFF:x}", 1, 0, 0)
        flow = self._flows[address] = self._by_number[outer, number] = _Flow(outer, number, address, incoming)
        return flow.address

    def knows(self, address: SocketAddress) -> bool:
        return address in self._flows

    def release(self, address: SocketAddress) -> tuple[Outer, int] | None:
        """Forget a flow: its relay connection and number, if there was one. Idempotent."""
        flow = self._flows.pop(address, None)
        if flow is None:
            return None
        del self._by_number[flow.outer, flow.number]
        return flow.outer, flow.number

    def ended(self, outer: Outer, number: int | None = None) -> list[SocketAddress]:
        """A relay has ended a flow, or all of them with its connection; the addresses that nobody has any more."""
        gone = [
            address for address, flow in self._flows.items() if flow.outer is outer and number in (None, flow.number)
        ]
        for address in gone:
            self.release(address)
        return gone

    def send(self, packet: bytes, address: SocketAddress) -> None:
        """Hand a packet to the relay. It is lost where the flow has ended or the relay is slow: QUIC sends it again."""
        flow = self._flows.get(address)
        if flow is not None:
            flow.sent += 1
            head = flow.number.to_bytes(HEAD_BYTES, "big")
            for piece in cut(packet, flow.sent):
                flow.outer.carry(head + piece)

    def receive(self, outer: Outer, data: bytes) -> None:
        """A DATAGRAM frame from a relay; what belongs to no flow is nobody's."""
        number = int.from_bytes(data[:HEAD_BYTES], "big") & ~FROM_RELAY
        flow = self._by_number.get((outer, number))
        packet = flow.joiner.take(data[HEAD_BYTES:]) if flow is not None else None
        if flow is not None and packet is not None:
            self._deliver(packet, flow.address, flow.incoming)
