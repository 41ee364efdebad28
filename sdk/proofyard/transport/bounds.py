"""What a peer may make aioquic keep and compute: pieces of streams with gaps between them, and frames in a packet.

aioquic looks through all pieces of a stream for each frame that it receives, handles frames one by one however small
they are, and bounds neither. A `Tally` counts for one connection; what is over a bound ends the connection with an
error, and `Tally.abuse` says which bound it was, so that whoever sent it can be banned.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream

MAX_PIECES_OF_STREAM = 1024
"""Pieces of a stream that wait for what is missing before them. A window of 4 MiB has 3,500 small packets; where every
fourth of them is lost there are 900."""

MAX_PIECES = 4096
"""The same on all streams of a connection."""

MAX_ACK_RANGES = 512
"""Ranges in an ACK frame; aioquic sends at most 64 (RFC 9000 section 13.2.3)."""

USUAL_ACK_RANGES = 64
"""Of all ACK frames of a packet; for more each range costs like a part of a frame."""

RANGES_OF_FRAME = 4

MAX_CRYPTO_BYTES = 32 << 10
"""Bytes of the TLS handshake ahead of what TLS has taken; all messages of one flight of ours are below 4 KiB."""

USUAL_FRAMES = 16
"""Frames in a packet that count as nothing special."""

EXTRA_FRAMES, EXTRA_FRAMES_PER_S = 20_000.0, 4_000.0
"""Frames beyond that: saved up, and in the long run. 500 requests a second have five frames each."""

RARE: dict[int, int] = dict.fromkeys(
    (
        QuicFrameType.PATH_CHALLENGE,
        QuicFrameType.PATH_RESPONSE,
        QuicFrameType.NEW_CONNECTION_ID,
        QuicFrameType.RETIRE_CONNECTION_ID,
        QuicFrameType.NEW_TOKEN,
        QuicFrameType.HANDSHAKE_DONE,
    ),
    20,
)
"""Frames that a connection needs a few of in all; each counts as so many, because each has us answer or keep
something."""

_start, _stop = attrgetter("start"), attrgetter("stop")


class Tally:
    """What one connection has cost."""

    def __init__(self) -> None:
        self.pieces = 0
        self.abuse = ""
        """Which bound the peer broke."""
        self._extra, self._at = EXTRA_FRAMES, 0.0

    def count_frames(self, count: int, now: float) -> None:
        """Frames of one packet. Raises `QuicConnectionError` where there were too many of late."""
        if count > USUAL_FRAMES:
            self._extra = min(EXTRA_FRAMES, self._extra + (now - self._at) * EXTRA_FRAMES_PER_S) - count
            self._at = now
            if self._extra < 0:
                self.refuse("more frames than any use has")

    def refuse(self, reason: str, frame_type: int = QuicFrameType.PADDING) -> None:
        """Raises `QuicConnectionError`."""
        self.abuse = reason
        raise QuicConnectionError(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=frame_type, reason_phrase=reason)


class Pieces(RangeSet):
    """The pieces of a stream that have come, found by bisection."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._ranges: list[range] = self._RangeSet__ranges  # type: ignore[attr-defined]
        self._tally = tally

    def add(self, start: int, stop: int | None = None) -> None:
        stop = start + 1 if stop is None else stop
        ranges = self._ranges
        first, after = bisect_left(ranges, start, key=_stop), bisect_right(ranges, stop, key=_start)
        if first < after:
            start, stop = min(start, ranges[first].start), max(stop, ranges[after - 1].stop)
        ranges[first:after] = [range(start, stop)]
        tally = self._tally
        tally.pieces += 1 - (after - first)
        if len(ranges) > MAX_PIECES_OF_STREAM or tally.pieces > MAX_PIECES:
            tally.refuse("a stream in too many pieces")

    def shift(self) -> range:
        self._tally.pieces -= 1
        return self._ranges.pop(0)


class Streams(dict[int, QuicStream]):
    """The streams of a connection, whose pieces are counted."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.receiver._ranges = Pieces(self._tally)
        super().__setitem__(stream_id, stream)

    def pop(self, stream_id: int, *default: Any) -> Any:
        stream = super().pop(stream_id, *default)
        if isinstance(stream, QuicStream):
            self._tally.pieces -= len(stream.receiver._ranges)
        return stream


class Frames(dict[int, tuple[Callable[..., None], Any]]):
    """What handles which type of frame; counts what the frames of a packet cost."""

    seen = 0
    _ranges = 0

    def begin_packet(self) -> None:
        self.seen = self._ranges = 0

    def count_ranges(self, count: int) -> None:
        """Ranges of an ACK frame."""
        self._ranges += count
        if self._ranges > USUAL_ACK_RANGES:
            self.seen += count // RANGES_OF_FRAME

    def __getitem__(self, frame_type: int) -> tuple[Callable[..., None], Any]:
        self.seen += RARE.get(frame_type, 1)
        return super().__getitem__(frame_type)
