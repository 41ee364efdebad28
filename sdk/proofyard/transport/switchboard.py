"""Which connection a datagram belongs to, and which datagrams may open a new one.

Connections are found by connection ID, so they survive a peer's change of address (a NAT that rebinds, a laptop that
moves), and outgoing and incoming ones share the socket. A crowd of newcomers, or of half-open connections, first makes
newcomers prove their address with a Retry packet (RFC 9000 section 8.1.2), which costs us no memory; then they get the
places of those that have most (`places`).
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from aioquic.quic.logger import QuicFileLogger
from aioquic.quic.packet import QuicProtocolVersion, encode_quic_retry, encode_quic_version_negotiation
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import SessionTicket

from proofyard.transport.carried import Carrier, is_carried, tag_of
from proofyard.transport.guard import Allowance, host_key
from proofyard.transport.link import TURN_S, Link
from proofyard.transport.memory import Memory
from proofyard.transport.places import Caller, Places
from proofyard.transport.quic import MAX_DATAGRAM, Credentials, LongHeader, PeerQuic, configuration
from proofyard.transport.sockets import Sockets
from proofyard.transport.udp import Datagram, SocketAddress

CONNECTION_ID_BYTES = 8
MIN_INITIAL = 1200

MAX_GREETINGS = 256
"""Connections at a time that have not proved a wallet yet; more are not answered."""

RETRY_ABOVE = 64
"""So many of them, and newcomers have to show that they receive at the address they send from."""

NEWCOMERS_PER_S, NEWCOMERS_AT_ONCE = 50.0, 64.0
"""Connections that are begun for whoever has not shown that: each costs a millisecond, and senders can be made up."""

MAX_GREETINGS_OF_SUBNET = 128
MAX_GREETINGS_OF_HOST = 32

GREETING_PATIENCE = 2.0
"""Seconds that a greeting has for itself when places are short; one takes three round trips and two signatures."""

KNOWN_HOSTS = 4096
"""Hosts that are remembered to have had somebody with a wallet; whoever was silent longest is forgotten first."""

REFUSED = 0x11
"""QUIC application error code: the handshake was refused, or there is no place for the connection."""

_VERSIONS: list[int] = [QuicProtocolVersion.VERSION_1]


class Switchboard:
    """Owns the socket and all links on it. `on_incoming` gets every new link of a peer, `on_closed` every end.

    `redeem` gets the link and the ticket that a client resumes with, and says which session that was; `on_ticket` gets
    every ticket for a link's session, on both sides. `on_abuse` is told of a peer that broke a bound, `on_misconduct`
    of one whose packets QUIC refused; `relay` says where a datagram with a tag that is no flow's of ours goes on to,
    `stray` what one is answered with that belongs to no connection and opens none.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        on_incoming: Callable[[Link], None],
        on_closed: Callable[[Link], None],
        is_banned: Callable[[str], bool],
        redeem: Callable[[Link, bytes], SessionTicket | None],
        on_ticket: Callable[[Link, SessionTicket], None],
        on_abuse: Callable[[Link, str], None],
        on_misconduct: Callable[[Link], None],
        relay: Callable[[bytes, bytes, SocketAddress], Datagram | None],
        stray: Callable[[bytes, SocketAddress], Datagram | None] = lambda *_: None,
        qlog: Path | None = None,
    ) -> None:
        self._credentials = credentials
        self._on_incoming = on_incoming
        self._on_closed = on_closed
        self._is_banned = is_banned
        self._redeem = redeem
        self._on_ticket = on_ticket
        self._on_abuse = on_abuse
        self._on_misconduct = on_misconduct
        self._relay = relay
        self._stray = stray
        self.carrier = Carrier(_now)
        self.memory = Memory()
        self.stirred = asyncio.Event()
        """Set when a link that was idle gets a stream; cleared by whoever waits for it."""
        self._logger = None if qlog is None else QuicFileLogger(str(qlog))
        self._links: dict[bytes, Link] = {}
        self._greeting: Places[Link] = Places(
            MAX_GREETINGS,
            of_subnet=MAX_GREETINGS_OF_SUBNET,
            of_host=MAX_GREETINGS_OF_HOST,
            patience_s=GREETING_PATIENCE,
        )
        self._known: OrderedDict[str, None] = OrderedDict()
        self._retry = QuicRetryTokenHandler()
        self._unproved = Allowance(NEWCOMERS_PER_S, NEWCOMERS_AT_ONCE)
        self._sockets = Sockets(self.receive)

    def bind(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the IP address and the UDP port. Raises `EndpointUnavailable`."""
        return self._sockets.bind(host, port)

    def limit(self, bytes_s: float) -> None:
        """Send at most so many bytes a second in all; 0 for no limit."""
        self._sockets.shaper.bytes_s = bytes_s

    def close(self) -> None:
        """Let go of the sockets; links must be closed before."""
        self._sockets.close()

    def prepare(self, address: SocketAddress) -> bool:
        """Have a socket that reaches `address`; False where this machine has none of its family."""
        if is_carried(address[0]):
            return self.carrier.knows(address)
        return self._sockets.prepare(address)

    def dial(self, address: SocketAddress, ticket: SessionTicket | None = None, *, wait_seconds: float = 0.0) -> Link:
        """A new outgoing link, connecting; with a `ticket`, what is sent within `wait_seconds` goes with the first
        packets."""
        quic = PeerQuic(
            configuration=configuration(None, self._logger, ticket),
            session_ticket_handler=lambda session: self._on_ticket(link, session),
        )
        link = Link(self, quic, address)
        self._links[quic.host_cid] = link
        link.connect(wait_seconds=wait_seconds)
        return link

    def greeted(self, link: Link) -> None:
        """This link's peer has proved its wallet, and no longer counts as a stranger."""
        if link in self._greeting:
            host = host_key(link.remote[0], link.remote[1])
            self._known[host] = None
            self._known.move_to_end(host)
            if len(self._known) > KNOWN_HOSTS:
                self._known.popitem(last=False)
        self._greeting.leave(link)

    def receive(self, batch: list[Datagram], newcomers: bool = True) -> None:
        """Datagrams from a socket, in order of arrival; `newcomers` may open connections with them."""
        by_link: dict[Link, list[Datagram]] = {}
        onward: list[Datagram] = []
        # Most go where the one before went.
        place: SocketAddress | None = None
        cid, arrived = b"", list[Datagram]()
        for datagram in batch:
            data, address = datagram
            if address is place and data[1 : 1 + CONNECTION_ID_BYTES] == cid and _is_short(data):
                arrived.append(datagram)
                continue
            place = None
            may_open, tag = newcomers, tag_of(data)
            if tag is not None:
                carried = self.carrier.unwrap(tag, data, address)
                if carried is None:
                    passed_on = self._relay(tag, data, address)
                    onward += [] if passed_on is None else [passed_on]
                    continue
                datagram, may_open = carried
            elif is_carried(address[0]):
                continue
            link = self._find(*datagram, may_open)
            if link is not None:
                arrived = by_link.setdefault(link, [])
                arrived.append(datagram)
                if tag is None and _is_short(data):
                    place, cid = address, data[1 : 1 + CONNECTION_ID_BYTES]
            elif newcomers and tag is None:
                told = self._stray(data, address)
                onward += [] if told is None else [told]
        if onward:
            self._sockets.send(onward)
        for link, arrived in by_link.items():
            link.receive(arrived, TURN_S / len(by_link))

    def _find(self, data: bytes, address: SocketAddress, newcomers: bool) -> Link | None:
        if len(data) > MAX_DATAGRAM:
            return None
        if data and not data[0] & 0x80:
            return self._links.get(data[1 : 1 + CONNECTION_ID_BYTES])
        header = LongHeader.parse(data)
        if header is None:
            return None
        link = self._links.get(header.destination)
        if link is not None or not newcomers or len(data) < MIN_INITIAL or header.version == 0:
            return link
        if header.version != QuicProtocolVersion.VERSION_1:
            self.send([(encode_quic_version_negotiation(header.destination, header.source, _VERSIONS), address)])
            return None
        return self._accept(header, address) if header.is_initial else None

    def _accept(self, header: LongHeader, address: SocketAddress) -> Link | None:
        caller = Caller.at(address[0], address[1], known=host_key(address[0], address[1]) in self._known)
        if self._is_banned(caller.host):
            return None
        full = self._greeting.is_full(caller)
        original, retried = header.destination, None
        if header.token:
            try:
                original = self._retry.validate_token(
                    address=address, destination_cid=header.destination, token=header.token, now=_now()
                )
            except ValueError:
                return None
            retried = header.destination
        elif full or len(self._greeting) >= RETRY_ABOVE or not self._unproved.take(_now()):
            self._ask_again(header, address)
            return None
        if full:
            other = self._greeting.to_give_way(caller, _now())
            if other is None:
                return None
            other.close(REFUSED, "others wait to greet")
        quic = PeerQuic(
            configuration=configuration(self._credentials, self._logger),
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
            session_ticket_fetcher=lambda identity: self._redeem(link, identity),
            session_ticket_handler=lambda session: self._on_ticket(link, session),
        )
        link = Link(self, quic, address)
        self._links[header.destination] = link
        self._links[quic.host_cid] = link
        self._greeting.take(link, caller, _now())
        self._on_incoming(link)
        return link

    def hang_up(self, outer: Link, tag: bytes | None, reason: str) -> list[SocketAddress]:
        """A relay carries a flow no more, or none: end what still needs it. The addresses that nobody has any more."""
        gone = self.carrier.ended(outer, tag)
        for link in set(self._links.values()) if gone else ():
            if link.address in gone:
                link.close(REFUSED, reason)
        return gone

    def _ask_again(self, header: LongHeader, address: SocketAddress) -> None:
        source = os.urandom(CONNECTION_ID_BYTES)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination,
            retry_source_connection_id=source,
            now=_now(),
        )
        packet = encode_quic_retry(
            version=header.version,
            source_cid=source,
            destination_cid=header.source,
            original_destination_cid=header.destination,
            retry_token=token,
        )
        self.send([(packet, address)])

    # LinkOwner

    def send(self, datagrams: list[Datagram]) -> None:
        if any(is_carried(address[0]) for address in {address for _, address in datagrams}):
            wrapped = [self.carrier.wrap(*each) if is_carried(each[1][0]) else each for each in datagrams]
            datagrams = [each for each in wrapped if each is not None]
        self._sockets.send(datagrams)

    def connection_id_issued(self, link: Link, connection_id: bytes) -> None:
        self._links[connection_id] = link

    def connection_id_retired(self, link: Link, connection_id: bytes) -> None:
        self._links.pop(connection_id, None)

    def link_abused(self, link: Link, reason: str) -> None:
        self._on_abuse(link, reason)

    def link_stirred(self) -> None:
        self.stirred.set()

    def link_misbehaved(self, link: Link) -> None:
        self._on_misconduct(link)

    def link_closed(self, link: Link) -> None:
        self._links = {cid: other for cid, other in self._links.items() if other is not link}
        self._greeting.leave(link)
        self.hang_up(link, None, f"the relay that carried it is gone: {link.reason}")
        self._on_closed(link)


def _is_short(data: bytes) -> bool:
    """Whether it is a packet with a short header, of a size that is looked at."""
    return bool(data) and data[0] & 0xC0 == 0x40 and len(data) <= MAX_DATAGRAM


def _now() -> float:
    return asyncio.get_running_loop().time()
