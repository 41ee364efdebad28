"""The ways to and from one endpoint that are not a plain address: relays, and what relayed connections become.

`Endpoint` has one of these. It keeps the reservations, takes what relays announce, races the routes to a peer, and
turns relayed connections into direct ones.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from proofyard.protocol.carriage import NOBODY, Circuit, Counted
from proofyard.protocol.commitment import Domain
from proofyard.protocol.routes import Route
from proofyard.protocol.types import Address
from proofyard.transport.carried import Carrier, is_carried
from proofyard.transport.connection import Answer, Connection
from proofyard.transport.errors import PeerUnreachable, RequestFailed, TransportError
from proofyard.transport.frames import Body
from proofyard.transport.handshake import HANDSHAKE_SECONDS, Identity
from proofyard.transport.link import Link
from proofyard.transport.prediction import Standing, stand
from proofyard.transport.punching import Go, Meet, Met, Puncher, upgrade
from proofyard.transport.quic import OVERLAP_S
from proofyard.transport.reachability import DialBack, Observe, Observer
from proofyard.transport.relay import Coming, HangUp, Opened, Receipted, Relay, Reserve, Reserved, Through
from proofyard.transport.udp import SocketAddress

logger = logging.getLogger("proofyard.transport")

HEAD_START_S, RELAY_HEAD_START_S = 0.1, 0.4
"""Before the next route is tried beside those under way (RFC 8305), and before the first by a relay is."""

RESERVE_S = 5.0
SILENT_S, MAX_SILENT = 60.0, 256
"""How long a relay that did not answer is left alone, and how many of them are remembered."""

GONE_S = 2.0
"""A path counts as gone where no packet came for so long, in spite of the first pings. A busy machine is silent for
shorter times."""

AGAIN_PAUSE_S = 10.0
"""Between two such times: a machine that is too busy to answer has not moved."""

AGAIN, AGAIN_S = 10, 0.2
"""Looks for a peer by way of a relay, where the direct path to it is gone, and between them."""

LEAST_SIGNED = 64 << 10
"""A circuit that has carried fewer bytes is not signed for: it has only introduced its ends."""

CLOCKS_S = 3600
"""How far a relay's clock may be from this one's."""

ARRIVAL_S = 10.0
"""How long a caller that a relay has announced is waited for."""


class Home(Protocol):
    """What this needs of its endpoint."""

    host: str
    port: int
    identity: Identity
    network: Domain

    @property
    def carrier(self) -> Carrier: ...
    @property
    def relay(self) -> Relay | None: ...
    @property
    def connections(self) -> Mapping[Address, Connection]: ...
    def on(self, kind: type[Any], handler: Callable[[Connection, Any, Body], Awaitable[Answer]]) -> None: ...
    def spawn(self, work: Awaitable[None]) -> None: ...
    def connection_on(self, link: Link) -> Connection | None: ...
    def is_used(self, address: SocketAddress) -> bool: ...
    def hang_up(self, outer: Link, flow: bytes, reason: str) -> list[SocketAddress]: ...
    async def connect(
        self, host: str, port: int, *, expect: Address | None = None, timeout: float = HANDSHAKE_SECONDS
    ) -> Connection: ...
    async def certificate_at(self, host: str, port: int, timeout: float) -> bytes | None: ...
    async def dial(
        self,
        host: str,
        port: int,
        expect: Address | None,
        timeout: float,
        carried: SocketAddress | None = None,
    ) -> Connection: ...


class Ways:
    def __init__(self, home: Home) -> None:
        self._home = home
        self.stays = False
        """Whether relayed connections stay relayed."""
        self._puncher: Puncher
        self._reserved: dict[Connection, Route] = {}
        self._outer: dict[SocketAddress, Connection] = {}
        """The connections to the relays that carry to these addresses."""
        self._circuits: dict[SocketAddress, Circuit] = {}
        """What is signed for, by what stands for the other end."""
        self._payers: dict[Address, Address] = {}
        """For whose jobs peers were reached by a relay."""
        self._silent: dict[tuple[str, int], float] = {}
        self._punched: dict[Connection, Route] = {}
        """By which relay they were met."""

    def begin(self) -> None:
        """The endpoint is bound."""
        home = self._home
        self._puncher = Puncher(home.host, home.port)
        home.carrier.on_due = self._sign_for
        observer = Observer(home.certificate_at)
        home.on(Observe, observer.observe)
        home.on(DialBack, observer.dial_back)
        home.on(Coming, self._coming)
        home.on(HangUp, self._hung_up)
        home.on(Meet, self._meet)
        home.on(Go, self._puncher.go)

    # Towards others

    async def first(
        self, routes: Sequence[Route], expect: Address, timeout: float, payer: Address = NOBODY
    ) -> Connection:
        """A connection by whichever route answers first, for a job of the verifier `payer`. Raises what the last one
        failed with."""
        waiting, asked = list(routes), set[asyncio.Task[Connection]]()
        failure: BaseException = PeerUnreachable(expect, 0, "no route to it is known")
        try:
            while waiting or asked:
                if waiting:
                    asked.add(asyncio.create_task(self._by(waiting.pop(0), expect, timeout, payer)))
                done, _ = await asyncio.wait(asked, timeout=_head_start(waiting), return_when=asyncio.FIRST_COMPLETED)
                asked -= done
                for task in done:
                    error = task.exception()
                    if error is None:
                        return task.result()
                    failure = error
            raise failure
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _by(self, route: Route, expect: Address, timeout: float, payer: Address) -> Connection:
        if route.kind != "relayed":
            return await self._home.dial(route.host, route.port, expect, timeout)
        address = await self._through(route, expect, timeout, payer)
        try:
            connection = await self._home.dial(route.host, route.port, expect, timeout, carried=address)
        except BaseException:
            self._let_go(address)
            raise
        logger.info("reached %s by the relay %s", expect, route.relay)
        self._payers[expect] = payer
        self._home.spawn(self._upgrade(connection, route))
        return connection

    async def _through(self, route: Route, peer: Address, timeout: float, payer: Address) -> SocketAddress:
        """What stands for a peer that a relay carries to."""
        relay = await self._relay_at(route, timeout)
        opened = await relay.request(Through(peer, payer), reply=Opened, timeout=timeout)
        address = self._home.carrier.open(relay.link, opened.flow, incoming=False)
        if address is None:
            relay.tell(HangUp(opened.flow), reply=Opened)
            raise RequestFailed("busy", "too many connections go by relays already")
        self._outer[address] = relay
        own, about = self._home.identity.address, opened.circuit
        if about is not None and (about.caller, about.host, about.payer) == (own, peer, payer):
            self._will_sign(address, relay, about)
        return address

    async def _relay_at(self, route: Route, timeout: float) -> Connection:
        """Whoever names a relay could name a victim: one that did not answer is left alone for a time."""
        now, place = asyncio.get_running_loop().time(), (route.host, route.port)
        if self._silent.get(place, 0.0) > now:
            raise PeerUnreachable(*place, "that relay did not answer a moment ago")
        try:
            return await self._home.connect(*place, expect=Address(route.relay), timeout=timeout)
        except TransportError:
            self._silent[place] = now + SILENT_S
            if len(self._silent) > MAX_SILENT:
                del self._silent[next(iter(self._silent))]
            raise

    async def _upgrade(self, connection: Connection, route: Route, *, pause_s: float = 0.0) -> None:
        """On a direct path, if there is one; it is not doubted before `pause_s`."""
        if self.stays:
            return
        address = connection.link.address
        relay = self._outer.get(address)
        if relay is not None and await upgrade(self._puncher, connection, partial(self._stand, relay)):
            logger.info("%s is reached at %s:%s without the relay now", connection.peer, *connection.remote)
            await asyncio.sleep(OVERLAP_S)
            self._let_go(address)
            await asyncio.sleep(pause_s)
            if not connection.closed.is_set():
                self._punched[connection] = route

    def stalled(self, connection: Connection) -> None:
        """Nothing comes on a connection that something should come on. This machine may have another address, which
        relays are to know of; or the other one may, which is then met by the relay as before."""
        for relay in self._reserved:
            relay.link.ping()
        if connection in self._punched and connection.silent_s > GONE_S:
            self._home.spawn(self._meet_again(connection, self._punched.pop(connection)))

    async def _meet_again(self, connection: Connection, route: Route) -> None:
        """By the relay, with all that is under way, and from there directly."""
        link = connection.link
        try:
            payer = self._payers.get(connection.peer, NOBODY)
            address = await self._through(route, connection.peer, RESERVE_S, payer)
        except TransportError as error:
            logger.info("%s is not met again: %s", connection.peer, error)
            if not link.closed.is_set():
                self._punched[connection] = route
            return
        for _ in range(AGAIN):
            if link.address == address or link.closed.is_set() or not link.is_stalled():
                break
            link.probe([address])
            await asyncio.sleep(AGAIN_S)
        if link.address == address:
            logger.info("%s is reached by the relay %s again", connection.peer, route.relay)
            await self._upgrade(connection, route, pause_s=AGAIN_PAUSE_S)
            return
        self._let_go(address)
        if not link.closed.is_set():
            self._punched[connection] = route

    # From others

    async def reserve(self, relay: Route) -> Connection:
        connection = await self._home.connect(relay.host, relay.port, expect=Address(relay.relay))
        await connection.request(Reserve(), reply=Reserved, timeout=RESERVE_S)
        self._reserved[connection] = relay
        return connection

    def relays(self) -> list[Route]:
        return [route for connection, route in self._reserved.items() if not connection.closed.is_set()]

    async def _coming(self, connection: Connection, message: Coming, _body: Body) -> Opened:
        if connection not in self._reserved:
            raise RequestFailed("failed", "this peer has no reservation there")
        address = self._home.carrier.open(connection.link, message.flow, incoming=True)
        if address is None:
            raise RequestFailed("busy", "too many connections go by relays already")
        self._outer[address] = connection
        about = message.circuit
        if about is not None and (about.caller, about.host) == (message.peer, self._home.identity.address):
            self._will_sign(address, connection, about)
        self._home.spawn(self._forget_unless_used(address))
        return Opened(message.flow)

    async def _forget_unless_used(self, address: SocketAddress) -> None:
        """A caller that a relay has announced has to come."""
        await asyncio.sleep(ARRIVAL_S)
        if not self._home.is_used(address):
            self._let_go(address)

    async def _hung_up(self, connection: Connection, message: HangUp, body: Body) -> Opened:
        if message.by_relay:
            known = self._home.carrier.address_of(connection.link, message.flow)
            if known is not None:
                self._sign_for(known)
            for address in self._home.hang_up(connection.link, message.flow, message.reason):
                self._outer.pop(address, None)
                self._circuits.pop(address, None)
        elif self._home.relay is not None:
            return await self._home.relay.hang_up(connection, message, body)
        return Opened(message.flow)

    async def _meet(self, connection: Connection, message: Meet, _body: Body) -> Met:
        if self.stays:
            raise RequestFailed("failed", "this peer stays behind its relays")
        return await self._puncher.meet(
            connection, message, partial(self._stand, self._outer.get(connection.link.address))
        )

    async def _stand(self, relay: Connection | None) -> Standing:
        """How this peer can be met by who is at the other end of what this relay carries."""
        if relay is None:
            return Standing()
        dialled = [each for each in self._home.connections.values() if each.is_client and each.way == "direct"]
        return await stand(relay, dialled, self._home.port)

    # What relays carry

    def _will_sign(self, address: SocketAddress, relay: Connection, about: Circuit) -> None:
        """Sign for what goes by this address: for the relay that carries it, since a moment ago."""
        if about.relay == relay.peer and abs(about.begun - time.time()) < CLOCKS_S:
            self._circuits[address] = about

    def _sign_for(self, address: SocketAddress) -> None:
        """Tell a relay what it has carried until now."""
        about, relay = self._circuits.get(address), self._outer.get(address)
        sent, received = self._home.carrier.counted(address)
        if about is None or relay is None or relay.closed.is_set() or sent + received < LEAST_SIGNED:
            return
        identity, flow = self._home.identity, self._home.carrier.tag_at(address)
        digest = about.digest(self._home.network, identity.address, sent, received)
        relay.tell(Receipted(flow, Counted(sent, received, identity.sign_digest(digest))), reply=Opened)

    # Ends

    def closed(self, link: Link) -> None:
        """A link has ended: let go of what belongs to it."""
        connection = self._home.connection_on(link)
        if connection is not None:
            self._puncher.forget(connection)
            self._reserved.pop(connection, None)
            self._punched.pop(connection, None)
            if self._home.connections.get(connection.peer) is connection:
                self._payers.pop(connection.peer, None)
            self._outer = {address: each for address, each in self._outer.items() if each is not connection}
            self._circuits = {address: each for address, each in self._circuits.items() if address in self._outer}
        for address in {link.remote, link.address}:
            if is_carried(address[0]):
                self._let_go(address)

    def _let_go(self, address: SocketAddress) -> None:
        """Nothing goes by this address any more."""
        self._sign_for(address)
        self._circuits.pop(address, None)
        outer = self._outer.pop(address, None)
        flow = self._home.carrier.release(address)
        if flow is not None and outer is not None and not outer.closed.is_set():
            outer.tell(HangUp(flow[1]), reply=Opened)


def _head_start(waiting: Sequence[Route]) -> float | None:
    if not waiting:
        return None
    return RELAY_HEAD_START_S if waiting[0].kind == "relayed" else HEAD_START_S
