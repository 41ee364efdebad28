"""Child processes that are ours to the end: own process group, log file, ready file, and dead when we are."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from proofyard.devnet.errors import ChildDied, ChildNotReady
from proofyard.devnet.forked import Forked, ForkServer
from proofyard.protocol.codec import CodecError, decode_json
from proofyard.runtime.chance import chance
from proofyard.runtime.parent import end_with_parent

STOP_SECONDS = 10.0
PORTS = (10_000, 32_000)


class Child:
    """One running `proofyard` command.

    It has a process group of its own, so Ctrl-C reaches only us and we end everything in order. On Linux the kernel
    ends it when we are killed; start it from the main thread, since the kernel counts the thread that forked as the
    parent. `within`: a command that becomes the one after it, such as one that enters a namespace. `server`: what forks
    it, unless it is `within` something; without one it is a process that loads everything itself.
    """

    def __init__(
        self,
        name: str,
        args: Sequence[str],
        *,
        log: Path,
        ready: Path,
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        server: ForkServer | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.ready = ready
        ready.unlink(missing_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **(env or {})}
        if server and not within:
            self._process: subprocess.Popen[bytes] | Forked = server.start(args, log, environment)
            return
        with log.open("ab") as sink:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter, our own arguments)
                [*within, sys.executable, "-m", "proofyard.cli", *args],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                process_group=0,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait_ready(self, timeout: float, pause: Callable[[float], object] = time.sleep) -> dict[str, object]:
        """What the child wrote to its ready file. Raises `ChildDied` or `ChildNotReady`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.exit_code is not None:
                raise ChildDied(self.name, self.exit_code, self.log, self.last_line())
            with contextlib.suppress(FileNotFoundError, CodecError):
                return decode_json(self.ready.read_bytes(), dict[str, object])
            pause(0.05)
        raise ChildNotReady(self.name, timeout, self.log, self.last_line())

    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def kill(self) -> None:
        """End it as a power cut would, with everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def ask_to_stop(self) -> None:
        self._process.terminate()

    def wait_stopped(self, timeout: float = STOP_SECONDS) -> None:
        """Wait for the end, then make sure: what is left of its process group after `timeout` is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()


def stop_all(children: Sequence[Child]) -> None:
    """End all of them, side by side; a second interrupt kills at once."""
    try:
        for child in children:
            child.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for child in children:
            child.wait_stopped(max(0.1, deadline - time.monotonic()))
    except BaseException:
        for child in children:
            child.kill()
        raise


class Interrupts:
    """How a program in its main thread is asked to end: `KeyboardInterrupt`, but at no bad moment, and never lost.

    Python drops an exception that a signal handler raises while a destructor or the callback of a weak reference runs;
    `pause`, which waiting loops sleep with, raises it again. `held` puts it off while something is started that nobody
    would end otherwise.
    """

    def __init__(self) -> None:
        self._asked = False
        self._holding = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self._asked = True
        if not self._holding:
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        if self._asked:
            raise KeyboardInterrupt
        time.sleep(seconds)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self.pause(0)


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[Interrupts]:
    """Within it SIGTERM, and the closing of the terminal, end the program as Ctrl-C does: cleaning up."""
    interrupts = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupts.ask) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_udp_port() -> int:
    """A UDP port on 127.0.0.1 that nobody listens on now. The system hands it to nobody by itself, as it does those
    from 32,768 on, so it is still free when whoever listens there ends and starts again."""
    while True:
        port = chance.randrange(*PORTS)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", port))
            return port
