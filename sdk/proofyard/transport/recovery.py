"""Acknowledgements of many packets at once: what a flight brings back is counted together.

aioquic tells the controller and the stream of each packet by itself. Packets that were sent at one time differ in
nothing that the controller looks at, and their data follow one another; the state afterwards is the same, and tests
hold both ways against each other.
"""

from collections.abc import Iterable
from typing import cast

from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStreamSender

from proofyard.transport.congestion import PathModel
from proofyard.transport.flights import FullPacket


class Recovery(QuicPacketRecovery):
    """aioquic's recovery with a `PathModel` as its controller."""

    _cc: PathModel

    def on_ack_received(self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace) -> None:
        sent = space.sent_packets
        acked = _numbers_in(ack_rangeset, sent)
        # The last one shows how long the way was, and is left to aioquic.
        if len(acked) > 1 and sent[acked[-1]].is_ack_eliciting:
            self._take([sent.pop(number) for number in acked[:-1]], now, space)
        super().on_ack_received(ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space)

    def _take(self, packets: Iterable[QuicSentPacket | FullPacket], now: float, space: QuicPacketSpace) -> None:
        """Packets arrived, in the order in which they were sent."""
        run: list[FullPacket] = []
        for packet in packets:
            space.ack_eliciting_in_flight -= packet.is_ack_eliciting
            if isinstance(packet, FullPacket) and not packet.is_end:
                run.append(packet)
                continue
            self._take_run(run, now)
            run = []
            if packet.in_flight:
                self._cc.on_packet_acked(packet=cast(QuicSentPacket, packet), now=now)
            for handler, args in packet.delivery_handlers:
                handler(QuicDeliveryState.ACKED, *args)
        self._take_run(run, now)

    def _take_run(self, run: list[FullPacket], now: float) -> None:
        """Packets that had data of streams and nothing else."""
        self._cc.on_packets_acked(cast(list[QuicSentPacket], run), now)
        arrived: dict[QuicStreamSender, tuple[int, int]] = {}
        for _, _, _, sender, start, stop, _ in run:
            before = arrived.get(sender)
            if before is not None and before[1] == start:
                start = before[0]
            elif before is not None:
                sender.on_data_delivery(QuicDeliveryState.ACKED, *before, False)
            arrived[sender] = (start, stop)
        for sender, (start, stop) in arrived.items():
            sender.on_data_delivery(QuicDeliveryState.ACKED, start, stop, False)


def _numbers_in(ranges: Iterable[range], sent: Iterable[int]) -> list[int]:
    """Those of the numbers sent, which rise, that are in one of the ranges, which rise as well."""
    found: list[int] = []
    left = iter(ranges)
    current = next(left)
    for number in sent:
        while number >= current.stop:
            following = next(left, None)
            if following is None:
                return found
            current = following
        if number >= current.start:
            found.append(number)
    return found
