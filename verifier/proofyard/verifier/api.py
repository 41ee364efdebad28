"""The verifier over HTTP: what it does, why, and how it is, for dashboards, scripts and people. Read only, without a
signature, on loopback unless told otherwise; docs/operate.md describes it, `/openapi.json` in full.

It runs in a thread with a loop of its own, so neither waits for the other: a busy verifier answers in time, and many
clients hold up no audit. The database is read in threads; what the engine knows is asked for in the verifier's loop.
Everything is bounded: pages, requests at once, streams.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

import msgspec
import uvicorn
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi import Path as Place
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from proofyard.chain.records import ChallengeId, ChallengeRecord
from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.verifier import api_queries as queries
from proofyard.verifier import api_types as out
from proofyard.verifier.context import Context, Member
from proofyard.verifier.engine import scheduling
from proofyard.verifier.engine.rows import BatchState, JobState, TaskState
from proofyard.verifier.explain import Explainer, look_around
from proofyard.verifier.health import Watch
from proofyard.verifier.metrics import Metrics, version
from proofyard.verifier.streams import Streams, TooManyStreams

T = TypeVar("T")

PAGE, MAX_PAGE = 100, 500
MAX_DISPUTES = 20
"""Of one page: each is a request to the chain."""
LARGEST = (1 << 63) - 1
"""Of a number in the database."""
THREADS = 4
AT_ONCE = 256
"""Requests that are answered at a time, streams not counted; more are told to come back."""
EXPLAINED_AT_ONCE = 2
PATIENCE_S = 20.0
"""How long the chain or the verifier's loop is waited for."""
BACKLOG = 1024
CONNECTIONS = 500
"""Connections beside those of streams; more are closed at once."""
FRESH_S, STALE_S = 0.5, 3.0
"""What the verifier's loop said so long ago is good enough, while it is asked again, or not good enough."""
MAX_SAID = 256
REQUEST_S = 10.0
"""How long a request may take to come."""
STOP_S = 3.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Number = Annotated[int, Place(ge=0, le=LARGEST)]
Index = Annotated[int, Place(ge=0, le=(1 << 31) - 1)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many items at most.")]
PART = "[0-9]{1,18}"
"""A number in a cursor: any that the database holds."""


def _cursor(pattern: str) -> Any:
    return Query(pattern=f"^{pattern}$", description="The `next` of the page before.")


Cursor1 = Annotated[str | None, _cursor(PART)]
Cursor2 = Annotated[str | None, _cursor(rf"{PART}\.{PART}")]
Cursor4 = Annotated[str | None, _cursor(rf"{PART}\.{PART}\.{PART}\.{PART}")]
FaultCursor = Annotated[str | None, _cursor(rf"{PART}\.{PART}\.{PART}\.0x[0-9a-fA-F]{{40}}")]
AddressCursor = Annotated[str | None, _cursor("0x[0-9a-fA-F]{40}")]


class ApiUnavailable(ProofyardError):
    """The status API cannot bind its port."""

    exit_code = ExitCode.PORT_IN_USE


@dataclass
class _Said:
    """What the verifier's loop said, and when by the monotonic clock; `next` asks it again."""

    at: float
    value: Any
    next: asyncio.Task[None] | None = None


class Busy(ProofyardError):
    """More is asked at a time than is answered."""


class Api:
    """What the routes answer from."""

    def __init__(self, context: Context, metrics: Metrics, watch: Watch, streams: Streams) -> None:
        self.context, self.metrics, self.watch, self.streams = context, metrics, watch, streams
        self.explainer = Explainer(context)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The verifier's; None where the API runs in it."""
        self._threads = ThreadPoolExecutor(THREADS, "api")
        self._slow = ThreadPoolExecutor(EXPLAINED_AT_ONCE, "api-slow")
        self._explaining = 0
        self._said: OrderedDict[tuple[object, ...], _Said] = OrderedDict()

    @property
    def database(self) -> Any:
        return self.context.database.engine

    async def read(self, work: Callable[..., Any], *args: Any, **named: Any) -> Response:
        """What `work` says, read and encoded in a thread; 404 where it says nothing."""
        data = await self.in_thread(partial(_encoded, partial(work, *args, **named)))
        if data is None:
            raise HTTPException(404, "there is no such thing here")
        return _json(data)

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def ask(self, work: Callable[[], T], *key: object) -> T:
        """What `work` says in the verifier's loop. It has to be quick. With a `key` it may be what was said under it a
        moment ago: a loop that takes in hundreds of events in one go answers nobody meanwhile."""
        if not key:
            return await self._asked(work)
        said = self._said.get(key)
        if said is None or said.at < time.monotonic() - STALE_S:
            said = self._said[key] = _Said(time.monotonic(), await self._asked(work))
            while len(self._said) > MAX_SAID:
                self._said.popitem(last=False)
        elif said.at < time.monotonic() - FRESH_S and said.next is None:
            said.next = asyncio.create_task(self._say_again(key, work))
        found: T = said.value
        return found

    async def _say_again(self, key: tuple[object, ...], work: Callable[[], Any]) -> None:
        with contextlib.suppress(Busy):
            self._said[key] = _Said(time.monotonic(), await self._asked(work))

    async def _asked(self, work: Callable[[], T]) -> T:
        async def asked() -> T:
            return work()

        found: T = await self._in_loop(asked())
        return found

    async def on_chain(self, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.context.on_chain(call)
        except TimeoutError:
            raise Busy(f"there was no answer in {PATIENCE_S:.0f} s; try again later") from None

    async def _in_loop(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self.loop is None:
                    return await work
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))
        except TimeoutError:
            raise Busy(f"there was no answer in {PATIENCE_S:.0f} s; try again later") from None

    async def explain(self, work: Callable[..., out.Explanation | None], *numbers: int) -> Response:
        """An explanation; few at a time, because each may read a record."""
        if self._explaining >= EXPLAINED_AT_ONCE * 4:
            raise Busy("too many explanations are asked for at once; try again later")
        self._explaining += 1
        try:
            world = self.context.runner.engine.world
            here = await self.ask(lambda: look_around(world, numbers[0]), "around", numbers[0])
            call = partial(_encoded, partial(work, *numbers, here))
            data = await asyncio.get_running_loop().run_in_executor(self._slow, call)
        finally:
            self._explaining -= 1
        if data is None:
            raise HTTPException(404, "there is no such thing here")
        return _json(data)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)


