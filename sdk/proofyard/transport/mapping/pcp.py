"""PCP (RFC 6887) and NAT-PMP (RFC 6886): one datagram to the router and one back, at the same port of it."""

import asyncio
import contextlib
import ipaddress
import socket
import struct

from proofyard.transport.mapping.claims import Mapping, Protocol, lifetime, read_outside

PORT = 5351
TRIES_S = (0.25, 0.5, 1.0)
"""How long each of a few datagrams is waited for (RFC 6886 section 3.1)."""

PCP, NAT_PMP = 2, 0
"""Versions, in the first byte of every datagram."""

_MAP_REQUEST, _MAP_ANSWER, _UDP = struct.Struct("!BBHI16s12sB3xHH16s"), struct.Struct("!BBBBII12x12sB3xHH16s"), 17
_PMP_REQUEST, _PMP_ANSWER = struct.Struct("!BBHHHI"), struct.Struct("!BBHIHHI")
_PMP_OUTSIDE = struct.Struct("!BBHI4s")
_NOWHERE = bytes(10) + b"\xff\xff" + bytes(4)
_ANSWER = 0x80
_MAX_ANSWER = 1100
_UNSPOKEN = {PCP: (1, 4), NAT_PMP: (1, 5)}
"""Results that say that a version, or mapping in it, is not there."""


def pcp_request(nonce: bytes, own: str, port: int, wanted: int, lifetime_s: int) -> bytes:
    """MAP of RFC 6887 section 11.1, for UDP."""
    here = ipaddress.IPv6Address(f"::ffff:{own}").packed
    return _MAP_REQUEST.pack(PCP, 1, 0, lifetime_s, here, nonce, _UDP, port, wanted, _NOWHERE)


def pcp_mapping(answer: bytes, nonce: bytes, port: int) -> Mapping | None:
    """What a router answered; None for a refusal, and for what answers something else."""
    if len(answer) < _MAP_ANSWER.size:
        return None
    version, kind, _, result, lasts, _, said, protocol, own, public, outside = _MAP_ANSWER.unpack_from(answer)
    if (version, kind, result, said, protocol, own) != (PCP, _ANSWER | 1, 0, nonce, _UDP, port):
        return None
    return _mapping(public, lasts, "PCP", str(ipaddress.IPv6Address(outside).ipv4_mapped))


def pmp_request(port: int, wanted: int, lifetime_s: int) -> bytes:
    """RFC 6886 section 3.3, for UDP."""
    return _PMP_REQUEST.pack(NAT_PMP, 1, 0, port, wanted, lifetime_s)


def pmp_mapping(answer: bytes, port: int, outside: str = "") -> Mapping | None:
    """The same of NAT-PMP."""
    if len(answer) < _PMP_ANSWER.size:
        return None
    version, kind, result, _, own, public, lasts = _PMP_ANSWER.unpack_from(answer)
    if (version, kind, result, own) != (NAT_PMP, _ANSWER | 1, 0, port):
        return None
    return _mapping(public, lasts, "NAT-PMP", outside)


def pmp_outside(answer: bytes) -> str:
    """The router's address outside, as it answers `OUTSIDE` (RFC 6886 section 3.2); "" for anything else."""
    if len(answer) < _PMP_OUTSIDE.size:
        return ""
    version, kind, result, _, outside = _PMP_OUTSIDE.unpack_from(answer)
    return str(ipaddress.IPv4Address(outside)) if (version, kind, result) == (NAT_PMP, _ANSWER, 0) else ""


OUTSIDE = bytes((NAT_PMP, 0))
"""Asks for the router's address outside."""


def is_spoken(answer: bytes) -> bool:
    """Whether who answers so maps ports by this protocol, be it that it refused this one."""
    if len(answer) < 4 or answer[0] not in _UNSPOKEN or not answer[1] & _ANSWER:
        return False
    result = answer[3] if answer[0] == PCP else int.from_bytes(answer[2:4], "big")
    return result not in _UNSPOKEN[answer[0]]


async def exchange(sock: socket.socket, request: bytes) -> bytes | None:
    """The router's answer; the connected socket takes datagrams of nobody else. Raises `OSError` where the router says
    that nobody listens there."""
    loop = asyncio.get_running_loop()
    for wait in TRIES_S:
        await loop.sock_sendall(sock, request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                return await loop.sock_recv(sock, _MAX_ANSWER)
    return None


def _mapping(public: int, lasts: int, protocol: Protocol, outside: str) -> Mapping | None:
    if not public or not lasts:
        return None
    return Mapping(public, lifetime(lasts), protocol, read_outside(outside))
