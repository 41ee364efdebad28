"""`/`, for people: a page that reads what this API says, and the files beside it (`proofyard.pages`)."""

from fastapi import FastAPI
from fastapi.responses import Response

from proofyard import pages
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.declaring import html


def add_page(app: FastAPI, _api: Api) -> None:
    @app.get("/", responses=html())
    async def page() -> Response:
        """Jobs, nodes, audits and disputes, for a browser; what it shows comes from the routes below."""
        return _file(pages.NETWORK)

    def part(name: str) -> None:
        @app.get(pages.FOLDER + name, include_in_schema=False)
        async def answered() -> Response:
            return _file(name)

    for name in pages.PARTS:
        part(name)


def _file(name: str) -> Response:
    found = pages.read(name)
    return Response(found.body, media_type=found.media_type, headers=pages.HEADERS)
