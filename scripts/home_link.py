"""A line with a delay between two network namespaces: a frame that goes in at one end comes out of the other one later.

    python scripts/home_link.py NAMESPACE DEVICE NAMESPACE DEVICE MILLISECONDS

Makes both devices (TAP), says "ready", and carries frames in both directions until stdin ends; the devices end with it.
How much goes in, the queues of the devices say (`tc`); here frames only wait. Used by `home_networks.py`, on kernels
that have no `netem` too.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 65_536
AT_ONCE = 64
"""Frames that one end may hand over before the other end has its turn."""
MAX_HELD = 16_384
"""Frames on their way in one direction; 15 ms of 100 Mbit/s are 125."""


def make_device(namespace: str, name: str) -> int:
    """A TAP device in a namespace, which lasts as long as what is returned is open. Raises `OSError`."""
    with open(f"/run/netns/{namespace}") as place:  # noqa: PTH123
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Direction:
    """Frames from `source` to `sink`, `delay_s` seconds later, in their order."""

    def __init__(self, source: int, sink: int, delay_s: float) -> None:
        self._source, self._sink, self._delay_s = source, sink, delay_s
        self._held: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float:
        """When the next frame is."""
        return self._held[0][0] if self._held else float("inf")

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                frame = os.read(self._source, FRAME_BYTES)
                if len(self._held) < MAX_HELD:
                    self._held.append((time.monotonic() + self._delay_s, frame))

    def give(self) -> None:
        now = time.monotonic()
        while self.due <= now:
            with contextlib.suppress(OSError):  # a device that is down loses what it is sent
                os.write(self._sink, self._held.popleft()[1])


def carry(one: int, other: int, delay_s: float, until: int) -> None:
    """Until `until` can be read, which is at its end."""
    directions = {one: Direction(one, other, delay_s), other: Direction(other, one, delay_s)}
    while True:
        due = min(each.due for each in directions.values())
        wait = None if due == float("inf") else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([one, other, until], [], [], wait)
        if until in readable:
            return
        for device in readable:
            directions[device].take()
        for each in directions.values():
            each.give()


def main() -> None:
    space, device, other_space, other_device, delay_ms = sys.argv[1:]
    ends = make_device(space, device), make_device(other_space, other_device)
    with contextlib.suppress(OSError):  # a line does not wait for a processor
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)
    carry(*ends, float(delay_ms) / 1000, sys.stdin.fileno())


if __name__ == "__main__":
    main()
