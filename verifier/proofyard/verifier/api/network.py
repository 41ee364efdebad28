"""Nodes that are connected, and challenges."""

from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.answering import Api, answer
from proofyard.verifier.api.declaring import PAGE, Digits, Key, Limit, cursor, says
from proofyard.verifier.api.listing import ADDRESS

MAX_DISPUTES = 20
"""Of one page: each is a request to the chain."""
NodeCursor = Annotated[str | None, cursor(ADDRESS)]
DisputeCursor = Annotated[str | None, cursor()]
Few = Annotated[int, Query(ge=1, le=MAX_DISPUTES), Digits]


def add_network(app: FastAPI, api: Api) -> None:
    @app.get("/v1/nodes", responses=says(out.Page[out.Node]))
    async def nodes(cursor: NodeCursor = None, limit: Limit = PAGE) -> Response:
        """Nodes that are connected, by address."""
        return answer(await api.told.ask(wire.Nodes(cursor, limit)))

    @app.get("/v1/nodes/{address}", responses=says(out.Node))
    async def node(address: Key) -> Response:
        found = await api.told.ask(wire.OneNode(address))
        if found == b"null":
            raise HTTPException(404, f"{address} is not connected")
        return answer(found)

    @app.get("/v1/disputes", responses=says(out.Page[out.Dispute]))
    async def disputes(cursor: DisputeCursor = None, limit: Few = MAX_DISPUTES) -> Response:
        """Challenges, the newest first, as the Court has them now."""
        return answer(await api.told.ask(wire.Disputes(int(cursor) if cursor else None, limit)))
