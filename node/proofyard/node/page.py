"""An operator's page: files of `proofyard.pages` and the little API behind them, for people and programs of this
machine that have the token.

It listens on 127.0.0.1 alone. That keeps no web page of elsewhere out, which the operator's browser would carry in: so
a request names this machine as its host (a name that was made to lead here does not), comes from no other origin, and
has the token in a header of its own, which no form and no link can send. Nothing is told without the token but files
that everybody has.
"""

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proofyard import pages
from proofyard.node import control
from proofyard.node.gate import UNTIL_RESUMED, Limits
from proofyard.node.overview import Looking
from proofyard.protocol.codec import CodecError, decode_json
from proofyard.protocol.types import ExitCode, ProofyardError

logger = logging.getLogger("proofyard.node")
http_logger = logging.getLogger("proofyard.node.page")


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line is about an error here, and not about somebody's malformed request, which gets its answer."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


http_logger.addFilter(_is_ours)

HOST, USUAL_PORT = "127.0.0.1", 8791
TOKEN_FILE, TOKEN_HEADER = "page-token", "X-Proofyard-Token"
TOKEN_BYTES = 32
CONNECTIONS, STREAMS = 32, 8
MAX_BODY, MAX_HEADER = 4096, 4096
MAX_MINUTES = 1e6
TELL_S, ALIVE_S = 2.0, 15.0
"""Between two looks of a stream at what has changed; it says at least so often that it lives."""
STOP_S = 0.5
"""How long streams may go on once the node ends."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PageUnavailable(ProofyardError):
    """The page cannot bind its port."""

    exit_code = ExitCode.PORT_IN_USE


class Refused(Exception):
    """An answer that is an error: `error` for programs, `reason` for people."""

    def __init__(self, status: int, error: str, reason: str) -> None:
        self.status, self.error, self.reason = status, error, reason
        super().__init__(reason)


class Pause(msgspec.Struct, forbid_unknown_fields=True):
    """`minutes`: for so long, else until it is resumed. `hand_back`: also what is under way."""

    minutes: float | None = None
    hand_back: bool = False


def token_of(folder: Path) -> tuple[str, bool]:
    """The token of the node in a folder, and whether it was just made. One that others could have read or written is
    replaced. Raises `OSError`."""
    file, data = folder / TOKEN_FILE, None
    with contextlib.suppress(control.ControlUnfit):
        data = control.read_own(file)
    if data and not file.stat().st_mode & 0o077 and len(data) >= TOKEN_BYTES:
        return data.decode("ascii", "replace").strip(), False
    token = secrets.token_urlsafe(TOKEN_BYTES)
    control.write_own(file, token.encode())
    return token, True


def url_of(address: str, token: str) -> str:
    """What a browser opens: the token is in the fragment, which is sent nowhere."""
    return f"{address}/#{token}"


def listen(port: int) -> socket.socket:
    """A socket of this machine alone; with port 0 the usual one, or another where that is taken. Raises
    `PageUnavailable`."""
    for wanted in (port,) if port else (USUAL_PORT, 0):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((HOST, wanted))
            found.listen(CONNECTIONS)
        except OSError as error:
            found.close()
            reason = error.strerror
            continue
        return found
    raise PageUnavailable(f"the page cannot listen on {HOST}:{port} ({reason}); choose another page_port, or --no-page")


class OperatorPage:
    """Serves on `listening` what `looking` gathers, and commands the node in `folder`."""

    def __init__(self, listening: socket.socket, folder: Path, looking: Looking, token: str) -> None:
        self._socket, self._folder, self._looking, self._token = listening, folder, looking, token
        self._streams = 0
        self._looks: asyncio.Task[None] | None = None
        self.address = f"http://{HOST}:{listening.getsockname()[1]}"

    async def run(self) -> None:
        """Until cancelled."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.router.add_get("/", _file(pages.OPERATOR))
        for name in pages.PARTS:
            app.router.add_get(pages.FOLDER + name, _file(name))
        app.router.add_get("/v1/node", self._node)
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/pause", self._pause)
        app.router.add_post("/v1/resume", self._resume)
        app.router.add_post("/v1/limits", self._limits)
        bounds: dict[str, Any] = {"max_line_size": MAX_HEADER, "max_field_size": MAX_HEADER}
        bounds["logger"] = http_logger
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S, **bounds)
        await runner.setup()
        served = runner.server
        assert served is not None
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: served() if len(served.connections) < CONNECTIONS else _Closed(), sock=self._socket
        )
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            if self._looks is not None:
                self._looks.cancel()
            await runner.cleanup()

    # Who is let in

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            return await handler(request)
        except Refused as error:
            return _said({"error": error.error, "reason": error.reason}, error.status)
        except web.HTTPRequestEntityTooLarge:
            return _said({"error": "invalid", "reason": f"a body has {MAX_BODY} bytes at most"}, 413)
        except web.HTTPNotFound:
            return _said({"error": "not-found", "reason": f"there is nothing at {request.path[:200]}"}, 404)
        except web.HTTPMethodNotAllowed:
            return _said({"error": "not-allowed", "reason": f"{request.method} is not for {request.path[:200]}"}, 405)

    def _check(self, request: web.Request) -> None:
        headers = request.headers
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if not pages.is_meant(host):
            raise Refused(421, "misdirected", "this page is asked for by the name of this machine alone")
        if (origin is not None and origin.lower() != f"http://{host.lower()}") or (
            headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and request.path != "/"
        ):
            raise Refused(403, "foreign", "pages of other origins are answered nothing")
        if not request.path.startswith("/v1/"):
            return
        given = headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
            raise Refused(401, "no-token", f"{TOKEN_HEADER} has to have the token: `proofyard node page` shows it")

    # What is told

    async def _node(self, _request: web.Request) -> web.StreamResponse:
        await self._looking.look()
        return _said(self._looking.now())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """The same whenever it has changed, as server-sent events."""
        if self._streams >= STREAMS:
            raise Refused(503, "busy", f"{STREAMS} pages are open, which is all that this node serves")
        answer = web.StreamResponse(headers={**pages.HEADERS, "Content-Type": "text/event-stream"})
        self._streams += 1
        try:
            await answer.prepare(request)
            await self._tell(answer)
        except ConnectionError:
            pass  # nobody reads on
        finally:
            self._streams -= 1
        return answer

    async def _tell(self, answer: web.StreamResponse) -> None:
        told, clock = b"", asyncio.get_running_loop().time
        said = clock()
        while True:
            self._look()
            found = msgspec.json.encode(self._looking.now())
            if found != told or clock() - said >= ALIVE_S:
                await answer.write(b"data: " + found + b"\n\n" if found != told else b": alive\n\n")
                told, said = found, clock()
            await asyncio.sleep(TELL_S)

    def _look(self) -> None:
        """Nobody waits for the chain."""
        if self._looks is None or self._looks.done():
            self._looks = asyncio.create_task(self._looking.look())

    # What is commanded

    async def _pause(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, Pause)
        if asked.minutes is not None and not 0 < asked.minutes <= MAX_MINUTES:
            raise Refused(422, "invalid", f"minutes: give more than 0 and at most {MAX_MINUTES:.0f}")
        until = UNTIL_RESUMED if asked.minutes is None else control.later(asked.minutes)
        return await self._command({"paused_until": until}, hand_back=asked.hand_back)

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        await _body(request, dict[str, None])
        return await self._command({"paused_until": 0.0})

    async def _limits(self, request: web.Request) -> web.StreamResponse:
        changes = await _body(request, dict[str, Any])
        known = [name for name in Limits.__struct_fields__ if name != "paused_until"]
        if unknown := sorted(set(changes) - set(known)):
            raise Refused(422, "invalid", f"{unknown[0][:50]}: is no limit; there are {', '.join(known)}")
        return await self._command(changes)

    async def _command(self, changes: dict[str, Any], *, hand_back: bool = False) -> web.StreamResponse:
        try:
            orders = await asyncio.to_thread(control.change, self._folder, changes, hand_back=hand_back)
        except ValueError as error:
            raise Refused(422, "invalid", f"{', '.join(changes)}: {error}") from None
        except (control.ControlUnfit, OSError) as error:
            raise Refused(503, "unavailable", str(error)) from None
        logger.info("commanded from the page: %s", ", ".join(sorted(changes)) or "nothing")
        return _said({"commanded": sorted(orders.limits)})


class _Closed(asyncio.Protocol):
    """A connection of more than there may be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _body(request: web.Request, kind: Any) -> Any:
    if request.content_type != "application/json":
        raise Refused(415, "invalid", "Content-Type: give application/json")
    try:
        return decode_json(await request.read() or b"{}", kind)
    except CodecError as error:
        raise Refused(422, "invalid", f"the body: {error}") from None


def _file(name: str) -> Handler:
    async def answered(_request: web.Request) -> web.StreamResponse:
        found = pages.read(name)
        return web.Response(body=found.body, headers={**pages.HEADERS, "Content-Type": found.media_type})

    return answered


def _said(found: Any, status: int = 200) -> web.Response:
    body = msgspec.json.encode(found)
    return web.Response(body=body, status=status, headers={**pages.HEADERS, "Content-Type": "application/json"})
