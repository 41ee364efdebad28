"""Packets that are opened and sealed many at a time, by `packets.c` where this machine has a C compiler and an OpenSSL.

`Opener` and `Sealer` are what `arrivals` and `flights` need of the keys in use; here they stand in plain Python, in
`compiled` with one call for a whole group. Both take and return the same; tests hold them against each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from aioquic._crypto import AEAD
from aioquic.quic.packet import QuicFrameType, decode_packet_number
from aioquic.quic.packet_builder import PACKET_NUMBER_SEND_SIZE
from cryptography.exceptions import InvalidTag

SAMPLE = 16
"""Bytes of a protected payload from which the header's mask is made (RFC 9001 section 5.4.2), and of a mask here."""

LONGEST_NUMBER = 4
_TAG = 16
_FIXED_BITS = 0xDC
"""Of a short header without its protection: form, fixed bit, the reserved ones, and the key phase."""

_BULK = int(QuicFrameType.STREAM_BASE) | 4 | 2
"""A STREAM frame with an offset and a length."""

_OFFSET_AND_LENGTH = Struct(">IH")
_TWO_BYTES, _FOUR_BYTES, _EIGHT_BYTES = 0x4000, 0x80000000, 0xC000000000000000
"""Integers of so many bytes, with their size in the upper two bits (RFC 9000 section 16)."""

_LARGEST_OF_FOUR = 1 << 30
_LEAST_BULK = 1 + 8 + 6
_NO_NUMBERS = range(0)

Growing = Callable[[int], tuple[int, int] | None]
"""The byte that a stream lacks next, and the limit up to which the peer may send; None where it has gaps, or an end."""


@dataclass(slots=True)
class Run:
    """Packets with one number after the other, each of which goes on where its stream was."""

    at: int
    """The first datagram that is not part of it; those that could not be decrypted count."""
    numbers: range
    bits: int
    """The first byte of the last one's header."""
    expected: int
    """The packet number to which the next shown one is filled up."""
    grown: list[tuple[int, int, bytes]]
    """What came of which stream, and the byte that it lacks next."""
    left: tuple[int, int, bytes] | None
    """Number, first byte and payload of the packet at `at`; None where it is no packet of the current keys."""


class Reader(Protocol):
    """Datagrams that came together from one address."""

    def run(self, at: int, expected: int, largest: int, room: int, growing: Growing) -> Run:
        """The run that begins at one of them, after packets up to the number `largest`. `room` is what the peer may
        still send on all streams."""
        ...


@dataclass(slots=True)
class Source:
    """A range of a stream that is to be sent."""

    stream: int
    data: bytearray
    base: int
    """The offset of the first byte of `data`."""
    start: int
    held: int
    """Where the range ends; -1 for a stream at which a flight ends because it has something else to say."""
    highest: int
    """Up to where bytes were sent before."""
    limit: int
    fin: int
    """Where the stream ends, -1 where that is open."""


@dataclass(slots=True)
class Flight:
    """Packets to send."""

    datagrams: list[bytes]
    owners: list[int]
    """For each the index of its source;"""
    starts: list[int]
    stops: list[int]
    """and what it has of that."""
    turns: list[int]
    """The sources' indices in the order of their turns after that."""


class Sealer(Protocol):
    """Builds packets under the current keys."""

    def seal(
        self,
        start: bytes,
        number: int,
        size: int,
        most: int,
        sources: Sequence[Source],
        room: int,
        masks: Callable[[bytes], bytes],
    ) -> Flight:
        """Up to `most` packets from `number` on whose headers begin with `start`, each of `size` bytes and full of the
        data of the source whose turn it is; a source that has sent something new is the last to have its next turn.
        It ends where one has something but not enough for a packet, and where the range of one is used up. `room` is
        what all may still send together; `masks` gives the headers' masks for samples. Changes the sources."""
        ...


