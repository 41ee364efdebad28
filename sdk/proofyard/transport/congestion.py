"""Congestion control by a model of the path, after BBR (draft-cardwell-iccrg-bbr-congestion-control-00).

Home lines lose packets for reasons other than congestion, and a controller that halves its window at each loss gets
a few hundred kilobytes a second out of them. This one estimates the bottleneck's bandwidth (the greatest delivery
rate of the last rounds) and the path's round trip (the least of the last ten seconds), and keeps twice their product
in flight. It registers with aioquic under `NAME`, by the hook that aioquic has for that.

Kept simple against the draft: bandwidth probing is a round at 1.25 times the rate followed by one at 0.75; a round
that loses more than `LOSS_LIMIT` lowers the estimate, as in the second version; and since acknowledgements come in
bursts from peers that are busy, the window has room for `BURST_SECONDS` more.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aioquic.quic.congestion.base import K_INITIAL_WINDOW, QuicCongestionControl, register_congestion_control
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

NAME = "proofyard-bbr"

STARTUP_GAIN = 2.89
"""2 / ln 2: doubles the rate each round."""

WINDOW_GAIN = 2.0
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
FULL_GROWTH = 1.25
FULL_ROUNDS = 3
BANDWIDTH_ROUNDS = 10
ROUND_TRIP_SECONDS = 10.0
PROBE_SECONDS = 0.2
LOSS_LIMIT = 0.10
LOSS_BACKOFF = 0.85
BURST_SECONDS = 0.02
RELAYED_BURST_SECONDS = 3 * BURST_SECONDS
"""The same by way of a relay, where three programs may be busy at either end and between."""

MINIMUM_PACKETS = 4
LEAST_ROUND_TRIP = 1e-4

PACER_BURST_SECONDS = 0.004
"""The event loop's timers are good to a millisecond or so; the pacer sends what is due for that long at once."""


@dataclass(slots=True)
class _Sent:
    """What was known when a packet was sent."""

    delivered: int
    delivered_at: float
    first_sent_at: float
    limited: bool


