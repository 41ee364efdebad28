"""The process that a `ForkServer` starts: `python -m proofyard.devnet.fork_server SOCKET`.

It loads what members of a network run and takes orders until the other end of the socket is closed: lines of JSON, an
`Order` each. For each it forks a process that goes on as `python -m proofyard.cli`, and answers `[number, pid, null]`;
once that has ended it says `[number, pid, exit code]`.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from proofyard.runtime.parent import end_with_parent

PROGRAM = "proofyard.cli"
LOADED = (
    *("proofyard.cli.app", "proofyard.cli.operators", "proofyard.cli.run"),
    *("proofyard.node.service", "proofyard.verifier.service"),
)


class Order(NamedTuple):
    """What to run: `PROGRAM` with these arguments and variables in `folder`, what it prints appended to `log`."""

    number: int
    args: Sequence[str]
    env: Mapping[str, str]
    folder: str
    log: str


def _serve(link: socket.socket) -> Order | None:
    """Fork for each order until the other end is closed; what to run in a process that was forked."""
    ends, rings = os.pipe()
    for end in (ends, rings):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(rings)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    asked = b""
    while True:
        ready, _, _ = select.select([link.fileno(), ends], [], [])
        if ends in ready:
            os.read(ends, 1 << 16)
            for pid, code in _ended():
                _tell(link, running.pop(pid), pid, code)
        if link.fileno() not in ready:
            continue
        if not (more := link.recv(1 << 20)):
            return None
        *lines, asked = (asked + more).split(b"\n")
        for line in lines:
            order, parent = Order(*json.loads(line)), os.getpid()
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (ends, rings):
                    os.close(end)
                link.close()
                os.setpgid(0, 0)
                end_with_parent(parent)
                return order
            with contextlib.suppress(OSError):  # it has done so itself, or has ended
                os.setpgid(pid, pid)
            running[pid] = order.number
            _tell(link, order.number, pid, None)


def _ended() -> Iterator[tuple[int, int]]:
    """Processes that have ended since the last time, and how."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _tell(link: socket.socket, number: int, pid: int, code: int | None) -> None:
    with contextlib.suppress(ConnectionError):
        link.sendall(json.dumps([number, pid, code]).encode() + b"\n")


def _become(order: Order) -> None:
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.env)
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.argv[1:] = order.args
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)


def main() -> None:
    for module in LOADED:
        with contextlib.suppress(ImportError):  # of an extra that is not installed: whoever needs it says so
            import_module(module)
    gc.freeze()
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    if order is not None:
        _become(order)


if __name__ == "__main__":
    main()
