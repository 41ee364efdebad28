"""Packets that came together, taken together: what most of them are costs a third of what aioquic does for each.

Usual is a packet of the current keys, at the address and under the connection ID in use, whose frames carry data of
streams, acknowledgements or limits. Header protection of a whole group comes off in one call, and a run of packets
that go on where their streams were is recorded once, with one event for each stream. Whatever else comes goes through
aioquic's `receive_datagram`, before which nothing is changed; tests hold both ways against each other.
"""

import math
from collections.abc import Sequence
from struct import Struct
from time import perf_counter

from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicFrameType, decode_packet_number, get_spin_bit
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from proofyard.transport.bounds import USUAL_ACK_RANGES, USUAL_FRAMES, Tally

GROUP = 64
"""Datagrams that are taken together at most: as many as receive offload returns."""

_SAMPLE = 16
_LONGEST_NUMBER = 4
_FIXED_BITS, _USUAL_BITS = 0xDC, 0x40
"""Of a short header without its protection: form, fixed bit, the reserved ones, and the key phase, which is added."""

_STREAM_KINDS = 0xF8
_BULK = int(QuicFrameType.STREAM_BASE) | 4 | 2
"""A STREAM frame with an offset and a length."""

_OFFSET_AND_LENGTH = Struct(">IH")
_FOUR_BYTES, _TWO_BYTES = 0x80000000, 0x4000
"""Integers of so many bytes, with their size in the upper two bits (RFC 9000 section 16)."""

_LEAST_BULK = 1 + 8 + 6

_LIMITS = {
    int(QuicFrameType.MAX_DATA): 1,
    int(QuicFrameType.MAX_STREAM_DATA): 2,
    int(QuicFrameType.MAX_STREAMS_BIDI): 1,
}
"""How many integers these frames have."""


