"""What a machine has, for deciding what it can do. Calls wait for other programs; use a thread."""

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from proofyard.node.sensors import gpus
from proofyard.workloads.cards import torch_cards
from proofyard.workloads.executor import Executor
from proofyard.workloads.workload import Resources


@dataclass(frozen=True)
class Card:
    """A GPU and its memory in bytes. `told_by`: who says so."""

    name: str
    memory_bytes: int
    told_by: str


@dataclass(frozen=True)
class Hardware:
    """`memory_bytes` of all, `free_bytes` of them not in use; `disk_bytes` free where the node's files go; `backend`
    that reproduces the golden vectors here, "" for none."""

    processor: str
    cores: int
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    cards: tuple[Card, ...]
    backend: str

    @property
    def on_gpu(self) -> bool:
        return self.backend.startswith("cuda")

    @property
    def working_bytes(self) -> int:
        """The memory that tasks have: the largest card's, or the machine's."""
        return max((card.memory_bytes for card in self.cards), default=0) if self.on_gpu else self.memory_bytes


async def backend_of(resources: Resources | None = None) -> str:
    """The arithmetic that gives the right bits on this machine, tried in a process of its own; "" for none. Raises
    `ExecutionError` where that process does not start."""
    with tempfile.TemporaryDirectory(prefix="proofyard-init-") as folder:
        async with Executor(Path(folder), resources=resources or Resources(threads=os.cpu_count() or 1)) as executor:
            return executor.backend


def find_hardware(folder: Path, backend: str) -> Hardware:
    """What this machine has; files go into `folder`, which need not be there yet."""
    memory = psutil.virtual_memory()
    return Hardware(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=min(int(memory.total), _container_bytes() or int(memory.total)),
        free_bytes=int(memory.available),
        disk_bytes=shutil.disk_usage(_existing(folder)).free,
        cards=_cards(),
        backend=backend,
    )


def _cards() -> tuple[Card, ...]:
    found = tuple(Card(gpu.name, gpu.memory_bytes, "nvidia-smi") for gpu in gpus())
    return found or tuple(Card(name, memory_bytes, "torch") for name, memory_bytes in torch_cards())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, "") or platform.processor() or platform.machine()


def _container_bytes() -> int | None:
    """What a container may use, where it is bounded (cgroup v2)."""
    file = Path("/sys/fs/cgroup/memory.max")
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), Path("/"))
