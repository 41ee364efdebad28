"""A router that is asked for a port by UPnP: found by SSDP, described by XML, told by SOAP (`igd`).

It chooses nothing: a mapping leads to this machine, and everything is asked at the router's own address. What it may
have mapped for this machine is kept in mind from before it is asked, so that it is given back also where its answer
never came.
"""

import asyncio
import contextlib
import hashlib
import logging

from proofyard.transport.errors import RouterFailed, RouterRefused
from proofyard.transport.mapping import igd
from proofyard.transport.mapping.claims import LIFETIME_S, Mapping, is_public, lifetime, read_number, read_outside
from proofyard.transport.mapping.discovery import discover
from proofyard.transport.mapping.fetching import fetch
from proofyard.transport.mapping.igd import Service
from proofyard.transport.mapping.places import Place

logger = logging.getLogger("proofyard.transport")

ASK_S, RELEASE_S = 20.0, 3.0
"""How long all that is said to a router may take, and giving a port back."""

FIRST_PORT, PORTS = 49_152, 16_384
"""The ports that are asked for: those that nobody has by name (RFC 6335 section 6)."""

MOST_TRIED = 4
"""Ports that are asked for where others have them."""


class Gateway:
    """The router at `router` for the UDP `port` of this machine, which has the address `own` there. `name`: whose
    mapping it is. The same name asks for the same ports, so that one that an ended program left for ever is found."""

    def __init__(self, router: str, own: str, port: int, name: str) -> None:
        self.outside = ""
        """The IPv4 address that the router says it has outside."""
        self.error: int | None = None
        """Of UPnP, with which it refused a port when it was last asked; 0 for one without a number."""
        self.router, self._own, self._port = router, own, port
        mark = hashlib.sha256(name.encode()).digest()
        self._ports = [FIRST_PORT + int.from_bytes(mark[2 * n : 2 * n + 2], "big") % PORTS for n in range(MOST_TRIED)]
        self._description = f"proofyard {mark[-4:].hex()}"
        self._lease_s = LIFETIME_S
        self._service: Service | None = None
        self._held = 0
        """The router's port that leads here, or may."""
        self._is_sure = False

    def is_at(self, router: str, own: str | None) -> bool:
        return (router, own) == (self.router, self._own)

    async def ask(self) -> Mapping | None:
        """Find the router's services anew and have one map the port."""
        self.outside, self.error = "", None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_S):
                for place in await discover(self.router, self._own):
                    for service in await self._services(place):
                        try:
                            return await self._map(service)
                        except RouterFailed as error:
                            logger.debug("%s", error)
                            self.error = error.code if isinstance(error, RouterRefused) else self.error
                        if self._held:
                            return None
        return None

    async def renew(self) -> Mapping | None:
        """Go on with the mapping that is there; None where that cannot be."""
        service = self._service
        if service is None or not self._held:
            return None
        with contextlib.suppress(TimeoutError, RouterFailed):
            async with asyncio.timeout(ASK_S):
                self.outside = await self._outside(service)
                await self._add(service, "AddPortMapping", self._held)
                return await self._mapping(service)
        return None

    async def release(self) -> None:
        """Have the router forget the mapping, if there may be one. Idempotent."""
        service, held, is_sure = self._service, self._held, self._is_sure
        self._held, self._is_sure = 0, False
        if service is None or not held:
            return
        with contextlib.suppress(TimeoutError, RouterFailed):
            async with asyncio.timeout(RELEASE_S):
                entry = await self._entry(service, held)
                client = read_outside(entry.get("NewInternalClient", ""))
                if self._is_ours(entry) or (is_sure and client in ("", self._own)):
                    await self._call(service, "DeletePortMapping", igd.entry_of(held))

    async def _services(self, place: Place) -> list[Service]:
        """Those of the description at `place`, first one that says that strangers see it."""
        try:
            status, description = await fetch(self.router, place, "GET")
            services = igd.read_services(description, self.router, place) if status == 200 else []
        except (RouterFailed, ValueError) as error:
            logger.debug("what the router says of itself is of no use: %s", error)
            return []
        said = {service: await self._outside(service) for service in services}
        self.outside = max((self.outside, *said.values()), key=lambda outside: (_is_seen(outside), bool(outside)))
        return sorted(services, key=lambda service: not _is_seen(said[service]))

    async def _outside(self, service: Service) -> str:
        try:
            reply = await self._call(service, "GetExternalIPAddress", {})
        except RouterFailed:
            return ""
        return read_outside(reply.get("NewExternalIPAddress", ""))

    async def _map(self, service: Service) -> Mapping:
        """Raises `RouterFailed`."""
        self._service, refused = service, RouterFailed(self.router, "each port that is asked for is somebody else's")
        for port in [self._held, *self._ports] if self._held else self._ports:
            entry = await self._entry(service, port)
            if entry and not self._is_ours(entry):
                continue
            try:
                await self._take(service, port)
            except RouterRefused as error:
                if error.code not in igd.TAKEN:
                    raise
                refused = error
            else:
                return await self._mapping(service)
        raise refused

    async def _take(self, service: Service, port: int) -> None:
        """Raises `RouterFailed`."""
        if service.kind == igd.ANY_PORT:
            with contextlib.suppress(RouterRefused):
                return await self._add(service, "AddAnyPortMapping", port)
        try:
            await self._add(service, "AddPortMapping", port)
        except RouterRefused as error:
            if error.code != igd.SAME_PORT_ONLY or port == self._port:
                raise
            await self._add(service, "AddPortMapping", self._port)

    async def _add(self, service: Service, action: str, port: int) -> None:
        """Raises `RouterFailed`."""
        self._is_sure = self._is_sure and port == self._held
        self._held = port
        try:
            reply = await self._call(service, action, self._mapping_to(port))
        except RouterRefused as error:
            if error.code == igd.PERMANENT_ONLY and self._lease_s:
                self._lease_s = 0
                return await self._add(service, action, port)
            self._held, self._is_sure = 0, False
            raise
        reserved = read_number(reply.get("NewReservedPort", str(port)), 65_535)
        if not reserved:
            raise RouterFailed(self.router, f"{action} reserves no port")
        self._held, self._is_sure = reserved, True
        return None

    async def _mapping(self, service: Service) -> Mapping:
        """What is held now. A router whose leases are for ever is looked at as often as others."""
        entry = await self._entry(service, self._held)
        left = read_number(entry.get("NewLeaseDuration", ""), LIFETIME_S) or LIFETIME_S
        return Mapping(self._held, lifetime(left), "UPnP", self.outside)

    async def _entry(self, service: Service, port: int) -> dict[str, str]:
        """What the router says that its port leads to; empty where it leads nowhere, or is not told."""
        try:
            return await self._call(service, "GetSpecificPortMappingEntry", igd.entry_of(port))
        except RouterFailed:
            return {}

    def _is_ours(self, entry: dict[str, str]) -> bool:
        """Whether it leads to this program, or was left by one of its name."""
        of_name = entry.get("NewPortMappingDescription") == self._description
        to_port = entry.get("NewInternalPort") == str(self._port)
        return entry.get("NewInternalClient") == self._own and (of_name or to_port)

    def _mapping_to(self, port: int) -> dict[str, object]:
        return igd.mapping_of(port, self._own, self._port, self._description, self._lease_s)

    async def _call(self, service: Service, action: str, arguments: dict[str, object]) -> dict[str, str]:
        """What the action returned. Raises `RouterFailed`."""
        headers, body = igd.call(service, action, arguments)
        status, answer = await fetch(self.router, service.control, "POST", headers, body)
        try:
            reply = igd.read_reply(answer)
        except ValueError as error:
            raise RouterFailed(self.router, f"{action} is answered with {error}") from error
        if status != 200 or "errorCode" in reply:
            raise RouterRefused(self.router, action, read_number(reply.get("errorCode", ""), 9999) or 0)
        return reply


def _is_seen(outside: str) -> bool:
    return bool(outside) and is_public(outside)
