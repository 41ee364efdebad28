"""How others reach this node: what lies between, what peers confirmed, and the relays that carry for it.

What is announced to verifiers is what they pass on to other nodes: the addresses that peers got through to, and where
there are none the relays that this node has reservations at, several of them. One that goes is replaced.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Sequence

from proofyard.node.links import VerifierLinks
from proofyard.node.settings import NodeSettings
from proofyard.protocol.messages import Relays, RelaysQuery
from proofyard.protocol.routes import MAX_RELAYS, Route, read_relay
from proofyard.runtime.chance import chance
from proofyard.transport import Endpoint, RequestFailed, TransportError
from proofyard.transport.mapping import Mapper
from proofyard.transport.reachability import Nat, Reachability

logger = logging.getLogger("proofyard.node")

LOOK_S = 10.0
"""Between two looks at whether the relays are still there."""

EXAMINE_S = 300.0
"""Between two examinations by peers; whenever other peers are connected there is one more."""

UNMAPPED_S = 900.0
"""Between two times that a router is asked for a port which gives none."""

AVOID_S = 120.0
"""How long a relay that had no place, or did not answer, is left alone."""


class Presence:
    """Of one node. `routes` is what it announces."""

    def __init__(self, settings: NodeSettings, endpoint: Endpoint, links: VerifierLinks) -> None:
        self._hidden = settings.hide_address
        self._named = [read_relay(each) for each in settings.relays]
        self._endpoint = endpoint
        self._links = links
        self._found = Reachability()
        self._examined_at = float("-inf")
        self._asked: frozenset[str] = frozenset()
        self._avoided: dict[Route, float] = {}
        self._told: tuple[Route, ...] = ()
        self._mapper = Mapper(endpoint.port) if settings.map_port else None
        self._map_at = float("-inf")

    @property
    def is_local(self) -> bool:
        """Whether this node and whom it works with are on this machine alone."""
        return ipaddress.ip_address(self._endpoint.host.split("%")[0]).is_loopback

    def routes(self) -> tuple[Route, ...]:
        direct = () if self._hidden else self._found.confirmed
        return direct or tuple(self._endpoint.relays()[:MAX_RELAYS])

    def summary(self) -> str:
        """One line for people: how others reach this node, or the one thing to do about it."""
        if self.is_local:
            return "by programs of this machine alone"
        if self._found.confirmed and not self._hidden:
            return "directly, at " + ", ".join(f"{each.host}:{each.port}" for each in self._found.confirmed)
        relays = self._endpoint.relays()
        if relays:
            then = "" if self._hidden else ", then directly where both routers allow it"
            return f"by {len(relays)} relays{then} ({self._found.summary})"
        if not self._endpoint.connections:
            return "not at all (no peer answers): see that a firewall lets UDP out, and that [node] names the network"
        if self._found.nat is Nat.UNKNOWN:
            return "not known yet: fewer than two peers have been asked"
        return f"not at all ({self._found.summary}): {self._advice()}"

    def _advice(self) -> str:
        """The one thing to do for a node that nobody reaches."""
        port = self._endpoint.port
        if self._hidden:
            return "name relays in [node], or set hide_address = false"
        if self._found.nat is Nat.FIREWALL:
            return f"have the firewall let UDP port {port} in, or name relays in [node]"
        return f"name relays in [node], or have the router forward UDP port {port}"

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while not self.is_local:
                try:
                    await self._look()
                except Exception:
                    logger.exception("how others reach this node cannot be looked at")
                await asyncio.sleep(LOOK_S)
            await asyncio.Event().wait()
        finally:
            if self._mapper is not None:
                await self._mapper.release()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        peers = frozenset(peer for peer, each in self._endpoint.connections.items() if each.is_client)
        if peers and (peers - self._asked or now - self._examined_at > EXAMINE_S):
            self._examined_at, self._asked = now, peers
            await self._examine()
        if self._mapper is not None and now >= self._map_at and self._found.nat not in (Nat.UNKNOWN, Nat.FIREWALL):
            await self._map(self._mapper, now)
        if self._hidden or not self._found.confirmed:
            await self._reserve(now)
        if self.routes() != self._told:
            self._told = self.routes()
            logger.info("others reach this node %s", self.summary())
            self._links.announce_again()

    async def _examine(self) -> None:
        found = await self._endpoint.examine(published=self._mapper.public if self._mapper is not None else 0)
        if found != self._found:
            logger.info("what lies between this node and others: %s", found.summary)
        self._found = found

    async def _map(self, mapper: Mapper, now: float) -> None:
        """Have the router map this node's port, or go on with it, where nobody gets through otherwise."""
        before = mapper.public
        if self._found.confirmed and not before:
            return
        found = await mapper.ask()
        self._map_at = now + (UNMAPPED_S if found is None else found.lifetime_s / 2)
        if mapper.public != before:
            logger.info("the router maps %s", f"its UDP port {mapper.public} to this node" if found else "no port")
            await self._examine()

    async def _reserve(self, now: float) -> None:
        """Have reservations at as many relays as others may be told of."""
        have = {route.relay for route in self._endpoint.relays()}
        self._avoided = {route: until for route, until in self._avoided.items() if until > now}
        for route in await self._candidates() if len(have) < MAX_RELAYS else ():
            if len(have) >= MAX_RELAYS:
                break
            if route.relay in have or route in self._avoided or route.relay == self._endpoint.address:
                continue
            try:
                await self._endpoint.reserve(route)
                have.add(route.relay)
                logger.info("the relay %s carries for this node", route.relay)
            except (TransportError, RequestFailed) as error:
                self._avoided[route] = now + AVOID_S
                logger.info("the relay %s does not carry for this node: %s", route.relay, error)

    async def _candidates(self) -> Sequence[Route]:
        """The relays that the operator named, then some that verifiers know."""
        told: list[Route] = []
        for connection in self._links.live():
            try:
                told += (await connection.request(RelaysQuery(), reply=Relays, timeout=LOOK_S)).routes
            except TransportError as error:
                logger.debug("%s names no relays: %s", connection.peer, error)
        chance.shuffle(told)
        return [*self._named, *(route for route in told if route.kind == "relayed")]
