"""Whom this node knows beside its verifiers, so that it finds peers and artifacts while those are away.

It begins with the peers that its operator named, its relays, what the Registry says of verifiers and nodes, and those
that it kept on disk. A node of a network on this machine alone looks for nobody.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from proofyard.artifacts import BlockStore
from proofyard.chain import ChainClient, NodeRecord, VerifierRecord
from proofyard.discovery import Gossip, PeerTable
from proofyard.discovery.finder import Finder
from proofyard.discovery.gossip import Seed, seeds_of
from proofyard.discovery.local import LocalNetwork
from proofyard.discovery.saved import restore, save
from proofyard.discovery.whereabouts import whereabouts
from proofyard.node.links import VerifierLinks
from proofyard.node.presence import Presence
from proofyard.node.settings import NodeSettings
from proofyard.protocol.routes import ORDER, Route, read_relay
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.runtime.recent import Recent
from proofyard.runtime.service import run_together
from proofyard.transport import Connection, Endpoint, PeerUnreachable, TransportError
from proofyard.transport.reach import is_dialled_from_elsewhere, split_endpoint

logger = logging.getLogger("proofyard.node")

FILE = "peers"
REGISTRY_S = 600.0
"""Between two looks at whose stake stands behind which wallet."""
NEARBY_S = 3.0
"""How long peers that have an artifact are looked for, before others are asked for it."""
MOST_NEARBY = 6
LOST_S, MOST_LOST = 30.0, 256
"""How long peers are not asked again where a node is that could not be reached."""


class Neighbourhood:
    """Of one node. `nearby` finds connections to peers that may have an artifact, `have` tells others of one. `here`:
    where all peers are on this machine, at different addresses of its loopback."""

    def __init__(
        self,
        settings: NodeSettings,
        chain: ChainClient,
        endpoint: Endpoint,
        links: VerifierLinks,
        presence: Presence,
        store: BlockStore,
        *,
        here: bool = False,
    ) -> None:
        self._settings, self._chain, self._endpoint, self._links = settings, chain, endpoint, links
        self._presence = presence
        self._file = settings.data_dir / FILE
        self._owners: Mapping[Address, str] = {}
        self._verifiers: frozenset[Address] = frozenset()
        self._registered: list[Seed] = []
        self._lost: Recent[Address, float] = Recent(MOST_LOST)
        self._named = seeds_of([read_relay(each) for each in (*settings.peers, *settings.relays)])
        self._is_on = settings.discover and not presence.is_local
        self._local = LocalNetwork(endpoint)
        table = PeerTable(endpoint.address)
        sequence = restore(self._file, table, endpoint.network, time.time(), here=here) if self._is_on else 0
        self._gossip = Gossip(
            endpoint,
            table,
            routes=presence.routes,
            seeds=lambda: [*self._named, *self._registered],
            local=self._local.peers,
            linked=links.live,
            owner_of=lambda node: self._owners.get(node, ""),
            trusts=self._is_trusted,
            here=here,
            sequence=sequence,
        )
        self._gossip.on_save = self._save
        has = partial(_is_here, store)
        self._finder = Finder(endpoint, self._gossip, connected=self._connected, has=has)

    async def run(self) -> None:
        """Until cancelled."""
        parts: list[Coroutine[Any, Any, None]] = []
        if self._is_on:
            parts += [self._follow_registry(), self._gossip.run(), self._finder.run()]
            parts += [self._local.run()] if self._settings.lan else []
        try:
            await run_together(*parts, _for_ever())
        finally:
            if self._is_on:
                await self._save()

    def summary(self) -> str:
        """One line for people; "" where nobody is looked for."""
        if not self._is_on:
            return ""
        table, near = self._gossip.table, len(self._gossip.at_home())
        at_home = f", {near} in this local network" if near else ""
        return f"{len(table)} peers, of whom {table.tried} answered{at_home}"

    def have(self, cid: Cid) -> None:
        """This node has an artifact whole, and serves it."""
        if self._is_on:
            self._finder.have(cid)

    async def nearby(self, cid: Cid) -> list[Connection]:
        """Peers that may have an artifact, the nearest first: those of the local network, then who said that it has
        it."""
        if not self._is_on:
            return []
        at_home = self._gossip.at_home()
        end = asyncio.get_running_loop().time() + NEARBY_S
        try:
            async with asyncio.timeout(NEARBY_S):
                seeds = await self._finder.find(cid)
        except TimeoutError:
            seeds = []
        known = {each.peer for each in at_home}
        dials = [asyncio.create_task(self._dial(seed)) for seed in seeds if seed[0] not in known]
        found = list(at_home)
        if dials:
            left = max(0.0, end - asyncio.get_running_loop().time())
            done, late = await asyncio.wait(dials, timeout=left)
            for task in late:
                task.cancel()
            found += [each for task in done if (each := task.result()) is not None]
        return sorted(found, key=lambda each: ORDER.index(each.way))[:MOST_NEARBY]

    async def reach(self, node: Address) -> Connection:
        """A connection to a node: the one that there is, or a new one by what this node's operator, peers or the
        Registry say of it. Raises `TransportError`."""
        connected = self._endpoint.connections.get(node)
        if connected is not None:
            return connected
        known = self._gossip.table.get(node)
        said = (route for seed, routes in (*self._named, *self._registered) if seed == node for route in routes)
        routes = [*(known.record.routes if known is not None else ()), *said]
        try:
            return await self._reach_by(routes, node)
        except TransportError:
            told = await self._ask_around(node)
            if set(told) <= set(routes):
                raise
        return await self._endpoint.connect_by(told, expect=node)

    async def _reach_by(self, routes: Sequence[Route], node: Address) -> Connection:
        if routes:
            return await self._endpoint.connect_by(routes, expect=node)
        listed = await asyncio.to_thread(self._listed, node)
        if not listed or (is_dialled_from_elsewhere(listed) == self._presence.is_local):
            raise PeerUnreachable(node, 0, "nobody says where it is")
        return await self._endpoint.connect_to(listed, expect=node)

    async def _ask_around(self, node: Address) -> tuple[Route, ...]:
        """How peers that have met it say that a node is reached now; nothing where none has, or was asked just now."""
        now = asyncio.get_running_loop().time()
        if not self._is_on or (self._lost.get(node) or 0.0) > now:
            return ()
        self._lost.put(node, now + LOST_S)
        found = await whereabouts([node], self._connected(), self._endpoint.network)
        return found[node].routes if node in found else ()

    def _listed(self, node: Address) -> str:
        """Where the Registry says that a node is; "" for nowhere."""
        try:
            operator = self._chain.operator_of(node)
            return "" if operator is None else self._chain.operator(operator).endpoint
        except ProofyardError as error:
            raise PeerUnreachable(node, 0, f"the Registry cannot be asked: {error}") from None

    async def _dial(self, seed: Seed) -> Connection | None:
        node, routes = seed
        try:
            return await self._endpoint.connect_by(routes, expect=node)
        except TransportError as error:
            logger.debug("%s said that it has an artifact, and is not there: %s", node, error)
            self._gossip.missed(node)
            return None

    def _connected(self) -> Iterable[Connection]:
        return [*self._links.live(), *self._gossip.at_home(), *self._gossip.neighbours()]

    def _is_trusted(self, node: Address) -> bool:
        return node in self._verifiers or node in self._owners or any(node == each for each, _ in self._named)

    async def _follow_registry(self) -> None:
        while True:
            try:
                nodes, verifiers = await asyncio.to_thread(self._registry)
                self._owners = {each.node: each.owner for each in nodes} | {each.node: each.owner for each in verifiers}
                self._verifiers = frozenset(each.node for each in verifiers)
                self._registered = list(_seeds((*verifiers, *nodes)))
            except ProofyardError as error:
                logger.info("whose stakes peers have is not known now: %s", error)
            await asyncio.sleep(REGISTRY_S)

    def _registry(self) -> tuple[list[NodeRecord], list[VerifierRecord]]:
        return self._chain.active_nodes(), self._chain.active_verifiers()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(save, self._file, self._gossip.table, self._gossip.sequence)
        except OSError as error:
            logger.warning("the peers that this node knows are not kept: %s", error)


def _seeds(operators: Iterable[NodeRecord | VerifierRecord]) -> Iterable[Seed]:
    for each in operators:
        if is_dialled_from_elsewhere(each.endpoint):
            yield each.node, (Route("direct", *split_endpoint(each.endpoint)),)


def _is_here(store: BlockStore, cid: Cid) -> bool:
    return store.block_size(cid) is not None or store.local_path(cid) is not None


async def _for_ever() -> None:
    await asyncio.Event().wait()
