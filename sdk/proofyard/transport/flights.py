"""Packets that are full of one stream's data, built many at a time: most of what a sender sends.

aioquic looks for each packet at everything that it could say. Where there is nothing but data of streams, its next
packets are known: `flight` builds them, byte for byte the same, as far as the window and the pacer allow and data fill
them. What is left over, and all else, aioquic sends; tests hold both ways against each other.
"""

from functools import partial
from itertools import count, repeat
from typing import Any, NamedTuple, cast

from aioquic._crypto import AEAD
from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.packet import PACKET_FIXED_BIT, QuicPacketType
from aioquic.quic.packet_builder import PACKET_NUMBER_SEND_SIZE, QuicSentPacket
from aioquic.quic.stream import QuicStream, QuicStreamSender
from aioquic.tls import Epoch

from proofyard.transport import compiled
from proofyard.transport.congestion import ModelPacer, PathModel
from proofyard.transport.packets import PlainSealer, Sealer, Source

FEW = 4
"""Fewer packets than that are sealed one by one: a group costs as much as two of them."""

MOST_SOURCES = 16
"""Streams that take turns within one flight; where more have something to send each of them has one packet of it."""


class _Full(NamedTuple):
    packet_number: int
    sent_time: float
    sent_bytes: int
    sender: QuicStreamSender
    start: int
    stop: int
    is_end: bool
    """Whether the frame is the last one of its stream."""


class FullPacket(_Full):
    """A `QuicSentPacket` with one STREAM frame of `sender` and nothing else, as one object instead of five."""

    __slots__ = ()
    epoch = Epoch.ONE_RTT
    packet_type = QuicPacketType.ONE_RTT
    in_flight = is_ack_eliciting = True
    is_crypto_packet = False
    quic_logger_frames = ()

    @property
    def delivery_handlers(self) -> list[tuple[Any, tuple[int, int, bool]]]:
        """Who is told what became of it."""
        return [(self.sender.on_data_delivery, (self.start, self.stop, self.is_end))]


_full_packet = partial(tuple.__new__, FullPacket)


