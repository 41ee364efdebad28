"""Keeping a port of the router: asked for by PCP, else NAT-PMP, else UPnP, and then by whichever gave it.

What a router says is a claim like everybody's: whether others get through to the port, and whether they see this
machine at the same router's address, they say themselves (`reachability`). Only the router that the system sends
everything by is asked, and only where it is on a home network.
"""

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proofyard.protocol.routes import is_home_address
from proofyard.transport.mapping import pcp
from proofyard.transport.mapping.claims import LIFETIME_S, Mapping, Protocol
from proofyard.transport.mapping.gateway import Gateway

ROUTES = Path("/proc/net/route")


class Mapper:
    """Keeps a router's port for the UDP `port` of this machine. `name`: whose it is, the same at every start, of which
    the router is told some bytes of the hash. `router`: its IPv4 address, the default one if None."""

    def __init__(self, port: int, name: str, router: str | None = None) -> None:
        self.found: Mapping | None = None
        """What the router maps."""
        self._port, self._name = port, name
        self._router = router
        self._nonce = os.urandom(12)
        self._gateway: Gateway | None = None
        """Who is asked by UPnP, and may have a mapping for this machine."""
        self._refused = ""

    @property
    def public(self) -> int:
        """The router's port, 0 where there is none."""
        return 0 if self.found is None else self.found.port

    @property
    def outside(self) -> str:
        """The IPv4 address that the router says it has outside, also where it maps nothing; "" where it says none."""
        if self.found is not None:
            return self.found.outside
        return "" if self._gateway is None else self._gateway.outside

    @property
    def refused(self) -> str:
        """By which protocol the router refused a port, and with which error if it is known; "" where it did not."""
        if self.found is not None or self._gateway is None or self._gateway.error is None:
            return self._refused
        return f"UPnP with error {self._gateway.error}"

    async def ask(self) -> Mapping | None:
        """Have the port mapped, or its mapping renewed; None where the router does not."""
        router, found = self._home_router(), None
        if router is not None and self._gateway is not None and self._gateway.is_at(router, _own(router)):
            found = await self._gateway.renew()
        if router is not None and found is None:
            found = await self._asked(router)
        self.found = found
        return found

    async def release(self) -> None:
        """Give the port back, as far as the router hears of it."""
        found, self.found = self.found, None
        if self._gateway is not None:
            await self._gateway.release()
        elif found is not None and (router := self._home_router()) is not None:
            await self._by_datagrams(router, found.port, 0)

    def _home_router(self) -> str | None:
        router = self._router or default_router()
        return router if router is not None and is_home_address(router) else None

    async def _asked(self, router: str) -> Mapping | None:
        said, own = await self._by_datagrams(router, self.public, LIFETIME_S), _own(router)
        self._refused = "" if said.mapping is not None else said.spoken
        if self._gateway is not None and (said.spoken or not self._gateway.is_at(router, own)):
            if self._gateway.router == router:
                await self._gateway.release()
            self._gateway = None
        if said.spoken or own is None:
            return said.mapping
        if self._gateway is None:
            self._gateway = Gateway(router, own, self._port, self._name)
        return await self._gateway.ask()

    async def _by_datagrams(self, router: str, wanted: int, lifetime_s: int) -> "_Said":
        """What the router says by PCP, or NAT-PMP where it speaks that alone."""
        answer = None
        with contextlib.suppress(OSError), _connected(router) as sock:
            request = pcp.pcp_request(self._nonce, sock.getsockname()[0], self._port, wanted, lifetime_s)
            answer = await pcp.exchange(sock, request)
            if answer is not None and answer[:1] != bytes((pcp.NAT_PMP,)):
                return _Said("PCP" if pcp.is_spoken(answer) else "", pcp.pcp_mapping(answer, self._nonce, self._port))
            answer = await pcp.exchange(sock, pcp.pmp_request(self._port, wanted, lifetime_s))
            if answer is not None and pcp.pmp_mapping(answer, self._port) is not None:
                outside = ""
                with contextlib.suppress(OSError):
                    outside = pcp.pmp_outside(await pcp.exchange(sock, pcp.OUTSIDE) or b"")
                return _Said("NAT-PMP", pcp.pmp_mapping(answer, self._port, outside))
        return _Said("NAT-PMP" if answer is not None and pcp.is_spoken(answer) else "")


@dataclass(frozen=True)
class _Said:
    spoken: Protocol | Literal[""]
    """By which of these protocols the router maps ports, be it that it refused this one."""
    mapping: Mapping | None = None


def default_router() -> str | None:
    """The IPv4 address that packets to everywhere go to; None where Linux does not say it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in ROUTES.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000" and int(fields[3], 16) & 2:
                return socket.inet_ntoa(struct.pack("<I", int(fields[2], 16)))
    return None


def _connected(router: str) -> socket.socket:
    """A socket for datagrams to the router's PCP. Raises `OSError`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect((router, pcp.PORT))
    except OSError:
        sock.close()
        raise
    return sock


def _own(router: str) -> str | None:
    """This machine's address on the router's network."""
    with contextlib.suppress(OSError), _connected(router) as sock:
        return str(sock.getsockname()[0])
    return None
