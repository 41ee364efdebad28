"""What a router says of a port that it maps, and of itself: claims, read within bounds."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from proofyard.protocol.routes import is_home_address

Protocol = Literal["PCP", "NAT-PMP", "UPnP"]

LIFETIME_S = 7200
LEAST_LIFETIME_S, MOST_LIFETIME_S = 120, 86_400
"""What a router says beyond these is taken as these."""

_DS_LITE = ipaddress.ip_network("192.0.0.0/24")
"""What a router has outside that shares its provider's address (RFC 6333 section 10)."""

_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Mapping:
    """`port`: the router's, for this machine's; for `lifetime_s` seconds unless it is renewed. `outside`: the IPv4
    address that the router says it has outside, "" where it says none."""

    port: int
    lifetime_s: int
    protocol: Protocol
    outside: str = ""


def is_public(outside: str) -> bool:
    """Whether a router that has this IPv4 address outside can be one that strangers see, with no other beyond it."""
    address = ipaddress.IPv4Address(outside)
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_reserved
    return not (special or address in _DS_LITE or is_home_address(outside))


def lifetime(said: int) -> int:
    """Seconds that a mapping is taken to last whose router says so."""
    return max(LEAST_LIFETIME_S, min(MOST_LIFETIME_S, said))


def read_number(text: str, most: int) -> int | None:
    """A number from 0 to `most`; None for anything else."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[0]) if found and int(found[0]) <= most else None


def read_outside(text: str) -> str:
    """An IPv4 address; "" for anything else, and for 0.0.0.0, which routers say that have none yet."""
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        return ""
    return "" if address.is_unspecified else str(address)