class Arrivals(QuicConnection):
    """A `QuicConnection` that takes datagrams in groups."""

    tally: Tally
    payloads = 0
    """Packets of the peer's, which nobody else can make."""
    _eliciting = 0
    """Packets that are to be acknowledged."""

    def receive_datagrams(
        self, group: Sequence[tuple[bytes, NetworkAddress]], now: float, until: float = math.inf
    ) -> int:
        """Take datagrams in order, to the same effect as `receive_datagram` of each, but that data of a stream which
        follows on comes in one event. How many were taken: fewer than there are if one broke a bound of the tally, and
        if it is past `until` (seconds of `perf_counter`) after one that is not usual."""
        masks = self._masks(group)
        taken = 0
        while taken < len(group):
            if masks:
                taken = self._take_usual(group, masks, taken, now)
            if taken < len(group) and not self.tally.abuse:
                self.receive_datagram(*group[taken], now)
                taken += 1
            if self.tally.abuse or perf_counter() > until:
                break
        return taken

    def _masks(self, group: Sequence[tuple[bytes, NetworkAddress]]) -> bytes:
        """What hides the headers of a group, 16 bytes for each; nothing before the handshake is over."""
        hp = self._cryptos[Epoch.ONE_RTT].recv.hp if self._handshake_confirmed else None
        if hp is None or hp._is_chacha20:
            return b""
        at = 1 + len(self.host_cid) + _LONGEST_NUMBER
        samples = b"".join([data[at : at + _SAMPLE] for data, _ in group])
        if len(samples) != _SAMPLE * len(group):
            samples = b"".join([data[at : at + _SAMPLE].ljust(_SAMPLE, b"\0") for data, _ in group])
        return hp._encryptor.update(samples)

    def _may_be_usual(self) -> bool:
        return (
            self._state is QuicConnectionState.CONNECTED
            and self._handshake_confirmed
            and not self._close_pending
            and self._quic_logger is None
            and self._network_paths[0].is_validated
            and not self._cryptos[Epoch.ZERO_RTT].recv.is_valid()
        )

    def _take_usual(self, group: Sequence[tuple[bytes, NetworkAddress]], masks: bytes, first: int, now: float) -> int:
        """Take datagrams of a group from the one at `first` on as long as they are usual; where the others begin."""
        if not self._may_be_usual():
            return first
        address, cid = self._network_paths[0].addr, self.host_cid
        number_at = 1 + len(cid)
        least = number_at + _LONGEST_NUMBER + _SAMPLE
        keys = self._cryptos[Epoch.ONE_RTT].recv
        assert keys.aead is not None
        iv, decrypt = keys.aead._iv, keys.aead._aead.decrypt
        usual_bits = _USUAL_BITS | keys.key_phase << 2
        space = self._spaces[Epoch.ONE_RTT]
        run = _Run(self, now)
        for at in range(first, len(group)):
            data, sender = group[at]
            mask = masks[_SAMPLE * at : _SAMPLE * at + 1 + _LONGEST_NUMBER]
            bits = data[0] ^ mask[0] & 0x1F if data else 0
            if (
                bits & _FIXED_BITS != usual_bits
                or sender != address
                or len(data) < least
                or not data.startswith(cid, 1)
            ):
                run.end()
                return at
            size = (bits & 3) + 1
            body = number_at + size
            shown = int.from_bytes(data[number_at:body], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
            number = decode_packet_number(shown, 8 * size, space.expected_packet_number)
            header = bytes((bits,)) + cid + shown.to_bytes(size, "big")
            try:
                plain = decrypt((iv ^ number).to_bytes(12, "big"), data[body:], header)
            except InvalidTag:
                continue
            if run.take(number, bits, plain):
                continue
            run.end()
            if number in space.received_packets:
                continue
            if not _is_usual(plain):
                return at
            if not self._take_apart(number, bits, plain, now):
                return at + 1
        run.end()
        return len(group)

    def _take_apart(self, number: int, bits: int, plain: bytes, now: float) -> bool:
        """A packet by itself, as aioquic goes on once it has decrypted one. False when it ended the connection."""
        self._see(number, bits)
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        try:
            eliciting, _ = self._payload_received(context, plain)
        except QuicConnectionError as error:
            self._logger.warning(error)
            self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
            return False
        self._record(range(number, number + 1), eliciting, now)
        return True

    def _see(self, number: int, bits: int) -> None:
        """A packet of this number could be decrypted; `bits` are the first of its header."""
        space = self._spaces[Epoch.ONE_RTT]
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = get_spin_bit(bits) != self._is_client
            self._spin_highest_pn = number

    def _record(self, numbers: range, eliciting: bool, now: float) -> None:
        """Packets were taken that follow one another; several only where they are newer than all before."""
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        space, last = self._spaces[Epoch.ONE_RTT], numbers.stop - 1
        if last > space.largest_received_packet:
            space.largest_received_packet, space.largest_received_time = last, now
        ranges: list[range] = space.ack_queue._RangeSet__ranges  # type: ignore[attr-defined]
        if ranges and ranges[-1].stop == numbers.start:
            ranges[-1] = range(ranges[-1].start, numbers.stop)
        else:
            space.ack_queue.add(numbers.start, numbers.stop)
            if len(ranges) > MAX_ACK_RANGES:
                space.ack_queue.shift()
        space.received_packets._received.update(numbers[:-1])
        space.received_packets.add(last)
        if eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay


class _Growth:
    """What a run of packets adds to one stream."""

    __slots__ = ("limit", "next", "pieces", "stream")

    def __init__(self, stream: QuicStream) -> None:
        self.stream = stream
        self.next = stream.receiver._buffer_start
        self.limit = stream.max_stream_data_local
        self.pieces: list[bytes] = []


class _Run:
    """Packets with one number after the other, each of which goes on where its stream was, until `end` records them."""

    __slots__ = ("_bits", "_growths", "_limit", "_now", "_quic", "_space", "_start", "_stop")

    def __init__(self, quic: "Arrivals", now: float) -> None:
        self._quic, self._now = quic, now
        self._space = quic._spaces[Epoch.ONE_RTT]
        self._limit = quic._local_max_data
        self._growths: dict[bytes, _Growth] = {}
        self._start = self._stop = self._bits = 0

    def take(self, number: int, bits: int, plain: bytes) -> bool:
        """Whether the packet is part of the run; nothing is changed where it is not."""
        space = self._space
        if number != self._stop or number <= space.largest_received_packet:
            if self._stop > self._start or number <= space.largest_received_packet:
                return False
            self._start = self._stop = number
        if len(plain) < _LEAST_BULK or plain[0] != _BULK:
            return False
        at = 1 + (1 << (plain[1] >> 6))
        growth = self._growths.get(plain[:at]) or self._growth(plain[:at])
        if growth is None:
            return False
        offset, length = _OFFSET_AND_LENGTH.unpack_from(plain, at)
        offset, length = offset - _FOUR_BYTES, length - _TWO_BYTES
        at += _OFFSET_AND_LENGTH.size
        if offset != growth.next or length <= 0 or length != len(plain) - at:
            return False
        limit, end = self._limit, offset + length
        if end > growth.limit or limit.used + length > limit.value:
            return False
        growth.pieces.append(plain[at:])
        growth.next = end
        limit.used += length
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        self._stop, self._bits = number + 1, bits
        return True

    def _growth(self, key: bytes) -> _Growth | None:
        """The stream that frames which begin like `key` are for, where nothing is missing of it and more may come."""
        bits = 8 * (len(key) - 1)
        stream = self._quic._streams.get(int.from_bytes(key[1:], "big") & (1 << bits - 2) - 1)
        if stream is None:
            return None
        receiver = stream.receiver
        if receiver.is_finished or receiver._final_size is not None or receiver._buffer:
            return None
        growth = self._growths[key] = _Growth(stream)
        return growth

    def end(self) -> None:
        """Record the packets and give the streams what came; the next run begins."""
        count, growths = self._stop - self._start, self._growths
        self._growths = {}
        if not count:
            return
        quic = self._quic
        for growth in growths.values():
            if growth.pieces:
                receiver = growth.stream.receiver
                receiver._buffer_start = receiver.highest_offset = growth.next
                quic._events.append(StreamDataReceived(b"".join(growth.pieces), False, growth.stream.stream_id or 0))
        quic._see(self._stop - 1, self._bits)
        quic._record(range(self._start, self._stop), True, self._now)
        quic.payloads += count
        quic._eliciting += count
        self._start = self._stop


def _is_usual(plain: bytes) -> bool:
    """Whether a packet has frames of the usual kinds alone."""
    at, frames = 0, 0
    try:
        while at < len(plain) and frames <= USUAL_FRAMES:
            kind = plain[at]
            at += 1
            frames += 1
            if kind & _STREAM_KINDS == QuicFrameType.STREAM_BASE:
                at = _skip(plain, at, 1 + (kind >> 2 & 1))
                length, at = _pull(plain, at) if kind & 2 else (len(plain) - at, at)
                at += length
            elif kind == QuicFrameType.ACK:
                ranges, at = _pull(plain, _skip(plain, at, 2))
                if ranges > USUAL_ACK_RANGES:
                    return False
                at = _skip(plain, at, 1 + 2 * ranges)
            elif kind in _LIMITS:
                at = _skip(plain, at, _LIMITS[kind])
            elif kind == QuicFrameType.PADDING:
                at = len(plain) - len(plain[at:].lstrip(b"\0"))
            elif kind != QuicFrameType.PING:
                return False
    except IndexError:
        return False
    return at == len(plain) and 0 < frames <= USUAL_FRAMES


def _skip(plain: bytes, at: int, count: int) -> int:
    """Where so many integers of variable length end."""
    for _ in range(count):
        at += 1 << (plain[at] >> 6)
    return at


def _pull(plain: bytes, at: int) -> tuple[int, int]:
    """An integer of variable length, and where it ends."""
    end = at + (1 << (plain[at] >> 6))
    return int.from_bytes(plain[at:end], "big") & (1 << 8 * (end - at) - 2) - 1, end
