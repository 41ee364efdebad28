"""Packets that are built many at a time against aioquic's own: the same bytes, and the same state, whatever is sent."""

import random
from collections import deque
from functools import partial

import pytest
from aioquic.quic import events
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream
from quic_twins import ADDRESS, compare, joined, keys_of, same_chance, twin

from proofyard.transport.quic import PeerQuic

pytestmark = pytest.mark.usefixtures("engine")


class Pair:
    """A sender twice: `plain` as aioquic sends, `quick` in flights; and a receiver of what either sends."""

    def __init__(self, seed: int, chance: random.Random) -> None:
        ends = joined()
        sender, self.receiver = ends[seed % 2], ends[1 - seed % 2]
        self.receiver.grant_connection(1 << 40)
        self.plain, self.quick = self.both = twin(sender), twin(sender)
        self.plain._sends_data_alone = lambda now: False
        self.plain._loss.on_ack_received = partial(QuicPacketRecovery.on_ack_received, self.plain._loss)
        self.chance = chance
        self._open: list[int] = []
        self._read: dict[int, int] = {}

    def write(self) -> None:
        """Data, an end, or a reset of one of a few streams."""
        chance, plain = self.chance, self.plain
        if not self._open or (len(self._open) < 5 and chance.random() < 0.2):
            self._open.append(plain.get_next_available_stream_id())
            for each in self.both:
                each.send_stream_data(self._open[-1], b"?")
        stream = chance.choice(self._open)
        draw = chance.random()
        data = chance.randbytes(chance.choice([0, 3, 900, 5_000, 70_000, 300_000]))
        for each in self.both:
            if draw < 0.02:
                each.reset_stream(stream, 5)
            elif draw < 0.03:
                each.send_ping(1)
            elif draw < 0.04:
                each.grant_stream(stream, (5 << 20) + len(data))
            elif draw < 0.05:
                keys_of(each).update_key()
            else:
                each.send_stream_data(stream, data, end_stream=draw > 0.93)
        if not plain.writable(stream):
            self._open.remove(stream)

    def send(self, now: float, step: int) -> list[bytes]:
        sent = []
        for each in self.both:
            with same_chance(step):
                sent.append([data for data, _ in each.datagrams_to_send(now)])
        assert sent[0] == sent[1]
        return sent[0]

    def receive(self, datagrams: list[bytes], now: float, loss: float) -> list[bytes]:
        """What the other end has to say to some of the datagrams."""
        chance, receiver = self.chance, self.receiver
        for data in datagrams:
            if chance.random() >= loss:
                receiver.receive_datagram(data, ADDRESS, now)
        while (event := receiver.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                read = self._read[event.stream_id] = self._read.get(event.stream_id, 0) + len(event.data)
                if chance.random() < 0.7:
                    receiver.grant_stream(event.stream_id, read + (4 << 20))
                if chance.random() < 0.02 and receiver.writable(event.stream_id):
                    receiver.send_stream_data(event.stream_id, bytes(100))
        timer = receiver.get_timer()
        if timer is not None and timer <= now:
            receiver.handle_timer(now)
        return [data for data, _ in receiver.datagrams_to_send(now) if chance.random() >= loss]

    def answer(self, datagrams: list[bytes], now: float, step: int) -> None:
        for each in self.both:
            with same_chance(step):
                each.receive_datagrams([(data, ADDRESS) for data in datagrams], now)
                timer = each.get_timer()
                if timer is not None and timer <= now:
                    each.handle_timer(now)


@pytest.mark.parametrize("seed", range(6))
def test_flights_are_what_aioquic_would_have_sent(seed, monkeypatch):
    flown = []
    register = PeerQuic._register
    monkeypatch.setattr(PeerQuic, "_register", lambda self, sent, now: flown.extend(sent) or register(self, sent, now))
    # aioquic keeps streams that sent in a set, whose order is that of their addresses in memory.
    monkeypatch.setattr(QuicStream, "__hash__", lambda self: self.stream_id)
    chance = random.Random(seed)
    pair, now = Pair(seed, chance), 1.0
    under_way: deque[list[bytes]] = deque([[]] * chance.randrange(4))
    sent = 0
    for step in range(40):
        now += chance.choice([0.0002, 0.001, 0.004, 0.03])
        for _ in range(chance.choice([0, 1, 3])):
            pair.write()
        under_way.append(pair.send(now, step))
        sent += len(under_way[-1])
        answers = pair.receive(under_way.popleft(), now, chance.choice([0.0, 0.0, 0.05]) if seed % 3 else 0.0)
        pair.answer(answers, now, step)
        if step % 3 == 0:
            compare(*pair.both)
    compare(*pair.both)
    assert sent > len(flown) > 100
