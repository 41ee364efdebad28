"""Who has an artifact: announced to the peers whose wallets lie nearest to its CID, and asked there.

Whoever has something and whoever looks for it choose the same few peers, as far as they know the same ones; those that
they are connected to anyhow (verifiers, neighbours) they tell and ask as well. Nobody has to answer, and nobody is
believed: blocks are checked, and a fetch that finds nothing here goes to the verifier.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from proofyard.discovery.asking import Askers, Rate
from proofyard.discovery.gossip import Gossip, Seed
from proofyard.discovery.messages import MOST_PROVIDED, MOST_PROVIDERS, FindProviders, Provide, Provided, Providers
from proofyard.discovery.providers import HOLDS_S, ProviderTable
from proofyard.protocol.cid import CID_BYTES, CidError, cid_bytes, cid_digest, cid_from_bytes
from proofyard.protocol.types import Address, Cid
from proofyard.runtime.chance import chance
from proofyard.transport import Body, Connection, Endpoint, RequestFailed, TransportError

logger = logging.getLogger("proofyard.discovery")

R = TypeVar("R")

NEAREST = 3
"""Peers nearest to a CID that are told and asked."""
MOST_CONNECTED = 4
"""Of the peers that are connected anyhow."""
ANSWER_S, DIAL_S = 3.0, 5.0
MOST_KEPT = 1024
"""Artifacts that this peer announces; the newest."""
AGAIN_S, LOOK_S = HOLDS_S / 2, 60.0
TOLD_AT_ONCE = 16
"""Peers that are told in one round; others follow in the next."""

OF_PEER, OF_HOST, OF_ALL = Rate(2.0, 64.0), Rate(4.0, 128.0), Rate(200.0, 1000.0)


class Finder:
    """Of one endpoint. `connected`: peers that are told and asked beside those near to a CID; `has`: whether an
    artifact is still here."""

    def __init__(
        self,
        endpoint: Endpoint,
        gossip: Gossip,
        *,
        connected: Callable[[], Iterable[Connection]] = tuple,
        has: Callable[[Cid], bool] = lambda _: True,
    ) -> None:
        self.providers = ProviderTable()
        self._endpoint, self._gossip = endpoint, gossip
        self._connected, self._has = connected, has
        self._askers = Askers(OF_PEER, OF_HOST, OF_ALL)
        self._mine: dict[Cid, float] = {}
        """What this peer has, and when it is announced next."""
        self._news = asyncio.Event()

    # For others

    def serve(self) -> None:
        """Remember what others announce, and tell who asks."""
        self._endpoint.on(Provide, self.provide)
        self._endpoint.on(FindProviders, self.find_providers)

    async def provide(self, connection: Connection, message: Provide, _body: Body) -> Provided:
        now = self._take_turn(connection)
        cids = _split(message.cids)
        record = self._gossip.hear_from(connection, message.record)
        if record is None or not record.routes:
            raise RequestFailed("bad-request", "a provider has to say how it is reached, in a record of its own")
        for cid in cids:
            self.providers.add(cid, connection.peer, message.record, connection.remote[0], now)
        return Provided(int(HOLDS_S))

    async def find_providers(self, connection: Connection, message: FindProviders, _body: Body) -> Providers:
        now = self._take_turn(connection)
        (cid,) = _split(message.cid)
        found = self.providers.find(cid, MOST_PROVIDERS, now)
        return Providers(tuple(record for node, record in found if node != connection.peer))

    def _take_turn(self, connection: Connection) -> float:
        now = asyncio.get_running_loop().time()
        if not self._askers.may(connection.peer, *connection.remote, now):
            raise RequestFailed("busy", "too many questions about artifacts; later")
        return now

    # For this peer

    def have(self, cid: Cid) -> None:
        """This peer has an artifact whole: announce it soon, and again from time to time."""
        if cid not in self._mine:
            self._mine[cid] = 0.0
            if len(self._mine) > MOST_KEPT:
                del self._mine[next(iter(self._mine))]
            self._news.set()

    async def run(self) -> None:
        """Announce what is here; until cancelled. Serves as well."""
        self.serve()
        while True:
            try:
                await self.announce()
            except Exception:
                logger.exception("what is here cannot be announced")
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    async def announce(self) -> None:
        """Tell whoever is to know of what is due. What is here no more is forgotten by itself."""
        now, record = asyncio.get_running_loop().time(), self._gossip.record()
        due = [cid for cid, at in self._mine.items() if at <= now][:MOST_PROVIDED]
        for cid in [each for each in due if not self._has(each)]:
            due.remove(cid)
            del self._mine[cid]
        told: dict[Address, tuple[Seed, list[Cid]]] = {}
        for cid in due if record else ():
            for node, routes in self._places(cid):
                if node in told or len(told) < TOLD_AT_ONCE:
                    told.setdefault(node, ((node, routes), []))[1].append(cid)
        taken = await asyncio.gather(*(self._tell(seed, record, cids) for seed, cids in told.values()))
        known = {cid for cids in taken for cid in cids}
        for cid in due:
            self._mine[cid] = now + (AGAIN_S * (0.75 + chance.random() / 4) if cid in known else LOOK_S)

    async def find(self, cid: Cid) -> list[Seed]:
        """Peers that say they have an artifact, at most `MOST_PROVIDERS`, and how they are reached."""
        asked = [self._ask(seed, cid) for seed in self._places(cid)]
        found: dict[Address, Seed] = {}
        for seeds in await asyncio.gather(*asked):
            found |= {seed[0]: seed for seed in seeds if seed[0] != self._endpoint.address}
        own = self.providers.find(cid, MOST_PROVIDERS, asyncio.get_running_loop().time())
        for node, _ in own:
            known = self._gossip.table.get(node)
            if known is not None:
                found.setdefault(node, (node, known.record.routes))
        seeds = list(found.values())
        return chance.sample(seeds, min(len(seeds), MOST_PROVIDERS))

    def _places(self, cid: Cid) -> list[Seed]:
        """Who is told and asked about an artifact."""
        near = self._gossip.table.nearest(cid_digest(cid), NEAREST)
        places: dict[Address, Seed] = {each.record.node: (each.record.node, each.record.routes) for each in near}
        others = [each.peer for each in self._connected() if each.peer not in places]
        for peer in chance.sample(others, min(len(others), MOST_CONNECTED)):
            places[peer] = (peer, ())
        return list(places.values())

    async def _tell(self, seed: Seed, record: bytes, cids: Sequence[Cid]) -> Sequence[Cid]:
        """Those that somebody remembers now."""

        async def say(connection: Connection) -> Sequence[Cid]:
            message = Provide(record, b"".join(map(cid_bytes, cids)))
            await connection.request(message, reply=Provided, timeout=ANSWER_S)
            return cids

        return await self._visit(seed, say) or ()

    async def _ask(self, seed: Seed, cid: Cid) -> list[Seed]:
        async def say(connection: Connection) -> list[Seed]:
            message = FindProviders(cid_bytes(cid))
            answer = await connection.request(message, reply=Providers, timeout=ANSWER_S)
            return [(each.node, each.routes) for each in self._gossip.believe(answer.records, connection)]

        return await self._visit(seed, say) or []

    async def _visit(self, seed: Seed, say: Callable[[Connection], Awaitable[R]]) -> R | None:
        """Ask somebody, who is connected to for that where it is not yet; None where it does not answer."""
        node, routes = seed
        before = self._endpoint.connections.get(node)
        try:
            connection = before or await self._endpoint.connect_by(routes, expect=node, timeout=DIAL_S)
        except TransportError as error:
            logger.debug("%s is not there: %s", node, error)
            self._gossip.missed(node)
            return None
        try:
            return await say(connection)
        except TransportError as error:
            logger.debug("%s does not answer about artifacts: %s", node, error)
            return None
        finally:
            if before is None:
                await connection.close("nothing more to ask")


def _split(joined: bytes) -> list[Cid]:
    try:
        return [cid_from_bytes(joined[at : at + CID_BYTES]) for at in range(0, len(joined), CID_BYTES)]
    except CidError as error:
        raise RequestFailed("bad-request", str(error)) from None