def _encoded(work: Callable[[], Any]) -> bytes | None:
    found = work()
    return None if found is None else msgspec.json.encode(found)


def _json(data: bytes | msgspec.Struct, status: int = 200) -> Response:
    content = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return Response(content, status, media_type="application/json")


def _key(cursor: str | None) -> tuple[int, ...] | None:
    return tuple(map(int, cursor.split("."))) if cursor else None


def _says(kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """What a route answers, for the OpenAPI document."""

    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    codes = {404: "No such thing.", 422: "The request is not one.", 500: "A fault of the verifier.", 503: "Not now."}
    errors: dict[int | str, dict[str, Any]] = {}
    errors |= {code: {"description": text, "content": content("Error")} for code, text in codes.items()}
    return {200: {"description": "Found.", "content": content(kind.__name__)}, **errors}


def _says_always(kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    """The same of a route that says it with 503 as well."""
    found = _says(kind)
    return found | {503: {"description": "It is not.", "content": found[200]["content"]}}


def build_app(api: Api) -> FastAPI:
    """The routes: `/health`, `/ready`, `/metrics`, and what is versioned under `/v1`."""
    app = FastAPI(
        title="Proofyard verifier", version="1", docs_url=None, redoc_url=None, dependencies=[Depends(_known)]
    )
    _answer_errors(app)
    _add_service(app, api)
    _add_jobs(app, api)
    _add_batches(app, api)
    _add_network(app, api)
    _add_streams(app, api)
    app.openapi = partial(_openapi, app, app.openapi)  # type: ignore[method-assign]
    app.add_middleware(Bounded, api=api)
    return app


def _known(request: Request) -> None:
    """A parameter that a route does not have, or that is given twice, is a mistake of whoever asks."""
    route = request.scope.get("route")
    names = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    given = [name for name, _ in request.query_params.multi_items()]
    wrong = next((name for name in given if name not in names or given.count(name) > 1), None)
    if wrong is not None:
        known = f"it has {', '.join(sorted(names))}, each at most once" if names else "it has none"
        error = {"loc": ("query", wrong[:100]), "msg": f"this route takes no such parameter: {known}"}
        raise RequestValidationError([error])


def _openapi(app: FastAPI, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    document = made()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(out.components())
    return document


def _add_service(app: FastAPI, api: Api) -> None:
    context = api.context

    @app.get("/health", responses=_says_always(out.Health))
    async def health() -> Response:
        """Whether the verifier is alive: 503 where its engine takes nothing in."""
        found = api.watch.health()
        return _json(found, 200 if found.alive else 503)

    @app.get("/ready", responses=_says_always(out.Ready))
    async def ready() -> Response:
        """Whether it can do its work: 503 with the conditions that do not hold."""
        found = api.watch.ready()
        return _json(found, 200 if found.ready else 503)

    @app.get("/metrics", responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}})
    async def metrics() -> Response:
        api.metrics.streams.set(len(api.streams))
        return Response(await api.in_thread(api.metrics.text), media_type=TEXT)

    @app.get("/v1/status", responses=_says(out.Status))
    async def status() -> Response:
        own = context.registered or await api.on_chain(lambda: context.chain.operator_of(context.wallet.address))
        chain_time, block = context.clock()
        return _json(
            out.Status(
                verifier=context.wallet.address,
                operator=None if own is None else str(own),
                chain_id=str(context.domain.chain_id),
                registry=context.chain.registry,
                court=context.chain.court,
                block=block,
                chain_time=chain_time,
                version=version(),
                nodes=len(context.members),
                streams=len(api.streams),
            )
        )


def _add_jobs(app: FastAPI, api: Api) -> None:
    @app.get("/v1/jobs", responses=_says(out.JobPage))
    async def jobs(cursor: Cursor1 = None, limit: Limit = PAGE, state: JobState | None = None) -> Response:
        """Jobs that this verifier has seen, the newest first."""
        return await api.read(queries.jobs, api.database, _key(cursor), limit, state and state.value)

    @app.get("/v1/jobs/{job}", responses=_says(out.JobDetail))
    async def job(job: Number) -> Response:
        return await api.read(queries.job, api.database, job)

    @app.get("/v1/jobs/{job}/tasks", responses=_says(out.TaskPage))
    async def tasks(
        job: Number, cursor: Cursor1 = None, limit: Limit = PAGE, state: TaskState | None = None
    ) -> Response:
        return await api.read(queries.tasks, api.database, job, _key(cursor), limit, state and state.value)

    @app.get("/v1/jobs/{job}/tasks/{task}", responses=_says(out.Task))
    async def task(job: Number, task: Index) -> Response:
        return await api.read(queries.task, api.database, job, task)

    @app.get("/v1/jobs/{job}/works", responses=_says(out.WorkPage))
    async def works(
        job: Number,
        cursor: Cursor2 = None,
        limit: Limit = PAGE,
        task: Annotated[int | None, Query(ge=0, le=(1 << 31) - 1)] = None,
    ) -> Response:
        """Every attempt at every task, or at one."""
        return await api.read(queries.works, api.database, job, _key(cursor), limit, task)

    @app.get("/v1/jobs/{job}/audits", responses=_says(out.AuditPage))
    async def audits(job: Number, cursor: Cursor4 = None, limit: Limit = PAGE) -> Response:
        return await api.read(queries.audits, api.database, job=job, batch=None, after=_key(cursor), limit=limit)

    @app.get("/v1/jobs/{job}/faults", responses=_says(out.FaultPage))
    async def faults(job: Number, cursor: FaultCursor = None, limit: Limit = PAGE) -> Response:
        return await api.read(queries.faults, api.database, job=job, after=_fault_key(cursor), limit=limit)

    @app.get("/v1/jobs/{job}/log", responses=_says(out.LogPage))
    async def log(job: Number, cursor: Cursor1 = None, limit: Limit = PAGE) -> Response:
        """What happened to a job, oldest first. A cursor is the number of a line."""
        return await api.read(queries.log, api.database, job, 0 if cursor is None else int(cursor), limit)

    @app.get("/v1/jobs/{job}/explain", responses=_says(out.Explanation))
    async def explain_job(job: Number) -> Response:
        """Why it is where it is, why connected nodes get no work of it, and who was slashed or paid what."""
        return await api.explain(api.explainer.job, job)

    @app.get("/v1/jobs/{job}/tasks/{task}/explain", responses=_says(out.Explanation))
    async def explain_task(job: Number, task: Index) -> Response:
        """Why one task was given to whom, waits, was audited or not, and what came of it."""
        return await api.explain(api.explainer.task, job, task)


def _fault_key(cursor: str | None) -> tuple[int, int, int, str] | None:
    if cursor is None:
        return None
    batch, job, task, node = cursor.split(".")
    return int(batch), int(job), int(task), node


def _add_batches(app: FastAPI, api: Api) -> None:
    @app.get("/v1/batches", responses=_says(out.BatchPage))
    async def batches(cursor: Cursor1 = None, limit: Limit = PAGE, state: BatchState | None = None) -> Response:
        """Batches that this verifier leads or led, the newest first."""
        return await api.read(queries.batches, api.database, _key(cursor), limit, state and state.value)

    @app.get("/v1/batches/{batch}", responses=_says(out.Batch))
    async def batch(batch: Number) -> Response:
        """By its number on chain."""
        return await api.read(queries.batch, api.database, batch)

    @app.get("/v1/batches/{batch}/audits", responses=_says(out.AuditPage))
    async def audits(batch: Number, cursor: Cursor4 = None, limit: Limit = PAGE) -> Response:
        return await api.read(queries.audits, api.database, job=None, batch=batch, after=_key(cursor), limit=limit)

    @app.get("/v1/faults", responses=_says(out.FaultPage))
    async def faults(cursor: FaultCursor = None, limit: Limit = PAGE) -> Response:
        return await api.read(queries.faults, api.database, job=None, after=_fault_key(cursor), limit=limit)


def _add_network(app: FastAPI, api: Api) -> None:
    @app.get("/v1/nodes", responses=_says(out.NodePage))
    async def nodes(cursor: AddressCursor = None, limit: Limit = PAGE) -> Response:
        """Nodes that are connected, by address."""
        return _json(await api.ask(partial(_nodes, api.context, cursor, limit), "nodes", cursor, limit))

    @app.get("/v1/nodes/{address}", responses=_says(out.Node))
    async def node(address: Annotated[str, Place(pattern="^0x[0-9a-fA-F]{40}$")]) -> Response:
        found = await api.ask(partial(_node, api.context, address))
        if found is None:
            raise HTTPException(404, f"{address} is not connected")
        return _json(found)

    @app.get("/v1/disputes", responses=_says(out.DisputePage))
    async def disputes(
        cursor: Cursor1 = None, limit: Annotated[int, Query(ge=1, le=MAX_DISPUTES)] = MAX_DISPUTES
    ) -> Response:
        """Challenges, the newest first, as the Court has them now."""
        before = int(cursor) if cursor else None
        return _json(await api.on_chain(partial(_disputes, api.context, before, limit)))


def _nodes(context: Context, after: str | None, limit: int) -> out.NodePage:
    addresses = sorted(node for node in context.members if after is None or node.lower() > after.lower())
    addresses.sort(key=str.lower)
    found = [_node_of(context, context.members[address]) for address in addresses[:limit]]
    return out.NodePage(items=found, next=addresses[limit - 1] if len(addresses) > limit else None)


def _node(context: Context, address: str) -> out.Node | None:
    member = next((each for node, each in context.members.items() if node.lower() == address.lower()), None)
    return None if member is None else _node_of(context, member)


def _node_of(context: Context, member: Member) -> out.Node:
    world, record = context.runner.engine.world, member.record
    board, node = world.memory(scheduling.Board), world.nodes.get(record.node)
    in_flight = board.exposure.get(record.owner, 0) + world.elsewhere.get(record.owner, 0)
    return out.Node(
        address=record.node,
        owner=record.owner,
        operator=str(record.id),
        workloads=list(member.announce.workloads),
        software=member.announce.software,
        stake=str(record.stake),
        consecutive_valid=record.consecutive_valid,
        holds=[f"{job}:{task}" for job, task in sorted(node.holds if node else ())],
        room=node.tasks if node else 0,
        audits=node.audits if node else 0,
        in_flight=str(in_flight),
        faults=world.rows.guilty.get(record.owner, 0),
        lost=board.losses.get(record.node, 0),
    )


def _disputes(context: Context, before: int | None, limit: int) -> out.DisputePage:
    newest = context.chain.challenge_count()
    first = newest if before is None else min(newest, before - 1)
    numbers = range(first, max(0, first - limit), -1)
    items = [_dispute(context.chain.challenge(ChallengeId(number))) for number in numbers]
    return out.DisputePage(items=items, next=items[-1].id if items and int(items[-1].id) > 1 else None)


def _dispute(found: ChallengeRecord) -> out.Dispute:
    return out.Dispute(
        id=str(found.id),
        kind=found.kind.name.lower(),
        phase=found.phase.name.lower(),
        batch=str(found.batch),
        job=str(found.job),
        task=found.task,
        segment=found.segment,
        accused=str(found.accused),
        challenger=found.challenger,
        bond=str(found.bond),
        opened_at=found.opened_at,
        until=found.until,
        votes_wrong=found.votes_wrong,
        votes_right=found.votes_right,
    )


def _add_streams(app: FastAPI, api: Api) -> None:
    events: dict[int | str, dict[str, Any]] = _says(out.LogLine)
    events[200] = {"description": "Log lines as they come.", "content": {"text/event-stream": {}}}
    LastId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)]

    async def page(job: int, after: int, limit: int) -> out.LogPage:
        return await api.in_thread(partial(queries.log, api.database, job, after, limit))

    @app.get("/v1/jobs/{job}/events", responses=events, tags=["stream"])
    async def job_events(job: Number, last_event_id: LastId = None) -> Response:
        """A job's log as server-sent events, from its beginning or behind `Last-Event-ID`, then as it goes on."""
        after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() else 0
        if await api.in_thread(partial(queries.job, api.database, job)) is None:
            raise HTTPException(404, f"no job {job} here")
        queue = api.streams.enter()
        return _stream(api.streams.of_job(queue, job, min(after, LARGEST), page))

    @app.get("/v1/events", responses=events, tags=["stream"])
    async def all_events(last_event_id: LastId = None) -> Response:
        """Every job's log as it comes, from now or behind `Last-Event-ID`; an event `gap` where that is forgotten."""
        return _stream(api.streams.of_all(api.streams.enter(), last_event_id))


