"""One non-blocking UDP socket that is read and written in batches.

asyncio's own datagram transport returns to the event loop after every datagram; at QUIC's packet rates that loop is
most of the cost. `UdpSocket` hands over everything that waits in the socket, up to `BATCH` datagrams at a time.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Iterable

from proofyard.transport.errors import EndpointUnavailable

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Datagram = tuple[bytes, SocketAddress]

BATCH = 128
SOCKET_BUFFER = 4 << 20
MAX_QUEUED = 1024
_LARGEST = 65_535


class UdpSocket:
    """A bound socket. `on_batch` gets lists of datagrams in order of arrival."""

    def __init__(self, sock: socket.socket, on_batch: Callable[[list[Datagram]], None]) -> None:
        self._sock = sock
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(_LARGEST)
        self._view = memoryview(self._buffer)
        self._queue: deque[Datagram] = deque(maxlen=MAX_QUEUED)
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    def bind(cls, host: str, port: int, on_batch: Callable[[list[Datagram]], None]) -> "UdpSocket":
        """Listen on `host` (an IP address) and UDP `port`, 0 for any. Raises `EndpointUnavailable`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            sock.bind((host, port))
        except (OSError, OverflowError) as error:
            sock.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise EndpointUnavailable(host, port, reason) from None
        return cls(sock, on_batch)

    @property
    def address(self) -> SocketAddress:
        name: SocketAddress = self._sock.getsockname()
        return name

    def send(self, datagrams: Iterable[Datagram]) -> None:
        """Send in order; what the kernel does not take now waits, the oldest being dropped first (QUIC resends)."""
        for datagram in datagrams:
            if self._queue or not self._send_now(datagram):
                if not self._queue:
                    self._loop.add_writer(self._sock.fileno(), self._writable)
                self._queue.append(datagram)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    def _send_now(self, datagram: Datagram) -> bool:
        try:
            self._sock.sendto(*datagram)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # No route, or larger than the path: a lost packet to QUIC, which resends or times out.
            return True
        return True

    def _writable(self) -> None:
        while self._queue and self._send_now(self._queue[0]):
            self._queue.popleft()
        if not self._queue:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        batch: list[Datagram] = []
        for _ in range(BATCH):
            try:
                size, address = self._sock.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # An ICMP error of an earlier datagram, reported here on some systems.
                continue
            batch.append((bytes(self._view[:size]), address))
        if batch:
            self._on_batch(batch)
