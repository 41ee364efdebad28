"""From a relayed connection to a direct one, without anybody noticing.

The two ends tell each other, inside the connection, where they may be (`Meet`); then both send small packets there at
one moment, so that each one's router lets in what the other sends. These are QUIC's own probes of a path (RFC 9000
section 8.2), encrypted and signed by the connection that they belong to. At the first address that answers the
connection goes on: streams, requests under way and whoever holds it are as before. The moment is agreed on as in
libp2p's DCUtR: the caller says go, and begins itself half a measured round trip later.

Where a router gives each peer another port by an easy rule, its host says which come next (`prediction`), and the
other end has its own router let in what comes from there.

A peer may name a victim's addresses as its own. So few are taken, none below port 1024, none of another network's
home ranges, the packets are small, and one peer, and all together, have little of it.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
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
from proofyard.transport.prediction import MAX_AHEAD, Forecasts, Standing
from proofyard.transport.reachability import LEAST_PORT, own_addresses
from proofyard.transport.udp import SocketAddress

logger = logging.getLogger("proofyard.transport")

MAX_PLACES = 6
"""Addresses that a peer may be at."""

PROBES = 6
OPENINGS = 2
"""Times that each of the ports that a peer's router may give it next is sent something."""

LEAST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.3
RETRIES_S = (0.0, 1.0, 5.0, 30.0)
"""Between two attempts at one connection."""

MEET_S = 5.0
ATTEMPTS_PER_S, ATTEMPTS_AT_ONCE = 5.0, 32.0
ATTEMPTS_OF_PEER_PER_S, ATTEMPTS_OF_PEER_AT_ONCE = 0.1, 6.0

Port = Annotated[int, Meta(ge=1, le=65_535)]
Place = tuple[Annotated[str, Meta(max_length=45)], Port]


class Meet(msgspec.Struct, frozen=True, tag="meet"):
    """A caller tells where it may be, and asks where the other is. `ahead`: ports of the first place's host that its
    router may give it next, the likeliest first. Replied to with `Met`."""

    places: Annotated[tuple[Place, ...], Meta(max_length=MAX_PLACES)]
    ahead: Annotated[tuple[Port, ...], Meta(max_length=MAX_AHEAD)] = ()


class Met(msgspec.Struct, frozen=True, tag="met"):
    """The same of the other side."""

    places: Annotated[tuple[Place, ...], Meta(max_length=MAX_PLACES)]
    ahead: Annotated[tuple[Port, ...], Meta(max_length=MAX_AHEAD)] = ()


class Go(msgspec.Struct, frozen=True, tag="meet-go"):
    """Both begin now. Replied to with `Met`."""


def worth_probing(
    places: Iterable[tuple[str, int]], networks: Sequence[str], *, here: bool, most: int = MAX_PLACES
) -> list[SocketAddress]:
    """Those of the addresses that a peer names, at `most` so many, to which a packet may go. `networks`: those that
    this machine is in; `here`: whether the peer may be on this machine."""
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
    return list(dict.fromkeys(found))[:most]


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


@dataclass(frozen=True)
class _Meeting:
    """What a caller has said. `symmetric`: of this side's own router."""

    allowance: Allowance
    message: Meet | None = None
    symmetric: bool = False


Look = Callable[[], Awaitable[Standing]]
"""Finds out how this peer can be met now."""


class Puncher:
    """The meetings of one endpoint that listens at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._here = ipaddress.ip_address(host.split("%")[0]).is_loopback
        self._all = Allowance(ATTEMPTS_PER_S, ATTEMPTS_AT_ONCE)
        self._peers: dict[Connection, _Meeting] = {}
        self._forecasts = Forecasts(loop_time)

    async def call(self, connection: Connection, look: Look) -> bool:
        """One attempt by the side that opened a relayed connection."""
        loop = asyncio.get_running_loop()
        standing = await self._forecasts.of(connection, look)
        start = loop.time()
        message = Meet(self._places(standing.seen), standing.take())
        met = await connection.request(message, reply=Met, timeout=MEET_S)
        round_trip = loop.time() - start
        connection.tell(Go(), reply=Met)
        await asyncio.sleep(round_trip / 2)
        found = await self._probe(connection, met, round_trip, standing.symmetric)
        if found:
            self._forecasts.forget(connection)
        return found

    def forget(self, connection: Connection) -> None:
        self._peers.pop(connection, None)
        self._forecasts.forget(connection)

    async def meet(self, connection: Connection, message: Meet, look: Look) -> Met:
        """The other side's part. Raises `RequestFailed` for a peer that asks too often."""
        if not is_carried(connection.remote[0]):
            raise RequestFailed("failed", "this connection is direct already")
        before = self._peers.get(connection)
        allowance = before.allowance if before else Allowance(ATTEMPTS_OF_PEER_PER_S, ATTEMPTS_OF_PEER_AT_ONCE)
        self._peers[connection] = _Meeting(allowance)
        now = loop_time()
        if not allowance.take(now) or not self._all.take(now):
            raise RequestFailed("busy", "too many attempts to meet directly; later")
        standing = await self._forecasts.of(connection, look)
        if not connection.closed.is_set():
            self._peers[connection] = _Meeting(allowance, message, standing.symmetric)
        return Met(self._places(standing.seen), standing.take())

    async def go(self, connection: Connection, _message: Go, _body: Body) -> Met:
        meeting = self._peers.get(connection)
        if meeting is None or meeting.message is None:
            raise RequestFailed("bad-request", "nobody has met yet")
        self._peers[connection] = _Meeting(meeting.allowance)
        await self._probe(connection, meeting.message, 0.1, meeting.symmetric)
        return Met(())

    def _places(self, seen: tuple[str, int] | None) -> tuple[tuple[str, int], ...]:
        own = [] if self._here else [(address, self._port) for address in own_addresses()]
        seen_at = [] if seen is None else [seen]
        return tuple(dict.fromkeys([*seen_at, *([(self._host, self._port)] if self._here else own)]))[:MAX_PLACES]

    async def _probe(self, connection: Connection, met: Meet | Met, round_trip: float, symmetric: bool) -> bool:
        """Look for the peer where it says that it is until it has been found, or it is not to be found there.
        `symmetric`: a router gives this side another port for each place, so it spends none on what is only likely."""
        link, networks = connection.link, own_networks()
        targets = worth_probing(met.places, networks, here=self._here)
        ahead = [(met.places[0][0], port) for port in met.ahead if met.places and not symmetric]
        likely = worth_probing(ahead, networks, here=self._here, most=MAX_AHEAD)
        pause = min(MOST_PAUSE_S, max(LEAST_PAUSE_S, round_trip / 2))
        for number in range(PROBES if targets else 0):
            if not is_carried(link.address[0]) or link.closed.is_set():
                break
            link.probe(targets)
            if number < OPENINGS:
                link.open_to(likely)
            await asyncio.sleep(pause)
            pause = min(MOST_PAUSE_S, 1.5 * pause)
        if is_carried(link.address[0]):
            link.stop_probing()
            return False
        return not link.closed.is_set()


def loop_time() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


async def upgrade(puncher: Puncher, connection: Connection, look: Look) -> bool:
    """Attempts, until the connection is direct or has ended, or enough of them have failed."""
    for wait in RETRIES_S:
        await asyncio.sleep(wait)
        if connection.closed.is_set():
            return False
        try:
            if await puncher.call(connection, look):
                connection.link.ping()
                return True
        except TransportError as error:
            logger.debug("%s is not met directly: %s", connection.peer, error)
    return False
