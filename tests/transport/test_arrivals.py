"""Groups of datagrams against the same datagrams one by one: equal state, events and answers, whatever is in them."""

import contextlib
import random
from collections.abc import Iterator

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from quic_twins import ADDRESS, compare, joined, keys_of, picture, same_chance, twin

from proofyard.transport import compiled
from proofyard.transport.arrivals import GROUP
from proofyard.transport.compiled import CompiledReader
from proofyard.transport.packets import SAMPLE
from proofyard.transport.quic import PeerQuic

pytestmark = pytest.mark.usefixtures("engine")

Frame = tuple[int, bytes]
KIND = QuicFrameType


def long_varint(value: int, chance: random.Random) -> bytes:
    """An integer in any of the sizes that can hold it."""
    shortest = encode_uint_var(value)
    size = chance.choice([each for each in (1, 2, 4, 8) if each >= len(shortest)])
    return (value | {1: 0, 2: 1, 4: 2, 8: 3}[size] << 8 * size - 2).to_bytes(size, "big")


class Peer:
    """Sends what correct peers send, and what they do not, of streams that it remembers."""

    def __init__(self, quic: PeerQuic, chance: random.Random) -> None:
        self.quic, self.chance = quic, chance
        self._first = 0 if quic._is_client else 1
        self._offsets = {0: 0, 4: 20_000, 8: (1 << 22) - 50_000, 40: 0, 12: 0}

    def packet(self, frames: list[Frame], size: int = 1452) -> bytes:
        quic = self.quic
        builder = QuicPacketBuilder(
            host_cid=quic.host_cid,
            is_client=quic._is_client,
            max_datagram_size=size,
            packet_number=quic._packet_number,
            peer_cid=quic._peer_cid.cid,
            spin_bit=self.chance.random() < 0.5,
            version=QuicProtocolVersion.VERSION_1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, keys_of(quic))
        with contextlib.suppress(QuicPacketBuilderStop):
            for kind, content in frames:
                builder.start_frame(kind, capacity=len(content) + 2).push_bytes(content)
        made, quic._packet_number = builder.flush()[0], builder.packet_number
        return made[0] if made else b""

    def bulk(self, stream: int, length: int = 1400) -> Frame:
        """The next bytes of a stream, as aioquic would send them."""
        offset = self._offsets[stream]
        self._offsets[stream] += length
        kind = KIND.STREAM_BASE | 2 | (4 if offset else 0)
        content = encode_uint_var(self._first + stream) + (encode_uint_var(offset) if offset else b"")
        return kind, content + (0x4000 | length).to_bytes(2, "big") + self.chance.randbytes(length)

    def ack(self, other: PeerQuic) -> Frame:
        """Some of what the other end has sent."""
        chance = self.chance
        top = max(0, other._packet_number - 1 - chance.randrange(3))
        first = chance.randint(0, min(top, 10))
        content = [top, chance.randrange(1000), 0, first]
        if top - first > 6:
            content[2] = 1
            content += [1, chance.randrange(3)]
        return KIND.ACK, b"".join(long_varint(value, chance) for value in content)

    def stream(self) -> Frame:
        """Any piece of a stream, at its end or not."""
        chance = self.chance
        stream = chance.choice([*[0, 0, 4, 12, 40, 36] * 20, 2, 3])
        offset = self._offsets.get(stream, 0) + chance.choice([0, 0, 0, -200, 300, 1000])
        offset = max(0, offset)
        kind = KIND.STREAM_BASE | (chance.random() < 0.005) | 2 | (4 if offset else 0)
        length = chance.choice([0, 1, 50, 300])
        content = long_varint(self._first + stream, chance) + (long_varint(offset, chance) if offset else b"")
        return kind, content + long_varint(length, chance) + bytes(length)

    def odd(self) -> Frame:
        chance = self.chance
        stream = encode_uint_var(self._first + chance.choice([*[0, 4, 12] * 100, 1, 3]))
        some = [long_varint(chance.choice([0, 4, 1000, 1 << 20, 1 << 40]), chance) for _ in range(2)]
        harmless = [
            (KIND.PING, b""),
            (KIND.PADDING, bytes(chance.randrange(20))),
            (KIND.MAX_DATA, some[0]),
            (KIND.MAX_STREAM_DATA, stream + some[0]),
            (KIND.MAX_STREAMS_BIDI, some[0]),
            (KIND.DATA_BLOCKED, some[0]),
            (KIND.STREAMS_BLOCKED_BIDI, some[0]),
            (KIND.PATH_CHALLENGE, chance.randbytes(8)),
        ]
        rare = [
            (KIND.RESET_STREAM, stream + some[0] + encode_uint_var(1 << 19)),
            (KIND.STOP_SENDING, stream + some[0]),
            (KIND.PATH_RESPONSE, chance.randbytes(8)),
            (KIND.RETIRE_CONNECTION_ID, encode_uint_var(chance.randrange(4))),
        ]
        return chance.choice(rare if chance.random() < 0.03 else harmless)

    def wrong(self) -> Frame:
        chance = self.chance
        return chance.choice(
            [
                (0x77, b"?"),
                (KIND.STREAM_BASE | 6, encode_uint_var(0) + encode_uint_var(1 << 50) + b"\x40\x01x"),
                (KIND.STREAM_BASE | 6, b"\x40"),
                (KIND.STREAM_BASE | 6, b"\x04\x80\x00\x50\x00\x45\xff" + bytes(20)),
                (KIND.ACK, b"\x00\x00\x00\x05"),
                (KIND.APPLICATION_CLOSE, b"\x00\x00"),
                (KIND.HANDSHAKE_DONE, b""),
            ]
        )

    def datagrams(self, other: PeerQuic, count: int) -> Iterator[bytes]:
        chance = self.chance
        for _ in range(count):
            draw = chance.random()
            if draw < 0.8:
                yield self.packet([self.bulk(chance.choice([4, 4, 4, 12, 40, 0, 8]), chance.choice([1400, 1400, 7]))])
            elif draw < 0.87:
                yield self.packet([self.ack(other), *([self.bulk(4)] * chance.randrange(2))])
            elif draw < 0.94:
                yield self.packet([self.stream() for _ in range(chance.choice([1, 1, 2, 20]))])
            elif draw < 0.975:
                yield self.packet([self.odd() for _ in range(chance.choice([1, 1, 2, 3, 20]))])
            elif draw < 0.977:
                yield self.packet([self.wrong()])
            elif draw < 0.985:
                self.quic._packet_number += chance.choice([1, 3, 200])
            elif draw < 0.99 and not keys_of(self.quic)._update_key_requested:
                keys_of(self.quic).update_key()
            else:
                yield chance.choice([b"", b"\x40", chance.randbytes(1200), b"\x40" + other.host_cid + bytes(30)])


