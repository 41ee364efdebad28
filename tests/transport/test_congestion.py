"""Two QUIC state machines joined by a simulated path, in virtual time: no sockets, no clock, no luck."""

import heapq
import itertools
import random
from dataclasses import dataclass

import pytest
from aioquic.quic import events

from proofyard.transport.quic import Credentials, PeerQuic, configuration

CREDENTIALS = Credentials.fresh()
HOST = "192.0.2.1"
"""Not loopback, so that packets have the size for the internet."""


@dataclass
class Path:
    """Bytes per second, seconds one way, probability of loss, bytes that wait at the bottleneck before it drops, and
    the largest UDP payload that passes until `shrinks_at`, when it becomes 1,200; from `slows_at` on a quarter of the
    rate is left. `size` is what the server sends."""

    rate: float
    delay: float
    loss: float = 0.0
    queue: float = 1e9
    largest: int = 1472
    shrinks_at: float = 1e9
    slows_at: float = 1e9
    seed: int = 1
    size: int = 0
    sent: int = 0
    dropped: int = 0


def transfer(path: Path, size: int, *, warm_up: int = 0, limit: float = 60.0) -> float:
    """Virtual seconds for a server to send `size` bytes, after `warm_up` small answers one by one."""
    client = PeerQuic(configuration=configuration(None))
    server = PeerQuic(
        configuration=configuration(CREDENTIALS),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    for side in (client, server):
        side.grant_connection(1 << 40)
    chance = random.Random(path.seed)
    order = itertools.count()
    waiting: list[tuple[float, int, PeerQuic, bytes]] = []
    free_at = {client: 0.0, server: 0.0}
    now, received, started, asked = 0.0, 0, 0.0, 0

    def flush(side: PeerQuic) -> None:
        for data, _ in side.datagrams_to_send(now):
            other = server if side is client else client
            start = max(now, free_at[side])
            rate = path.rate if start < path.slows_at else path.rate / 4
            if len(data) > (path.largest if now < path.shrinks_at else 1200):
                continue
            path.sent += side is server
            if chance.random() < path.loss or (start - now) * rate > path.queue:
                path.dropped += side is server
                continue
            free_at[side] = start + len(data) / rate
            heapq.heappush(waiting, (free_at[side] + path.delay, next(order), other, data))

    client.connect((HOST, 1), now)
    flush(client)
    while now < limit:
        timers = [(side.get_timer(), side) for side in (client, server) if side is client or server.begun()]
        due = min((at, i) for i, (at, _) in enumerate(timers) if at is not None)
        if waiting and waiting[0][0] <= due[0]:
            now, _, side, data = heapq.heappop(waiting)
            side.receive_datagram(data, (HOST, 1), now)
        else:
            # A microsecond late, as every timer is: aioquic rounds loss times differently when it looks again.
            now, side = max(now, due[0]) + 1e-6, timers[due[1]][1]
            side.handle_timer(now)
        while (event := side.next_event()) is not None:
            if side is client and isinstance(event, events.HandshakeCompleted):
                client.send_stream_data(0, b"?")
                client.grant_stream(0, 1 << 40)
            elif side is server and isinstance(event, events.StreamDataReceived):
                asked += 1
                server.send_stream_data(0, bytes(100 if asked <= warm_up else size))
                started = now
            elif side is client and isinstance(event, events.StreamDataReceived):
                received += len(event.data)
                if received == 100 * asked and asked <= warm_up:
                    client.send_stream_data(0, b"?")
                elif received == 100 * warm_up + size:
                    path.size = server._max_datagram_size
                    return now - started
        flush(side)
    raise AssertionError(f"{received} bytes after {limit} virtual seconds")


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.05])
def test_random_loss_does_not_take_the_bandwidth(loss):
    path = Path(rate=3e6, delay=0.025, loss=loss)
    assert 6e6 / transfer(path, 6_000_000) > 0.6 * path.rate


def test_a_long_path_is_filled():
    path = Path(rate=4e6, delay=0.1, queue=400_000)
    assert 12e6 / transfer(path, 12_000_000) > 0.55 * path.rate


def test_a_short_queue_is_not_flooded():
    path = Path(rate=2e6, delay=0.02, queue=60_000)
    assert 6e6 / transfer(path, 6_000_000) > 0.6 * path.rate
    assert path.dropped < 0.1 * path.sent


def test_small_answers_say_nothing_against_the_path():
    path = Path(rate=3e6, delay=0.025)
    assert transfer(path, 3_000_000, warm_up=30) < 1.3 * transfer(path, 3_000_000) + 0.2


@pytest.mark.parametrize("delay", [0.001, 0.03])
def test_a_path_that_slows_down_is_followed(delay):
    path = Path(rate=4e6, delay=delay, queue=150_000, slows_at=1.0)
    assert transfer(path, 6_000_000) < 1.0 + 1.6 * 2.5
    assert path.dropped < 0.3 * path.sent


def test_a_path_that_loses_a_third_still_delivers():
    transfer(Path(rate=1e6, delay=0.02, loss=0.33), 300_000)


@pytest.mark.parametrize(("largest", "found"), [(1200, 1200), (1372, 1350), (1472, 1452), (8972, 8900)])
def test_the_largest_datagram_that_passes_is_found(largest, found):
    path = Path(rate=5e6, delay=0.01, largest=largest)
    transfer(path, 500_000)
    assert path.size == found


def test_a_path_that_shrinks_is_survived():
    path = Path(rate=1e6, delay=0.01, shrinks_at=0.6)
    transfer(path, 1_500_000)
    assert path.size == 1200
