"""Ways to a peer, as peers tell them to each other: on the same network, directly, by a mapped port, or by a relay.

A route is a claim of whoever says it. What answers at its end proves its wallet in the handshake, so a wrong route
costs time and nothing else; `believable` is what may be passed on of it.
"""

import ipaddress
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proofyard.protocol.addresses import read_address

Kind = Literal["lan", "direct", "mapped", "punched", "relayed"]
ORDER: tuple[Kind, ...] = ("lan", "direct", "mapped", "punched", "relayed")
"""The best first."""

MAX_ROUTES = 8
"""Ways to one peer that are told and tried."""

MAX_RELAYS = 3
"""Relays that one peer may be reached by, as others are told."""

HOME_RANGES = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
    )
)
"""Addresses that mean another machine in each network (RFC 1918, 6598, 3927, 4193, 4291)."""


class Route(msgspec.Struct, frozen=True):
    """One way to a peer. `host`, `port`: where the peer listens, or for `relayed` the relay, whose wallet `relay` is;
    `punched` is what a relayed connection becomes, and is never told."""

    kind: Kind
    host: Annotated[str, Meta(max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65_535)]
    relay: Annotated[str, Meta(max_length=42)] = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.host}:{self.port}" + (f" by {self.relay}" if self.relay else "")


def best_first(routes: Iterable[Route]) -> list[Route]:
    """Without repetitions, at most `MAX_ROUTES`."""
    return sorted(dict.fromkeys(routes), key=lambda route: ORDER.index(route.kind))[:MAX_ROUTES]


def is_home_address(host: str) -> bool:
    """Whether the IP address `host` means something only inside one network."""
    address = ipaddress.ip_address(host.split("%")[0])
    return any(address.version == each.version and address in each for each in HOME_RANGES)


def direct(host: str, port: int) -> Route:
    """The route to somebody seen at the IP address `host`."""
    return Route("lan" if is_home_address(host) else "direct", host, port)


def believable(routes: Iterable[Route], seen: str) -> tuple[Route, ...]:
    """What may be passed on of the routes that a peer names whose packets come from the IP address `seen`: its own
    address, its home network, and few relays. Others would be dialled by whoever is told of them."""
    found, relays = [], 0
    for route in best_first(routes):
        if route.kind == "relayed":
            relays += 1
            if relays <= MAX_RELAYS and route.relay:
                found.append(route)
        elif route.kind in ("direct", "mapped") and route.host == seen:
            found.append(route)
    return tuple(found)


def read_relay(text: str) -> Route:
    """The route by a relay written as WALLET@HOST:PORT. Raises `ValueError`."""
    wallet, at, place = text.partition("@")
    host, colon, port = place.rpartition(":")
    if not at or not colon or not port.isdecimal() or not 0 < int(port) < 65_536 or not host:
        raise ValueError(f"{text[:100]!r} is not WALLET@HOST:PORT")
    return Route("relayed", host.removeprefix("[").removesuffix("]"), int(port), read_address(wallet))
