"""A relay: an endpoint that everybody reaches, and that carries packets between those who do not reach each other.

    host                         relay                        caller
    Reserve                ->
                           <-    Reserved
                                                     <-       Through(host)
    Coming(flow, caller)   <-
                           ->    Opened
                                 Opened(flow)        ->
    tagged datagrams      <->                       <->       tagged datagrams
    Receipted              ->                       <-        Receipted

It carries to wallets that hold a reservation and to nobody else, between the two addresses that connections with proved
wallets have come from: it sends to no address that somebody names, and never more than it got. What it carries is a
QUIC connection between the two, which it can delay and drop but neither read nor change. What it gives is bounded:
reservations and circuits in all, by subnet, host and wallet; bytes and time of a circuit; and where its rate is limited
every caller's host has an equal share of it. Both ends sign again and again how much has been carried for them; what
they have signed last is kept (`receipts`), and a circuit for which nobody signs may be ended.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from proofyard.protocol.carriage import NOBODY, CarriageReceipt, Circuit, Counted
from proofyard.protocol.codec import Key
from proofyard.protocol.commitment import Domain
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Digest
from proofyard.transport import stun
from proofyard.transport.carried import HEAD_BYTES, Tag, head_of, is_carried, new_tag
from proofyard.transport.connection import Connection
from proofyard.transport.errors import RequestFailed, TransportError
from proofyard.transport.frames import Body
from proofyard.transport.guard import Allowance, host_key
from proofyard.transport.link import Link
from proofyard.transport.places import Caller, Places
from proofyard.transport.receipts import Receipts
from proofyard.transport.udp import Datagram, SocketAddress

logger = logging.getLogger("proofyard.transport")

COMING_S = 5.0
"""How long a host may take to answer that it expects a caller."""

PATIENCE_S = 60.0
"""A reservation that is so old gives way to a host of another subnet where places are short."""

ACTIVE_S = 1.0
"""Who was carried for within this time has a share of the rate."""

RECEIPTS_PER_S, RECEIPTS_AT_ONCE = 50.0, 100.0
"""Signatures of one end of a circuit: each takes a tenth of a millisecond."""

ENDED = 512
"""Ends of circuits that are over and may still be signed for."""

SHARE_BURST_S = 0.25
USERS = 1024

BINDINGS_PER_S, BINDINGS_AT_ONCE = 200.0, 400.0
"""Datagrams of whoever asks which port its router gave to it (`stun`)."""


class Reserve(msgspec.Struct, frozen=True, tag="relay-reserve"):
    """Asks to be reachable through this peer for as long as the connection lasts. Replied to with `Reserved`."""

    idempotent: ClassVar[bool] = True


class Reserved(msgspec.Struct, frozen=True, tag="relay-reserved"):
    """What a circuit to whoever reserved may carry, and how long it may last."""

    circuit_bytes: int
    circuit_s: float


class Through(msgspec.Struct, frozen=True, tag="relay-through"):
    """A caller asks for a circuit to `peer`. `payer`: the verifier for whose job that is, if any. Replied to with
    `Opened`."""

    peer: Key
    payer: Key = NOBODY


class Coming(msgspec.Struct, frozen=True, tag="relay-coming"):
    """A relay tells a host that `peer` will be at the other end of `flow`. `circuit`: what both ends sign for, absent
    where the relay keeps no receipts. Replied to with `Opened`."""

    flow: Tag
    peer: Key
    circuit: Circuit | None = None


class Opened(msgspec.Struct, frozen=True, tag="relay-opened"):
    """The tag that goes before each packet, in either direction. `circuit`: as in `Coming`, for the caller."""

    flow: Tag
    circuit: Circuit | None = None


class Receipted(msgspec.Struct, frozen=True, tag="relay-receipted"):
    """An end's signature for the bytes that it has sent into a flow and that have come to it. Replied to with
    `Opened`."""

    flow: Tag
    counted: Counted


class HangUp(msgspec.Struct, frozen=True, tag="relay-hang-up"):
    """An end needs `flow` no more, or the relay (`by_relay`) carries it no more. Replied to with `Opened`."""

    flow: Tag
    by_relay: bool = False
    reason: Annotated[str, Meta(max_length=300)] = ""


@dataclass(frozen=True)
class RelayLimits:
    """`bytes_s`: what is carried in a second, for all together, 0 for no limit. `unreceipted_bytes`: of one circuit
    before its ends have signed for them, 0 for no limit; ends sign after 8 MiB. The others say whose they are."""

    reservations: int = 512
    reservations_of_subnet: int = 128
    reservations_of_host: int = 32
    circuits: int = 256
    circuits_of_wallet: int = 16
    circuits_of_host: int = 64
    circuit_bytes: int = 4 << 30
    circuit_s: float = 7200.0
    idle_s: float = 60.0
    bytes_s: float = 0.0
    unreceipted_bytes: int = 0


class Shares:
    """Divides `bytes_s` between those who use it now: each may send its share, whatever the others want."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._users: dict[str, tuple[float, float]] = {}
        """What is saved up, in bytes, and when it was counted."""
        self._swept_at = 0.0

    def take(self, user: str, size: int, now: float) -> bool:
        """Whether `user` may have `size` bytes carried."""
        if not self._bytes_s:
            return True
        if now - self._swept_at > SHARE_BURST_S:
            self._users = {key: each for key, each in self._users.items() if now - each[1] < ACTIVE_S}
            self._swept_at = now
        if len(self._users) >= USERS and user not in self._users:
            return False
        saved, at = self._users.get(user, (0.0, now - SHARE_BURST_S))
        share = self._bytes_s / (len(self._users) + (user not in self._users))
        saved = min(share * SHARE_BURST_S, saved + share * (now - at))
        self._users[user] = (saved - size if saved >= size else saved, now)
        return saved >= size


