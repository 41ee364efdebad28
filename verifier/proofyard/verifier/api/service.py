"""Whether and who this verifier is."""

from fastapi import FastAPI
from fastapi.responses import Response

from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api, answer
from proofyard.verifier.api.declaring import says
from proofyard.verifier.metrics import version

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def add_service(app: FastAPI, api: Api) -> None:
    context = api.context

    @app.get("/health", responses=says(out.Health, 503))
    async def health() -> Response:
        """Whether the verifier is alive: 503 where its engine takes nothing in."""
        found = api.watch.health()
        return answer(found, 200 if found.alive else 503)

    @app.get("/ready", responses=says(out.Ready, 503))
    async def ready() -> Response:
        """Whether it can do its work: 503 with the conditions that do not hold."""
        found = api.watch.ready()
        return answer(found, 200 if found.ready else 503)

    @app.get("/metrics", responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}})
    async def metrics() -> Response:
        api.metrics.streams.set(len(api.streams))
        return Response(await api.in_thread(api.metrics.text), media_type=TEXT)

    @app.get("/v1/status", responses=says(out.Status))
    async def status() -> Response:
        own = context.registered or await api.on_chain(lambda: context.chain.operator_of(context.wallet.address))
        return answer(status_of(api, own))


def status_of(api: Api, operator: int | None) -> out.Status:
    context = api.context
    chain_time, block = context.clock()
    return out.Status(
        verifier=context.wallet.address,
        operator=None if operator is None else str(operator),
        chain_id=str(context.domain.chain_id),
        registry=context.chain.registry,
        court=context.chain.court,
        block=block,
        chain_time=chain_time,
        version=version(),
        nodes=len(context.members),
        streams=len(api.streams),
    )
