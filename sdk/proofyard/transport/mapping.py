"""Having the router of a home map a port: by PCP (RFC 6887), or NAT-PMP (RFC 6886) where it speaks that alone.

Both are one datagram to the router and one back. What a router says is a claim like everybody's: whether others get
through to the port, and whether they see this machine at the same router's address, they say themselves
(`reachability`). Only the router that the system sends everything by is asked, and only where it is on a home network.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from proofyard.protocol.routes import is_home_address

PORT = 5351
TRIES_S = (0.25, 0.5, 1.0)
"""How long each of a few datagrams is waited for (RFC 6886 section 3.1)."""

LIFETIME_S = 7200
LEAST_LIFETIME_S, MOST_LIFETIME_S = 120, 86_400
"""What a router says beyond these is taken as these."""

ROUTES = Path("/proc/net/route")
_PCP, _NAT_PMP = 2, 0
_MAP_REQUEST, _MAP_ANSWER, _UDP = struct.Struct("!BBHI16s12sB3xHH16s"), struct.Struct("!BBBBII12x12sB3xHH16s"), 17
_PMP_REQUEST, _PMP_ANSWER = struct.Struct("!BBHHHI"), struct.Struct("!BBHIHHI")
_NOWHERE = bytes(10) + b"\xff\xff" + bytes(4)
_MAX_ANSWER = 1100


@dataclass(frozen=True)
class Mapping:
    """`port`: the router's, for this machine's; for `lifetime_s` seconds unless it is renewed."""

    port: int
    lifetime_s: int


class Mapper:
    """Keeps a router's port for the UDP `port` of this machine. `router`: its IPv4 address, the default one if None."""

    def __init__(self, port: int, router: str | None = None) -> None:
        self.public = 0
        """The router's port, 0 where there is none."""
        self._port = port
        self._router = router
        self._nonce = os.urandom(12)

    async def ask(self) -> Mapping | None:
        """Have the port mapped, or its mapping renewed; None where the router does neither."""
        found = await self._asked(LIFETIME_S)
        self.public = 0 if found is None else found.port
        return found

    async def release(self) -> None:
        """Give the port back, as far as the router hears of it."""
        if self.public:
            self.public = 0
            await self._asked(0)

    async def _asked(self, lifetime_s: int) -> Mapping | None:
        router = self._router or default_router()
        if router is None or not is_home_address(router):
            return None
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect((router, PORT))
            own = sock.getsockname()[0]
            answer = await _exchange(sock, pcp_request(self._nonce, own, self._port, self.public, lifetime_s))
            if answer is not None and answer[:1] != bytes((_NAT_PMP,)):
                return pcp_mapping(answer, self._nonce, self._port)
            answer = await _exchange(sock, pmp_request(self._port, self.public, lifetime_s))
            return None if answer is None else pmp_mapping(answer, self._port)
        return None


def default_router() -> str | None:
    """The IPv4 address that packets to everywhere go to; None where Linux does not say it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in ROUTES.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000" and int(fields[3], 16) & 2:
                return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    return None


def pcp_request(nonce: bytes, own: str, port: int, wanted: int, lifetime_s: int) -> bytes:
    """MAP of RFC 6887 section 11.1, for UDP."""
    here = ipaddress.IPv6Address(f"::ffff:{own}").packed
    return _MAP_REQUEST.pack(_PCP, 1, 0, lifetime_s, here, nonce, _UDP, port, wanted, _NOWHERE)


def pcp_mapping(answer: bytes, nonce: bytes, port: int) -> Mapping | None:
    """What a router answered; None for a refusal, and for what answers something else."""
    if len(answer) < _MAP_ANSWER.size:
        return None
    version, kind, _, result, lifetime, _, said, protocol, own, public, _ = _MAP_ANSWER.unpack_from(answer)
    if (version, kind, result, said, protocol, own) != (_PCP, 0x81, 0, nonce, _UDP, port):
        return None
    return _mapping(public, lifetime)


def pmp_request(port: int, wanted: int, lifetime_s: int) -> bytes:
    """RFC 6886 section 3.3, for UDP."""
    return _PMP_REQUEST.pack(_NAT_PMP, 1, 0, port, wanted, lifetime_s)


def pmp_mapping(answer: bytes, port: int) -> Mapping | None:
    """The same of NAT-PMP."""
    if len(answer) < _PMP_ANSWER.size:
        return None
    version, kind, result, _, own, public, lifetime = _PMP_ANSWER.unpack_from(answer)
    if (version, kind, result, own) != (_NAT_PMP, 0x81, 0, port):
        return None
    return _mapping(public, lifetime)


def _mapping(public: int, lifetime: int) -> Mapping | None:
    if not public or not lifetime:
        return None
    return Mapping(public, max(LEAST_LIFETIME_S, min(MOST_LIFETIME_S, lifetime)))


async def _exchange(sock: socket.socket, request: bytes) -> bytes | None:
    """The router's answer; the socket takes datagrams of nobody else."""
    loop = asyncio.get_running_loop()
    for wait in TRIES_S:
        await loop.sock_sendall(sock, request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                return await loop.sock_recv(sock, _MAX_ANSWER)
    return None
