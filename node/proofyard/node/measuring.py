"""What this machine can do, found out by doing it: memory that was filled and held, and how fast.

A figure is kept in the node's folder with the machine it belongs to, so that it is measured once and again when the
machine or its limits have changed, or after a month.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec

from proofyard.node.hardware import Hardware
from proofyard.node.settings import NodeSettings
from proofyard.protocol.capability import BLOCK_BYTES, MOST_BLOCKS, Capability
from proofyard.protocol.codec import CodecError, decode_json
from proofyard.protocol.types import Address
from proofyard.workloads.errors import OutOfMemory, WorkloadError
from proofyard.workloads.filler import Filler

logger = logging.getLogger("proofyard.node")

FILE = "capability.json"
RENEWED_S = 30 * 86_400
TRIAL_BLOCKS = 1024
"""Filled first, to know how much can be filled in the time."""
SHARE_OF_FREE = 0.8
"""Of the memory that is free when it is measured."""
PROCESS_BYTES = 768 << 20
"""Of a limit on the whole process, what torch takes itself."""
SHARE_OF_TIME = 0.9
HALVINGS = 6
"""So often is less tried where there was less memory than it seemed."""
SLACK = 4.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement: of which `machine`, in words, and at which second of the chain's clock."""

    machine: str
    device: str
    cores: int
    blocks: int
    steps_per_s: int
    measured_at: int

    def capability(self, node: Address) -> Capability:
        return Capability(
            node=node,
            device=self.device,
            cores=self.cores,
            blocks=self.blocks,
            steps_per_s=self.steps_per_s,
            measured_at=self.measured_at,
        )


def machine_of(hardware: Hardware, settings: NodeSettings) -> str:
    """What a measurement depends on, so that another machine's is not taken for this one's."""
    found = asdict(hardware)
    for changing in ("free_bytes", "disk_bytes"):
        del found[changing]
    bounds = (settings.threads, settings.memory_limit_bytes, settings.least_free_bytes, settings.prove_s)
    return repr((sorted(found.items()), bounds))


def read_measured(folder: Path, machine: str, now: int) -> Measured | None:
    """What was measured on this machine, if that is not too long ago by the chain's clock."""
    try:
        found = decode_json((folder / FILE).read_bytes(), Measured)
    except (OSError, CodecError):
        return None
    return found if found.machine == machine and 0 <= now - found.measured_at < RENEWED_S else None


def write_measured(folder: Path, measured: Measured) -> None:
    """Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.encode(measured))
    temporary.replace(folder / FILE)


def filler_for(hardware: Hardware, settings: NodeSettings) -> Filler:
    return Filler(
        device="cuda" if hardware.on_gpu else "cpu",
        threads=settings.threads or hardware.cores,
        memory_bytes=settings.memory_limit_bytes or None,
    )


def room_blocks(free_bytes: int, settings: NodeSettings, *, on_gpu: bool, share: float = SHARE_OF_FREE) -> int:
    """Blocks that an operator's limits let a check take of so much free memory."""
    room = int(free_bytes * share)
    if settings.memory_limit_bytes and not on_gpu:
        room = min(room, settings.memory_limit_bytes - PROCESS_BYTES)
    if settings.least_free_bytes and not on_gpu:
        room = min(room, free_bytes - settings.least_free_bytes - PROCESS_BYTES)
    return max(0, min(room // BLOCK_BYTES, MOST_BLOCKS))


async def measure(
    filler: Filler, hardware: Hardware, settings: NodeSettings, now: int, clock: Callable[[], float] = time.monotonic
) -> Measured | None:
    """Fill as much memory as there is, or as can be filled in `prove_s` seconds; None where that is next to nothing.
    `filler` was started. Raises `WorkloadError` where it ends before."""
    began = filler.began
    room = room_blocks(began.free_bytes, settings, on_gpu=hardware.on_gpu)
    seed = os.urandom(32)
    if room < TRIAL_BLOCKS:
        return None
    start = clock()
    await filler.fill(seed, TRIAL_BLOCKS, SLACK * settings.prove_s + 30)
    rate = (TRIAL_BLOCKS - 1) / (clock() - start)  # the first block is no step
    blocks = min(room, int(rate * settings.prove_s * SHARE_OF_TIME))
    for _ in range(HALVINGS):
        start = clock()
        try:
            await filler.fill(seed, max(TRIAL_BLOCKS, blocks), SLACK * settings.prove_s + 30)
        except OutOfMemory:
            blocks //= 2
            continue
        blocks = max(TRIAL_BLOCKS, blocks)
        return Measured(
            machine=machine_of(hardware, settings),
            device=began.device,
            cores=began.cores,
            blocks=blocks,
            steps_per_s=max(1, int((blocks - 1) / (clock() - start))),
            measured_at=now,
        )
    return None


async def measured_here(hardware: Hardware, settings: NodeSettings, now: int) -> Measured | None:
    """Measure this machine now, which takes up to `prove_s` seconds and what the process takes to start; kept in the
    node's folder. None where nothing can be shown: no exact arithmetic, next to no memory, or a process that does not
    start, which is logged."""
    if not settings.prove_s or not hardware.backend:
        return None
    try:
        async with filler_for(hardware, settings) as filler:
            found = await measure(filler, hardware, settings, now)
        if found is not None:
            await asyncio.to_thread(write_measured, settings.data_dir, found)
    except (WorkloadError, OSError) as error:
        logger.warning("memory and speed of this machine cannot be measured: %s", error)
        return None
    return found


def shown(blocks: int) -> str:
    """Memory in words."""
    return f"{blocks * BLOCK_BYTES / (1 << 30):.2f} GiB"
