"""Processes that are forked from one that has loaded what they run: each begins in a fraction of the CPU time, nearly
all of which goes into imports."""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from proofyard.devnet.errors import DevnetError
from proofyard.runtime.parent import end_with_parent

SERVER = "proofyard.devnet.fork_server"
END_S = 5.0


class Forked:
    """A process that a fork server started: what is used of `subprocess.Popen`."""

    def __init__(self, server: "ForkServer") -> None:
        self.pid = 0
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        self._server.listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._server.listen(left)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """A process that has loaded what members run. Start it from the main thread (see `end_with_parent`)."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter, our own arguments)
                [sys.executable, "-m", SERVER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
        self._numbers = count()
        self._running: dict[int, Forked] = {}
        self._turn = threading.RLock()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def start(self, args: Sequence[str], log: Path, env: Mapping[str, str]) -> Forked:
        """Run `proofyard` with these arguments and variables, in a process group of its own and in the working
        directory of this process; it ends when the server does. Raises `DevnetError` where that has ended."""
        log.touch()
        number, forked = next(self._numbers), Forked(self)
        self._running[number] = forked
        order = (number, list(args), dict(env), str(Path.cwd()), str(log.absolute()))
        with self._turn, contextlib.suppress(ConnectionError):
            self._link.sendall(json.dumps(order).encode() + b"\n")
            while not forked.pid and self.listen(None):
                pass
        if not forked.pid:
            raise DevnetError("the process that members are forked from has ended; start the network again")
        return forked

    def listen(self, timeout: float | None) -> bool:
        """Take in what the server says next, within `timeout` seconds. False once it has ended.

        An interrupt may come at any place here: what was said is taken off the socket once it is noted, and may be
        noted twice.
        """
        with self._turn:
            if not select.select([self._link], [], [], timeout)[0]:
                return True
            said = b""
            with contextlib.suppress(ConnectionError):
                said = self._link.recv(1 << 16, socket.MSG_PEEK)
            lines = said.splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            for line in whole:
                number, pid, code = json.loads(line)
                if (forked := self._running.get(number)) is not None:
                    forked.pid, forked.returncode = pid, code
                    if code is not None:
                        del self._running[number]
            if not said:  # the kernel ends whatever it has started
                for forked in self._running.values():
                    forked.returncode = -signal.SIGTERM
                self._running.clear()
                return False
            self._link.recv(sum(map(len, whole)))
            return True

    def close(self) -> None:
        self._link.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_started: list[ForkServer] = []


def fork_server() -> ForkServer:
    """This process's, which begins to load when it is first asked for and ends with this process."""
    if not _started or _started[-1].ended:
        _started.append(ForkServer())
        atexit.register(_started[-1].close)
    return _started[-1]