class Flights(QuicConnection):
    """A `QuicConnection` that builds full packets many at a time."""

    _model: PathModel
    _pacer: ModelPacer
    _sealing: tuple[AEAD, compiled.CompiledKeys | None] | None = None
    """The keys of this end's packets as aioquic has them, and for whole groups where this machine can."""

    def _may_fly(self) -> bool:
        """Whether packets of data can be built here, as far as the connection and its keys go."""
        crypto = self._cryptos[Epoch.ONE_RTT]
        return (
            crypto.send.hp is not None
            and not crypto.send.hp._is_chacha20
            and not crypto._update_key_requested
            and self._quic_logger is None
            and self._remote_preferred_address is None
        )

    def _flight(self, now: float) -> tuple[list[tuple[bytes, NetworkAddress]], bool]:
        """Full packets of data, where nothing but data is to be sent; and whether no more may be sent now."""
        size = self._max_datagram_size
        window = self._model.congestion_window - self._model.bytes_in_flight
        datagrams: list[bytes] = []
        more = True
        while more and (most := self._pacer.packets(now, min(window // size, compiled.MOST))):
            made, more = self._full_packets(most, now)
            datagrams += made
            self._pacer.spend_all(now, len(made))
            window -= size * len(made)
        self._pacing_at = self._pacer.next_send_time(now)
        if datagrams and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        least = 1 + len(self._peer_cid.cid) + PACKET_NUMBER_SEND_SIZE + self._cryptos[Epoch.ONE_RTT].aead_tag_size
        path = self._network_paths[0]
        path.bytes_sent += size * len(datagrams)
        return [(data, path.addr) for data in datagrams], self._pacing_at is not None or window <= least

    def _full_packets(self, most: int, now: float) -> tuple[list[bytes], bool]:
        """Up to `most` of them, registered as sent; and whether there may be more after them."""
        streams, others = self._streams_with_data()
        if not streams:
            return [], False
        sources = [_source(stream) for stream in streams]
        crypto, size = self._cryptos[Epoch.ONE_RTT], self._max_datagram_size
        assert crypto.send.hp is not None
        bits = PACKET_FIXED_BIT | self._spin_bit << 5 | crypto.key_phase << 2 | PACKET_NUMBER_SEND_SIZE - 1
        asked = min(most, len(sources)) if others else most
        flight = self._sealer(min(asked, sum(source.held - source.start for source in sources) // size)).seal(
            bytes((bits,)) + self._peer_cid.cid,
            self._packet_number,
            size,
            asked,
            sources,
            self._remote_max_data - self._remote_max_data_used,
            crypto.send.hp._encryptor.update,
        )
        if not flight.datagrams:
            return [], False
        senders = [streams[at].sender for at in flight.owners]
        ends = [stop == sources[at].fin for at, stop in zip(flight.owners, flight.stops, strict=True)]
        first = self._packet_number
        columns = zip(count(first), repeat(now), repeat(size), senders, flight.starts, flight.stops, ends)
        self._register(list(map(_full_packet, columns)), now)
        for at in flight.turns:
            self._sent_of(streams[at], sources[at])
        more = others or len(flight.datagrams) == asked or any(source.start == source.held for source in sources)
        return flight.datagrams, more

    def _streams_with_data(self) -> tuple[list[QuicStream], bool]:
        """Those that take turns, and whether there are more of them. The last one may be one that has only its end left
        to be sent."""
        found: list[QuicStream] = []
        for stream in self._streams_queue:
            sender = stream.sender
            if stream.is_blocked or sender.buffer_is_empty:
                continue
            if len(found) == MOST_SOURCES:
                return found, True
            ranges = _ranges(stream)
            if ranges or sender._pending_eof:
                found.append(stream)
        return found, False

    def _sent_of(self, stream: QuicStream, source: Source) -> None:
        """A flight has sent what lies before where its source starts now."""
        sender, ranges = stream.sender, _ranges(stream)
        if not ranges or source.start == ranges[0].start:
            return
        if source.start == source.held:
            del ranges[0]
        else:
            ranges[0] = range(source.start, source.held)
        if source.highest > sender.highest_offset:
            self._remote_max_data_used += source.highest - sender.highest_offset
            sender.highest_offset = source.highest
            if self._streams_queue[-1] is not stream:
                self._streams_queue.remove(stream)
                self._streams_queue.append(stream)
        if sender._buffer_fin == source.start:
            sender._pending_eof = False

    def _sealer(self, most: int) -> Sealer:
        """What builds about so many packets."""
        keys = self._cryptos[Epoch.ONE_RTT].send
        assert keys.aead is not None
        if most >= FEW:
            if self._sealing is None or self._sealing[0] is not keys.aead:
                self._sealing = keys.aead, compiled.keys_of(keys, sends=True)
            if self._sealing[1] is not None:
                return compiled.CompiledSealer(self._sealing[1])
        return PlainSealer(keys.aead)

    def _register(self, packets: list[FullPacket], now: float) -> None:
        """They are sent."""
        space = self._spaces[Epoch.ONE_RTT]
        sent = cast(list[QuicSentPacket], packets)
        space.sent_packets.update(zip(range(self._packet_number, self._packet_number + len(sent)), sent, strict=True))
        space.ack_eliciting_in_flight += len(packets)
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        self._model.on_packets_sent(sent)
        self._packet_number += len(packets)


def fills(stream: QuicStream, size: int) -> bool:
    """Whether a stream has so many bytes that are to be sent and follow one another."""
    ranges = _ranges(stream)
    return not stream.sender.buffer_is_empty and bool(ranges) and len(ranges[0]) >= size


def _ranges(stream: QuicStream) -> list[range]:
    ranges: list[range] = stream.sender._pending._RangeSet__ranges  # type: ignore[attr-defined]
    return ranges


def _source(stream: QuicStream) -> Source:
    sender, ranges = stream.sender, _ranges(stream)
    start, held = (ranges[0].start, ranges[0].stop) if ranges else (0, -1)
    fin = -1 if sender._buffer_fin is None else sender._buffer_fin
    return Source(
        stream.stream_id or 0,
        sender._buffer,
        sender._buffer_start,
        start,
        held,
        sender.highest_offset,
        stream.max_stream_data_remote,
        fin,
    )