@dataclass(eq=False)
class _Circuit:
    caller: "_Leg"
    host: "_Leg"
    user: str
    begun: float
    used: float
    about: Circuit
    carried: int = 0
    receipted: int = 0


@dataclass(eq=False)
class _Leg:
    """One end's part of a circuit."""

    end: Connection
    tag: bytes
    head: bytes
    receipts: Allowance
    counted: Counted | None = None

    @classmethod
    def to(cls, end: Connection) -> "_Leg":
        tag = new_tag()
        return cls(end, tag, head_of(tag), Allowance(RECEIPTS_PER_S, RECEIPTS_AT_ONCE))


class Relay:
    """The relay of the peer `address` in a network; `carried_bytes` is what it has carried in all. `receipts`: where
    what ends have signed is kept, without which they are not asked."""

    def __init__(
        self, address: Address, network: Domain, limits: RelayLimits | None = None, receipts: Receipts | None = None
    ) -> None:
        self.limits = limits or RelayLimits()
        self.receipts = receipts
        self._address, self._network = address, network
        self.carried_bytes = 0
        self.circuits_opened = 0
        self._shares = Shares(self.limits.bytes_s)
        self._bindings = Allowance(BINDINGS_PER_S, BINDINGS_AT_ONCE)
        self._places: Places[Link] = Places(
            self.limits.reservations,
            of_subnet=self.limits.reservations_of_subnet,
            of_host=self.limits.reservations_of_host,
            patience_s=PATIENCE_S,
        )
        self._hosts: dict[Address, Connection] = {}
        self._legs: dict[bytes, tuple[_Circuit, _Leg, _Leg]] = {}
        """By the tag of what an end sends: its leg, and the one that it goes on by."""
        self._ended: OrderedDict[bytes, tuple[_Circuit, _Leg, _Leg]] = OrderedDict()
        """Those of late: ends sign once more when a circuit is over."""

    @property
    def reservations(self) -> int:
        return len(self._hosts)

    @property
    def circuits(self) -> int:
        return len(self._legs) // 2

    async def reserve(self, connection: Connection, _message: Reserve, _body: Body) -> Reserved:
        link, now = connection.link, _now()
        if is_carried(link.address[0]):
            raise RequestFailed("failed", "a relay is reached directly, not through another one")
        caller = Caller.at(*connection.remote)
        if link not in self._places:
            if self._places.is_full(caller):
                other = self._places.to_give_way(caller, now)
                if other is None:
                    raise RequestFailed("busy", "this relay has no place left; ask another one")
                self._forget(other)
            self._places.take(link, caller, now)
        self._hosts[connection.peer] = connection
        return Reserved(self.limits.circuit_bytes, self.limits.circuit_s)

    async def through(self, connection: Connection, message: Through, _body: Body) -> Opened:
        limits, user = self.limits, host_key(*connection.remote)
        if is_carried(connection.link.address[0]):
            raise RequestFailed("failed", "a relay is reached directly, not through another one")
        self._sweep()
        host = self._hosts.get(message.peer)
        if host is None or host.closed.is_set() or host.peer == connection.peer:
            raise RequestFailed("failed", f"{message.peer} has no reservation here")
        circuits = self._circuits()
        of_wallet = sum(connection.peer in (each.caller.end.peer, each.host.end.peer) for each in circuits)
        of_host = sum(each.user == user for each in circuits)
        if (
            len(circuits) >= limits.circuits
            or of_wallet >= limits.circuits_of_wallet
            or of_host >= limits.circuits_of_host
        ):
            raise RequestFailed("busy", "this relay carries as much as it may, in all or for you; ask another one")
        caller, called, now = _Leg.to(connection), _Leg.to(host), _now()
        about = Circuit(
            relay=self._address,
            circuit=Digest(os.urandom(32)),
            caller=connection.peer,
            host=host.peer,
            payer=message.payer,
            begun=int(time.time()),
        )
        circuit = _Circuit(caller, called, user, now, now, about)
        told = about if self.receipts is not None else None
        self._legs |= {caller.tag: (circuit, caller, called), called.tag: (circuit, called, caller)}
        try:
            await host.request(Coming(called.tag, connection.peer, told), reply=Opened, timeout=COMING_S)
        except TransportError as error:
            self._drop(circuit)
            raise RequestFailed("failed", f"{message.peer} does not answer this relay: {error}") from None
        except BaseException:
            self._drop(circuit)
            raise
        self.circuits_opened += 1
        return Opened(caller.tag, told)

    async def receipted(self, connection: Connection, message: Receipted, _body: Body) -> Opened:
        """An end has signed. The most that it has signed for counts: a later message may come first."""
        found = self._legs.get(message.flow) or self._ended.get(message.flow)
        if found is None or found[1].end is not connection or self.receipts is None:
            raise RequestFailed("failed", "nothing is carried here under this tag, or no receipts are kept")
        circuit, leg, _ = found
        if not leg.receipts.take(_now()):
            raise RequestFailed("busy", "receipts come too often")
        said, before = message.counted, leg.counted
        if before is not None and (said.sent < before.sent or said.received < before.received):
            return Opened(message.flow)
        digest = circuit.about.digest(self._network, connection.peer, said.sent, said.received)
        if not signed_by(digest, said.signature, connection.peer):
            raise RequestFailed("bad-request", f"a receipt that {connection.peer} has not signed")
        leg.counted = said
        if circuit.caller.counted is not None and circuit.host.counted is not None:
            receipt = CarriageReceipt(circuit.about, circuit.caller.counted, circuit.host.counted)
            circuit.receipted = receipt.carried
            self.receipts.note(receipt)
        return Opened(message.flow)

    async def hang_up(self, connection: Connection, message: HangUp, _body: Body) -> Opened:
        found = self._legs.get(message.flow)
        if found is not None and found[1].end is connection:
            circuit, _, other = found
            self._drop(circuit)
            other.end.tell(HangUp(other.tag, True, "the other end needs it no more"), reply=Opened)
        return Opened(message.flow)

    def pass_on(self, tag: bytes, datagram: bytes, address: SocketAddress) -> Datagram | None:
        """What a datagram from `address` goes on as, and where to; None for what belongs to no circuit, does not come
        from where its end is, or is over a limit."""
        found = self._legs.get(tag)
        if found is None:
            return None
        circuit, leg, other = found
        target = other.end.link.proved_address
        if target is None or address != leg.end.link.proved_address:
            return None
        size, now = len(datagram), _now()
        unsigned = self.limits.unreceipted_bytes if self.receipts is not None else 0
        circuit.used = now
        circuit.carried += size
        if circuit.carried > self.limits.circuit_bytes or now - circuit.begun > self.limits.circuit_s:
            self._end(circuit, "the circuit has carried all that it may; open another one")
            return None
        if unsigned and circuit.carried - circuit.receipted > unsigned:
            self._end(circuit, "its ends have not signed for what was carried")
            return None
        if not self._shares.take(circuit.user, size, now):
            return None
        self.carried_bytes += size
        return other.head + datagram[HEAD_BYTES:], target

    def binding(self, datagram: bytes, address: SocketAddress) -> Datagram | None:
        """What somebody at `address` is told who asks there; None for every other datagram, and for too many."""
        told = stun.answer(datagram, address)
        return (told, address) if told is not None and self._bindings.take(_now()) else None

    def left(self, connection: Connection) -> None:
        """A connection has ended, and with it what was carried on it."""
        if self._hosts.get(connection.peer) is connection:
            del self._hosts[connection.peer]
        self._places.leave(connection.link)
        for circuit in [each for each in self._circuits() if connection in (each.caller.end, each.host.end)]:
            self._end(circuit, "the other end has left")

    def _forget(self, link: Link) -> None:
        self._places.leave(link)
        self._hosts = {peer: each for peer, each in self._hosts.items() if each.link is not link}

    def _sweep(self) -> None:
        """End what nobody has used for long."""
        now = _now()
        for circuit in [each for each in self._circuits() if now - each.used > self.limits.idle_s]:
            self._end(circuit, "nothing was carried for long")

    def _end(self, circuit: _Circuit, reason: str) -> None:
        self._drop(circuit)
        for leg in (circuit.caller, circuit.host):
            if not leg.end.closed.is_set():
                leg.end.tell(HangUp(leg.tag, True, reason), reply=Opened)

    def _drop(self, circuit: _Circuit) -> None:
        for leg in (circuit.caller, circuit.host):
            found = self._legs.pop(leg.tag, None)
            if found is not None and self.receipts is not None:
                self._ended[leg.tag] = found
        while len(self._ended) > ENDED:
            self._ended.popitem(last=False)

    def _circuits(self) -> set[_Circuit]:
        return {circuit for circuit, _, _ in self._legs.values()}


def _now() -> float:
    return asyncio.get_running_loop().time()
