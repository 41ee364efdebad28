"""How others reach this node: what lies between, what peers confirmed, and the relays that carry for it.

What is announced to verifiers is what they pass on to other nodes: the addresses that peers got through to, and where
there are none the relays that this node has reservations at, several of them. One that goes is replaced.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence

from proofyard.node.links import VerifierLinks
from proofyard.node.settings import NodeSettings
from proofyard.protocol.messages import Relays, RelaysQuery
from proofyard.protocol.routes import MAX_RELAYS, Route, read_relay
from proofyard.runtime.chance import chance
from proofyard.transport import Endpoint, RequestFailed, TransportError
from proofyard.transport.mapping import Mapper, is_public
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
        self._mapper = Mapper(endpoint.port, endpoint.address) if settings.map_port else None
        self._mapped_at = self._map_at = float("-inf")
        self._examining = asyncio.Lock()

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
            at = ", ".join(f"{each.host}:{each.port}" for each in self._found.confirmed)
            return f"directly, at {at}{self._mapped_by()}"
        between = self._found.summary + self._router_says()
        relays = self._endpoint.relays()
        if relays:
            then = "" if self._hidden else ", then directly where both routers allow it"
            return f"by {len(relays)} relays{then} ({between})"
        if not self._endpoint.connections:
            return "not at all (no peer answers): see that a firewall lets UDP out, and that [node] names the network"
        if self._found.nat is Nat.UNKNOWN:
            return "not known yet: fewer than two peers have been asked"
        return f"not at all ({between}): {self._advice()}"

    def _advice(self) -> str:
        """The one thing to do for a node that nobody reaches."""
        port = self._endpoint.port
        if self._hidden:
            return "name relays in [node], or set hide_address = false"
        if self._found.nat is Nat.FIREWALL:
            return f"have the firewall let UDP port {port} in, or name relays in [node]"
        if self._is_behind_two():
            return "name relays in [node], or ask whoever runs the router beyond, or the provider, for a public address"
        return f"name relays in [node], or have the router forward UDP port {port}"

    def _mapped_by(self) -> str:
        mapping = self._mapper.found if self._mapper is not None else None
        if mapping is None or all((each.kind, each.port) != ("mapped", mapping.port) for each in self._found.confirmed):
            return ""
        return f", a port that the router maps by {mapping.protocol}"

    def _router_says(self) -> str:
        """What came of asking the router, where nobody gets through for all that."""
        if self._mapper is None:
            return ""
        mapping, outside, refused = self._mapper.found, self._mapper.outside, self._mapper.refused
        maps = "" if mapping is None else f"; the router maps UDP port {mapping.port} by {mapping.protocol}"
        maps = f"; the router refuses a port by {refused}" if refused else maps
        if outside and not is_public(outside):
            return f"{maps}; the router's own address {outside} is not public, another router lies beyond it"
        if self._is_behind_two():
            return f"{maps} and says no address of its own, as one does that has another router beyond it"
        if outside and self._found.observed and all(outside != host for host, _ in self._found.observed):
            return f"{maps}; the router says that its address is {outside}, where nobody sees this node"
        return maps

    def _is_behind_two(self) -> bool:
        """Whether another router lies beyond this one, as far as it says: at home, or at the provider (RFC 6598).
        miniupnpd, which many routers run, refuses there every port and names no address."""
        outside, refused = (self._mapper.outside, self._mapper.refused) if self._mapper is not None else ("", "")
        return not is_public(outside) if outside else refused.startswith("UPnP")

    async def run(self) -> None:
        """Until cancelled. The router is asked beside everything else, so nothing waits for one that is slow."""
        try:
            if self.is_local:
                await asyncio.Event().wait()
            await asyncio.gather(
                _again_and_again(self._look, "how others reach this node cannot be looked at"),
                _again_and_again(self._map, "the router cannot be asked for a port"),
            )
        finally:
            if self._mapper is not None:
                await self._mapper.release()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        peers = frozenset(peer for peer, each in self._endpoint.connections.items() if each.is_client)
        if peers and (peers - self._asked or now - self._examined_at > EXAMINE_S):
            self._examined_at, self._asked = now, peers
            await self._examine()
        if self._hidden or not self._found.confirmed:
            await self._reserve(now)
        if self.routes() != self._told:
            self._told = self.routes()
            logger.info("others reach this node %s", self.summary())
            self._links.announce_again()

    async def _examine(self) -> None:
        async with self._examining:
            found = await self._endpoint.examine(published=self._mapper.public if self._mapper is not None else 0)
        if found != self._found:
            logger.info("what lies between this node and others: %s", found.summary)
        self._found = found

    async def _map(self) -> None:
        """Have the router map this node's port, or go on with it, where nobody gets through otherwise."""
        mapper, now = self._mapper, asyncio.get_running_loop().time()
        if mapper is None or self._found.nat in (Nat.UNKNOWN, Nat.FIREWALL):
            return
        before = mapper.public
        is_lost = before and not self._found.confirmed and now >= self._mapped_at + UNMAPPED_S
        if (now < self._map_at and not is_lost) or (self._found.confirmed and not before):
            return
        found = await mapper.ask()
        self._mapped_at = now
        self._map_at = now + (UNMAPPED_S if found is None else found.lifetime_s / 2)
        if mapper.public != before:
            by = f"its UDP port {found.port} to this node, by {found.protocol}" if found else "no port"
            logger.info("the router maps %s", by)
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


async def _again_and_again(look: Callable[[], Awaitable[None]], trouble: str) -> None:
    while True:
        try:
            await look()
        except Exception:
            logger.exception(trouble)
        await asyncio.sleep(LOOK_S)
