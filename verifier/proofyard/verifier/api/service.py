"""Whether and who this verifier is."""

import msgspec
from fastapi import FastAPI
from fastapi.responses import Response

from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.answering import Api, answer
from proofyard.verifier.api.declaring import says

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def add_service(app: FastAPI, api: Api) -> None:
    @app.get("/health", responses=says(out.Health, 503))
    async def health() -> Response:
        """Whether the verifier is alive: 503 where its engine takes nothing in."""
        found = api.told.health()
        return answer(found, 200 if found.alive else 503)

    @app.get("/ready", responses=says(out.Ready, 503))
    async def ready() -> Response:
        """Whether it can do its work: 503 with the conditions that do not hold."""
        found = api.told.ready()
        return answer(found, 200 if found.ready else 503)

    @app.get("/metrics", responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}})
    async def metrics() -> Response:
        api.metrics.streams.set(len(api.streams))
        text: str = await api.ask(wire.Measured(), str)
        return Response(text.encode() + await api.in_thread(api.metrics.text), media_type=TEXT)

    @app.get("/v1/status", responses=says(out.Status))
    async def status() -> Response:
        return answer(msgspec.structs.replace(api.told.status(), streams=len(api.streams)))
