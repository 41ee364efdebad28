"""The UDP sockets of a process: one that others can reach, and one for each family of addresses that it cannot reach.

Where a program listens says nothing about whom it may dial: who listens on loopback, or on IPv4, still has to reach
every peer that the Registry lists. So a socket that only dials is opened when the first such peer is dialled; on it
nobody else's connections are taken.
"""

import ipaddress
from collections.abc import Callable
from functools import partial

from proofyard.transport.errors import EndpointUnavailable
from proofyard.transport.udp import Datagram, Shaper, SocketAddress, UdpSocket

OnBatch = Callable[[list[Datagram], bool], None]
"""Datagrams, and whether they may open connections."""


class Sockets:
    """`on_batch` gets what comes in on any of them."""

    def __init__(self, on_batch: OnBatch) -> None:
        self.shaper = Shaper()
        self._on_batch = on_batch
        self._host = ""
        self._listening: UdpSocket | None = None
        self._dialling: dict[int, UdpSocket] = {}

    def bind(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the IP address and the port. Raises `EndpointUnavailable`."""
        self._listening = UdpSocket.bind(host, port, partial(self._take, newcomers=True), shaper=self.shaper)
        self._host = self._listening.address[0]
        return self._host, self._listening.address[1]

    def prepare(self, address: SocketAddress) -> bool:
        """Have a socket that reaches `address`; False where this machine has none of its family."""
        if self._listening is None:
            return False
        version = _version(address)
        if reaches(self._host, address[0]) or version in self._dialling:
            return True
        try:
            anywhere = "::" if version == 6 else "0.0.0.0"  # noqa: S104
            self._dialling[version] = UdpSocket.bind(
                anywhere, 0, partial(self._take, newcomers=False), only=True, shaper=self.shaper
            )
        except EndpointUnavailable:
            return False
        return True

    def send(self, datagrams: list[Datagram]) -> None:
        if not self._dialling:
            if self._listening is not None:
                self._listening.send(datagrams)
            return
        for datagram in datagrams:
            socket = self._listening
            if not reaches(self._host, datagram[1][0]):
                socket = self._dialling.get(_version(datagram[1]), self._listening)
            if socket is not None:
                socket.send([datagram])

    def close(self) -> None:
        for socket in (self._listening, *self._dialling.values()):
            if socket is not None:
                socket.close()
        self._listening = None
        self._dialling.clear()

    def _take(self, batch: list[Datagram], *, newcomers: bool) -> None:
        self._on_batch(batch, newcomers)


def reaches(bound: str, host: str) -> bool:
    """Whether a socket that is bound to the IP address `bound` can send to `host`, another one."""
    here, there = (ipaddress.ip_address(each.split("%")[0]) for each in (bound, host))
    if here.is_unspecified:
        return here.version == 6 or there.version == 4
    return here.version == there.version and (not here.is_loopback or there.is_loopback)


def _version(address: SocketAddress) -> int:
    return 6 if ":" in address[0] else 4