class PlainReader:
    """`Reader` packet by packet."""

    __slots__ = ("_cid", "_datagrams", "_decrypt", "_iv", "_masks", "_usual")

    def __init__(self, aead: AEAD, datagrams: Sequence[bytes], masks: bytes, cid: bytes, usual: int) -> None:
        """`masks` has 16 bytes for each; headers are usual that have the bits `usual` and connection ID `cid`."""
        self._iv, self._decrypt = aead._iv, aead._aead.decrypt
        self._datagrams, self._masks, self._cid, self._usual = datagrams, masks, cid, usual

    def run(self, at: int, expected: int, largest: int, room: int, growing: Growing) -> Run:
        datagrams, masks, cid, usual, iv, decrypt = (
            self._datagrams, self._masks, self._cid, self._usual, self._iv, self._decrypt,
        )  # fmt: skip
        number_at = 1 + len(cid)
        least = number_at + LONGEST_NUMBER + SAMPLE
        run = left = None
        while at < len(datagrams):
            data = datagrams[at]
            mask = masks[SAMPLE * at : SAMPLE * at + 1 + LONGEST_NUMBER]
            bits = data[0] ^ mask[0] & 0x1F if data else 0
            if bits & _FIXED_BITS != usual or len(data) < least or not data.startswith(cid, 1):
                break
            size = (bits & 3) + 1
            body = number_at + size
            shown = int.from_bytes(data[number_at:body], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
            number = decode_packet_number(shown, 8 * size, expected)
            header = bytes((bits,)) + cid + shown.to_bytes(size, "big")
            try:
                plain = decrypt((iv ^ number).to_bytes(12, "big"), data[body:], header)
            except InvalidTag:
                at += 1
                continue
            if len(plain) >= _LEAST_BULK and plain[0] == _BULK:
                run = run or _Growths(expected, largest, room, growing)
                if run.take(number, bits, plain):
                    expected = run.expected
                    at += 1
                    continue
            left = number, bits, plain
            break
        return Run(at, _NO_NUMBERS, 0, expected, [], left) if run is None else run.ended(at, left)


class _Growth:
    """What a run adds to one stream."""

    __slots__ = ("limit", "next", "pieces")

    def __init__(self, start: int, limit: int) -> None:
        self.next, self.limit = start, limit
        self.pieces: list[bytes] = []


class _Growths:
    """A run as it grows."""

    __slots__ = ("_bits", "_growing", "_growths", "_largest", "_room", "_start", "_stop", "expected")

    def __init__(self, expected: int, largest: int, room: int, growing: Growing) -> None:
        self.expected, self._largest, self._room, self._growing = expected, largest, room, growing
        self._growths: dict[int, _Growth] = {}
        self._start = self._stop = self._bits = 0

    def take(self, number: int, bits: int, plain: bytes) -> bool:
        """Whether a packet that begins like bulk is part of the run; nothing is changed where it is not."""
        if number <= self._largest or (number != self._stop and self._stop > self._start):
            return False
        at = 1 + (1 << (plain[1] >> 6))
        stream = int.from_bytes(plain[1:at], "big") & (1 << 8 * (at - 1) - 2) - 1
        growth = self._growths.get(stream) or self._growth(stream)
        if growth is None:
            return False
        offset, length = _OFFSET_AND_LENGTH.unpack_from(plain, at)
        offset, length = offset - _FOUR_BYTES, length - _TWO_BYTES
        at += _OFFSET_AND_LENGTH.size
        if offset != growth.next or offset >= _LARGEST_OF_FOUR or length <= 0 or length != len(plain) - at:
            return False
        if offset + length > growth.limit or length > self._room:
            return False
        growth.pieces.append(plain[at:])
        growth.next = offset + length
        self._room -= length
        if self._stop == self._start:
            self._start = number
        if number > self.expected:
            self.expected = number + 1
        self._stop, self._bits = number + 1, bits
        return True

    def _growth(self, stream: int) -> _Growth | None:
        found = self._growing(stream)
        if found is None:
            return None
        growth = self._growths[stream] = _Growth(*found)
        return growth

    def ended(self, at: int, left: tuple[int, int, bytes] | None) -> Run:
        grown = [
            (stream, growth.next, b"".join(growth.pieces)) for stream, growth in self._growths.items() if growth.pieces
        ]
        return Run(at, range(self._start, self._stop), self._bits, self.expected, grown, left)


class PlainSealer:
    """`Sealer` packet by packet."""

    def __init__(self, aead: AEAD) -> None:
        self._iv, self._encrypt = aead._iv, aead._aead.encrypt

    def seal(
        self,
        start: bytes,
        number: int,
        size: int,
        most: int,
        sources: Sequence[Source],
        room: int,
        masks: Callable[[bytes], bytes],
    ) -> Flight:
        iv, encrypt = self._iv, self._encrypt
        payload = size - len(start) - PACKET_NUMBER_SEND_SIZE - _TAG
        bodies: list[bytes] = []
        first, turn = number, 0
        flight = Flight([], [], [], [], list(range(len(sources))))
        while len(bodies) < most and turn < len(sources):
            index = flight.turns[turn]
            source = sources[index]
            end = min(source.held, source.highest + room, source.limit)
            if source.held < 0:
                break
            if end <= source.start:
                turn += 1
                continue
            begin = source.start
            head = varint(source.stream) + varint(begin) if begin else varint(source.stream)
            stop = begin + payload - len(head) - 3
            if not begin < stop <= end:
                break
            kind = QuicFrameType.STREAM_BASE | 2 | (4 if begin else 0) | (source.fin == stop)
            length = (_TWO_BYTES | stop - begin).to_bytes(2, "big")
            with memoryview(source.data) as data:
                plain = b"".join((bytes((kind,)), head, length, data[begin - source.base : stop - source.base]))
            header = start + (number & 0xFFFF).to_bytes(PACKET_NUMBER_SEND_SIZE, "big")
            bodies.append(encrypt((iv ^ number).to_bytes(12, "big"), plain, header))
            flight.owners.append(index)
            flight.starts.append(begin)
            flight.stops.append(stop)
            number += 1
            source.start = stop
            if stop > source.highest:
                room -= stop - source.highest
                source.highest = stop
                flight.turns.append(flight.turns.pop(turn))
            if stop == source.held:
                break
            turn = 0
        if bodies:
            flight.datagrams = _hidden(start, first, bodies, masks)
        return flight


def _hidden(start: bytes, number: int, bodies: list[bytes], masks: Callable[[bytes], bytes]) -> list[bytes]:
    """The datagrams, headers hidden: all masks are made in one call."""
    at = LONGEST_NUMBER - PACKET_NUMBER_SEND_SIZE
    made = masks(b"".join([body[at : at + SAMPLE] for body in bodies]))
    bits, cid, datagrams = start[0], start[1:], []
    for index, body in enumerate(bodies):
        mask = made[SAMPLE * index : SAMPLE * index + 1 + PACKET_NUMBER_SEND_SIZE]
        shown = (number + index & 0xFFFF) ^ int.from_bytes(mask[1:], "big")
        datagrams.append(b"".join((bytes((bits ^ mask[0] & 0x1F,)), cid, shown.to_bytes(2, "big"), body)))
    return datagrams


def varint(value: int) -> bytes:
    """An integer of variable length (RFC 9000 section 16)."""
    if value < 0x40:
        return bytes((value,))
    if value < _TWO_BYTES:
        return (value | _TWO_BYTES).to_bytes(2, "big")
    if value < _FOUR_BYTES >> 1:
        return (value | _FOUR_BYTES).to_bytes(4, "big")
    return (value | _EIGHT_BYTES).to_bytes(8, "big")
