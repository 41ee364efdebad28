"""Ways to a peer, as peers tell them to each other: on the same network, directly, by a mapped port, or by a relay.

A route is a claim of whoever says it. What answers at its end proves its wallet in the handshake, so a wrong route
costs time and nothing else; `readable` keeps what nobody should ever send a packet to out of it.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proofyard.protocol.types import Address

Kind = Literal["lan", "direct", "mapped", "punched", "relayed"]
ORDER: tuple[Kind, ...] = ("lan", "direct", "mapped", "punched", "relayed")
"""The best first."""

MAX_ROUTES = 8
"""Ways to one peer that are told and tried."""

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


def relays_of(routes: Sequence[Route]) -> dict[Address, Route]:
    """The relays that somebody can be reached by."""
    return {Address(route.relay): route for route in routes if route.kind == "relayed" and route.relay}
