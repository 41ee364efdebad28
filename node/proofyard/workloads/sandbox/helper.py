"""One process beside a sandboxed one that runs known modules for it: the sandboxed one may start none.

It is started first and gives up the same, but for starting processes; each that it starts gives up that as well, before
it reads anything. So what a stranger's file makes of one that parses it can start nothing, and ends with it.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from proofyard.workloads.sandbox.policy import Policy

MODULES = ("proofyard.workloads.exact.selfcheck",)
_LENGTH = struct.Struct(">Q")
_MAX_REQUEST_BYTES = 64 << 10
_MAX_ANSWER_BYTES = 256 << 20
_MAX_WORDS_BYTES = 4096

_ends: list[int] = []
"""Of this process: where its helper takes requests, and where it answers."""


def begin(policy: Policy, enter: Callable[..., None]) -> None:
    """Start the helper of this process, which has one thread yet."""
    requests, ask = os.pipe()
    answer, answers = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        try:
            for end in (ask, answer, 0, 1):
                os.close(end)
            _serve(policy, parent, enter, requests, answers)
        finally:
            os._exit(1)
    os.close(requests)
    os.close(answers)
    _ends[:] = ask, answer


def run(module: str, arguments: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
    """Run a module of `MODULES` in a process of its own, whether this one is in a sandbox or not. Raises
    `TimeoutExpired`."""
    command = [sys.executable, "-m", module, *arguments]
    if not _ends:
        return subprocess.run(command, capture_output=True, check=False, timeout=timeout_s)  # noqa: S603
    ask, answer = _ends
    _put(ask, json.dumps([module, list(arguments), timeout_s]).encode())
    code, output, words = (_take(answer, _MAX_ANSWER_BYTES) for _ in range(3))
    if code == b"timeout":
        raise subprocess.TimeoutExpired(command, timeout_s)
    return subprocess.CompletedProcess(command, int(code), output, words)


def _serve(policy: Policy, parent: int, enter: Callable[..., None], requests: int, answers: int) -> None:
    import msgspec

    enter(msgspec.structs.replace(policy, parent=policy.parent and parent), starts=True)
    while True:
        try:
            module, arguments, timeout_s = json.loads(_take(requests, _MAX_REQUEST_BYTES))
        except EOFError:
            os._exit(0)
        if module not in MODULES:
            os._exit(1)
        for part in _run(policy, module, arguments, timeout_s, enter):
            _put(answers, part)


def _run(
    policy: Policy, module: str, arguments: Sequence[str], timeout_s: float, enter: Callable[..., None]
) -> tuple[bytes, bytes, bytes]:
    """How a module ended, what it wrote, and its last words."""
    import msgspec

    out, out_end = os.pipe()
    words, words_end = os.pipe()
    own = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(out_end, 1)
            os.dup2(words_end, 2)
            os.closerange(3, 1024)
            enter(msgspec.structs.replace(policy, parent=policy.parent and own, owner=0))
            sys.argv = [module, *arguments]
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            runpy.run_module(module, run_name="__main__", alter_sys=False)
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:  # the process ends here, whatever it was
            os.write(2, f"\n{type(error).__name__}: {error}"[:_MAX_WORDS_BYTES].encode(errors="replace"))
            os._exit(1)
    os.close(out_end)
    os.close(words_end)
    found = _collect({out: _MAX_ANSWER_BYTES, words: _MAX_WORDS_BYTES}, time.monotonic() + timeout_s)
    if found is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    for end in (out, words):
        os.close(end)
    return (b"timeout", b"", b"") if found is None else (b"%d" % os.waitstatus_to_exitcode(status), *found)


def _collect(limits: dict[int, int], until: float) -> tuple[bytes, bytes] | None:
    """What is written to two pipes until both end, of the second the last bytes; None where it takes too long or is
    more than the first's limit."""
    kept = {end: bytearray() for end in limits}
    output, words = limits
    open_ones = set(limits)
    while open_ones:
        ready, _, _ = select.select(list(open_ones), [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        for end in ready:
            data = os.read(end, 1 << 20)
            kept[end] += data
            if not data:
                open_ones.discard(end)
        del kept[words][: -limits[words]]
        if len(kept[output]) > limits[output]:
            return None
    return bytes(kept[output]), bytes(kept[words])


def _put(end: int, data: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(end, rest) :]


def _take(end: int, most: int) -> bytes:
    """Raises `EOFError` at the end of the stream, or where more is announced than `most`."""
    (size,) = _LENGTH.unpack(_read(end, _LENGTH.size))
    if size > most:
        raise EOFError(f"{size} bytes are announced, at most {most} are taken")
    return _read(end, size)


def _read(end: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = os.read(end, min(1 << 20, size - len(found)))
        if not data:
            raise EOFError("the other end is gone")
        found += data
    return bytes(found)
