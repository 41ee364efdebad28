"""What this machine measures about itself: its GPUs through `nvidia-smi`, the rest through psutil.

Nothing here is estimated: what cannot be read is None. Whoever calls it waits, up to `SMI_S`; call it in a thread.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from proofyard.node.gate import Sample

SMI_S = 10.0
SMI = "nvidia-smi"
GPU_FIELDS = ("index", "name", "memory.total", "memory.used", "temperature.gpu", "power.draw", "utilization.gpu")
APP_FIELDS = ("pid", "process_name")
MIB = 1 << 20
MAX_LINES = 1024
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal")


@dataclass(frozen=True)
class Gpu:
    """One card as its driver reports it; None for what it does not say."""

    index: int
    name: str
    memory_bytes: int
    used_bytes: int | None
    celsius: float | None
    watts: float | None
    utilization: float | None


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    name: str


def parse_gpus(text: str) -> list[Gpu]:
    """What `nvidia-smi --query-gpu` prints for `GPU_FIELDS` as CSV without header and units. Lines that are none are
    left out."""
    gpus = []
    for line in text.splitlines()[:MAX_LINES]:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != len(GPU_FIELDS) or not parts[0].isdigit() or not (memory := _number(parts[2])):
            continue
        used = _number(parts[3])
        gpus.append(
            Gpu(
                int(parts[0]),
                parts[1],
                int(memory) * MIB,
                None if used is None else int(used) * MIB,
                *(_number(part) for part in parts[4:]),
            )
        )
    return gpus


def parse_processes(text: str) -> list[GpuProcess]:
    """What `nvidia-smi --query-compute-apps` prints for `APP_FIELDS`; a name may hold commas."""
    found = []
    for line in text.splitlines()[:MAX_LINES]:
        pid, separator, name = line.partition(",")
        if separator and pid.strip().isdigit():
            found.append(GpuProcess(int(pid), Path(name.strip()).name or "a process"))
    return found


def _number(text: str) -> float | None:
    """`[N/A]`, `[Not Supported]` and the like are no numbers."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


def gpus() -> list[Gpu]:
    """The cards that the driver lists; none where there is no driver."""
    return parse_gpus(_smi("--query-gpu", GPU_FIELDS))


def _gpu_processes() -> list[GpuProcess]:
    return parse_processes(_smi("--query-compute-apps", APP_FIELDS))


def _smi(query: str, fields: Iterable[str]) -> str:
    program = shutil.which(SMI)
    if program is None:
        return ""
    command = [program, f"{query}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


class Sensors:
    """Samples of this machine, taken one after the other. `on_gpu`: whether this node computes on a GPU."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self.cards: tuple[Gpu, ...] = ()
        """As of the last sample; none for a node that does not compute on a GPU."""
        self._me = psutil.Process()
        self._own_s, self._busy_s, self._at = self._times()

    def sample(self) -> Sample:
        """What is measured now; how busy others are is since the last sample."""
        cards = gpus() if self._on_gpu else []
        self.cards = tuple(cards)
        own, busy, at = self._times()
        seconds = at - self._at
        others = max(0.0, (busy - self._busy_s) - (own - self._own_s)) / seconds if seconds > 0 else None
        self._own_s, self._busy_s, self._at = own, busy, at
        return Sample(
            watts=max((card.watts for card in cards if card.watts is not None), default=None),
            celsius=_hottest(cards) if cards else _processor_celsius(),
            free_bytes=int(psutil.virtual_memory().available),
            others_on_gpu=self._others() if cards else None,
            others_cores=others,
            cores=os.cpu_count() or 1,
        )

    def _others(self) -> tuple[str, ...]:
        """Who else computes on the GPU. In a container whose processes have other numbers than the driver tells, its
        own cannot be told from others', and nobody is named."""
        found = _gpu_processes()
        own = {self._me.pid, *(child.pid for child in self._children())}
        if any(not psutil.pid_exists(each.pid) for each in found):
            return ()
        return tuple(each.name for each in found if each.pid not in own)

    def _children(self) -> list[psutil.Process]:
        if not _has_children():
            return []
        try:
            return list(self._me.children(recursive=True))
        except psutil.Error:
            return []

    def _times(self) -> tuple[float, float, float]:
        """Seconds of CPU that this process and its children took, that all took, and the clock."""
        own = 0.0
        for process in (self._me, *self._children()):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            # Children that have ended count with their parent, so that nothing goes back.
            own += times.user + times.system + times.children_user + times.children_system
        total = psutil.cpu_times()
        idle = total.idle + getattr(total, "iowait", 0.0)
        # Guests' time is in the user's already.
        all_of_them = sum(total) - getattr(total, "guest", 0.0) - getattr(total, "guest_nice", 0.0)
        return own, all_of_them - idle, all_of_them / (psutil.cpu_count() or 1)


def _has_children() -> bool:
    """Whether this process may have any: to find them every process of the machine is looked at."""
    if not hasattr(os, "waitid"):
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _hottest(cards: Iterable[Gpu]) -> float | None:
    return max((card.celsius for card in cards if card.celsius is not None), default=None)


def _processor_celsius() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)
    try:
        found = read() if read else {}
    except (OSError, RuntimeError):
        return None
    known = [each.current for name in CPU_SENSORS for each in found.get(name, ()) if each.current]
    return max(known, default=None)
