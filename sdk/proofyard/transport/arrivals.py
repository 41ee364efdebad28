"""Packets that came together, taken together: what most of them are costs a third of what aioquic does for each.

Usual is a packet of the current keys, at the address and under the connection ID in use, whose frames carry data of
streams, acknowledgements or limits. Header protection of a whole group comes off in one call, and a run of packets
that go on where their streams were is recorded once, with one event for each stream. Whatever else comes goes through
aioquic's `receive_datagram`, before which nothing is changed; tests hold both ways against each other.
"""

import math
from collections.abc import Sequence
from itertools import takewhile
from time import perf_counter

from aioquic._crypto import AEAD
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicFrameType, get_spin_bit
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Epoch

from proofyard.transport import compiled
from proofyard.transport.bounds import USUAL_ACK_RANGES, USUAL_FRAMES, Tally
from proofyard.transport.packets import LONGEST_NUMBER, SAMPLE, PlainReader, Reader, Run

GROUP = 64
"""Datagrams that are taken together at most: as many as receive offload returns."""

_USUAL_BITS = 0x40

_STREAM_KINDS = 0xF8
FEW = 4
"""Fewer datagrams than that are opened one by one: a group costs as much as two of them."""

BULKY = 512
"""So are those of fewer bytes on average: small requests and answers go on with no stream, and make no run."""

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
    _opening: tuple[AEAD, compiled.CompiledKeys | None] | None = None
    """The keys of the peer's packets as aioquic has them, and for whole groups where this machine can."""

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
        at = 1 + len(self.host_cid) + LONGEST_NUMBER
        samples = b"".join([data[at : at + SAMPLE] for data, _ in group])
        if len(samples) != SAMPLE * len(group):
            samples = b"".join([data[at : at + SAMPLE].ljust(SAMPLE, b"\0") for data, _ in group])
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
        address = self._network_paths[0].addr
        rest = group[first:] if first else group
        datagrams = [data for data, sender in rest if sender == address]
        if len(datagrams) < len(rest):
            datagrams = [data for data, _ in takewhile(lambda each: each[1] == address, rest)]
        reader, at = self._reader(datagrams, masks[SAMPLE * first :] if first else masks), 0
        space, limit = self._spaces[Epoch.ONE_RTT], self._local_max_data
        while True:
            room = limit.value - limit.used
            run = reader.run(at, space.expected_packet_number, space.largest_received_packet, room, self._growing)
            if run.numbers:
                self._take_run(run, now)
            at = run.at
            if run.left is None:
                return first + at
            number, bits, plain = run.left
            if number not in space.received_packets:
                if not _is_usual(plain):
                    return first + at
                if not self._take_apart(number, bits, plain, now):
                    return first + at + 1
            at += 1

    def _reader(self, datagrams: Sequence[bytes], masks: bytes) -> Reader:
        keys = self._cryptos[Epoch.ONE_RTT].recv
        assert keys.aead is not None
        usual = _USUAL_BITS | keys.key_phase << 2
        count = len(datagrams)
        if FEW <= count <= compiled.MOST and count * BULKY <= sum(map(len, datagrams)) <= compiled.MOST_BYTES:
            if self._opening is None or self._opening[0] is not keys.aead:
                self._opening = keys.aead, compiled.keys_of(keys, sends=False)
            opening = self._opening[1]
            if opening is not None:
                return compiled.CompiledReader(opening, datagrams, masks, self.host_cid, usual)
        return PlainReader(keys.aead, datagrams, masks, self.host_cid, usual)

    def _growing(self, stream_id: int) -> tuple[int, int] | None:
        """Of a stream: the byte that it lacks next and the limit up to which it may come; None where something is
        missing of it, or no more may come."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        receiver = stream.receiver
        if receiver.is_finished or receiver._final_size is not None or receiver._buffer:
            return None
        return receiver._buffer_start, stream.max_stream_data_local

    def _take_run(self, run: Run, now: float) -> None:
        """Record packets of a run and give the streams what came."""
        for stream_id, following, data in run.grown:
            receiver = self._streams[stream_id].receiver
            receiver._buffer_start = receiver.highest_offset = following
            self._local_max_data.used += len(data)
            self._events.append(StreamDataReceived(data, False, stream_id))
        self._spaces[Epoch.ONE_RTT].expected_packet_number = run.expected
        self._see(run.numbers[-1], run.bits)
        self._record(run.numbers, True, now)
        self.payloads += len(run.numbers)
        self._eliciting += len(run.numbers)

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
