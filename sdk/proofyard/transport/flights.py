"""Packets that are full of one stream's data, built many at a time: most of what a sender sends.

aioquic looks for each packet at everything that it could say. Where there is nothing but data of streams, its next
packets are known: `flight` builds them, byte for byte the same, as far as the window and the pacer allow and data fill
them. What is left over, and all else, aioquic sends; tests hold both ways against each other.
"""

from typing import Any

from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.packet import PACKET_FIXED_BIT, QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import PACKET_NUMBER_SEND_SIZE, QuicSentPacket
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from proofyard.transport.congestion import ModelPacer, PathModel

_SAMPLE = 16
_SAMPLE_AT = 4 - PACKET_NUMBER_SEND_SIZE
"""Where in the protected payload the bytes are from which the header's mask is made (RFC 9001 section 5.4.2)."""

_TWO_BYTES, _FOUR_BYTES, _EIGHT_BYTES = 0x4000, 0x80000000, 0xC000000000000000
"""Integers of so many bytes, with their size in the upper two bits (RFC 9000 section 16)."""


class Flights(QuicConnection):
    """A `QuicConnection` that builds full packets many at a time."""

    _model: PathModel
    _pacer: ModelPacer

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
        crypto = self._cryptos[Epoch.ONE_RTT]
        assert crypto.send.aead is not None
        size = self._max_datagram_size
        bits = PACKET_FIXED_BIT | self._spin_bit << 5 | crypto.key_phase << 2 | PACKET_NUMBER_SEND_SIZE - 1
        start = bytes((bits,)) + self._peer_cid.cid
        least = len(start) + PACKET_NUMBER_SEND_SIZE + crypto.aead_tag_size
        window = self._model.congestion_window - self._model.bytes_in_flight
        iv, encrypt = crypto.send.aead._iv, crypto.send.aead._aead.encrypt
        number, bodies, handlers = self._packet_number, [], []
        while True:
            self._pacing_at = self._pacer.next_send_time(now)
            frame = self._full_frame(size - least) if window >= size and self._pacing_at is None else None
            if frame is None:
                break
            plain, handler = frame
            header = start + (number & 0xFFFF).to_bytes(PACKET_NUMBER_SEND_SIZE, "big")
            bodies.append(encrypt((iv ^ number).to_bytes(12, "big"), plain, header))
            handlers.append(handler)
            self._pacer.spend(now)
            window -= size
            number += 1
        datagrams = self._protected(start, bodies) if bodies else []
        self._register(handlers, now)
        return datagrams, self._pacing_at is not None or window <= least

    def _full_frame(self, size: int) -> tuple[bytes, tuple[Any, tuple[int, int, bool]]] | None:
        """A STREAM frame of `size` bytes, and what its delivery is told to: of the stream whose turn it is, if it has
        so much."""
        for stream in self._streams_queue:
            sender = stream.sender
            if stream.is_blocked or sender.buffer_is_empty:
                continue
            ranges = _ranges(stream)
            if not ranges:
                if sender._pending_eof:
                    return None
                continue
            start, held = ranges[0].start, ranges[0].stop
            allowed = sender.highest_offset + self._remote_max_data - self._remote_max_data_used
            end = min(held, allowed, stream.max_stream_data_remote)
            if end <= start:
                continue
            number = stream.stream_id or 0
            head = _varint(number) + _varint(start) if start else _varint(number)
            stop = start + size - len(head) - 3
            if stop > end:
                return None
            if stop == held:
                del ranges[0]
            else:
                ranges[0] = range(stop, held)
            news = stop - sender.highest_offset
            if news > 0:
                sender.highest_offset = stop
                self._remote_max_data_used += news
                if self._streams_queue[-1] is not stream:
                    self._streams_queue.remove(stream)
                    self._streams_queue.append(stream)
            last = sender._buffer_fin == stop
            if last:
                sender._pending_eof = False
            kind = QuicFrameType.STREAM_BASE | 2 | (4 if start else 0) | last
            length = (_TWO_BYTES | stop - start).to_bytes(2, "big")
            first = start - sender._buffer_start
            with memoryview(sender._buffer) as data:
                plain = b"".join((bytes((kind,)), head, length, data[first : first + stop - start]))
            return plain, (sender.on_data_delivery, (start, stop, last))
        return None

    def _protected(self, start: bytes, bodies: list[bytes]) -> list[tuple[bytes, NetworkAddress]]:
        """The datagrams, headers hidden: all masks are made in one call."""
        hp, address = self._cryptos[Epoch.ONE_RTT].send.hp, self._network_paths[0].addr
        assert hp is not None
        masks = hp._encryptor.update(b"".join([body[_SAMPLE_AT : _SAMPLE_AT + _SAMPLE] for body in bodies]))
        bits, cid, datagrams = start[0], start[1:], []
        for at, body in enumerate(bodies):
            mask = masks[_SAMPLE * at : _SAMPLE * at + 3]
            number = (self._packet_number + at & 0xFFFF) ^ int.from_bytes(mask[1:], "big")
            first = bits ^ mask[0] & 0x1F
            datagrams.append((b"".join((bytes((first,)), cid, number.to_bytes(2, "big"), body)), address))
        return datagrams

    def _register(self, handlers: list[tuple[Any, tuple[int, int, bool]]], now: float) -> None:
        """Full packets are sent, each with one frame whose delivery one of `handlers` is told."""
        if not handlers:
            return
        size, space = self._max_datagram_size, self._spaces[Epoch.ONE_RTT]
        epoch, kind = Epoch.ONE_RTT, QuicPacketType.ONE_RTT
        packets = [
            QuicSentPacket(epoch, True, True, False, number, kind, now, size, [handler], [])
            for number, handler in enumerate(handlers, self._packet_number)
        ]
        space.sent_packets.update((packet.packet_number, packet) for packet in packets)
        space.ack_eliciting_in_flight += len(packets)
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        self._model.on_packets_sent(packets)
        if not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        self._packet_number += len(packets)
        self._network_paths[0].bytes_sent += size * len(packets)


def fills(stream: QuicStream, size: int) -> bool:
    """Whether a stream has so many bytes that are to be sent and follow one another."""
    ranges = _ranges(stream)
    return not stream.sender.buffer_is_empty and bool(ranges) and len(ranges[0]) >= size


def _ranges(stream: QuicStream) -> list[range]:
    ranges: list[range] = stream.sender._pending._RangeSet__ranges  # type: ignore[attr-defined]
    return ranges


def _varint(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    if value < _TWO_BYTES:
        return (value | _TWO_BYTES).to_bytes(2, "big")
    if value < _FOUR_BYTES >> 1:
        return (value | _FOUR_BYTES).to_bytes(4, "big")
    return (value | _EIGHT_BYTES).to_bytes(8, "big")
