"""System calls that Python has no function for."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_LIBC: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 8, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def syscall(number: int, *arguments: Any) -> int:
    """The result of a system call. Raises `OSError`."""
    result: int = _LIBC.syscall(ctypes.c_long(number), *(_word(each) for each in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def prctl(option: int, *arguments: int) -> int:
    """`prctl(2)`. Raises `OSError`."""
    words = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    result: int = _LIBC.prctl(ctypes.c_int(option), *words)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def no_new_privileges() -> None:
    """No program that is started gives this process more rights than it has."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_memory_private() -> None:
    """Nobody of the same user reads or writes this process's memory, and its end hands no core to the machine's program
    for cores, which may be root's."""
    prctl(_PR_SET_DUMPABLE, 0)


def capabilities() -> int:
    """The bits of the capabilities that this process may use."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["CapPrm"], 16)


def keep_through_change_of_user() -> None:
    """Let this process keep its capabilities when it stops being root."""
    prctl(_PR_SET_KEEPCAPS, 1)


def keep_capabilities(kept: int) -> None:
    """Give up every capability but the bits `kept`, for good. Raises `OSError`."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _LIBC.capset(header, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def drop_bounding() -> None:
    """Take every capability out of the set that programs could gain. Raises `OSError`."""
    for number in range(64):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            return


def _word(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value
