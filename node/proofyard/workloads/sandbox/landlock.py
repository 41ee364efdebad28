"""Landlock: a process gives up the file system but for what it names (Linux 5.13; `landlock(7)`).

Rules hold for the calling thread and all that come of it, so it is called before a second thread starts.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

from proofyard.workloads.sandbox.kernel import no_new_privileges, syscall
from proofyard.workloads.sandbox.syscalls import known

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The accesses to files that a version of the interface knows, by the first that has them."""
_TCP = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets and signals."""
_RULE_PATH_BENEATH = 1
_VERSION = 1

READ = _READ_FILE | _READ_DIR
CHANGE = READ | _WRITE_FILE | _TRUNCATE
MAKE = CHANGE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG
RUN = READ | _EXECUTE
DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def version() -> int:
    """The version of the kernel's Landlock, 0 where there is none."""
    number = known().get("landlock_create_ruleset")
    if number is None:
        return 0
    with suppress(OSError):
        return syscall(number, None, 0, _VERSION)
    return 0


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """Leave this thread the accesses of `rules`, pairs of a path and what may be done beneath it; TCP, abstract sockets
    and signals to others are given up where the kernel can. Paths that are not there are passed over. Raises `OSError`.
    """
    numbers, abi = known(), version()
    handled = _HANDLED[max(first for first in _HANDLED if first <= abi)]
    attributes = struct.pack("=QQQ", handled, _TCP, _SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = syscall(numbers["landlock_create_ruleset"], attributes, len(attributes), 0)
    try:
        for path, access in rules:
            _allow(numbers["landlock_add_rule"], ruleset, path, access & handled)
        no_new_privileges()
        syscall(numbers["landlock_restrict_self"], ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(number: int, ruleset: int, path: str, access: int) -> None:
    try:
        there = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        access &= access if stat.S_ISDIR(os.fstat(there).st_mode) else _OF_FILES
        rule = struct.pack("=Qi", access, there)
        syscall(number, ruleset, _RULE_PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(there)
