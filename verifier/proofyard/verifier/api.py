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
from sqlmodel import col, select

from proofyard.protocol.codec import decode
from proofyard.protocol.messages import SealOpened
from proofyard.protocol.types import ExitCode, JobId, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, Job, Seat, Task
from proofyard.verifier.desk import report

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
    def jobs(before: Bound = LARGEST) -> list[dict[str, Any]]:
        with context.database.session() as session:
            rows = session.exec(select(Job).where(Job.id < before).order_by(col(Job.id).desc()).limit(PAGE))
            return [row.model_dump() for row in rows]

    @app.get("/jobs/{job}")
    def job(job: Number, since: Bound = 0) -> dict[str, Any]:
        with context.database.session() as session:
            if session.get(Job, job) is None:
                raise HTTPException(404, f"no job {job} here")
            tasks = session.exec(select(Task).where(Task.job == job).order_by(col(Task.index))).all()
        found: dict[str, Any] = msgspec.to_builtins(report(context, JobId(job), since))
        for line in found["log"]:
            # A node says what its loss is; JSON has no infinity.
            line["loss"] = line["loss"] if line["loss"] is not None and math.isfinite(line["loss"]) else None
        found["task_states"] = [
            {"task": task.index, "state": task.state, "node": task.node, "attempts": task.attempts} for task in tasks
        ]
        return found

    @app.get("/jobs/{job}/audits")
    def audits(job: Number, after: Bound = 0) -> list[dict[str, Any]]:
        """`AUDITS_PAGE` seats, `after` so many."""
        with context.database.session() as session:
            rows = session.exec(
                select(Seat, Batch.chain_id)
                .join(Batch, col(Batch.id) == col(Seat.batch))
                .where(Seat.job == job)
                .order_by(col(Seat.batch), col(Seat.task), col(Seat.segment), col(Seat.auditor))
                .offset(after)
                .limit(AUDITS_PAGE)
            )
            return [
                {
                    "batch": batch,
                    "task": seat.task,
                    "segment": seat.segment,
                    "auditor": seat.auditor,
                    "state": seat.state,
                    "answer": seat.answer and seat.answer.hex(),
                    "reason": decode(seat.opening, SealOpened).reason if seat.opening else "",
                }
                for seat, batch in rows
            ]

    return app


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
