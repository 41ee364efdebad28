"""How much memory a tree of processes takes at its peak."""

import os
import threading
from pathlib import Path

import psutil


class PeakMemory:
    """Samples this process and all its descendants until it is left; `peak_bytes` is the largest sum seen.

    On Linux it adds up PSS, in which a page that n processes share (a model file mapped by all nodes) counts 1/n in
    each, so that the sum is what the machine really gives; elsewhere it adds up RSS, which counts such pages n times.
    """

    def __init__(self, interval_s: float = 3.0) -> None:
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
            if self._stop.wait(self._interval_s):
                return


def tree_bytes() -> int:
    """Memory of this process and its descendants now, in bytes."""
    me = psutil.Process(os.getpid())
    return sum(_bytes_of(process) for process in (me, *me.children(recursive=True)))


def _bytes_of(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
