"""Live events."""

from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from proofyard.verifier.api import queries
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.declaring import LARGEST, Number, says


def add_live(app: FastAPI, api: Api) -> None:
    events: dict[int | str, dict[str, Any]] = says(out.LogLine)
    events[200] = {"description": "Log lines as they come.", "content": {"text/event-stream": {}}}
    LastId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)]

    database = api.engine

    async def page(job: int, after: int, limit: int) -> out.Page[out.LogLine]:
        return await api.in_thread(partial(queries.LOG.page, database, str(after), limit, job=job))

    @app.get("/v1/jobs/{job}/events", responses=events, tags=["stream"])
    async def job_events(job: Number, last_event_id: LastId = None) -> Response:
        """A job's log as server-sent events, from its beginning or behind `Last-Event-ID`, then as it goes on."""
        after = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdecimal() else 0
        if await api.in_thread(partial(queries.job, database, job)) is None:
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
