"""Jobs, and everything about one."""

from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import Response

from proofyard.verifier.api import queries
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.declaring import LARGEST_INDEX, PAGE, Digits, Index, Limit, Number, behind, says
from proofyard.verifier.engine.rows import JobState, TaskState

JobCursor = Annotated[str | None, behind(queries.JOBS)]
TaskCursor = Annotated[str | None, behind(queries.TASKS)]
WorkCursor = Annotated[str | None, behind(queries.WORKS)]
AuditCursor = Annotated[str | None, behind(queries.AUDITS)]
FaultCursor = Annotated[str | None, behind(queries.FAULTS)]
LogCursor = Annotated[str | None, behind(queries.LOG)]
OneTask = Annotated[int | None, Query(ge=0, le=LARGEST_INDEX), Digits]


def add_jobs(app: FastAPI, api: Api) -> None:
    @app.get("/v1/jobs", responses=says(out.Page[out.Job]))
    async def jobs(cursor: JobCursor = None, limit: Limit = PAGE, state: JobState | None = None) -> Response:
        """Jobs that this verifier has seen, the newest first."""
        return await api.page(queries.JOBS, cursor, limit, state=state and state.value)

    @app.get("/v1/jobs/{job}", responses=says(out.JobDetail))
    async def job(job: Number) -> Response:
        return await api.read(queries.job, job)

    @app.get("/v1/jobs/{job}/tasks", responses=says(out.Page[out.Task]))
    async def tasks(
        job: Number, cursor: TaskCursor = None, limit: Limit = PAGE, state: TaskState | None = None
    ) -> Response:
        return await api.page(queries.TASKS, cursor, limit, job=job, state=state and state.value)

    @app.get("/v1/jobs/{job}/tasks/{task}", responses=says(out.Task))
    async def task(job: Number, task: Index) -> Response:
        return await api.read(queries.task, job, task)

    @app.get("/v1/jobs/{job}/works", responses=says(out.Page[out.Work]))
    async def works(job: Number, cursor: WorkCursor = None, limit: Limit = PAGE, task: OneTask = None) -> Response:
        """Every attempt at every task, or at one."""
        return await api.page(queries.WORKS, cursor, limit, job=job, task=task)

    @app.get("/v1/jobs/{job}/audits", responses=says(out.Page[out.Audit]))
    async def audits(job: Number, cursor: AuditCursor = None, limit: Limit = PAGE) -> Response:
        return await api.page(queries.AUDITS, cursor, limit, job=job)

    @app.get("/v1/jobs/{job}/faults", responses=says(out.Page[out.Fault]))
    async def faults(job: Number, cursor: FaultCursor = None, limit: Limit = PAGE) -> Response:
        return await api.page(queries.FAULTS, cursor, limit, job=job)

    @app.get("/v1/jobs/{job}/log", responses=says(out.Page[out.LogLine]))
    async def log(job: Number, cursor: LogCursor = None, limit: Limit = PAGE) -> Response:
        """What happened to a job, oldest first. A cursor is the number of a line."""
        return await api.page(queries.LOG, cursor, limit, job=job)

    @app.get("/v1/jobs/{job}/explain", responses=says(out.Explanation))
    async def explain_job(job: Number) -> Response:
        """Why it is where it is, why connected nodes get no work of it, and who was slashed or paid what."""
        return await api.explain(api.explainer.job, job)

    @app.get("/v1/jobs/{job}/tasks/{task}/explain", responses=says(out.Explanation))
    async def explain_task(job: Number, task: Index) -> Response:
        """Why one task was given to whom, waits, was audited or not, and what came of it."""
        return await api.explain(api.explainer.task, job, task)
