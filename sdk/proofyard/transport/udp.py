"""One non-blocking UDP socket that is read and written in batches.

asyncio's own datagram transport returns to the event loop after every datagram, with a system call for each; at
QUIC's packet rates that is most of the cost. `UdpSocket` hands over everything that waits in the socket, up to
`BATCH` reads at a time. Where the kernel has UDP segmentation offload (Linux 4.18) and receive offload (5.0), one
system call moves up to 64 datagrams of a connection; elsewhere the same code moves one at a time.
"""

import asyncio
import contextlib
import errno
import itertools
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from proofyard.transport.errors import EndpointUnavailable

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Datagram = tuple[bytes, SocketAddress]

BATCH = 64
SOCKET_BUFFER = 4 << 20
MAX_QUEUED = 4096
SHAPED_BURST_S = 0.005
"""What is due for so long goes at once."""
_LARGEST = 65_535
_LARGEST_GROUP = 65_000
_MOST_SEGMENTS = 64

# linux/in.h, linux/in6.h and linux/udp.h; the socket module does not name them.
_IP, _IP_MTU_DISCOVER, _IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 0, 10, 41, 23, 3
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_MAPPED = "::ffff:"
_ANCILLARY = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0


class Shaper:
    """The uplink that its operator allows: one rate for all sockets of a process, 0 for no limit. What is more waits,
    so that to QUIC it is the narrowest part of every path."""

    def __init__(self) -> None:
        self.bytes_s = 0.0
        self._free_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until something may be sent at `now`; a timer is good to a few milliseconds."""
        return max(0.0, self._free_at - SHAPED_BURST_S - now) if self.bytes_s else 0.0

    def sent(self, size: int, now: float) -> None:
        if self.bytes_s:
            self._free_at = max(now, self._free_at) + size / self.bytes_s


class UdpSocket:
    """A bound socket. `on_batch` gets lists of datagrams in order of arrival."""

    def __init__(
        self,
        sock: socket.socket,
        on_batch: Callable[[list[Datagram]], None],
        *,
        offload: bool = True,
        mapped: bool = False,
        shaper: Shaper | None = None,
    ) -> None:
        self._sock = sock
        self._shaper = shaper or Shaper()
        self._held: asyncio.TimerHandle | None = None
        self._mapped = mapped
        """Whether IPv4 addresses appear as IPv6 ones to the kernel (RFC 4291 section 2.5.5.2)."""
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Datagram] = deque(maxlen=MAX_QUEUED)
        self._blocked = False
        self._segmenting = offload and _enable(sock, _UDP_SEGMENT, 0)
        self._coalescing = offload and _enable(sock, _UDP_GRO, 1)
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    def bind(
        cls,
        host: str,
        port: int,
        on_batch: Callable[[list[Datagram]], None],
        *,
        offload: bool = True,
        only: bool = False,
        shaper: Shaper | None = None,
    ) -> "UdpSocket":
        """Listen on `host` (an IP address or a name) and UDP `port`, 0 for any. `::` stands for IPv4 as well, unless it
        is to be IPv6 `only`. Raises `EndpointUnavailable`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        mapped = host == "::" and not only
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise EndpointUnavailable(host, port, error.strerror or str(error)) from None
        try:
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(_IPV6, socket.IPV6_V6ONLY, int(not mapped))
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            _forbid_fragments(sock, family)
            if mapped:
                _forbid_fragments(sock, socket.AF_INET)
            sock.bind((host, port))
        except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the last ones for what is no name
            sock.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise EndpointUnavailable(host, port, reason) from None
        return cls(sock, on_batch, offload=offload, mapped=mapped, shaper=shaper)

    @property
    def address(self) -> SocketAddress:
        name: SocketAddress = self._sock.getsockname()
        return name

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Send in order; what the kernel does not take now waits, the oldest being dropped first (QUIC resends)."""
        self._queue.extend(datagrams)
        if not self._blocked and self._held is None:
            self._flush()

    def close(self) -> None:
        if self._held is not None:
            self._held.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    def _flush(self) -> None:
        self._held = None
        while self._queue:
            wait = self._shaper.wait(self._loop.time())
            if wait:
                self._held = self._loop.call_later(wait, self._flush)
                break
            group = self._next_group()
            try:
                self._send_group(group)
            except (BlockingIOError, InterruptedError):
                if not self._blocked:
                    self._blocked = True
                    self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if len(group) > 1 and error.errno in (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP):
                    # This path's device cannot segment; the same datagrams go out one by one.
                    self._segmenting = False
                    continue
                # No route, or larger than the path: lost packets to QUIC, which resends or times out.
            except (ValueError, OverflowError, TypeError):
                # No address that the socket takes. Left at the head of the queue it would hold up everybody's.
                pass
            self._shaper.sent(sum(map(len, group)), self._loop.time())
            for _ in group:
                self._queue.popleft()
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._sock.fileno())

    def _next_group(self) -> list[bytes]:
        """The datagrams at the head of the queue that one call can send: one address, one size but for the last."""
        first, address = self._queue[0]
        group = [first]
        if not self._segmenting:
            return group
        size, total = len(first), len(first)
        for data, other in itertools.islice(self._queue, 1, _MOST_SEGMENTS):
            total += len(data)
            if other != address or len(data) > size or total > _LARGEST_GROUP:
                break
            group.append(data)
            if len(data) < size:
                break
        return group

    def _send_group(self, group: list[bytes]) -> None:
        address = self._queue[0][1]
        if self._mapped and len(address) == 2:
            address = (_MAPPED + address[0], address[1], 0, 0)
        if len(group) == 1:
            self._sock.sendto(group[0], address)
        else:
            segment = (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(group[0])))
            self._sock.sendmsg(group, [segment], 0, address)

    def _readable(self) -> None:
        batch: list[Datagram] = []
        for _ in range(BATCH):
            try:
                if self._coalescing:
                    data, ancillary, _, address = self._sock.recvmsg(_LARGEST, _ANCILLARY)
                    step = _segment_size(ancillary) or len(data)
                else:
                    data, address = self._sock.recvfrom(_LARGEST)
                    step = len(data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # An ICMP error of an earlier datagram, reported here on some systems.
                continue
            if self._mapped and address[0].startswith(_MAPPED):
                address = (address[0].removeprefix(_MAPPED), address[1])
            batch += [(data[start : start + step], address) for start in range(0, len(data), step or 1)]
        if batch:
            self._on_batch(batch)


def _forbid_fragments(sock: socket.socket, family: int) -> None:
    """A datagram larger than the path must be lost, not cut up: each piece could be lost, and probes would lie."""
    level, option = (_IPV6, _IPV6_MTU_DISCOVER) if family == socket.AF_INET6 else (_IP, _IP_MTU_DISCOVER)
    if sys.platform == "linux":
        sock.setsockopt(level, option, _PMTUDISC_PROBE)


def _enable(sock: socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(_SOL_UDP, option, value)
    except OSError:
        return False
    return hasattr(sock, "sendmsg")


def _segment_size(ancillary: list[tuple[int, int, Any]]) -> int | None:
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return int(struct.unpack("=i", data[:4])[0])
    return None
