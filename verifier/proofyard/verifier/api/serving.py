"""The API's process, from the verifier's side: started, told what it shows, started again when it ends, and ended with
the verifier. A process of its own has an interpreter of its own: a busy verifier answers in time, many clients hold up
no audit, and whoever finds a hole in it has found neither wallet nor password.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import sys
import time
from types import TracebackType
from typing import Self

from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.runtime.service import run_together
from proofyard.verifier.api import wire
from proofyard.verifier.api.telling import Teller
from proofyard.verifier.engine.rows import Log

logger = logging.getLogger("proofyard.verifier.api")

BACKLOG = 1024
BEAT_S = 1.0
LINGER_S = 0.05
"""Lines of the log wait so long for others to go with."""
LINES = 5000
"""So many lines wait at most; of more, the API learns that it missed some."""
ASKED_AT_ONCE = 32
PATIENCE_S = 20.0
"""How long an answer may take, and how long the process may take nothing in."""
LOGGED_A_BEAT = 20
"""Lines of the process's own that are logged between two beats."""
RETRY_S, MAX_RETRY_S = 0.5, 30.0
STEADY_S = 60.0
"""A process that lived for so long is started again without much waiting."""
STOP_S = 3.0
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")


class ApiUnavailable(ProofyardError):
    """The status API cannot bind its port."""

    exit_code = ExitCode.PORT_IN_USE


class StatusApi:
    """Serves in a process of its own; `url` is where. Use in an `async with` statement. `begin` is what the process is
    told first."""

    def __init__(self, host: str, port: int, begin: wire.Begin, teller: Teller) -> None:
        self._host, self.port, self._begin, self._teller = host, port, begin, teller
        self._socket: socket.socket | None = None
        self._keeps: asyncio.Task[None] | None = None
        self._lines: list[Log] = []
        self._told = 0
        """Lines before those that wait."""
        self._news = asyncio.Event()
        self._logged = 0
        self.pid = 0
        """Of the process; 0 while there is none."""

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        try:
            self._socket = _listen(self._host, self.port)
        except OSError as error:
            raise ApiUnavailable(
                f"the status API cannot listen on {self._host}:{self.port} ({error.strerror}); choose another api_port"
            ) from None
        self.port = self._socket.getsockname()[1]
        self._keeps = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeps is not None:
            self._keeps.cancel()
            await asyncio.gather(self._keeps, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def publish(self, row: Log) -> None:
        """A line of the log that lasts."""
        if len(self._lines) >= LINES:
            self._drop_lines()
        self._lines.append(row)
        self._news.set()

    def _drop_lines(self) -> None:
        self._told += len(self._lines)
        self._lines = []

    # The process

    async def _keep(self) -> None:
        """Have the process run until cancelled. The socket that clients come to stays open when it ends: they wait for
        the next one."""
        pause = RETRY_S
        while True:
            began = time.monotonic()
            try:
                reason = await self._serve()
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
                reason = str(error) or type(error).__name__
            if time.monotonic() - began >= STEADY_S:
                pause = RETRY_S
            logger.warning("the API's process has ended (%s); it is started again in %.1f s", reason, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    async def _serve(self) -> str:
        """Run it once; how it ended."""
        assert self._socket is not None
        ours, theirs = socket.socketpair()
        process: asyncio.subprocess.Process | None = None
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                process = await _start(theirs, self._socket)
                theirs.close()
                self.pid = process.pid
                writer.write(wire.framed(self._begin))
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await run_together(self._tell(writer), self._hear(reader, writer))
                async with asyncio.timeout(STOP_S):
                    return f"exit code {await process.wait()}"
            finally:
                # It ends by itself when the link does.
                writer.close()
                if process is not None:
                    await _gone(process)
                self.pid = 0

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """The API's own pace is taken: what it has not read yet waits here, within bounds."""
        while True:
            self._logged = 0
            writer.write(wire.framed(self._teller.beat()))
            until = time.monotonic() + BEAT_S
            while (left := until - time.monotonic()) > 0:
                await self._tell_lines(writer)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._news.wait()
                        await asyncio.sleep(LINGER_S)

    async def _tell_lines(self, writer: asyncio.StreamWriter) -> None:
        self._news.clear()
        if self._lines:
            writer.write(wire.framed(wire.Lines(self._told, self._lines)))
            self._drop_lines()
        async with asyncio.timeout(PATIENCE_S):
            await writer.drain()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: set[asyncio.Task[None]] = set()
        try:
            while True:
                message = await wire.received(reader, wire.ToVerifier, wire.MAX_ASKED)
                if isinstance(message, wire.Logged):
                    self._log(message)
                    continue
                if len(answers) >= ASKED_AT_ONCE:
                    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(self._answer(message, writer))
                answers.add(task)
                task.add_done_callback(answers.discard)
        finally:
            for task in answers:
                task.cancel()

    def _log(self, line: wire.Logged) -> None:
        self._logged += 1
        if self._logged <= LOGGED_A_BEAT:
            logger.log(line.level, "%s", line.text)

    async def _answer(self, asked: wire.Ask, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.framed(await self._answer_to(asked)))

    async def _answer_to(self, asked: wire.Ask) -> wire.Answer:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return wire.Answer(asked.number, await self._teller.answer(asked.question))
        except TimeoutError:
            return wire.Answer(asked.number, error=f"there was no answer in {PATIENCE_S:.0f} s")
        except ProofyardError as error:
            return wire.Answer(asked.number, error=str(error)[:1000])
        except Exception as error:
            logger.exception("a question of the API's could not be answered")
            return wire.Answer(asked.number, error=type(error).__name__, broken=True)


async def _start(link: socket.socket, listening: socket.socket) -> asyncio.subprocess.Process:
    """With these two sockets and none of what the verifier was told in variables."""
    numbers = (link.fileno(), listening.fileno())
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "proofyard.verifier.api.process"),
        *map(str, (os.getpid(), *numbers)),
        pass_fds=numbers,
        stdin=asyncio.subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES},
    )


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Once it has ended, by itself or not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Its protocol is named, because asyncio switches Nagle's algorithm off only where it is: the
    second write of an answer would wait 40 ms for the client's delayed acknowledgement."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    return found