class PathModel(QuicCongestionControl):
    """The controller. All sizes in bytes, times in seconds."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.packet_bytes = self._smallest_bytes = max_datagram_size
        self.burst_s = BURST_SECONDS
        self.large_lost = 0
        """Packets above the size the connection began with that were lost since one of them arrived."""
        self._sent: dict[int, _Sent] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._limited_until = 0
        self._round = 0
        self._round_ends_at = 0
        self._round_lost = 0
        self._round_start = 0
        self._rates: deque[tuple[int, float]] = deque()
        self._round_trip = math.inf
        self._round_trip_at = 0.0
        self._probing_until = 0.0
        self._startup = True
        self._draining = False
        self._full_rate = 0.0
        self._full_rounds = 0

    @property
    def rate(self) -> float:
        """The bottleneck's bandwidth in bytes per second as it is known now; 0 before the first sample."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def pacing_rate(self) -> float:
        """Bytes per second to send at. The initial window may always go in one round trip, so that a side which
        sends little, and whose samples therefore say little, is not slowed down."""
        if self._startup:
            gain = STARTUP_GAIN
        elif self._draining:
            gain = 1 / STARTUP_GAIN
        else:
            gain = CYCLE[self._round % len(CYCLE)]
        return max(gain * self.rate, STARTUP_GAIN * K_INITIAL_WINDOW * self.packet_bytes / self._round_trip)

    def on_idle(self) -> None:
        """There was room to send and nothing to send: samples until then say nothing against the path."""
        self._limited_until = self._delivered + self.bytes_in_flight or 1

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        now = packet.sent_time or 0.0
        if self.bytes_in_flight == 0:
            self._first_sent_at = self._delivered_at = now
        self.bytes_in_flight += packet.sent_bytes
        limited = 0 < self._limited_until >= self._delivered
        self._sent[id(packet)] = _Sent(self._delivered, self._delivered_at, self._first_sent_at, limited)

    def on_packets_sent(self, packets: Sequence[QuicSentPacket]) -> None:
        """Packets that are sent at one time."""
        self.on_packet_sent(packet=packets[0])
        sent = self._sent[id(packets[0])]
        self._sent.update((id(packet), sent) for packet in packets[1:])
        self.bytes_in_flight += sum(packet.sent_bytes for packet in packets[1:])

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        self.bytes_in_flight -= packet.sent_bytes
        self._delivered += packet.sent_bytes
        if packet.sent_bytes > self._smallest_bytes:
            self.large_lost = 0
        self._delivered_at = now
        sent = self._sent.pop(id(packet), None)
        if sent is None:
            return
        sent_at = packet.sent_time or now
        self._first_sent_at = sent_at
        if sent.delivered >= self._round_ends_at:
            self._next_round()
        interval = max(now - sent.delivered_at, sent_at - sent.first_sent_at)
        if interval > 0:
            self._sample((self._delivered - sent.delivered) / interval, sent.limited)
        self._set_window(now)

    def on_packets_acked(self, packets: list[QuicSentPacket], now: float) -> None:
        """`on_packet_acked` for each, those that were sent at one time counted together."""
        at = 0
        while at < len(packets):
            first = at
            sent = self._sent.get(id(packets[at]))
            self.on_packet_acked(now=now, packet=packets[at])
            at += 1
            while sent is not None and at < len(packets) and self._sent.get(id(packets[at])) is sent:
                del self._sent[id(packets[at])]
                at += 1
            if sent is not None and at > first + 1:
                self._also_acked(sent, packets[first + 1 : at], now)

    def _also_acked(self, sent: _Sent, packets: list[QuicSentPacket], now: float) -> None:
        """Packets of one time, behind the first of them: of their samples, which rise, the last is what remains."""
        size = sum(packet.sent_bytes for packet in packets)
        self.bytes_in_flight -= size
        self._delivered += size
        if any(packet.sent_bytes > self._smallest_bytes for packet in packets):
            self.large_lost = 0
        interval = max(now - sent.delivered_at, (packets[0].sent_time or now) - sent.first_sent_at)
        if interval > 0:
            self._sample((self._delivered - sent.delivered) / interval, sent.limited)
        self._set_window(now)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        for packet in packets:
            self._drop(packet)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        for packet in packets:
            self._drop(packet)
            self._round_lost += packet.sent_bytes

    def on_persistent_congestion(self) -> None:
        self._rates.clear()
        self._startup, self._draining = True, False
        self._full_rate, self._full_rounds = 0.0, 0
        self.congestion_window = MINIMUM_PACKETS * self.packet_bytes

    def restart(self) -> None:
        """Another path begins: nothing that was learnt on the old one holds (RFC 9000 section 9.4)."""
        self.on_persistent_congestion()
        self.burst_s = BURST_SECONDS
        self._round_trip, self._probing_until = math.inf, 0.0
        self._limited_until, self.large_lost = 0, 0
        self.congestion_window = K_INITIAL_WINDOW * self.packet_bytes

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        rtt = max(rtt, LEAST_ROUND_TRIP)
        stale = now - self._round_trip_at > ROUND_TRIP_SECONDS
        if rtt <= self._round_trip or (stale and self._probing_until > 0):
            self._round_trip, self._round_trip_at, self._probing_until = rtt, now, 0.0
        elif stale and self._probing_until == 0:
            # A standing queue hides the path's own round trip: let it drain for a moment.
            self._probing_until = now + PROBE_SECONDS

    def _drop(self, packet: QuicSentPacket) -> None:
        self.bytes_in_flight -= packet.sent_bytes
        self.large_lost += packet.sent_bytes > self._smallest_bytes
        self._sent.pop(id(packet), None)

    def _next_round(self) -> None:
        arrived = self._delivered - self._round_start
        if self._round_lost > LOSS_LIMIT * (arrived + self._round_lost) and arrived > 20 * self.packet_bytes:
            self._rates = deque((number, LOSS_BACKOFF * rate) for number, rate in self._rates)
            self._startup = False
        self._round += 1
        self._round_ends_at = self._round_start = self._delivered
        self._round_lost = 0
        if self._startup and self._delivered > self._limited_until:
            self._look_for_ceiling()
        elif self._draining and self.bytes_in_flight <= self._in_path():
            self._draining = False

    def _look_for_ceiling(self) -> None:
        if self.rate >= FULL_GROWTH * self._full_rate:
            self._full_rate, self._full_rounds = self.rate, 0
            return
        self._full_rounds += 1
        if self._full_rounds >= FULL_ROUNDS:
            self._startup, self._draining = False, True

    def _sample(self, rate: float, limited: bool) -> None:
        if limited and rate <= self.rate:
            return
        # Falling rates in order of age; the head is the greatest of the last rounds.
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))
        while self._rates[0][0] < self._round - BANDWIDTH_ROUNDS:
            self._rates.popleft()

    def _in_path(self) -> float:
        return self.rate * self._round_trip if self._round_trip < math.inf else 0.0

    def _set_window(self, now: float) -> None:
        if self._probing_until > now:
            self.congestion_window = max(int(self._in_path() / 2), MINIMUM_PACKETS * self.packet_bytes)
            return
        gain = STARTUP_GAIN if self._startup else WINDOW_GAIN
        wanted = int(gain * self._in_path() + self.burst_s * self.rate)
        if self._startup:
            wanted = max(wanted, self.congestion_window)
        self.congestion_window = max(wanted, MINIMUM_PACKETS * self.packet_bytes)


class ModelPacer(QuicPacketPacer):
    """Spaces packets by the model's rate rather than by window over round trip; a packet needs its whole share. `sent`
    hears of every packet, and may end the flight by raising `QuicPacketBuilderStop`."""

    def __init__(self, *, max_datagram_size: int, model: PathModel, sent: Callable[[float], None]) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._model, self._sent = model, sent

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]
        if self.packet_time is None:
            return None
        self.update_bucket(now=now)
        return None if self.bucket_time >= self.packet_time else now + self.packet_time - self.bucket_time

    def update_after_send(self, now: float) -> None:
        self.spend(now)
        self._sent(now)

    def spend(self, now: float) -> None:
        """A packet's share is used up."""
        if self.packet_time is not None:
            self.update_bucket(now=now)
            self.bucket_time -= self.packet_time

    def packets(self, now: float, most: int) -> int:
        """How many packets may be sent at once, `most` of them at most."""
        if self.packet_time is None:
            return max(0, most)
        self.update_bucket(now=now)
        count, left = 0, self.bucket_time
        while count < most and left >= self.packet_time:
            count, left = count + 1, left - self.packet_time
        return count

    def spend_all(self, now: float, count: int) -> None:
        """`spend` for so many."""
        if self.packet_time is not None:
            self.update_bucket(now=now)
            for _ in range(count):
                self.bucket_time -= self.packet_time

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        rate = self._model.pacing_rate or STARTUP_GAIN * congestion_window / max(smoothed_rtt, 1e-3)
        self.packet_time = max(1e-6, min(self._max_datagram_size / rate, 1.0))
        self.bucket_max = max(2 * self.packet_time, PACER_BURST_SECONDS)
        self.bucket_time = min(self.bucket_time, self.bucket_max)


register_congestion_control(NAME, PathModel)
