"""Batches, their audits, and the faults that this verifier has against nodes."""

from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import Response

from proofyard.verifier.api import queries
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.declaring import PAGE, Limit, Number, behind, says
from proofyard.verifier.api.jobs import AuditCursor, FaultCursor
from proofyard.verifier.engine.rows import BatchState

BatchCursor = Annotated[str | None, behind(queries.BATCHES_HERE)]


def add_batches(app: FastAPI, api: Api) -> None:
    @app.get("/v1/batches", responses=says(out.Page[out.Batch]))
    async def batches(cursor: BatchCursor = None, limit: Limit = PAGE, state: BatchState | None = None) -> Response:
        """Batches that this verifier leads or led, the newest first."""
        return await api.page(queries.BATCHES_HERE, cursor, limit, state=state and state.value)

    @app.get("/v1/batches/{batch}", responses=says(out.Batch))
    async def batch(batch: Number) -> Response:
        """By its number on chain."""
        return await api.read(queries.batch, batch)

    @app.get("/v1/batches/{batch}/audits", responses=says(out.Page[out.Audit]))
    async def audits(batch: Number, cursor: AuditCursor = None, limit: Limit = PAGE) -> Response:
        return await api.page(queries.AUDITS, cursor, limit, batch=batch)

    @app.get("/v1/faults", responses=says(out.Page[out.Fault]))
    async def faults(cursor: FaultCursor = None, limit: Limit = PAGE) -> Response:
        return await api.page(queries.FAULTS, cursor, limit)
