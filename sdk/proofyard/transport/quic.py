"""aioquic's connection with the receive windows that back-pressure needs, and the settings of this network.

aioquic raises its receive limits as data arrives; here they rise as the application consumes (`grant_stream`,
`grant_connection`), so a peer can make us hold at most `CONNECTION_WINDOW` bytes, and `GREETING_WINDOW` before it
has proved its wallet. RFC 9000 section 4.
"""

import datetime
import ipaddress
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    NetworkAddress,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
    stream_is_client_initiated,
)
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Epoch, SessionTicket, SessionTicketFetcher, SessionTicketHandler
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proofyard.transport import congestion
from proofyard.transport.arrivals import Arrivals
from proofyard.transport.bounds import MAX_ACK_RANGES, MAX_CRYPTO_BYTES, Frames, Pieces, Streams, Tally
from proofyard.transport.carried import HEAD_BYTES, is_carried
from proofyard.transport.flights import Flights, fills
from proofyard.transport.recovery import Recovery

ALPN = "proofyard/1"

GREETING_WINDOW = 16 << 10
"""Bytes that a peer may send on all streams together before it is authenticated."""

STREAM_WINDOW = 4 << 20
"""Bytes that a peer may send on one stream ahead of what was consumed."""

CONNECTION_WINDOW = 16 << 20
"""Bytes that an authenticated peer may send on all streams together ahead of what was consumed."""

SEND_BUFFER = 3 << 20
"""Unacknowledged bytes of one stream above which a writer waits."""

IDLE_TIMEOUT = 30.0
"""Seconds without a packet after which a connection is gone."""

KEEP_ALIVE, KEEP_ALIVE_NEAR = 14.0, 24.0
"""Seconds of silence after which the side that connected pings: a router forgets who sends nothing for 30, and one ping
may get lost. Where none is in between only the other end has to hear of it, and lost packets are sent again."""

BASE_DATAGRAM = 1200
"""UDP payload in bytes that every path of QUIC passes (RFC 9000 section 14)."""

INTERNET_SIZES = (1350, 1452, 8900)
"""Larger ones that are tried once a path is up: most tunnels, plain Ethernet, jumbo frames."""

LOOPBACK_SIZES = (16_000,)
"""The same on this machine; one STREAM frame of aioquic holds at most 16,383 bytes."""

MAX_DATAGRAM = 16 << 10
"""Bytes of the largest datagram that is looked at: nobody tries larger ones, and each could hold a frame a byte."""

ACK_DELAY = 0.02
"""Seconds that an acknowledgement waits for something to go with: most requests are one packet, and so are the answers
to them. Below the 25 ms that we tell our peers (RFC 9000 section 13.2.1)."""

ACK_PACKETS = 2
"""So many packets are acknowledged at once, as far as they are taken in together (section 13.2.2)."""

BLACK_HOLE_PACKETS = 10
"""So many larger packets lost, and none delivered: the path no longer passes them, back to `BASE_DATAGRAM`."""

PROBE_BYTES = 100
"""UDP payload of a packet that looks for the peer at another address. Small, as that may be nobody's, or a victim's."""

MAX_SURPRISES = 4
"""Addresses beyond those it named that a peer may answer from while it is looked for."""

OVERLAP_S = 3.0
"""For how long packets are taken on the path that a connection has left."""

_HANDLERS = "_QuicConnection__frame_handlers"


