"""From a relayed connection to a direct one, without anybody noticing.

The two ends tell each other, inside the connection, where they may be (`Meet`); then both send small packets there at
one moment, so that each one's router lets in what the other sends. These are QUIC's own probes of a path (RFC 9000
section 8.2), encrypted and signed by the connection that they belong to. At the first address that answers the
connection goes on: streams, requests under way and whoever holds it are as before. The moment is agreed on as in
libp2p's DCUtR: the caller says go, and begins itself half a measured round trip later.

A peer may name a victim's addresses as its own. So few are taken, none below port 1024, none of another network's
home ranges, the packets are small, and one peer, and all together, have little of it.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

from proofyard.protocol.routes import is_home_address
from proofyard.transport.carried import is_carried
from proofyard.transport.connection import Connection
from proofyard.transport.errors import RequestFailed, TransportError
from proofyard.transport.frames import Body
from proofyard.transport.guard import Allowance
from proofyard.transport.reachability import LEAST_PORT, own_addresses
from proofyard.transport.udp import SocketAddress

logger = logging.getLogger("proofyard.transport")

MAX_PLACES = 6
"""Addresses that a peer may be at."""

PROBES = 6
LEAST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.3
RETRIES_S = (0.0, 1.0, 5.0, 30.0)
"""Between two attempts at one connection."""

MEET_S = 5.0
ATTEMPTS_PER_S, ATTEMPTS_AT_ONCE = 5.0, 32.0
ATTEMPTS_OF_PEER_PER_S, ATTEMPTS_OF_PEER_AT_ONCE = 0.1, 6.0

Place = tuple[Annotated[str, Meta(max_length=45)], Annotated[int, Meta(ge=1, le=65_535)]]


class Meet(msgspec.Struct, frozen=True, tag="meet"):
    """A caller tells where it may be, and asks where the other is. Replied to with `Met`."""

    places: Annotated[tuple[Place, ...], Meta(max_length=MAX_PLACES)]


class Met(msgspec.Struct, frozen=True, tag="met"):
    places: Annotated[tuple[Place, ...], Meta(max_length=MAX_PLACES)]


class Go(msgspec.Struct, frozen=True, tag="meet-go"):
    """Both begin now. Replied to with `Met`."""


def worth_probing(places: Iterable[tuple[str, int]], networks: Sequence[str], *, here: bool) -> list[SocketAddress]:
    """Those of the addresses that a peer names to which a packet may go. `networks`: those that this machine is in;
    `here`: whether the peer may be on this machine."""
    joined = [ipaddress.ip_network(each, strict=False) for each in networks]
    found: list[SocketAddress] = []
    for host, port in places:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        if port < LEAST_PORT or address.is_multicast or address.is_unspecified or address.is_reserved:
            continue
        if is_carried(host) or address.is_link_local or address.is_loopback != here:
            continue
        at_home = not here and is_home_address(host)
        if at_home and not any(address.version == each.version and address in each for each in joined):
            continue
        found.append((host, port) if address.version == 4 else (str(address), port, 0, 0))
    return list(dict.fromkeys(found))[:MAX_PLACES]


def own_networks() -> list[str]:
    """The networks that this machine's interfaces are in, without loopback."""
    found = []
    for interface in psutil.net_if_addrs().values():
        for each in interface:
            if each.family == 2 and each.netmask and not each.address.startswith("127."):
                found.append(f"{each.address}/{each.netmask}")
            elif each.family == 10 and each.netmask and "%" not in each.address and each.address != "::1":
                found.append(f"{each.address}/{bin(int(ipaddress.ip_address(each.netmask))).count('1')}")
    return found


class Puncher:
    """The meetings of one endpoint that listens at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._here = ipaddress.ip_address(host.split("%")[0]).is_loopback
        self._all = Allowance(ATTEMPTS_PER_S, ATTEMPTS_AT_ONCE)
        self._peers: dict[Connection, tuple[Allowance, tuple[tuple[str, int], ...]]] = {}

    async def call(self, connection: Connection, seen: tuple[str, int] | None) -> bool:
        """One attempt by the side that opened a relayed connection; `seen`: where the relay sees this endpoint."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        met = await connection.request(Meet(self._places(seen)), reply=Met, timeout=MEET_S)
        round_trip = loop.time() - start
        connection.tell(Go(), reply=Met)
        await asyncio.sleep(round_trip / 2)
        return await self._probe(connection, met.places, round_trip)

    def forget(self, connection: Connection) -> None:
        self._peers.pop(connection, None)

    async def meet(self, connection: Connection, message: Meet, seen: tuple[str, int] | None) -> Met:
        """The other side's part. Raises `RequestFailed` for a peer that asks too often."""
        if not is_carried(connection.remote[0]):
            raise RequestFailed("failed", "this connection is direct already")
        allowance, _ = self._peers.get(connection, (None, ()))
        allowance = allowance or Allowance(ATTEMPTS_OF_PEER_PER_S, ATTEMPTS_OF_PEER_AT_ONCE)
        self._peers[connection] = (allowance, message.places)
        now = loop_time()
        if not allowance.take(now) or not self._all.take(now):
            raise RequestFailed("busy", "too many attempts to meet directly; later")
        return Met(self._places(seen))

    async def go(self, connection: Connection, _message: Go, _body: Body) -> Met:
        allowance, places = self._peers.get(connection, (None, ()))
        if allowance is None or not places:
            raise RequestFailed("bad-request", "nobody has met yet")
        self._peers[connection] = (allowance, ())
        await self._probe(connection, places, 0.1)
        return Met(())

    def _places(self, seen: tuple[str, int] | None) -> tuple[tuple[str, int], ...]:
        own = [] if self._here else [(address, self._port) for address in own_addresses()]
        seen_at = [] if seen is None else [seen]
        return tuple(dict.fromkeys([*seen_at, *([(self._host, self._port)] if self._here else own)]))[:MAX_PLACES]

    async def _probe(self, connection: Connection, places: Iterable[tuple[str, int]], round_trip: float) -> bool:
        """Look for the peer at these places until it has been found, or it is not to be found there."""
        link = connection.link
        targets = worth_probing(places, own_networks(), here=self._here)
        pause = min(MOST_PAUSE_S, max(LEAST_PAUSE_S, round_trip / 2))
        for _ in range(PROBES if targets else 0):
            if not is_carried(link.address[0]) or link.closed.is_set():
                break
            link.probe(targets)
            await asyncio.sleep(pause)
            pause = min(MOST_PAUSE_S, 1.5 * pause)
        if is_carried(link.address[0]):
            link.stop_probing()
            return False
        return not link.closed.is_set()


def loop_time() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


async def upgrade(puncher: Puncher, connection: Connection, seen: tuple[str, int] | None) -> bool:
    """Attempts, until the connection is direct or has ended, or enough of them have failed."""
    for wait in RETRIES_S:
        await asyncio.sleep(wait)
        if connection.closed.is_set():
            return False
        try:
            if await puncher.call(connection, seen):
                connection.link.ping()
                return True
        except TransportError as error:
            logger.debug("%s is not met directly: %s", connection.peer, error)
    return False
