"""What a peer says of itself to be passed on: how it is reached, signed, numbered, and for a time.

A record is worth what its routes are worth: whoever dials one finds out. The signature says that the wallet named these
routes, the number which of two records is the later one, so that nobody brings an old one back.
"""

import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.addresses import is_hex
from proofyard.protocol.codec import CodecError, Key, decode, encode
from proofyard.protocol.commitment import Domain, address_word, word
from proofyard.protocol.keccak import keccak
from proofyard.protocol.routes import MAX_RELAYS, Route, best_first, is_home_address
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Address, Digest, Signature

MAX_PUBLISHED = 4
"""Routes in a record."""
MAX_RECORD_BYTES = 768
LIFETIME_S = 6 * 3600
"""How long a record is passed on."""
AHEAD_S = 3600
"""How far a peer's clock may be ahead of another's."""
LEAST_PORT = 1024
"""Below are services that somebody may be made to send packets to."""

ROUTE_TYPE = "Route(string kind,string host,uint16 port,address relay)"
RECORD_TYPE = f"PeerRecord(address node,Route[] routes,uint64 sequence,uint64 expires){ROUTE_TYPE}"
ROUTE_TYPEHASH = Digest(keccak(ROUTE_TYPE.encode()))
RECORD_TYPEHASH = Digest(keccak(RECORD_TYPE.encode()))
NOBODY = Address("0x" + "0" * 40)


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How `node` is reached until `expires` (Unix seconds): public IP addresses and relays, none of a home network. Of
    two records that with the higher `sequence` holds; one without routes takes back those before it."""

    node: Key
    routes: Annotated[tuple[Route, ...], Meta(max_length=MAX_PUBLISHED)]
    sequence: Annotated[int, Meta(ge=0, lt=1 << 62)]
    expires: Annotated[int, Meta(ge=0, lt=1 << 62)]

    def struct_hash(self) -> Digest:
        """EIP-712's hash of it, to be signed under a network's domain."""
        routes = keccak(b"".join(map(_route_hash, self.routes)))
        parts = (RECORD_TYPEHASH, address_word(self.node), routes, word(self.sequence, 8), word(self.expires, 8))
        return Digest(keccak(b"".join(parts)))

    @property
    def is_relayed(self) -> bool:
        """Whether it names relays alone."""
        return bool(self.routes) and all(route.kind == "relayed" for route in self.routes)


class SignedRecord(msgspec.Struct, frozen=True):
    """A record and its node's signature, as peers pass it on."""

    record: PeerRecord
    signature: Annotated[Signature, Meta(max_length=65)]


class RecordRefused(CodecError):
    """A peer record that says nothing here: of no use, of another network, too old, or not signed."""


def published(routes: tuple[Route, ...], *, here: bool = False) -> tuple[Route, ...]:
    """Of a peer's routes those that anybody may read, the best first. `here`: of a network on this machine alone."""
    found: list[Route] = []
    for route in best_first(routes):
        if not why_unfit(route, here=here) and _is_enough((*found, route)):
            found.append(route)
    return tuple(found)


def why_unfit(route: Route, *, here: bool) -> str:
    """What is wrong with a route in a record; "" for nothing."""
    try:
        address = ipaddress.ip_address(route.host)
        public = not is_home_address(route.host)
    except ValueError:
        return f"{route.host!r} is no IP address"
    if route.kind not in ("direct", "mapped", "relayed"):
        return f"a {route.kind} route is nobody else's business"
    if not public or address.is_multicast or address.is_unspecified or address.is_reserved:
        return f"{route.host} is no address for everybody"
    if address.is_loopback != here:
        return f"{route.host} is on one machine alone" if address.is_loopback else f"{route.host} is elsewhere"
    if route.port < LEAST_PORT:
        return f"port {route.port} is below {LEAST_PORT}"
    if bool(route.relay) != (route.kind == "relayed") or (route.relay and not _is_wallet(route.relay)):
        return f"{route.relay!r} is no relay's wallet"
    return ""


def seal_record(record: PeerRecord, signature: Signature) -> bytes:
    return encode(SignedRecord(record, signature))


def read_record(data: bytes, domain: Domain, now: float, *, here: bool = False, expired: bool = False) -> PeerRecord:
    """The record that somebody passes on, at Unix time `now`; with `expired` also one that is over. `here`: on a
    network of this machine alone. Raises `CodecError`, of which `RecordRefused`."""
    signed = decode(data, SignedRecord, max_bytes=MAX_RECORD_BYTES)
    record = signed.record
    for route in record.routes:
        if reason := why_unfit(route, here=here):
            raise RecordRefused(f"a record of {record.node}: {reason}")
    if not _is_enough(record.routes):
        raise RecordRefused(f"a record of {record.node}: it has whoever believes it dial many places")
    if record.expires > now + LIFETIME_S + AHEAD_S:
        raise RecordRefused(f"a record of {record.node} until {record.expires}, which is too far off")
    if record.expires <= now and not expired:
        raise RecordRefused(f"a record of {record.node} until {record.expires}, which is over")
    if not signed_by(domain.typed_digest(record.struct_hash()), signed.signature, record.node):
        raise RecordRefused(f"a record that {record.node} did not sign for this network")
    return record


def _is_enough(routes: tuple[Route, ...]) -> bool:
    """Few relays, and one address of each version of IP: a record is no list of others to be dialled."""
    hosts = {ipaddress.ip_address(route.host) for route in routes if route.kind != "relayed"}
    versions = [address.version for address in hosts]
    relays = sum(route.kind == "relayed" for route in routes)
    return len(routes) <= MAX_PUBLISHED and relays <= MAX_RELAYS and len(versions) == len(set(versions))


def _route_hash(route: Route) -> bytes:
    relay = address_word(Address(route.relay or NOBODY))
    parts = (ROUTE_TYPEHASH, keccak(route.kind.encode()), keccak(route.host.encode()), word(route.port, 2), relay)
    return keccak(b"".join(parts))


def _is_wallet(text: str) -> bool:
    return len(text) == 42 and text.startswith("0x") and is_hex(text[2:])
