"""A link with delay, loss and a rate between two network namespaces, for kernels without netem.

Each namespace has a TUN device; one thread carries the packets between them, keeps each for the delay, drops some,
and spaces them to the rate. Needs Linux and root. `with ShapedLink(...) as link` then `link.command("a")` is what to
put before a command to run it in namespace a, whose address is `link.addresses["a"]`.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
QUEUE_PACKETS = 1000


def available() -> bool:
    """Whether this process may make namespaces and TUN devices."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and Path("/dev/net/tun").exists()


class ShapedLink:
    """`delay_s` is one way; `loss` a probability for each packet in each direction; `rate` bytes/s, 0 for any."""

    def __init__(
        self, *, delay_s: float = 0.0, loss: float = 0.0, rate: float = 0.0, mtu: int = 1500, seed: int = 1
    ) -> None:
        self._delay, self._loss, self._rate, self._mtu = delay_s, loss, rate, mtu
        self._random = random.Random(seed)
        self._names = {side: f"py{os.getpid()}{side}" for side in "ab"}
        self._stop = threading.Event()
        self._tuns: dict[str, int] = {}
        self.addresses = {"a": "10.79.0.1", "b": "10.79.0.2"}

    def command(self, side: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[side]]

    def __enter__(self) -> Self:
        for side, name in self._names.items():
            _run("ip", "netns", "add", name)
            self._tuns[side] = _tun_of(name)
            for command in (
                f"ip addr add {self.addresses[side]}/30 dev tun0",
                f"ip link set tun0 mtu {self._mtu} up",
                "ip link set lo up",
            ):
                _run(*self.command(side), *command.split())
        self._thread = threading.Thread(target=self._carry, name="shaped-link", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for tun in self._tuns.values():
            os.close(tun)
        for name in self._names.values():
            _run("ip", "netns", "del", name)

    def _carry(self) -> None:
        other = {self._tuns["a"]: self._tuns["b"], self._tuns["b"]: self._tuns["a"]}
        free_at = dict.fromkeys(other, 0.0)
        waiting: list[tuple[float, int, int, bytes]] = []
        poll = select.poll()
        for tun in other:
            poll.register(tun, select.POLLIN)
        count = 0
        while not self._stop.is_set():
            now = time.monotonic()
            timeout = min(0.1, waiting[0][0] - now) if waiting else 0.1
            for tun, _ in poll.poll(max(0, timeout * 1000)):
                packet = os.read(tun, 65_536)
                now = time.monotonic()
                if self._random.random() < self._loss or len(waiting) > QUEUE_PACKETS:
                    continue
                spacing = len(packet) / self._rate if self._rate else 0.0
                free_at[tun] = max(now, free_at[tun]) + spacing
                count += 1
                heapq.heappush(waiting, (free_at[tun] + self._delay, count, other[tun], packet))
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, tun, packet = heapq.heappop(waiting)
                os.write(tun, packet)


class VethPair:
    """Two namespaces joined by a veth pair: the kernel's own speed, at an MTU of one's choice."""

    def __init__(self, mtu: int = 1500) -> None:
        self._mtu = mtu
        self._names = {side: f"pv{os.getpid()}{side}" for side in "ab"}
        self.addresses = {"a": "10.78.0.1", "b": "10.78.0.2"}
        self.addresses6 = {"a": "fd78::1", "b": "fd78::2"}

    def command(self, side: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[side]]

    def __enter__(self) -> Self:
        a, b = self._names.values()
        _run("ip", "netns", "add", a)
        _run("ip", "netns", "add", b)
        _run("ip", "link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        for side in self._names:
            for command in (
                f"ip addr add {self.addresses[side]}/30 dev veth0",
                f"ip addr add {self.addresses6[side]}/64 dev veth0 nodad",
                f"ip link set veth0 mtu {self._mtu} up",
                "ip link set lo up",
            ):
                _run(*self.command(side), *command.split())
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names.values():
            _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _open_tun() -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN | _IFF_NO_PI))
    return tun


def _tun_of(name: str) -> int:
    """Make a TUN device on a thread inside a network namespace, as it belongs to where it was made."""
    result: list[int] = []

    def inside() -> None:
        handle = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            result.append(_open_tun())
        finally:
            os.close(handle)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return result[0]
