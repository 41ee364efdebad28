"""One UDP socket for all connections of a process, in both directions.

A home node's outgoing connections and a server's incoming ones share a port, so a hole punched for one serves the
other. `Switchboard` knows the datagrams, `Endpoint` the wallets. A peer met before is recognised by the session that
it resumes (`resumption`); any other signs.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, TypeVar

import msgspec
from aioquic.tls import SessionTicket

from proofyard.protocol.carriage import NOBODY
from proofyard.protocol.commitment import Domain
from proofyard.protocol.routes import Route, best_first
from proofyard.protocol.types import Address
from proofyard.transport import compiled
from proofyard.transport.carried import Carrier, is_carried
from proofyard.transport.connection import Answer, Connection, Handlers
from proofyard.transport.errors import (
    ConnectionLost,
    DeadlineExceeded,
    HandshakeRejected,
    PeerUnreachable,
    ProtocolViolation,
    TransportError,
)
from proofyard.transport.frames import Body
from proofyard.transport.guard import BAN_SCORE, VIOLATION_POINTS, Guard, host_key
from proofyard.transport.handshake import (
    HANDSHAKE_SECONDS,
    Admission,
    Identity,
    fingerprint,
    greet,
    receive_greeting,
)
from proofyard.transport.heap import give_back
from proofyard.transport.link import Link
from proofyard.transport.places import Caller, Places
from proofyard.transport.quic import KEEP_ALIVE, Credentials
from proofyard.transport.reach import ANYWHERE, ANYWHERE_IPV4, split_endpoint
from proofyard.transport.reachability import Reachability, examine
from proofyard.transport.receipts import Receipts
from proofyard.transport.relay import Receipted, Relay, RelayLimits, Reserve, Through
from proofyard.transport.resumption import Ticket, Tickets
from proofyard.transport.switchboard import REFUSED, Switchboard
from proofyard.transport.udp import Datagram, SocketAddress
from proofyard.transport.ways import Ways

logger = logging.getLogger("proofyard.transport")

M = TypeVar("M", bound=msgspec.Struct)

MAX_CONNECTIONS_OF_WALLET = 8
"""More than one is rarely of use; the oldest is closed for the ninth."""

MAX_PORT = 65_535

EARLY_SECONDS = 0.01
"""A client that resumes a session waits so long for a request to send with the first packets."""

MAX_STRANGERS = 256
"""Incoming connections of wallets for which nothing speaks: no stake, no open job. For one more another one ends."""

MAX_VOUCHED = 4096
"""Incoming connections of those for which something does; further ones count as strangers."""

OWN_WALLET = "this wallet is already this peer's own"

GIVE_BACK_BYTES, GIVE_BACK_S = 4 << 20, (2.0, 20.0)
"""After connections for which so much was kept in all have ended, and so much later, free memory goes to the system: at
once, and again once Python has found what lies in rings."""

LOOK_S = 1.0
"""Between two looks at whether a path is gone."""

MAX_KNOCKS = 512
MAX_ADDRESSES = 4
"""Addresses of a name that are tried."""

HEAD_START = 0.25
"""Seconds that one of them has before the next is tried as well (RFC 8305 section 5)."""


class Endpoint:
    """A peer's presence on the network.

    `identity` signs for the wallet, `network` is the Registry's EIP-712 domain, and `admit` may refuse wallets with a
    reason. `host` is where others may connect to; whoever is dialled is reached from there or from another socket.
    At most `strangers` incoming connections are kept of wallets for which nobody vouched (`Connection.vouch`).
    `qlog` is a folder for a trace of each connection. Use as `async with Endpoint(...) as endpoint`;
    `endpoint.port` is then the bound UDP port.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        network: Domain,
        host: str = "127.0.0.1",
        port: int = 0,
        admit: Admission | None = None,
        strangers: int = MAX_STRANGERS,
        qlog: Path | None = None,
    ) -> None:
        self.identity = identity
        self.network = network
        self.host = host
        self.port = port
        self.guard = Guard()
        self.on_connected: list[Callable[[Connection], object]] = []
        """Called with every connection once it is authenticated, in either direction."""
        self.on_disconnected: list[Callable[[Connection], object]] = []
        self.payer: Callable[[], Address] = lambda: NOBODY
        """The verifier for whose jobs this peer asks relays to carry, where nobody says."""
        self._admit = admit
        self._handlers = Handlers()
        self._credentials = Credentials.fresh()
        self._fingerprint = fingerprint(self._credentials.certificate)
        self._board = Switchboard(
            self._credentials,
            on_incoming=self._incoming,
            on_closed=self._closed,
            is_banned=lambda host: self.guard.ban_reason(host, self._now()) is not None,
            redeem=self._redeem,
            on_ticket=self._ticket_made,
            on_abuse=self._abused,
            on_misconduct=lambda link: self._hold_against(link, VIOLATION_POINTS, "what it sends is no valid QUIC"),
            relay=self._pass_on,
            stray=self._answer_stray,
            qlog=qlog,
        )
        self._strangers: Places[Link] = Places(strangers, of_subnet=strangers, of_host=strangers, patience_s=0.0)
        self._vouched: set[Link] = set()
        self._tickets = Tickets()
        self._redeemed: dict[Link, Address] = {}
        self._unclaimed: dict[Link, SessionTicket] = {}
        self._resuming: dict[SocketAddress, Connection] = {}
        self._open: dict[Link, Connection | None] = {}
        self._connections: dict[Address, Connection] = {}
        self._dialling: dict[tuple[str, int, Address | None], asyncio.Task[Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = 0
        self._ways = Ways(self)
        self._relay: Relay | None = None
        self._knocks: deque[SocketAddress] = deque(maxlen=MAX_KNOCKS)
        """Where connections came in from of late."""

    async def __aenter__(self) -> Self:
        self.host, self.port = self._board.bind(self.host, self.port)
        self._ways.begin()
        self._spawn(self._keep_alive())
        self._spawn(asyncio.to_thread(compiled.load))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, drain_seconds: float = 0.0) -> None:
        """Close every connection and the socket. Idempotent.

        With `drain_seconds` requests under way may finish for so long, while new ones are refused as `busy`.
        """
        self._handlers.refuse("this peer shuts down")
        serving = {task for connection in self._open.values() if connection is not None for task in connection.tasks}
        if serving and drain_seconds > 0:
            await asyncio.wait(serving, timeout=drain_seconds)
        for link, connection in list(self._open.items()):
            if connection is not None:
                await connection.close("the peer shuts down")
            link.close(0, "the peer shuts down")
        tasks = [*self._tasks, *self._dialling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._board.close()

    def limit_upload(self, bytes_s: float) -> None:
        """From now on send at most so many bytes a second, to all peers together; 0 for no limit."""
        self._board.limit(bytes_s)

    @property
    def address(self) -> Address:
        """This peer's wallet."""
        return self.identity.address

    @property
    def connections(self) -> Mapping[Address, Connection]:
        """The live connections, by the peer's wallet; of several to one wallet the newest."""
        return MappingProxyType(self._connections)

    def on(self, kind: type[M], handler: Callable[[Connection, M, Body], Awaitable[Answer]]) -> None:
        """Serve requests of struct type `kind` on every connection.

        The handler returns the answer's struct, or the struct and a body. It raises `RequestFailed` to refuse.
        """
        self._handlers.add(kind, handler)

    async def connect(
        self,
        host: str,
        port: int,
        *,
        expect: Address | None = None,
        timeout: float = HANDSHAKE_SECONDS,
        early: bool = False,
    ) -> Connection:
        """A connection to the peer at `host`:`port`, which must be the wallet `expect` if one is given.

        A live connection to that wallet, in whichever direction it was made, is used again. Raises `PeerUnreachable`,
        `HandshakeRejected` or `WrongPeer`.

        With `early` a peer met before is not waited for: its connection is there at once, idempotent requests go out
        with the first packets, others as soon as it has answered. If it does not know us any more, they fail with
        `ConnectionLost`, and the next call signs again.
        """
        if expect is not None and expect in self._connections:
            return self._connections[expect]
        if early:
            address, *_ = await self._resolve(host, port)
            resuming = self._resuming.get(address) or self._resume(address, expect, timeout)
            if resuming is not None and expect in (None, resuming.peer):
                return resuming
        key = (host, port, expect)
        dial = self._dialling.get(key)
        if dial is None:
            dial = self._dialling[key] = asyncio.create_task(self.dial(host, port, expect, timeout))
            dial.add_done_callback(lambda task: self._dialled(key, task))
        # Several callers may wait for the same dial, so one that gives up must not end it.
        return await asyncio.shield(dial)

    async def connect_to(self, endpoint: str, *, expect: Address) -> Connection:
        """The same with a peer whose `endpoint` is as the Registry shows it, which nobody has checked."""
        try:
            host, port = split_endpoint(endpoint)
        except ValueError:
            raise PeerUnreachable(repr(endpoint[:100]), 0, "its endpoint is not HOST:PORT") from None
        return await self.connect(host, port, expect=expect)

    async def connect_by(
        self,
        routes: Iterable[Route],
        *,
        expect: Address,
        timeout: float = HANDSHAKE_SECONDS,
        payer: Address | None = None,
    ) -> Connection:
        """The same by the first of several routes that answers, the better ones with a head start. One by a relay goes
        on directly as soon as that works; `payer` is the verifier for whose job it is, the usual one where nobody says.
        Raises as `connect`, for the route that failed last."""
        if expect in self._connections:
            return self._connections[expect]
        key = ("", 0, expect)
        dial = self._dialling.get(key)
        if dial is None:
            dial = self._dialling[key] = asyncio.create_task(
                self._ways.first(best_first(routes), expect, timeout, payer or self.payer())
            )
            dial.add_done_callback(lambda task: self._dialled(key, task))
        return await asyncio.shield(dial)

    async def reserve(self, relay: Route) -> Connection:
        """Be reachable through a relay for as long as the connection that this returns lasts. Raises `TransportError`,
        `RequestFailed` where the relay has no place."""
        return await self._ways.reserve(relay)

    def stay_relayed(self) -> None:
        """Tell no peer behind a relay where this one is: what goes by a relay stays there."""
        self._ways.stays = True

    def relays(self) -> list[Route]:
        """The relays that this peer can be reached through now."""
        return self._ways.relays()

    def become_relay(self, limits: RelayLimits | None = None, receipts: Receipts | None = None) -> Relay:
        """Carry packets for others from now on; `receipts` keeps what they sign for it."""
        self._relay = Relay(self.address, self.network, limits, receipts)
        self.on(Receipted, self._relay.receipted)
        self.on(Reserve, self._relay.reserve)
        self.on(Through, self._relay.through)
        self.on_disconnected.append(self._relay.left)
        return self._relay

    async def examine(self, *, published: int = 0) -> Reachability:
        """Have the peers that this one has dialled directly say how others reach it (`proofyard.transport.
        reachability`). `published`: the port that a router was told to map."""
        peers = [each for each in self._connections.values() if each.is_client and each.way != "relayed"]
        self._knocks.clear()
        return await examine(
            peers,
            host=self.host,
            port=self.port,
            certificate=self._fingerprint,
            has_knocked=lambda host, port: any(each[0] == host and each[1] != port for each in self._knocks),
            published=published,
        )

    async def runs_elsewhere(self, host: str, port: int, *, timeout: float) -> bool:
        """Whether another process answers at `host`:`port` with this peer's own wallet."""
        try:
            await self.connect(host, port, expect=self.address, timeout=timeout)
        except HandshakeRejected as error:
            return error.reason == OWN_WALLET
        except TransportError:
            pass
        return False

    def penalise(self, peer: Address, points: float, reason: str) -> None:
        """Hold something against a peer; at 100 points it is banned for a time and disconnected."""
        if self.guard.penalise(peer, points, reason, self._now()):
            for link, _ in self._links_of(peer):
                link.close(REFUSED, f"banned: {reason}")

    # Connecting

    async def dial(
        self,
        host: str,
        port: int,
        expect: Address | None,
        timeout: float,
        carried: SocketAddress | None = None,
    ) -> Connection:
        """A new connection, whatever there is; for the transport's own parts. With `carried` by the relay at `host`."""
        links: dict[Link, Ticket | None] = {}
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port) if carried is None else [carried]
                link = await self._first_secured(addresses, expect, links)
                if link is None:
                    raise PeerUnreachable(host, port, next(iter(links)).reason)
                ticket = links[link]
                peer = ticket.wallet if ticket and link.resumed else await self._greet(link, f"{host}:{port}", expect)
                reason = self._refusal(peer)
                if reason is not None:
                    raise HandshakeRejected(peer, reason)
        except (TimeoutError, DeadlineExceeded):
            _close_all(links, "handshake timed out")
            raise PeerUnreachable(host, port, f"no answer within {timeout:g} s") from None
        except ConnectionLost as error:
            raise PeerUnreachable(host, port, error.reason) from None
        except BaseException as error:
            _close_all(links, str(error) if isinstance(error, TransportError) else "handshake failed")
            raise
        return self._admitted(link, Connection(link, peer, True, self._handlers, self.penalise))

    async def _first_secured(
        self, addresses: list[SocketAddress], expect: Address | None, links: dict[Link, Ticket | None]
    ) -> Link | None:
        """The link on which somebody answers first, each address with a head start over the next; None where all have
        ended. Every link that was begun is in `links`, with what it resumes; those that lose are closed."""
        waiting = list(addresses)
        asked: dict[asyncio.Task[bool], Link] = {}
        try:
            while waiting or asked:
                if waiting:
                    address = waiting.pop(0)
                    ticket = self._tickets.take(address, expect)
                    link = self._board.dial(address, ticket.session if ticket is not None else None)
                    self._open[link], links[link] = None, ticket
                    asked[asyncio.ensure_future(link.secured.wait())] = link
                head_start = HEAD_START if waiting else None
                done, _ = await asyncio.wait(asked, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    link = asked.pop(task)
                    if not link.closed.is_set():
                        _close_all([each for each in links if each is not link], "another address answered")
                        return link
            return None
        finally:
            for task in asked:
                task.cancel()

    async def _greet(self, link: Link, remote: str, expect: Address | None) -> Address:
        certificate = link.quic.peer_certificate()
        if certificate is None:
            raise HandshakeRejected(remote, "it showed no certificate")
        if fingerprint(certificate) == self._fingerprint:
            raise HandshakeRejected(remote, "that is this peer itself")
        stream = await link.open_stream()
        return await greet(stream, self.identity, self.network, fingerprint(certificate), remote, expect)

    def _resume(self, address: SocketAddress, expect: Address | None, timeout: float) -> Connection | None:
        """A connection that is not settled yet, if there is a ticket for `address`."""
        ticket = self._tickets.take(address, expect)
        if ticket is None:
            return None
        link = self._board.dial(address, ticket.session, wait_seconds=EARLY_SECONDS)
        self._open[link] = None
        connection = Connection(link, ticket.wallet, True, self._handlers, self.penalise, settled=False)
        self._resuming[address] = connection
        self._spawn(self._settle(link, connection, timeout))
        return connection

    async def _settle(self, link: Link, connection: Connection, timeout: float) -> None:
        """Wait until the peer of a resumed connection has shown that it is there now; close the link if it does not."""
        try:
            async with asyncio.timeout(timeout):
                await link.secured.wait()
            reason = self._refusal(connection.peer)
            if reason is None and connection.is_client and not link.early_accepted:
                reason = "the peer does not remember the session"
            if reason is None:
                self._admitted(link, connection)
            else:
                link.close(REFUSED, reason)
        except (TimeoutError, ConnectionLost):
            link.close(REFUSED, "handshake timed out")
        finally:
            self._resuming = {key: each for key, each in self._resuming.items() if each is not connection}
            connection.settled.set()

    def _dialled(self, key: tuple[str, int, Address | None], task: asyncio.Task[Connection]) -> None:
        self._dialling.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it; nobody may have

    async def _resolve(self, host: str, port: int) -> list[SocketAddress]:
        """Where `host` can be, the likeliest first, as far as this machine reaches there."""
        if not 0 < port <= MAX_PORT:
            raise PeerUnreachable(host, port, "that is no UDP port")
        try:
            found = [_socket_address(host, port)]
        except ValueError:
            try:
                entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            except (OSError, OverflowError, UnicodeError) as error:
                raise PeerUnreachable(host, port, f"its name cannot be resolved: {error}") from None
            found = list(dict.fromkeys(_socket_address(str(entry[4][0]), port) for entry in entries))
        reached = [each for each in found if not is_carried(each[0]) and self._board.prepare(each)]
        if not reached:
            raise PeerUnreachable(host, port, "this machine has no network of that kind")
        return reached[:MAX_ADDRESSES]

    async def _welcome(self, link: Link) -> None:
        remote_host, remote_port = link.remote[0], link.remote[1]
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await link.recognised.wait()
                peer = self._redeemed.pop(link, None)
                if peer is None or not link.quic.recognised():
                    stream = await link.next_stream()
                    peer = await receive_greeting(stream, self.identity, self.network, self._fingerprint, self._refusal)
                    self._admitted(link, Connection(link, peer, False, self._handlers, self.penalise))
                else:
                    connection = Connection(link, peer, False, self._handlers, self.penalise, settled=False)
                    connection.start()
                    await self._settle(link, connection, HANDSHAKE_SECONDS)
        except (TransportError, TimeoutError) as error:
            logger.info("no handshake with %s:%s: %s", remote_host, remote_port, error or "timed out")
            if isinstance(error, ProtocolViolation):
                self.guard.penalise(host_key(remote_host, remote_port), VIOLATION_POINTS, str(error), self._now())
            if isinstance(error, HandshakeRejected):
                # The refusal is on its way on the stream; the client closes once it has read it.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(link.closed.wait(), 1.0)
            link.close(REFUSED, str(error) or "handshake timed out")

    def _refusal(self, peer: Address) -> str | None:
        if peer == self.address:
            return OWN_WALLET
        banned = self.guard.ban_reason(peer, self._now())
        return banned or (self._admit(peer) if self._admit is not None else None)

    def _redeem(self, link: Link, identity: bytes) -> SessionTicket | None:
        ticket = self._tickets.redeem(identity)
        if ticket is None or self._refusal(ticket.wallet) is not None:
            return None  # it has to sign; whoever is not welcome is then told why
        self._redeemed[link] = ticket.wallet
        return ticket.session

    def _ticket_made(self, link: Link, session: SessionTicket) -> None:
        self._unclaimed[link] = session
        self._claim_ticket(link)

    def _claim_ticket(self, link: Link) -> None:
        """A ticket comes with TLS, but is worth something only for a wallet that was admitted."""
        connection = self._open.get(link)
        session = self._unclaimed.pop(link, None) if connection is not None else None
        if connection is not None and session is not None:
            ticket = Ticket(session, connection.peer)
            if connection.is_client and not is_carried(link.remote[0]):
                self._tickets.keep(link.remote, ticket)
            elif not connection.is_client:
                self._tickets.give(ticket)

    def _admitted(self, link: Link, connection: Connection) -> Connection:
        peer = connection.peer
        if link.closed.is_set():
            raise ConnectionLost(peer, link.reason)
        self._board.greeted(link)
        self._open[link] = connection
        self._connections[peer] = connection
        self._claim_ticket(link)
        link.account.belongs_to(peer)
        if not connection.is_client:
            self._seat(link, connection)
        for oldest, _ in self._links_of(peer)[:-MAX_CONNECTIONS_OF_WALLET]:
            oldest.close(REFUSED, f"more than {MAX_CONNECTIONS_OF_WALLET} connections of one wallet")
        connection.start()
        logger.info("connected with %s at %s:%s", peer, *connection.remote)
        for callback in self.on_connected:
            callback(connection)
        return connection

    def _seat(self, link: Link, connection: Connection) -> None:
        """An incoming connection is a stranger's until somebody vouches for it."""
        caller, now = Caller.at(link.remote[0], link.remote[1]), self._now()
        if self._strangers.is_full(caller):
            other = self._strangers.to_give_way(caller, now)
            if other is not None:
                other.close(REFUSED, "more peers without stake or an open job than there are places for; come again")
        self._strangers.take(link, caller, now)
        connection.on_vouched = lambda: self._vouch(link)

    def _vouch(self, link: Link) -> None:
        if link in self._strangers and len(self._vouched) < MAX_VOUCHED:
            self._strangers.leave(link)
            self._vouched.add(link)

    def _abused(self, link: Link, reason: str) -> None:
        """It broke a bound of QUIC's that no correct peer comes near."""
        self._hold_against(link, BAN_SCORE, reason)

    def _hold_against(self, link: Link, points: float, reason: str) -> None:
        """Against its wallet or, where its address is proved, its host."""
        connection = self._open.get(link)
        if connection is not None:
            self.penalise(connection.peer, points, reason)
        elif link.quic.address_proved():
            self.guard.penalise(host_key(link.remote[0], link.remote[1]), points, reason, self._now())

    def connection_on(self, link: Link) -> Connection | None:
        """The connection that a link belongs to; for the transport's own parts."""
        return self._open.get(link)

    def is_used(self, address: SocketAddress) -> bool:
        """Whether some link began at `address`, or is there now."""
        return any(address in (link.remote, link.address) for link in self._open)

    def hang_up(self, outer: Link, flow: bytes, reason: str) -> list[SocketAddress]:
        """A relay carries `flow` no more."""
        return self._board.hang_up(outer, flow, reason)

    @property
    def carrier(self) -> Carrier:
        """What relays carry for this peer; for the transport's own parts."""
        return self._board.carrier

    @property
    def relay(self) -> Relay | None:
        """What this peer carries for others."""
        return self._relay

    def _pass_on(self, tag: bytes, datagram: bytes, address: SocketAddress) -> Datagram | None:
        return None if self._relay is None else self._relay.pass_on(tag, datagram, address)

    def _answer_stray(self, datagram: bytes, address: SocketAddress) -> Datagram | None:
        return None if self._relay is None else self._relay.binding(datagram, address)

    def spawn(self, work: Awaitable[None]) -> None:
        """Do something that ends with this endpoint."""
        self._spawn(work)

    async def certificate_at(self, host: str, port: int, timeout: float) -> bytes | None:
        """The fingerprint of what answers there, asked from a socket that never sent anything; None: nobody."""
        board = Switchboard(
            self._credentials,
            on_incoming=lambda link: link.close(REFUSED, "nobody is expected here"),
            on_closed=lambda _: None,
            is_banned=lambda _: True,
            redeem=lambda *_: None,
            on_ticket=lambda *_: None,
            on_abuse=lambda *_: None,
            on_misconduct=lambda _: None,
            relay=lambda *_: None,
        )
        board.bind(ANYWHERE if ":" in host else ANYWHERE_IPV4, 0)
        link: Link | None = None
        try:
            async with asyncio.timeout(timeout):
                link = board.dial(_socket_address(host, port))
                await link.secured.wait()
            found = link.quic.peer_certificate()
            return None if found is None or link.closed.is_set() else fingerprint(found)
        except TimeoutError:
            return None
        finally:
            if link is not None:
                link.close(REFUSED, "that was all")
            board.close()

    def _incoming(self, link: Link) -> None:
        self._open[link] = None
        self._knocks.append(link.remote)
        self._spawn(self._welcome(link))

    def _closed(self, link: Link) -> None:
        self._let_go(link.kept)
        self._ways.closed(link)
        connection = self._open.pop(link, None)
        self._redeemed.pop(link, None)
        self._unclaimed.pop(link, None)
        self._strangers.leave(link)
        self._vouched.discard(link)
        if connection is None:
            return
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            others = self._links_of(connection.peer)
            if others:
                self._connections[connection.peer] = others[-1][1]
        logger.info("disconnected from %s: %s", connection.peer, link.reason)
        for callback in self.on_disconnected:
            callback(connection)

    def _let_go(self, kept: int) -> None:
        """So many bytes were kept for a connection that has ended. After many the system gets them back."""
        self._freed += kept
        if self._freed > GIVE_BACK_BYTES:
            self._freed = 0
            for seconds in GIVE_BACK_S:
                asyncio.get_running_loop().call_later(seconds, self._give_back)

    def _give_back(self) -> None:
        if self._tasks:
            self._spawn(asyncio.to_thread(give_back))

    def _links_of(self, peer: Address) -> list[tuple[Link, Connection]]:
        """The links of an authenticated wallet, oldest first."""
        return [(link, each) for link, each in self._open.items() if each is not None and each.peer == peer]

    # Housekeeping

    async def _keep_alive(self) -> None:
        """Ping whom this peer has dialled and does not hear, and at once who may no longer be reached, or reach us: a
        router that gives this machine another address tells nobody."""
        while True:
            if any(link.is_busy() for link in self._open) or await self._is_stirred(self._next_ping()):
                await asyncio.sleep(LOOK_S)
            now = self._now()
            for link, connection in list(self._open.items()):
                stalled = link.is_stalled()
                if connection is not None and (stalled or (connection.is_client and link.ping_at <= now + LOOK_S)):
                    link.ping()
                if connection is not None and stalled:
                    self._ways.stalled(connection)

    def _next_ping(self) -> float:
        """When the next of them needs one, by the loop's clock, if none of them is heard."""
        dialled = [
            link.ping_at for link, connection in self._open.items() if connection is not None and connection.is_client
        ]
        return min(dialled, default=self._now() + KEEP_ALIVE)

    async def _is_stirred(self, until: float) -> bool:
        """Whether there is a request before `until`, at once if so: an idle peer is woken by nothing else."""
        self._board.stirred.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await self._board.stirred.wait()
        return False

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _socket_address(host: str, port: int) -> SocketAddress:
    """An IP address as sockets take it. Raises `ValueError` for what is a name."""
    version = ipaddress.ip_address(host).version
    return (host, port) if version == 4 else (host, port, 0, 0)


def _close_all(links: Iterable[Link], reason: str) -> None:
    for link in links:
        link.close(REFUSED, reason)
