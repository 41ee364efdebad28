"""Binding of STUN (RFC 8489), as much as says which port a router gave to a socket: one datagram there and one back.

A relay answers it on its one port, beside QUIC (RFC 9443), and keeps nothing. A request carries as much as the answer
has, so nobody is sent more than was sent in its name. IPv4 alone: nothing translates IPv6's ports.
"""

import os
import socket
import struct

from proofyard.transport.udp import SocketAddress

COOKIE = 0x2112A442
ID_BYTES = 12
MAX_ANSWER = 548
"""What a server of STUN sends at most where it does not know the path (RFC 8489 section 6.1)."""

_REQUEST, _INDICATION, _ANSWER = 0x0001, 0x0011, 0x0101
_MAPPED, _PADDING = 0x0020, 0x0026
_IPV4 = 1
_HEAD, _ATTRIBUTE, _ADDRESS = struct.Struct("!HHI12s"), struct.Struct("!HH"), struct.Struct("!xBHI")
_ANSWER_BYTES = _HEAD.size + _ATTRIBUTE.size + _ADDRESS.size


def request(identifier: bytes) -> bytes:
    """Asks where this datagram comes from, with padding (RFC 5780 section 7.6) for the answer's size."""
    padding = _ATTRIBUTE.pack(_PADDING, _ADDRESS.size) + bytes(_ADDRESS.size)
    return _HEAD.pack(_REQUEST, len(padding), COOKIE, identifier) + padding


def indication() -> bytes:
    """Says nothing and is answered by nobody; on its way out it has a router let in what comes from there."""
    return _HEAD.pack(_INDICATION, 0, COOKIE, os.urandom(ID_BYTES))


def answer(datagram: bytes, address: SocketAddress) -> bytes | None:
    """The answer to a request from `address`; None for everything else."""
    if len(datagram) < _ANSWER_BYTES or ":" in address[0]:
        return None
    kind, size, cookie, identifier = _HEAD.unpack_from(datagram)
    if (kind, size, cookie) != (_REQUEST, len(datagram) - _HEAD.size, COOKIE):
        return None
    host = int.from_bytes(socket.inet_aton(address[0]))
    mapped = _ADDRESS.pack(_IPV4, address[1] ^ COOKIE >> 16, host ^ COOKIE)
    body = _ATTRIBUTE.pack(_MAPPED, len(mapped)) + mapped
    return _HEAD.pack(_ANSWER, len(body), COOKIE, identifier) + body


def mapped(datagram: bytes, identifier: bytes) -> tuple[str, int] | None:
    """Where the request of this identifier came from, as a server of STUN says; None for everything else."""
    if len(datagram) < _HEAD.size:
        return None
    kind, size, cookie, said = _HEAD.unpack_from(datagram)
    if (kind, cookie, said) != (_ANSWER, COOKIE, identifier) or size != len(datagram) - _HEAD.size:
        return None
    at = _HEAD.size
    while at + _ATTRIBUTE.size <= len(datagram):
        attribute, length = _ATTRIBUTE.unpack_from(datagram, at)
        at += _ATTRIBUTE.size
        if attribute == _MAPPED and length == _ADDRESS.size and at + length <= len(datagram):
            family, port, host = _ADDRESS.unpack_from(datagram, at)
            if family == _IPV4:
                return socket.inet_ntoa((host ^ COOKIE).to_bytes(4)), port ^ COOKIE >> 16
        at += length + -length % 4
    return None
