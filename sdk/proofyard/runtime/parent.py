"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Called in a child of process `parent`, also between fork and exec: on Linux the kernel sends it the signal
    `number` when the parent has ended, however that came about. Elsewhere it does nothing.

    The kernel counts the thread that forked as the parent, so fork in the main thread.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
