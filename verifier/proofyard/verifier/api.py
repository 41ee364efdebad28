"""The verifier's status over HTTP: for dashboards and curl, read only, on loopback unless told otherwise."""

import asyncio
import contextlib
import math
import socket
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import uvicorn
from fastapi import FastAPI, HTTPException, Query
from fastapi import Path as Place
from sqlalchemy import and_, select

from proofyard.protocol.codec import decode
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.types import ExitCode, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.desk import report
from proofyard.verifier.engine.rows import Batch, Job, Seat, Task, Work
from proofyard.verifier.store.tables import TABLES

PAGE = 100
AUDITS_PAGE = 1000
LARGEST = (1 << 63) - 1
"""Of a number in the database."""

Number = Annotated[int, Place(ge=0, le=LARGEST)]
Bound = Annotated[int, Query(ge=0, le=LARGEST)]


class ApiUnavailable(ProofyardError):
    """The status API cannot bind its port."""

    exit_code = ExitCode.PORT_IN_USE


def build_app(context: Context) -> FastAPI:
    """The routes. Ids are numbers, amounts decimal strings of base units. The database is read in a thread."""
    app = FastAPI(title="Proofyard verifier", docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"verifier": context.wallet.address, "nodes": len(context.members), "chain_id": context.domain.chain_id}

    @app.get("/nodes")
    async def nodes() -> list[dict[str, Any]]:
        return [
            {"address": address, "remote": f"{m.connection.remote[0]}:{m.connection.remote[1]}"}
            | msgspec.to_builtins(m.announce)
            for address, m in sorted(context.members.items())
        ]

    @app.get("/jobs")
    async def jobs(before: Bound = LARGEST) -> list[dict[str, Any]]:
        table = TABLES[Job]
        query = select(table).where(table.c.id < before).order_by(table.c.id.desc()).limit(PAGE)
        rows = await asyncio.to_thread(_rows, context, query)
        return [row | {"opened_hash": row["opened_hash"].hex()} for row in rows]

    @app.get("/jobs/{job}")
    async def job(job: Number, since: Bound = 0) -> dict[str, Any]:
        task, work = TABLES[Task], TABLES[Work]
        if not await asyncio.to_thread(_rows, context, select(TABLES[Job].c.id).where(TABLES[Job].c.id == job)):
            raise HTTPException(404, f"no job {job} here")
        current = and_(work.c.job == task.c.job, work.c.task == task.c.index, work.c.attempt == task.c.attempt)
        query = select(task.c.index, task.c.state, task.c.attempt, work.c.node).outerjoin_from(task, work, current)
        tasks = await asyncio.to_thread(_rows, context, query.where(task.c.job == job).order_by(task.c.index))
        found: dict[str, Any] = msgspec.to_builtins(await asyncio.to_thread(report, context, JobId(job), since))
        for line in found["log"]:
            # A node says what its loss is; JSON has no infinity.
            line["loss"] = line["loss"] if line["loss"] is not None and math.isfinite(line["loss"]) else None
        found["task_states"] = [
            {"task": row["index"], "state": row["state"], "node": row["node"], "attempts": row["attempt"]}
            for row in tasks
        ]
        return found

    @app.get("/jobs/{job}/audits")
    async def audits(job: Number, after: Bound = 0) -> list[dict[str, Any]]:
        """`AUDITS_PAGE` seats, `after` so many."""
        seat, batch = TABLES[Seat], TABLES[Batch]
        query = select(seat, batch.c.chain_id).join(batch, batch.c.id == seat.c.batch).where(seat.c.job == job)
        query = query.order_by(seat.c.batch, seat.c.task, seat.c.segment, seat.c.auditor)
        return [
            {
                "batch": row["chain_id"],
                "task": row["task"],
                "segment": row["segment"],
                "auditor": row["auditor"],
                "state": row["state"],
                "answer": row["answer"].hex() or None,
                "reason": decode(row["opening"], SealOpened).reason if row["opening"] else "",
            }
            for row in await asyncio.to_thread(_rows, context, query.offset(after).limit(AUDITS_PAGE))
        ]

    return app


def _rows(context: Context, query: Any) -> list[dict[str, Any]]:
    with context.database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


class StatusApi:
    """Serves `build_app` inside the running event loop; `url` is where."""

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        config = uvicorn.Config(build_app(context), log_level="warning", access_log=False, lifespan="off")
        self._server = _Server(config)
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._settings.api_host}:{self.port}"

    async def __aenter__(self) -> Self:
        host, port = self._settings.api_host, self._settings.api_port
        try:
            self._socket = socket.create_server((host, port))
        except OSError as error:
            raise ApiUnavailable(
                f"the status API cannot listen on {host}:{port} ({error.strerror}); choose another api_port"
            ) from None
        self.port = self._socket.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
