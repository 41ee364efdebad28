"""Whether others can reach a peer, as they say it themselves: where they see it, and whether they get through to it.

Each says where packets of this peer's one socket come from (`Observe`), which shows what a router makes of it, and one
tries to open a connection from a port that this peer has never sent anything to (`DialBack`). That goes to no address
but the asker's own, proved by the connection it asks on, from few at a time, and is far smaller for a host than what
the asker has sent: nobody is made to send anything to a third.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import msgspec
import psutil

from proofyard.protocol.routes import Kind, Route, is_home_address
from proofyard.transport.carried import is_carried
from proofyard.transport.connection import Connection
from proofyard.transport.errors import RequestFailed, TransportError
from proofyard.transport.frames import Body
from proofyard.transport.guard import Allowance, host_key

LEAST_PORT = 1024
"""Below are services that somebody may be made to send packets to; no router maps a host's own port there."""

ASK_S = 5.0
DIAL_BACK_S = 3.0
MOST_ASKED = 4
"""Peers that are asked where they see this one."""

DIAL_BACKS_PER_S, DIAL_BACKS_AT_ONCE = 2.0, 8.0
DIAL_BACKS_OF_HOST_PER_S, DIAL_BACKS_OF_HOST_AT_ONCE = 0.1, 4.0
HOSTS_KEPT = 1024


class Nat(StrEnum):
    """What lies between a host and the network, as far as others could tell."""

    OPEN = "open"
    """Strangers get through."""
    CONE = "cone"
    """One public port for all peers, which lets in whom the host has sent something."""
    SYMMETRIC = "symmetric"
    """Another public port for each peer."""
    FIREWALL = "firewall"
    """The host's own address, which lets in whom the host has sent something."""
    UNKNOWN = "unknown"
    """Fewer than two peers were asked, or it serves this machine alone."""


class Observe(msgspec.Struct, frozen=True, tag="observe"):
    """Asks where the asker's packets come from. Replied to with `Observed`."""

    idempotent: ClassVar[bool] = True


class Observed(msgspec.Struct, frozen=True, tag="observed"):
    host: str
    port: int


class DialBack(msgspec.Struct, frozen=True, tag="dial-back"):
    """Asks to be dialled at the address that the asker is seen at, and this `port`, from another port than this
    connection's. `certificate`: the SHA-256 fingerprint of what answers there. Replied to with `DialledBack`."""

    port: int
    certificate: bytes


class DialledBack(msgspec.Struct, frozen=True, tag="dialled-back"):
    reached: bool


@dataclass(frozen=True)
class Reachability:
    """`observed`: where peers see this one. `confirmed`: what peers got through to."""

    nat: Nat = Nat.UNKNOWN
    observed: tuple[tuple[str, int], ...] = ()
    confirmed: tuple[Route, ...] = ()

    @property
    def summary(self) -> str:
        """One line for people."""
        seen = ", ".join(f"{host}:{port}" for host, port in self.observed) or "nowhere yet"
        return f"{self.nat}, seen at {seen}"


def classify(
    observed: Collection[tuple[str, int]], *, asked: int, own: Collection[str], port: int, reached: bool
) -> Nat:
    """`observed`: where peers, `asked` in all, saw this one of whose own addresses and port; `reached`: whether one
    got through from a port that was sent nothing to."""
    if reached:
        return Nat.OPEN
    if asked < 2 or not observed:
        return Nat.UNKNOWN
    if len(set(observed)) > 1:
        return Nat.SYMMETRIC
    return Nat.FIREWALL if all(host in own and seen == port for host, seen in observed) else Nat.CONE


def own_addresses() -> list[str]:
    """The addresses of this machine that others may know it by, without those of loopback and of one link alone."""
    found = [
        each.address for interface in psutil.net_if_addrs().values() for each in interface if each.family in (2, 10)
    ]
    return [each for each in found if "%" not in each and not each.startswith(("127.", "fe80:")) and each != "::1"]


async def examine(
    peers: Sequence[Connection],
    *,
    host: str,
    port: int,
    certificate: bytes,
    has_knocked: Callable[[str, int], bool],
    published: int = 0,
) -> Reachability:
    """Ask `peers`, which are reached directly over the socket bound to `host` and `port`. `has_knocked`: whether a
    connection from this host, but another port than this, has come in; a peer that only says so is not believed.
    `published`: the port that a router was told to map, 0 for none."""
    answers = await asyncio.gather(*(observe(peer) for peer in peers[:MOST_ASKED]))
    observed = [seen for seen in answers if seen is not None]
    if not observed:
        return Reachability()
    reached: list[tuple[str, int]] = []
    for peer, seen in zip(peers, answers, strict=False):
        if seen is not None:
            for wanted in dict.fromkeys((seen[1], published or seen[1])):
                if await _is_reached(peer, wanted, certificate) and has_knocked(*peer.remote):
                    reached.append((seen[0], wanted))
            if reached:
                break
    own = own_addresses() if not host.startswith("127.") else [host]
    nat = classify(observed, asked=len(observed), own=own, port=port, reached=bool(reached))
    confirmed = tuple(Route(_kind(*each, own, port), *each) for each in dict.fromkeys(reached))
    return Reachability(nat, tuple(dict.fromkeys(observed)), confirmed)


async def observe(peer: Connection) -> tuple[str, int] | None:
    """Where a peer sees this one; None where it does not say, or says nonsense."""
    if is_carried(peer.remote[0]):
        return None
    try:
        seen = await peer.request(Observe(), reply=Observed, timeout=ASK_S)
        is_home_address(seen.host)
    except (TransportError, ValueError):
        return None
    return (seen.host, seen.port) if 0 < seen.port < 65_536 else None


class Observer:
    """Tells others where they are seen, and whether one gets through to them. `dial` opens a connection from a new
    socket and says whose certificate answered."""

    def __init__(self, dial: Callable[[str, int, float], Awaitable[bytes | None]]) -> None:
        self._dial = dial
        self._all = Allowance(DIAL_BACKS_PER_S, DIAL_BACKS_AT_ONCE)
        self._hosts: dict[str, Allowance] = {}

    async def observe(self, connection: Connection, _message: Observe, _body: Body) -> Observed:
        return Observed(*connection.remote)

    async def dial_back(self, connection: Connection, message: DialBack, _body: Body) -> DialledBack:
        host, port = connection.remote
        if is_carried(host) or not LEAST_PORT <= message.port <= 65_535:
            raise RequestFailed("failed", f"port {message.port} of somebody at {host} is not dialled back")
        now, key = asyncio.get_running_loop().time(), host_key(host, port)
        of_host = self._hosts.pop(key, None) or Allowance(DIAL_BACKS_OF_HOST_PER_S, DIAL_BACKS_OF_HOST_AT_ONCE)
        self._hosts[key] = of_host
        if len(self._hosts) > HOSTS_KEPT:
            del self._hosts[next(iter(self._hosts))]
        if not of_host.take(now) or not self._all.take(now):
            raise RequestFailed("busy", "too many peers ask to be dialled back; ask another one, or later")
        return DialledBack(await self._dial(host, message.port, DIAL_BACK_S) == message.certificate)


async def _is_reached(peer: Connection, port: int, certificate: bytes) -> bool:
    try:
        answer = await peer.request(DialBack(port, certificate), reply=DialledBack, timeout=DIAL_BACK_S + ASK_S)
    except TransportError:
        return False
    return answer.reached


def _kind(host: str, port: int, own: Iterable[str], listening: int) -> Kind:
    if host in own and port == listening:
        return "lan" if is_home_address(host) else "direct"
    return "mapped"
