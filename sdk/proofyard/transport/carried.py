"""Packets of one connection by way of a relay.

To QUIC a peer behind a relay has an address as every other: one of the discard prefix 100::/64 (RFC 6666), which nobody
has on any wire, so that nothing that comes from a socket is taken for carried, nor the reverse. Between an end and its
relay a packet travels as it is, in a datagram of its own behind `MARK` and the tag of its flow. The relay changes the
tag and nothing else: it reads no packet, acknowledges none and keeps none.

A tag has 64 random bits. The relay draws one for each end and tells it inside their connection, which is encrypted and
whose ends have proved their wallets; and a datagram with it counts only between the addresses that this connection has
at the time. Whoever can see the packets on their way could send some with the same tag: the inner connection refuses
them, as it refuses all that its peer did not encrypt.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta

from proofyard.transport.udp import Datagram, SocketAddress

PREFIX = "100::"

MARK = 0x0C
"""The first byte of a datagram that is carried: none of QUIC's begins so, nor of what else shares ports with it (RFC
9443)."""

TAG_BYTES = 8
HEAD_BYTES = 1 + TAG_BYTES

Tag = Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]

MAX_FLOWS = 256
"""Connections that are carried for one endpoint at a time."""

MAX_FLOWS_OF_RELAY = 96
"""The same by one relay, which could make up callers so that no other relay has a place."""

STEP_BYTES = 8 << 20
"""Bytes of a circuit, in both directions, after which this end signs again how many they are."""

SILENCE_S = 1.0
"""A relay of which nothing came for so long is sent a packet of the connection with it, as often: where this end has
another address now, the relay learns it from that alone."""


class Outer(Protocol):
    """The connection to a relay."""

    @property
    def address(self) -> SocketAddress: ...
    @property
    def proved_address(self) -> SocketAddress | None: ...
    def ping(self) -> None: ...


def is_carried(host: str) -> bool:
    """Whether the IP address `host` stands for a peer behind a relay."""
    return host.startswith(PREFIX)


def new_tag() -> bytes:
    return os.urandom(TAG_BYTES)


def head_of(tag: bytes) -> bytes:
    """What goes before each packet of a flow."""
    return bytes((MARK,)) + tag


def tag_of(datagram: bytes) -> bytes | None:
    """The tag of a datagram that is carried; None for every other."""
    return datagram[1:HEAD_BYTES] if len(datagram) > HEAD_BYTES and datagram[0] == MARK else None


@dataclass(eq=False)
class Flow:
    """`address`: what stands for the other end. `incoming`: it may open a connection."""

    outer: Outer
    tag: bytes
    head: bytes
    address: SocketAddress
    incoming: bool
    heard_at: float
    due: int
    """Bytes at which `on_due` is called next."""
    pinged_at: float = 0.0
    sent: int = 0
    received: int = 0


class Carrier:
    """The flows of one endpoint. `now` is the loop's clock; `on_due` is told of a flow that has carried one more
    `STEP_BYTES`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.on_due: Callable[[SocketAddress], object] = lambda _: None
        self._count = 0
        self._flows: dict[SocketAddress, Flow] = {}
        self._by_tag: dict[bytes, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def open(self, outer: Outer, tag: bytes, *, incoming: bool) -> SocketAddress | None:
        """An address for the peer at the other end of a flow; None where too many are carried already."""
        of_relay = sum(flow.outer is outer for flow in self._flows.values())
        if len(self._flows) >= MAX_FLOWS or of_relay >= MAX_FLOWS_OF_RELAY or tag in self._by_tag:
            return None
        self._count += 1
        address = (f"{PREFIX}{self._count >> 16 & 0xFFFF:x}:{self._count & 0xFFFF:x}", 1, 0, 0)
        flow = self._flows[address] = self._by_tag[tag] = Flow(
            outer, tag, head_of(tag), address, incoming, heard_at=self._now(), due=STEP_BYTES
        )
        return flow.address

    def knows(self, address: SocketAddress) -> bool:
        return address in self._flows

    def counted(self, address: SocketAddress) -> tuple[int, int]:
        """Bytes that were sent into a flow, and that came by it, tags included."""
        flow = self._flows.get(address)
        return (flow.sent, flow.received) if flow is not None else (0, 0)

    def outer_of(self, address: SocketAddress) -> Outer | None:
        """The connection to the relay of a flow; None where there is none."""
        flow = self._flows.get(address)
        return flow.outer if flow is not None else None

    def tag_at(self, address: SocketAddress) -> bytes:
        """The tag of a flow; empty where there is none."""
        flow = self._flows.get(address)
        return flow.tag if flow is not None else b""

    def address_of(self, outer: Outer, tag: bytes) -> SocketAddress | None:
        """What stands for the other end of a relay's flow."""
        flow = self._by_tag.get(tag)
        return flow.address if flow is not None and flow.outer is outer else None

    def release(self, address: SocketAddress) -> tuple[Outer, bytes] | None:
        """Forget a flow: its relay connection and tag, if there was one. Idempotent."""
        flow = self._flows.pop(address, None)
        if flow is None:
            return None
        del self._by_tag[flow.tag]
        return flow.outer, flow.tag

    def ended(self, outer: Outer, tag: bytes | None = None) -> list[SocketAddress]:
        """A relay has ended a flow, or all of them with its connection; the addresses that nobody has any more."""
        gone = [address for address, flow in self._flows.items() if flow.outer is outer and tag in (None, flow.tag)]
        for address in gone:
            self.release(address)
        return gone

    def wrap(self, packet: bytes, address: SocketAddress) -> Datagram | None:
        """A packet on its way to the relay; None where the flow has ended."""
        flow = self._flows.get(address)
        if flow is None:
            return None
        now = self._now()
        if now - max(flow.heard_at, flow.pinged_at) > SILENCE_S:
            flow.pinged_at = now
            flow.outer.ping()
        flow.sent += HEAD_BYTES + len(packet)
        self._look(flow)
        return flow.head + packet, flow.outer.address

    def unwrap(self, tag: bytes, datagram: bytes, address: SocketAddress) -> tuple[Datagram, bool] | None:
        """The packet in a datagram that came from `address`, and whether it may open a connection; None where it
        belongs to no flow."""
        flow = self._by_tag.get(tag)
        if flow is None or address != flow.outer.address:
            return None
        flow.heard_at = self._now()
        flow.received += len(datagram)
        self._look(flow)
        return (datagram[HEAD_BYTES:], flow.address), flow.incoming

    def _look(self, flow: Flow) -> None:
        if flow.sent + flow.received >= flow.due:
            flow.due += STEP_BYTES
            self.on_due(flow.address)
