"""Memory that Python has freed and the C library keeps: it grows with the largest crowd that there ever was."""

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """glibc's `malloc_trim`; None with another C library, which gives back by itself."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None


def give_back() -> None:
    """Hand what is free to the system. Takes milliseconds, without the interpreter's lock: for a thread."""
    trim = _trim()
    if trim is not None:
        trim(0)