def _stream(lines: Any) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


# Errors


def _answer_errors(app: FastAPI) -> None:
    """Every error is an `Error`."""

    def answer(status: int, error: str, reason: str, headers: Any = None) -> Response:
        found = _json(out.Error(error=error, reason=reason[:1000]), status)
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
        return answer(error.status_code, names.get(error.status_code, "refused"), reason, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        said = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
        return answer(422, "invalid", "; ".join(said))

    @app.exception_handler(ProofyardError)
    async def not_now(_request: Request, error: ProofyardError) -> Response:
        return answer(503, "busy" if isinstance(error, Busy | TooManyStreams) else "unavailable", str(error), _LATER)

    @app.exception_handler(SQLAlchemyError)
    async def no_database(_request: Request, error: SQLAlchemyError) -> Response:
        return answer(503, "unavailable", f"the database does not answer ({type(error).__name__})", _LATER)

    @app.exception_handler(Exception)
    async def broken(_request: Request, error: Exception) -> Response:
        return answer(500, "internal", f"the verifier met an error of its own ({type(error).__name__}); see its log")


_LATER = {"Retry-After": "1"}


class Bounded:
    """Around the app: bounds the requests at a time, refuses what no route takes, counts, and answers what fails."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app, self._api = app, api
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._running >= AT_ONCE:
            reason = f"{AT_ONCE} requests are being answered; try again later"
            await _json(out.Error(error="busy", reason=reason), 503)(scope, receive, send)
            self._api.metrics.requests.labels("none", "503").inc()
            return
        start, status = time.monotonic(), 500
        counted, stream = True, False

        async def sent(message: Message) -> None:
            nonlocal status, counted, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
                if stream and counted:
                    # Streams have a bound of their own.
                    counted = False
                    self._running -= 1
            await send(message)

        self._running += 1
        try:
            await self._app(scope, receive, sent)
        finally:
            self._running -= counted
            route = getattr(scope.get("route"), "path", "none")
            self._api.metrics.requests.labels(route, str(status)).inc()
            if not stream:
                self._api.metrics.request_seconds.labels(route).observe(time.monotonic() - start)


# Serving


class StatusApi:
    """Serves `build_app` in a thread of its own; `url` is where."""

    def __init__(self, api: Api) -> None:
        self._api, self._settings = api, api.context.settings
        self._server = _Server(
            uvicorn.Config(
                build_app(api),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                server_header=False,
                http=_connection(api.streams.limit + CONNECTIONS),
            )
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._settings.api_host}:{self.port}"

    async def __aenter__(self) -> Self:
        host, port = self._settings.api_host, self._settings.api_port
        try:
            self._socket = _listen(host, port)
        except OSError as error:
            raise ApiUnavailable(
                f"the status API cannot listen on {host}:{port} ({error.strerror}); choose another api_port"
            ) from None
        self.port = self._socket.getsockname()[1]
        self._api.loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        async def serve() -> None:
            assert self._socket is not None
            self._api.streams.attach(asyncio.get_running_loop())
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._api.streams.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)
        self._api.close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Its protocol is named, because asyncio switches Nagle's algorithm off only where it is: head
    and body of an answer are two writes, and the second would wait 40 ms for the client's delayed acknowledgement."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def _connection(most: int) -> type[H11Protocol]:
    """A connection of at most so many; one that asks for nothing is closed."""

    class Connection(H11Protocol):
        _silent: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Whoever has begun a request, or none, has a moment to bring all of it."""
            if not self._waits():
                self._stop_watch()
            elif self._silent is None:
                self._silent = self.loop.call_later(REQUEST_S, self._give_up)

        def _waits(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _give_up(self) -> None:
            self._silent = None
            if self._waits():
                self.transport.abort()

        def _stop_watch(self) -> None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None

    return Connection


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
