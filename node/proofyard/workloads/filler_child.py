"""The process that fills memory: `python -m proofyard.workloads.filler_child`, started and fed by a `Filler`.

It is a process of its own so that its memory is counted alone, and so that whatever the machine is needed for next can
end it in the middle of a product and has all of the memory at once. Python's torch multiplies, in whichever unit of
small integers is the fastest here; `filling` says what is computed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import msgspec
import numpy as np
import psutil

from proofyard.protocol.codec import Bytes32, prepared
from proofyard.runtime.parent import end_with_parent
from proofyard.workloads.child import limit_memory, private_stdout
from proofyard.workloads.filling import (
    HALF,
    MASK,
    SHIFT,
    SIDE,
    Committed,
    Opening,
    earlier_of,
    first_block,
    key_of,
    leaf_of,
)
from proofyard.workloads.frames import LENGTH

if TYPE_CHECKING:
    import torch

    from proofyard.workloads.exact.torch_integers import Integers, Unit

SLAB = 256
"""Blocks that are computed before they are hashed, beside those that follow."""
TRIALS = 20
"""Products by which units are compared."""


class Fill(msgspec.Struct, frozen=True, tag=True):
    """Fill a memory of `blocks` in place of any that is held."""

    seed: bytes
    blocks: int


class Show(msgspec.Struct, frozen=True, tag=True):
    """Open step `number` of the memory that is held."""

    number: int


class Began(msgspec.Struct, frozen=True, tag=True):
    """The process is up. `device`: where it computes, and in which unit; `free_bytes` of memory are there; `cores` it
    may use."""

    device: str
    free_bytes: int
    cores: int


class Filled(msgspec.Struct, frozen=True, tag=True):
    """A memory is held: its root, and the path of its first block."""

    root: Bytes32
    path: tuple[Bytes32, ...]


class Shown(msgspec.Struct, frozen=True, tag=True):
    opening: Opening


class NoRoom(msgspec.Struct, frozen=True, tag=True):
    """There is not so much memory."""

    reason: str


Asked = Fill | Show
Told = Began | Filled | Shown | NoRoom
_asked = msgspec.msgpack.Decoder(prepared(Asked))
_told = msgspec.msgpack.Decoder(prepared(Told))


class Memory:
    """A memory on one device. Shapes: `blocks` of (256, 256) int8 each."""

    def __init__(self, integers: "Integers", device: "torch.device", threads: int) -> None:
        import torch

        self._torch, self._integers, self._device = torch, integers, device
        self._weights = torch.tensor([1 << 21, 1 << 14, 1 << 7, 1], device=device)
        self._hashers = ThreadPoolExecutor(max(1, min(4, threads)), "hashing")
        self._store: torch.Tensor | None = None
        self._committed: Committed | None = None

    def fill(self, seed: bytes, blocks: int) -> Filled:
        """Raises `MemoryError`, and what torch raises where a card has none."""
        torch = self._torch
        self._store = self._committed = None
        self._store = torch.empty((blocks, SIDE, SIDE), dtype=torch.int8, device=self._device)
        self._store[0] = torch.from_numpy(first_block(seed).copy()).to(self._device)
        leaves: list[Future[list[bytes]]] = []
        for start in range(0, blocks, SLAB):
            stop = min(blocks, start + SLAB)
            keys = np.stack([key_of(seed, number) for number in range(start, stop)])
            self._compute(self._store, start, stop, torch.from_numpy(keys).to(self._device))
            leaves.append(self._hashers.submit(_leaves, self._store[start:stop].cpu().numpy()))
        self._committed = Committed(leaf for slab in leaves for leaf in slab.result())
        return Filled(self._committed.root, self._committed.path(0))

    def _compute(self, store: "torch.Tensor", start: int, stop: int, keys: "torch.Tensor") -> None:
        """Blocks `start` up to `stop`; nothing is waited for before all of them are on their way."""
        torch, integers = self._torch, self._integers
        for number in range(max(1, start), stop):
            before = store[number - 1]
            drawn = ((before[0, :4].long() + HALF) * self._weights).sum() * (number - 1) >> 28
            earlier = store.index_select(0, drawn.view(1))[0]
            sums = integers.columns(integers.load(before), integers.load(earlier)).to(torch.int32)
            sums.bitwise_right_shift_(SHIFT).add_(keys[number - start]).bitwise_and_(MASK).sub_(HALF)
            store[number] = sums

    def show(self, number: int) -> Opening:
        assert self._store is not None and self._committed is not None, "a memory is held"
        before = self._store[number - 1].cpu().numpy()
        earlier = earlier_of(before, number)
        places = (number - 1, earlier, number)
        path = self._committed.path
        return Opening(
            number,
            before.tobytes(),
            self._store[earlier].cpu().numpy().tobytes(),
            (path(places[0]), path(places[1]), path(places[2])),
        )


def _leaves(blocks: "np.ndarray[tuple[int, ...], np.dtype[np.int8]]") -> list[bytes]:
    return [leaf_of(block.data.cast("B")) for block in blocks]


def _fastest(device: "torch.device") -> "tuple[Unit, Integers]":
    """The unit that multiplies blocks fastest here."""
    import torch

    from proofyard.workloads.exact.torch_integers import UNITS, Integers

    def seconds(integers: Integers) -> float:
        block = integers.load(torch.ones((SIDE, SIDE), dtype=torch.int8, device=device))
        integers.columns(block, block)
        start = time.perf_counter()
        for _ in range(TRIALS):
            product = integers.columns(block, block)
        product.cpu()
        return time.perf_counter() - start

    exact: tuple[Literal["int8"], Literal["float32"]] = ("int8", "float32")
    made = {unit: Integers(unit, device) for unit in exact if unit in UNITS[device.type]}
    best = min(made, key=lambda unit: seconds(made[unit]))
    return best, made[best]


def frame(message: Asked | Told) -> bytes:
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def read_told(body: bytes) -> Told:
    found: Told = _told.decode(body)
    return found


def _read(stream: BinaryIO) -> Asked | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = stream.read(LENGTH.unpack(head)[0])
    found: Asked = _asked.decode(body)
    return found


def _die_first() -> None:
    """Where memory gets scarce this process is the one to go."""
    file = Path("/proc/self/oom_score_adj")
    if file.is_file():
        file.write_text("1000")


def _answering(memory: Memory, asked: Asked) -> Callable[[], Told]:
    if isinstance(asked, Fill):
        return lambda: memory.fill(asked.seed, asked.blocks)
    return lambda: Shown(memory.show(asked.number))


def main() -> None:
    settings = json.loads(sys.argv[1])
    end_with_parent(settings["parent"], signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_first()
    with private_stdout() as out:
        limit_memory(settings["memory_bytes"])
        import torch

        torch.set_num_threads(settings["threads"])
        on_card = settings["device"] == "cuda"
        device = torch.device(settings["device"])
        unit, integers = _fastest(device)
        free = torch.cuda.mem_get_info()[0] if on_card else psutil.virtual_memory().available
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory = Memory(integers, device, settings["threads"])
        told: Told = Began(f"{device.type}-{unit}", int(free), cores)
        while True:
            out.write(frame(told))
            out.flush()
            asked = _read(sys.stdin.buffer)
            if asked is None:
                return
            try:
                told = _answering(memory, asked)()
            except (MemoryError, RuntimeError) as error:  # torch says either, by where the memory is
                told = NoRoom(str(error)[:500])


if __name__ == "__main__":
    main()