def spoilt(made: list[bytes], chance: random.Random, loss: float) -> list[bytes]:
    """What a path makes of datagrams: some lost, doubled, later, or forged."""
    arrived = []
    for data in made:
        draw = chance.random()
        if draw < loss:
            continue
        if draw > 0.99 and data:
            at = chance.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]
        arrived.append(data)
        if draw > 0.98:
            arrived.append(data)
    for _ in range(int(loss * len(arrived))):
        at = chance.randrange(len(arrived))
        arrived.insert(min(len(arrived), at + 3), arrived.pop(at))
    return arrived


class Pair:
    """One end twice: `one` takes each datagram by itself, `group` all together."""

    def __init__(self, seed: int, chance: random.Random) -> None:
        ends = joined()
        receiver, sender = ends[seed % 2], ends[1 - seed % 2]
        self.peer = Peer(sender, chance)
        self.one, self.group = self.both = twin(receiver), twin(receiver)
        sends = chance.random() < 0.7
        for each in self.both:
            each.grant_connection(1 << 40 if seed % 3 else 4_000_000)
            if sends:
                each.send_stream_data(each.get_next_available_stream_id(), bytes(200_000))

    def take(self, arrived: list[tuple[bytes, tuple[str, int]]], now: float, step: int) -> tuple[int, int]:
        """Packets that were usual, and others."""
        with same_chance(step):
            for data, address in arrived:
                self.one.receive_datagram(data, address, now)
                if self.one.tally.abuse:
                    break
        others = []
        receive = self.group.receive_datagram
        self.group.receive_datagram = lambda *args: others.append(args) or receive(*args)
        before, at = self.group.payloads, 0
        with same_chance(step):
            while at < len(arrived) and not self.group.tally.abuse:
                at += self.group.receive_datagrams(arrived[at : at + GROUP], now)
        del self.group.receive_datagram
        return self.group.payloads - before, len(others)

    def answer(self, now: float, step: int) -> None:
        sent = []
        for each in self.both:
            with same_chance(step):
                sent.append(each.datagrams_to_send(now))
        assert sent[0] == sent[1]

    def over(self) -> bool:
        return self.one._close_event is not None or bool(self.one.tally.abuse)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_leaves_what_its_datagrams_leave_one_by_one(seed):
    chance = random.Random(seed)
    pair, now, usual, others = Pair(seed, chance), 1.0, 0, 0
    for step in range(30):
        now += chance.choice([0.0, 0.001, 0.03])
        made = list(pair.peer.datagrams(pair.one, chance.choice([1, 5, GROUP])))
        arrived = [
            (data, ADDRESS if chance.random() < 0.99 else ("192.0.2.7", 7))
            for data in spoilt(made, chance, 0.1 * (seed % 4 == 1))
        ]
        taken = pair.take(arrived, now, step)
        usual, others = usual + taken[0], others + taken[1]
        compare(pair.one, pair.group)
        pair.answer(now, step)
        compare(pair.one, pair.group)
        if pair.over():
            pair = Pair(seed, chance)
    assert usual > others / 2 > 0


def test_a_bound_that_usual_packets_break_ends_a_group():
    chance = random.Random(1)
    pair = Pair(1, chance)
    kind = KIND.STREAM_BASE | 4 | 2
    arrived = [
        (
            pair.peer.packet(
                [(kind, encode_uint_var(0) + encode_uint_var(2 * (15 * at + each) + 2) + b"\1x") for each in range(15)]
            ),
            ADDRESS,
        )
        for at in range(80)
    ]
    assert pair.take(arrived, 1.0, 0)[1] == 0
    compare(pair.one, pair.group)
    assert pair.group.tally.abuse == "a stream in too many pieces"


def test_forged_packets_change_nothing():
    chance = random.Random(2)
    pair = Pair(0, chance)
    before = picture(pair.group)
    start = b"\x40" + pair.group.host_cid
    pair.group.receive_datagrams([(start + chance.randbytes(1200), ADDRESS) for _ in range(GROUP)], 1.0)
    assert picture(pair.group) == before


def test_what_does_not_fit_is_not_opened_as_one_group():
    """Nothing below `_reader` looks at it again: `packets.c` writes what it is given into buffers of a fixed size."""
    quic = Pair(0, random.Random(3)).group
    fitting = [bytes(compiled.MOST_BYTES // GROUP)] * GROUP
    groups = fitting, [*fitting[1:], fitting[0] + b"?"], [bytes(1000)] * (GROUP + 1)
    readers = [quic._reader(each, bytes(SAMPLE * len(each))) for each in groups]
    assert [isinstance(each, CompiledReader) for each in readers] == [compiled.library is not None, False, False]
