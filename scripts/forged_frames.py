"""QUIC frames that no correct peer sends, on a connection that is open: for floods and for the tests of bounds."""

import contextlib
from collections.abc import Iterable, Iterator

from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType, QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.tls import Epoch

from proofyard.transport.link import Link

Frame = tuple[int, bytes]


def varint(*values: int) -> bytes:
    return b"".join(map(encode_uint_var, values))


def send_frames(link: Link, frames: Iterable[Frame], *, size: int = 16_000, skipped: int = 0) -> None:
    """One packet with these frames, whatever aioquic would think of them; so many numbers of packets are left out
    before it."""
    quic = link.quic
    quic._packet_number += skipped
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        is_client=quic._is_client,
        max_datagram_size=size,
        packet_number=quic._packet_number,
        peer_cid=quic._peer_cid.cid,
        version=QuicProtocolVersion.VERSION_1,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[Epoch.ONE_RTT])
    with contextlib.suppress(QuicPacketBuilderStop):
        for kind, content in frames:
            builder.start_frame(kind, capacity=len(content) + 2).push_bytes(content)
    link._owner.send(quic._flush_builder(builder, quic._network_paths[0], quic._peer_cid.cid, link._loop.time()))


def piece(stream: int, offset: int) -> Frame:
    """One byte of a stream."""
    return QuicFrameType.STREAM_BASE | 4 | 2, varint(stream, offset, 1) + b"x"


def in_pieces(count: int, streams: int) -> Iterator[list[Frame]]:
    """One-byte fragments with gaps between them, a hundred in a packet."""
    frames = [piece(4 * (40 + each % streams), 2 + 2 * (each // streams)) for each in range(count)]
    for start in range(0, count, 100):
        yield frames[start : start + 100]