@dataclass(frozen=True)
class Credentials:
    """A self-signed certificate made for this process; wallets vouch for it in the handshake."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def fresh(cls) -> "Credentials":
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proofyard")])
        start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=36_500))
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)


@dataclass(frozen=True)
class LongHeader:
    """What every version of QUIC shows of a packet before the handshake is over (RFC 8999 section 5.1)."""

    version: int
    destination: bytes
    source: bytes
    is_initial: bool
    """Whether it can open a connection; only meaningful in version 1."""

    token: bytes
    """What a Retry packet gave the sender to prove its address with (RFC 9000 section 17.2.2)."""

    @classmethod
    def parse(cls, data: bytes) -> "LongHeader | None":
        """None when `data` is too short, or a connection ID longer than QUIC version 1 allows."""
        if len(data) < 7 or data[5] > 20:
            return None
        source_at = 6 + data[5]
        if len(data) <= source_at or data[source_at] > 20:
            return None
        token_at = source_at + 1 + data[source_at]
        is_initial = data[0] & 0x70 == 0x40
        return cls(
            version=int.from_bytes(data[1:5], "big"),
            destination=data[6:source_at],
            source=data[source_at + 1 : token_at],
            is_initial=is_initial,
            token=_token(data, token_at) if is_initial else b"",
        )


def _token(data: bytes, at: int) -> bytes:
    # A variable-length integer of one or two bytes is enough for every token of ours.
    if len(data) < at + 2 or data[at] & 0x80:
        return b""
    if data[at] & 0x40:
        return data[at + 2 : at + 2 + ((data[at] & 0x3F) << 8 | data[at + 1])]
    return data[at + 1 : at + 1 + data[at]]


def datagram_sizes(host: str) -> tuple[int, ...]:
    """UDP payloads in bytes worth trying towards `host`, an IP address."""
    if is_carried(host):
        return tuple(size - HEAD_BYTES for size in INTERNET_SIZES)
    return LOOPBACK_SIZES if ipaddress.ip_address(host.split("%")[0]).is_loopback else INTERNET_SIZES


def configuration(
    credentials: Credentials | None, logger: QuicLogger | None = None, ticket: SessionTicket | None = None
) -> QuicConfiguration:
    """Settings of a server when `credentials` are given, of a client otherwise, which may resume with a `ticket`."""
    config = QuicConfiguration(
        alpn_protocols=[ALPN],
        is_client=credentials is None,
        idle_timeout=IDLE_TIMEOUT,
        max_data=GREETING_WINDOW,
        max_stream_data=STREAM_WINDOW,
        max_datagram_size=BASE_DATAGRAM,
        congestion_control_algorithm=congestion.NAME,
        quic_logger=logger,
        session_ticket=ticket,
    )
    config.supported_versions = [QuicProtocolVersion.VERSION_1]
    config.cipher_suites = [CipherSuite.AES_128_GCM_SHA256, CipherSuite.CHACHA20_POLY1305_SHA256]
    # Trust comes from the wallets' signatures over the fingerprint, not from a certificate authority.
    config.verify_mode = 0
    if credentials is not None:
        config.certificate = credentials.certificate
        config.private_key = credentials.key
    return config


class PeerQuic(Arrivals, Flights):
    """A `QuicConnection` whose receive limits are granted by its owner, and which paces by the path's model."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        session_ticket_fetcher: SessionTicketFetcher | None = None,
        session_ticket_handler: SessionTicketHandler | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
        )
        self._loss = Recovery(
            congestion_control_algorithm=congestion.NAME,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=configuration.max_datagram_size,
            peer_completed_address_validation=not self._is_client,
            quic_logger=self._quic_logger,
            send_probe=self._send_probe,
            logger=self._logger,
        )
        model = self._model = self._loss._cc
        self._pacer = congestion.ModelPacer(max_datagram_size=BASE_DATAGRAM, model=model, sent=self._packet_sent)
        self._loss._pacer = self._pacer
        self._flies = False
        """Whether aioquic was stopped because only full packets of data are left."""
        self._sizes_tried = False
        self._ack_delay = ACK_DELAY
        self.tally = Tally()
        self._streams = Streams(self.tally)
        self._frames = Frames(getattr(self, _HANDLERS))
        setattr(self, _HANDLERS, self._frames)
        self._at: NetworkAddress | None = None
        self._left_until = math.inf
        self._surprises = 0

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        self._look_at_paths(now)
        space = self._spaces[Epoch.ONE_RTT]
        self._forget_finished()
        if space.ack_at is not None and space.ack_at > now and self._is_to_be_acknowledged(space):
            space.ack_at = now
        if self._is_quiet(space, now):
            self._pacing_at = None
            self._model.on_idle()
            return []
        datagrams = self._all_datagrams(now)
        if space.ack_at is None:
            self._eliciting = 0
        return datagrams

    def _forget_finished(self) -> None:
        """Let go of streams that are over, which aioquic begins a packet for."""
        for stream in [stream for stream in self._streams_queue if stream.is_finished]:
            number = stream.stream_id or 0
            self._streams_queue.remove(stream)
            self._streams.pop(number)
            if stream_is_client_initiated(number) != self._is_client:
                self._stream_limit(number).value += 1

    def _packet_sent(self, now: float) -> None:
        """A packet is full, or has all there is: then aioquic need not begin another one to find that out."""
        if not any(map(_has_data, self._streams_queue)) and self._is_quiet(self._spaces[Epoch.ONE_RTT], now):
            raise QuicPacketBuilderStop
        if self._sends_data_alone(now):
            self._flies = True
            raise QuicPacketBuilderStop

    def _sends_data_alone(self, now: float) -> bool:
        """Whether the next packets have data of streams and nothing else, and fill a datagram."""
        size = self._max_datagram_size
        return (
            any(fills(stream, size) for stream in self._streams_queue)
            and self._has_no_news(self._spaces[Epoch.ONE_RTT], now)
            and not any(map(_has_other_news, self._streams_queue))
            and self._may_fly()
        )

    def _is_to_be_acknowledged(self, space: QuicPacketSpace) -> bool:
        """Whether an acknowledgement is due at once: for several packets, or where one is missing; or there is
        something to send anyway."""
        if self._eliciting >= ACK_PACKETS or len(space.ack_queue) > 1:
            return True
        return any(map(_has_data, self._streams_queue))

    def _is_quiet(self, space: QuicPacketSpace, now: float) -> bool:
        """Whether there is certainly nothing to send: aioquic finds that out by beginning a packet, and every packet
        that comes is a reason to look."""
        return (
            self._has_no_news(space, now)
            and self._model.bytes_in_flight < self._model.congestion_window
            and not any(map(_has_news, self._streams_queue))
        )

    def _has_no_news(self, space: QuicPacketSpace, now: float) -> bool:
        """Whether there is certainly nothing to send but what streams have."""
        path = self._network_paths[0] if len(self._network_paths) == 1 else None
        if (
            path is None
            or not (self._handshake_confirmed and self._sizes_tried and path.is_validated)
            or self._state is not QuicConnectionState.CONNECTED
            or (space.ack_at is not None and space.ack_at <= now)
            or self._model.large_lost >= BLACK_HOLE_PACKETS
        ):
            return False
        if (
            self._close_pending
            or self._probe_pending
            or self._ping_pending
            or self._handshake_done_pending
            or self._streams_blocked_pending
            or self._retire_connection_ids
            or path.remote_challenges
            or not self._crypto_streams[Epoch.ONE_RTT].sender.buffer_is_empty
        ):
            return False
        return not (
            any(_is_due(limit) for limit in (self._local_max_streams_bidi, self._local_max_streams_uni))
            or self._local_max_data.sent != self._local_max_data.value
            or any(not each.was_sent for each in self._host_cids)
        )

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self._frames.begin_packet()
        try:
            eliciting, probing = super()._payload_received(context, plain, crypto_frame_required)
        finally:
            self.tally.count_frames(self._frames.seen, context.time)
        self._eliciting += eliciting
        self.payloads += 1
        return eliciting, probing

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        for stream in self._crypto_streams.values():
            stream.receiver._ranges = Pieces(self.tally)

    def _handle_padding_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """As aioquic, which looks at each byte in Python: a datagram may have 16,000 of them."""
        rest = buf.data_slice(buf.tell(), buf.capacity)
        buf.seek(buf.capacity - len(rest.lstrip(b"\0")))

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        buf.pull_uint_var()
        buf.pull_uint_var()
        ranges = buf.pull_uint_var()
        if ranges > MAX_ACK_RANGES:
            self.tally.refuse("an acknowledgement in too many ranges", frame_type)
        self._frames.count_ranges(ranges)
        buf.seek(start)
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > MAX_CRYPTO_BYTES:
            self.tally.refuse("a TLS handshake that is too large", frame_type)
        buf.seek(start)
        super()._handle_crypto_frame(context, frame_type, buf)

    def _all_datagrams(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        if self._model.large_lost >= BLACK_HOLE_PACKETS and self._max_datagram_size > BASE_DATAGRAM:
            self._set_datagram_size(BASE_DATAGRAM)
        datagrams = self._next_datagrams(now)
        if self._handshake_confirmed and not self._sizes_tried:
            self._sizes_tried = True
            if is_carried(self._network_paths[0].addr[0]):
                self._model.burst_s = congestion.RELAYED_BURST_SECONDS
            for size in datagram_sizes(self._network_paths[0].addr[0]):
                datagrams += self._size_probe(size, now)
        if self._pacing_at is None and self._model.bytes_in_flight < self._model.congestion_window:
            self._model.on_idle()
        return datagrams

    def _next_datagrams(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Those of aioquic, the full packets of data among them built in flights."""
        datagrams: list[tuple[bytes, NetworkAddress]] = []
        while True:
            if self._sends_data_alone(now):
                flight, done = self._flight(now)
                datagrams += flight
                if done or self._is_quiet(self._spaces[Epoch.ONE_RTT], now):
                    return datagrams
            self._flies = False
            datagrams += super().datagrams_to_send(now)
            if not self._flies:
                return datagrams

    def _size_probe(self, size: int, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """A packet of `size` bytes that says nothing; its acknowledgement shows that the path passes it (RFC 8899)."""
        if self._state is not QuicConnectionState.CONNECTED:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or QuicProtocolVersion.VERSION_1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        buf = builder.start_frame(QuicFrameType.PING, handler=self._on_size_probe, handler_args=(size,))
        buf.push_bytes(bytes(builder.remaining_flight_space))
        return self._flush_builder(builder, self._network_paths[0], self._peer_cid.cid, now)

    def _on_size_probe(self, delivery: QuicDeliveryState, size: int) -> None:
        if delivery is QuicDeliveryState.ACKED and size > self._max_datagram_size:
            self._set_datagram_size(size)

    def _set_datagram_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._model.packet_bytes = size
        self._loss._pacer._max_datagram_size = size

    # Several paths (RFC 9000 section 9)

    def probe(self, addresses: Iterable[NetworkAddress]) -> None:
        """Look for the peer at further addresses, once more at those looked at before. A client that is answered goes
        on there; a server follows it."""
        self._surprises = max(self._surprises, MAX_SURPRISES) if self._is_client else 0
        for address in addresses:
            self._look_at(address)

    def _look_at(self, address: NetworkAddress) -> None:
        path = next((each for each in self._network_paths if each.addr == address), None)
        if path is None:
            if not self._peer_cid_available:
                return
            path = QuicNetworkPath(address)
            path.peer_cid = self._peer_cid_available.pop(0)
            self._add_network_path(path)
        path.local_challenge_sent = path.is_validated or path is self._network_paths[0]

    def stop_probing(self) -> None:
        """Forget every path but the one in use."""
        self._surprises, self._left_until = 0, math.inf
        for path in self._network_paths[1:]:
            self._network_paths.remove(path)
            if path.peer_cid is not None:
                self._retire_peer_cid(path.peer_cid)

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        if self._surprises and not any(path.addr == addr for path in self._network_paths):
            # A symmetric NAT shows its host at another port to us than to others.
            self._surprises -= 1
            self._look_at(addr)
        super().receive_datagram(data, addr, now)

    def _send_probing_frames(self, network_path: QuicNetworkPath, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """As upstream, but small, so that a server may send one before it has received anything there: both ends
        begin, and their routers let in what they have sent for."""
        size = self._max_datagram_size
        if not (network_path.is_validated or network_path.local_challenge_sent):
            network_path.bytes_received += PROBE_BYTES
        first, self._max_datagram_size = self._packet_number, PROBE_BYTES
        try:
            return super()._send_probing_frames(network_path, now)
        finally:
            self._max_datagram_size = size
            self._expect_no_answer(range(first, self._packet_number))

    def _expect_no_answer(self, numbers: Iterable[int]) -> None:
        """Most probes are lost, which says nothing of the path in use: no congestion follows from it."""
        space = self._spaces[Epoch.ONE_RTT]
        for packet in [space.sent_packets.pop(number) for number in numbers if number in space.sent_packets]:
            space.ack_eliciting_in_flight -= packet.is_ack_eliciting
            self._model.on_packets_expired(packets=[packet])

    def _handle_path_response_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        before = self._network_paths[0]
        super()._handle_path_response_frame(context, frame_type, buf)
        if self._network_paths[0] is not before:
            # One is enough; the path left behind stays for what is under way on it.
            self.stop_probing()
            self._network_paths.append(before)

    def _look_at_paths(self, now: float) -> None:
        address = self._network_paths[0].addr if self._network_paths else None
        if address is not None and self._at is not None and address != self._at:
            if is_carried(address[0]) or is_carried(self._at[0]):
                self._restart()
                self._left_until = now + OVERLAP_S
        elif now > self._left_until and self._network_paths[0].is_validated:
            self.stop_probing()
        self._at = address

    def _restart(self) -> None:
        """Between a relay and a direct path nothing is alike."""
        self._sizes_tried = False
        self._set_datagram_size(BASE_DATAGRAM)
        self._model.restart()
        self._loss._rtt_initialized, self._loss._rtt_min = False, math.inf

    def grant_stream(self, stream_id: int, limit: int) -> bool:
        """Let the peer send up to offset `limit` on a stream. True when that is news to the peer."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished or limit <= stream.max_stream_data_local:
            return False
        stream.max_stream_data_local = limit
        return True

    def grant_connection(self, limit: int) -> None:
        """Let the peer send up to `limit` bytes on all streams together, counted from the beginning."""
        self._local_max_data.value = max(self._local_max_data.value, limit)

    def begun(self) -> bool:
        """False for a server whose peer has not sent one packet that can be decrypted."""
        return self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT

    def recognised(self) -> bool:
        """For a server: whether the peer's first packet showed that it holds the secret of a ticket."""
        return not self._is_client and self.begun() and self.tls.session_resumed

    def refused(self) -> bool:
        """Whether this side has ended the connection because of what the peer sent."""
        return self._close_pending

    def address_proved(self) -> bool:
        """Whether the peer receives at the address that it sends from."""
        return bool(self._network_paths) and self._network_paths[0].is_validated

    def may_open_stream(self) -> bool:
        """Whether the peer allows one more stream. aioquic would queue it, but then reset it against the limit."""
        return self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi

    def writable(self, stream_id: int) -> bool:
        """Whether a stream exists whose sending side was neither finished nor reset."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None and stream.sender._buffer_fin is None

    def unacknowledged(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged; 0 once the stream is over."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sender.reset_pending or stream.sender.is_finished:
            return 0
        return len(stream.sender._buffer)

    def buffered(self) -> int:
        """Bytes on all streams that are kept until the peer acknowledges them."""
        return sum(len(stream.sender._buffer) for stream in self._streams.values())

    def unread(self) -> int:
        """Bytes that the peer has used up of what it may send: what was consumed among them."""
        return self._local_max_data.used

    def drop_unsent(self, stream_id: int) -> None:
        """What a stream that was reset still holds is sent to nobody; aioquic keeps it until the reset arrives."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.sender._reset_error_code is not None:
            stream.sender._buffer.clear()

    def let_go(self) -> None:
        """It is over: keep nothing of what was to be sent or received, however long this object is kept."""
        for space in self._spaces.values():
            space.sent_packets.clear()
        self._streams.clear()
        self._streams_queue.clear()

    def received_size(self, stream_id: int) -> int:
        """The highest offset seen on a stream, which is its final size once the peer reset it."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key the server proved in TLS; None on the server's own side."""
        return self.tls._peer_certificate

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local or stream.receiver.is_finished:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(stream.stream_id or 0)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        streams = (self._local_max_streams_bidi, self._local_max_streams_uni)
        due = [limit for limit in streams if _is_due(limit)]
        if self._local_max_data.sent != self._local_max_data.value:
            due.append(self._local_max_data)
        for limit in due:
            buf = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value


def _is_due(limit: Limit) -> bool:
    """As upstream: MAX_STREAMS waits until the peer has fewer streams left than the update would grant."""
    return limit.sent - limit.used < limit.value - limit.sent


def _has_data(stream: QuicStream) -> bool:
    """Whether something of a stream is to be sent."""
    sender = stream.sender
    # aioquic calls a buffer empty once it has looked for more in it.
    unsent = not sender.buffer_is_empty and (sender._pending_eof or len(sender._pending) > 0)
    return unsent or sender.reset_pending or stream.receiver.stop_pending


def _has_news(stream: QuicStream) -> bool:
    """Whether something of a stream is to be sent, be it a limit, or the stream is over and to be let go."""
    return _has_data(stream) or _has_other_news(stream)


def _has_other_news(stream: QuicStream) -> bool:
    """The same without data."""
    if stream.receiver.stop_pending or stream.sender.reset_pending:
        return True
    if stream.receiver.is_finished:
        return stream.sender.is_finished
    return stream.max_stream_data_local_sent != stream.max_stream_data_local
