"""Peers of the same local network, found by mDNS (RFC 6762 and 6763), which no router passes on.

A peer says there under which wallet, port and network it listens, on those of its IPv4 networks that are home networks,
and takes from others only addresses of these. What it hears is a claim: whoever answers proves its wallet. Needs the
package `zeroconf`; without it nobody is looked for.
"""

import asyncio
import ipaddress
import logging
from collections import Counter
from typing import Any

from proofyard.discovery.gossip import Seed
from proofyard.protocol.addresses import read_address
from proofyard.protocol.commitment import Domain
from proofyard.protocol.routes import Route, is_home_address
from proofyard.protocol.types import Address
from proofyard.transport import Endpoint
from proofyard.transport.punching import own_networks

logger = logging.getLogger("proofyard.discovery")

SERVICE = "_proofyard._udp.local."
MOST_FOUND, MOST_OF_HOST = 64, 4
LOOK_S = 60.0
"""Between two looks at whether this machine is in other networks now."""
ANSWER_MS = 3000
MOST_ASKED = 16
"""Services that are asked about at a time; further ones are left out until they announce themselves again."""


class LocalNetwork:
    """Of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._found: dict[str, Seed] = {}
        self._asked: set[asyncio.Task[None]] = set()

    def peers(self) -> list[Seed]:
        """Those that announce themselves now."""
        return list(self._found.values())

    async def run(self) -> None:
        """Until cancelled; for ever idle where `zeroconf` is not installed."""
        try:
            from zeroconf.asyncio import AsyncZeroconf
        except ImportError:
            logger.info("peers of the local network are not looked for: pip install zeroconf")
            await asyncio.Event().wait()
            return
        networks: list[str] = []
        daemon: AsyncZeroconf | None = None
        try:
            while True:
                if home_networks() != networks:
                    networks = home_networks()
                    if daemon is not None:
                        await daemon.async_close()
                        self._found.clear()
                    daemon = await self._begin(networks) if networks else None
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)
            if daemon is not None:
                await daemon.async_close()

    async def _begin(self, networks: list[str]) -> Any:
        """Announce this endpoint in these networks, and look for others. None where that does not work."""
        from zeroconf import Error, IPVersion
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        addresses = [each.partition("/")[0] for each in networks]
        try:
            daemon = AsyncZeroconf(interfaces=addresses, ip_version=IPVersion.V4Only)
        except (OSError, Error) as error:
            logger.info("peers of the local network cannot be looked for: %s", error)
            return None
        try:
            await daemon.async_register_service(self._service(addresses))
        except (OSError, Error) as error:
            logger.info("this peer cannot be announced in the local network: %s", error)
        AsyncServiceBrowser(daemon.zeroconf, SERVICE, handlers=[self._heard])
        return daemon

    def _service(self, addresses: list[str]) -> Any:
        from zeroconf.asyncio import AsyncServiceInfo

        return AsyncServiceInfo(
            SERVICE,
            f"{self._endpoint.address}.{SERVICE}",
            port=self._endpoint.port,
            parsed_addresses=addresses,
            properties={"network": network_id(self._endpoint.network)},
            server=f"{self._endpoint.address[2:].lower()}.local.",
        )

    def _heard(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        """Called by `zeroconf`, on this loop."""
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif len(self._asked) < MOST_ASKED:
            task = asyncio.ensure_future(self._look(zeroconf, name))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _look(self, zeroconf: Any, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(zeroconf, ANSWER_MS):
            return
        said = info.properties.get(b"network") or b""
        seed = read_service(name, info.parsed_addresses(), info.port or 0, home_networks())
        if seed is None or said != network_id(self._endpoint.network).encode() or seed[0] == self._endpoint.address:
            return
        others = {each: other for each, other in self._found.items() if each != name}
        of_host = Counter(route.host for _, routes in others.values() for route in routes)
        if len(others) < MOST_FOUND and all(of_host[route.host] < MOST_OF_HOST for route in seed[1]):
            self._found[name] = seed


def read_service(name: str, addresses: list[str], port: int, networks: list[str]) -> Seed | None:
    """The peer that a service of this name is, as far as its addresses are in these networks; None for nobody."""
    try:
        node: Address = read_address(name.removesuffix(f".{SERVICE}"))
        found = [ipaddress.ip_address(each) for each in addresses]
    except ValueError:
        return None
    joined = [ipaddress.ip_network(each, strict=False) for each in networks]
    near = [each for each in found if any(each.version == net.version and each in net for net in joined)]
    if not near or not 0 < port < 65_536:
        return None
    return node, tuple(Route("lan", str(each), port) for each in near[:MOST_OF_HOST])


def home_networks() -> list[str]:
    """This machine's addresses in home networks, with the length of their prefix: `192.168.1.7/255.255.255.0`."""
    return sorted(each for each in own_networks() if ":" not in each and is_home_address(each.partition("/")[0]))


def network_id(network: Domain) -> str:
    """Tells networks apart, without naming one."""
    return network.separator()[:8].hex()
