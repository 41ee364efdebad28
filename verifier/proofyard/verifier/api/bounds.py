"""What is refused, and how: every error is an `Error`, and no more is answered at a time than can be."""

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proofyard import pages
from proofyard.protocol.types import ProofyardError
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api, answer
from proofyard.verifier.api.streams import TooManyStreams
from proofyard.verifier.api.told import Busy

AT_ONCE = 256
"""Requests that are answered at a time, streams not counted; more are told to come back."""
_LATER = {"Retry-After": "1"}


def answer_errors(app: FastAPI) -> None:
    """Every error is an `Error`."""

    def said(status: int, error: str, reason: str, headers: Any = None) -> Response:
        found = answer(out.Error(error=error, reason=reason[:1000]), status)
        found.headers.update(dict(headers or {}))
        return found

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        names = {404: "not-found", 405: "not-allowed"}
        reason = str(error.detail)
        if error.status_code == 405:
            reason = f"{request.method} is not for {request.url.path}: this API is read with GET"
        if error.status_code == 404 and reason == "Not Found":
            reason = f"there is nothing at {request.url.path}; /openapi.json lists what there is"
        return said(error.status_code, names.get(error.status_code, "refused"), reason, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        wrong = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
        return said(422, "invalid", "; ".join(wrong))

    @app.exception_handler(ProofyardError)
    async def not_now(_request: Request, error: ProofyardError) -> Response:
        return said(503, "busy" if isinstance(error, Busy | TooManyStreams) else "unavailable", str(error), _LATER)

    @app.exception_handler(SQLAlchemyError)
    async def no_database(_request: Request, error: SQLAlchemyError) -> Response:
        return said(503, "unavailable", f"the database does not answer ({type(error).__name__})", _LATER)

    @app.exception_handler(Exception)
    async def broken(_request: Request, error: Exception) -> Response:
        return said(500, "internal", f"the verifier met an error of its own ({type(error).__name__}); see its log")


class Bounded:
    """Around the app: bounds the requests at a time, refuses what no route takes, counts, and answers what fails."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app, self._api = app, api
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = self._api.names
        if names is not None and not pages.is_meant(_host_of(scope), names):
            reason = "this API is asked for by an address, localhost, or a name in api_names"
            await answer(out.Error(error="misdirected", reason=reason), 421)(scope, receive, send)
            self._api.metrics.requests.labels("none", "421").inc()
            return
        if self._running >= AT_ONCE:
            reason = f"{AT_ONCE} requests are being answered; try again later"
            await answer(out.Error(error="busy", reason=reason), 503)(scope, receive, send)
            self._api.metrics.requests.labels("none", "503").inc()
            return
        start, status = time.monotonic(), 500
        counted, stream, ended = True, False, False
        # What watches services asks for the head alone; the server leaves the body out, by the scope that it keeps.
        only_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if only_head else scope

        async def sent(message: Message) -> None:
            nonlocal status, counted, stream, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
                if stream and counted:
                    # Streams have a bound of their own.
                    counted = False
                    self._running -= 1
            elif only_head:
                message, ended = {"type": "http.response.body"}, True
            await send(message)

        self._running += 1
        try:
            await self._app(inner, receive, sent)
        finally:
            self._running -= counted
            route = getattr(inner.get("route"), "path", "none")
            self._api.metrics.requests.labels(route, str(status)).inc()
            if not stream:
                self._api.metrics.request_seconds.labels(route).observe(time.monotonic() - start)


def _host_of(scope: Scope) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
