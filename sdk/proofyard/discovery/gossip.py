"""Peers tell each other who is there: the thin part around `PeerTable` that dials, asks and answers.

Whoever runs this keeps a few connections to peers that it chose itself, half of them reached before, half only heard
of; asks one of them from time to time; and tries one that it only heard of every half a minute. So the table fills with
peers that answered, whatever others say. Peers of the same local network are connected as well, and told to nobody. A
verifier or a relay answers alone (`serve`).
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from proofyard.discovery.asking import Askers, Rate
from proofyard.discovery.messages import MOST_TOLD, ExchangePeers, FindPeers, KnownPeers
from proofyard.discovery.table import Known, PeerTable, Teller
from proofyard.protocol.codec import CodecError
from proofyard.protocol.peer_record import LIFETIME_S, PeerRecord, published, read_record, seal_record
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.runtime.chance import chance
from proofyard.runtime.recent import Recent
from proofyard.transport import Body, Connection, Endpoint, RequestFailed, TransportError
from proofyard.transport.carried import is_carried

logger = logging.getLogger("proofyard.discovery")

FIRST_S, STEP_S, LONELY_S = 2.0, 5.0, 60.0
"""Before the first look at what there is to do, between two, and at most between two that find nobody."""
NEIGHBOURS = 6
"""Connections that a peer keeps to peers that it chose."""
ENOUGH, MANY, FEW = 48, 24, 8
"""A table with fewer asks for many at every step; a larger one for few, every `REFRESH_S` seconds."""
REFRESH_S, TRY_S = 60.0, 30.0
SAVE_S = 300.0
DIAL_S, ANSWER_S = 8.0, 5.0
AT_ONCE = 2
"""Peers that are dialled at a time."""
MOST_LOCAL, LOCAL_PAUSE_S = 16, 120.0
"""Peers of the local network that are connected, and how long one that did not answer is left alone."""

OF_PEER, OF_HOST, OF_ALL = Rate(0.2, 8.0), Rate(1.0, 32.0), Rate(50.0, 400.0)
"""Questions that are answered."""

Seed = tuple[Address, tuple[Route, ...]]
"""A peer to begin with, and how it is reached."""


class Gossip:
    """Of one endpoint. `routes`: how others reach it; what of that may be published goes into its record. `owner_of`:
    whose stake stands behind a wallet, "" for nobody's. `seeds`: peers to begin with; `local`: those of the same
    local network. `trusts`: whose word weighs more than a stranger's. `here`: on
    a network of this machine alone, whose addresses are loopback's. `sequence`: of its own last record, from when it
    ran before. `linked`: connections that it has anyway, to a node's verifiers: they hear how it is reached."""

    def __init__(
        self,
        endpoint: Endpoint,
        table: PeerTable | None = None,
        *,
        routes: Callable[[], tuple[Route, ...]] = tuple,
        seeds: Callable[[], Iterable[Seed]] = tuple,
        local: Callable[[], Iterable[Seed]] = tuple,
        linked: Callable[[], Iterable[Connection]] = tuple,
        owner_of: Callable[[Address], str] = lambda _: "",
        trusts: Callable[[Address], bool] = lambda _: False,
        here: bool = False,
        sequence: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.table = table if table is not None else PeerTable(endpoint.address)
        self.on_save: Callable[[], Awaitable[None]] | None = None
        """Called every few minutes, to keep the table somewhere."""
        self._endpoint = endpoint
        self._routes, self._seeds, self._local, self._linked = routes, seeds, local, linked
        self._owner_of, self._trusts = owner_of, trusts
        self._here, self._clock = here, clock
        self.sequence = sequence
        self._own: tuple[PeerRecord, bytes] | None = None
        self._neighbours: dict[Address, Connection] = {}
        self._at_home: dict[Address, Connection] = {}
        self._told: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()
        """Which of its own records somebody has."""
        self._paused: Recent[Address, float] = Recent(MOST_LOCAL)
        self._askers, self._seekers = (Askers(OF_PEER, OF_HOST, OF_ALL) for _ in range(2))
        self._asked_at = self._tried_at = self._saved_at = float("-inf")

    # What this peer says of itself

    def record(self) -> bytes:
        """This peer's own, signed anew when its routes have changed or half of its time is over; empty where nobody
        reaches it, and never was told."""
        now, routes = self._clock(), published(self._routes(), here=self._here)
        own = self._own[0] if self._own is not None else None
        if own is None and not routes:
            return b""
        if self._own is None or own is None or own.routes != routes or own.expires - now < LIFETIME_S / 2:
            self.sequence = max(int(now * 1000), self.sequence + 1)
            until = int(now) + LIFETIME_S
            fresh = PeerRecord(node=self._endpoint.address, routes=routes, sequence=self.sequence, expires=until)
            signature = self._endpoint.identity.sign_digest(self._endpoint.network.typed_digest(fresh.struct_hash()))
            self._own = fresh, seal_record(fresh, signature)
        return self._own[1]

    # Answering

    def serve(self) -> None:
        """Answer whoever asks."""
        self._endpoint.on(ExchangePeers, self.exchange)
        self._endpoint.on(FindPeers, self.find)

    async def find(self, connection: Connection, message: FindPeers, _body: Body) -> KnownPeers:
        if not self._seekers.may(connection.peer, *connection.remote, asyncio.get_running_loop().time()):
            raise RequestFailed("busy", "you asked a moment ago; ask another peer, or later")
        return KnownPeers(self.record(), tuple(known.data for known in self.table.met(message.nodes, self._clock())))

    async def exchange(self, connection: Connection, message: ExchangePeers, _body: Body) -> KnownPeers:
        if not self._askers.may(connection.peer, *connection.remote, asyncio.get_running_loop().time()):
            raise RequestFailed("busy", "you asked a moment ago; ask another peer, or later")
        self.hear_from(connection, message.record)
        told = self.table.to_tell(min(message.wanted, MOST_TOLD), self._clock(), connection.peer)
        return KnownPeers(self.record(), tuple(known.data for known in told))

    def hear_from(self, connection: Connection, data: bytes) -> PeerRecord | None:
        """What a peer says of itself; None where it says nothing, or nothing that holds."""
        if not data:
            return None
        record = self._read(data, connection)
        if record is None or record.node != connection.peer:
            return None
        host = connection.remote[0]
        met = record.is_relayed or any(route.host == host for route in record.routes)
        teller = Teller("" if is_carried(host) else host, self._trusts(record.node))
        self._take(record, data, teller, met=met)
        if met:
            self.table.meet(record.node)
        return record

    # Asking

    async def run(self) -> None:
        """Until cancelled. Serves as well."""
        self.serve()
        alone = 0
        # A crowd that starts at once, or that lost the same peer, does not come back to it at once.
        await asyncio.sleep(FIRST_S * chance.random())
        while True:
            try:
                await self.step()
            except Exception:
                logger.exception("peers cannot be looked for")
            alone = 0 if self._neighbours else alone + 1
            await asyncio.sleep(min(LONELY_S, STEP_S * 1.5**alone) * (0.75 + chance.random() / 2))

    async def step(self) -> None:
        """Whatever there is to do now."""
        loop, now = asyncio.get_running_loop(), self._clock()
        self.table.forget_expired(now)
        self.table.hold_to(self._owner_of)
        self._neighbours = _alive(self._neighbours)
        await self._join_local()
        asked = list(self._neighbours.values())
        work = []
        if len(self._neighbours) < NEIGHBOURS:
            work += [self._join(seed, keep=True) for seed in self._to_dial(AT_ONCE)]
        elif loop.time() - self._tried_at > TRY_S:
            self._tried_at = loop.time()
            known = self.table.to_try(now, self._endpoint.connections, only_heard=True)
            if known is not None:
                work.append(self._join((known.record.node, known.record.routes), keep=False))
        if asked and (len(self.table) < ENOUGH or loop.time() - self._asked_at > REFRESH_S):
            self._asked_at = loop.time()
            work.append(self._ask(chance.choice(asked)))
        work += [self._ask(connection) for connection in self._untold()]
        await asyncio.gather(*work)
        if self.on_save is not None and loop.time() - self._saved_at > SAVE_S:
            self._saved_at = loop.time()
            await self.on_save()

    def neighbours(self) -> list[Connection]:
        """The peers that this one keeps a connection to for this."""
        return list(_alive(self._neighbours).values())

    def at_home(self) -> list[Connection]:
        """The peers of the same local network."""
        return list(_alive(self._at_home).values())

    def believe(self, told: Collection[bytes], by: Connection) -> list[PeerRecord]:
        """Records that a peer passes on in answer to a question: those that hold, whether or not there is a place for
        them."""
        teller = Teller(by.remote[0], self._trusts(by.peer))
        found = []
        for data in told:
            record = self._read(data, by)
            if record is not None and record.node != self._endpoint.address:
                found.append(record)
                self._take(record, data, teller, met=False)
        return found

    def missed(self, node: Address) -> None:
        """A peer was dialled, and did not answer. Where nobody is connected at all the fault is on this side."""
        if self._endpoint.connections:
            self.table.missed(node, self._clock())

    def _to_dial(self, count: int) -> list[Seed]:
        """Whom to join: the seeds first, as long as there is nobody, then those in the table."""
        avoided = {self._endpoint.address, *self._neighbours}
        seeds = [seed for seed in self._seeds() if seed[0] not in avoided]
        chance.shuffle(seeds)
        found = seeds[:count] if not self._neighbours else []
        while len(found) < count:
            known = self.table.to_try(self._clock(), avoided | {node for node, _ in found})
            if known is None:
                break
            found.append((known.record.node, known.record.routes))
        return found

    async def _join_local(self) -> None:
        self._at_home, now = _alive(self._at_home), asyncio.get_running_loop().time()
        absent = [seed for seed in self._local() if seed[0] not in self._at_home and seed[0] != self._endpoint.address]
        ready = [seed for seed in absent if (self._paused.get(seed[0]) or now) <= now]
        for node, routes in ready[: min(AT_ONCE, MOST_LOCAL - len(self._at_home))]:
            try:
                connection = await self._endpoint.connect_by(routes, expect=node, timeout=ANSWER_S)
            except TransportError as error:
                logger.info("%s of this local network does not answer: %s", node, error)
                self._paused.put(node, now + LOCAL_PAUSE_S)
                continue
            logger.info("%s is on this local network, at %s:%s", node, *connection.remote)
            self._at_home[node] = connection
            await self._ask(connection)

    async def _join(self, seed: Seed, *, keep: bool) -> None:
        node, routes = seed
        before = node in self._endpoint.connections
        try:
            connection = await self._endpoint.connect_by(routes, expect=node, timeout=DIAL_S)
        except TransportError as error:
            logger.debug("%s is not there: %s", node, error)
            self.missed(node)
            return
        await self._ask(connection)
        if connection.is_client:
            self.table.reached(node, self._clock())
        if keep:
            self._neighbours[node] = connection
        elif not before:
            await connection.close("nothing more to ask")

    def _untold(self) -> list[Connection]:
        if not self.record():
            return []
        return [each for each in self._linked() if self._told.get(each) != self.sequence][:AT_ONCE]

    async def _ask(self, connection: Connection) -> None:
        self._told[connection] = self.sequence
        try:
            message = ExchangePeers(self.record(), MANY if len(self.table) < ENOUGH else FEW)
            answer = await connection.request(message, reply=KnownPeers, timeout=ANSWER_S)
        except TransportError as error:
            logger.debug("%s tells of nobody: %s", connection.peer, error)
            return
        self.hear_from(connection, answer.record)
        self.believe(answer.records[:MOST_TOLD], connection)

    def _read(self, data: bytes, by: Connection) -> PeerRecord | None:
        """None for what is no record here. It is held against nobody: with another clock it may have been one."""
        try:
            return read_record(data, self._endpoint.network, self._clock(), here=self._here)
        except CodecError as error:
            logger.debug("%s: %s", by.peer, error)
            return None

    def _take(self, record: PeerRecord, data: bytes, teller: Teller, *, met: bool) -> None:
        known = Known(record, data, owner=self._owner_of(record.node), teller=teller, met=met)
        self.table.hear(known, self._clock())


def _alive(connections: Mapping[Address, Connection]) -> dict[Address, Connection]:
    return {node: each for node, each in connections.items() if not each.closed.is_set()}


def seeds_of(routes: Sequence[Route]) -> list[Seed]:
    """The peers that an operator named as WALLET@HOST:PORT (`read_relay`)."""
    return [(Address(route.relay), (Route("direct", route.host, route.port),)) for route in routes]
