"""What routes take and say, for checking requests and for the OpenAPI document."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BeforeValidator

from proofyard.protocol.addresses import DIGITS
from proofyard.verifier.api import types as out
from proofyard.verifier.api.listing import PART, Listing

PAGE, MAX_PAGE = 100, 500
LARGEST = (1 << 63) - 1
"""Of a number in the database."""
LARGEST_INDEX = (1 << 31) - 1


def _digits_alone(text: object) -> object:
    """Python reads more as a number than people write: 1_0, +1, 1.0, spaces."""
    if isinstance(text, str) and not (text.isascii() and text.isdecimal()):
        raise ValueError("give it in digits alone")
    return text


Digits = BeforeValidator(_digits_alone)
Number = Annotated[int, Path(ge=0, le=LARGEST), Digits]
Index = Annotated[int, Path(ge=0, le=LARGEST_INDEX), Digits]
Key = Annotated[
    str, Path(pattern="^(0[xX])?[0-9a-fA-F]{40}$"), AfterValidator(lambda typed: f"0x{typed[-DIGITS:].lower()}")
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="How many items at most."), Digits]


def cursor(pattern: str = PART) -> Any:
    """The parameter that a page goes on behind."""
    return Query(pattern=f"^{pattern}$", description="The `next` of the page before.")


def behind(listing: Listing[Any]) -> Any:
    return cursor(listing.cursor)


_SCHEMAS, _COMPONENTS = out.schemas()


def says(kind: Any, *also: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers; `also`: the statuses beside 200 with which it says the same."""

    def content(said: Any) -> dict[str, Any]:
        return {"application/json": {"schema": _SCHEMAS[said]}}

    errors = {404: "No such thing.", 422: "The request is not one.", 500: "A fault of the verifier.", 503: "Not now."}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Found.", "content": content(kind)}}
    found |= {code: {"description": text, "content": content(out.Error)} for code, text in errors.items()}
    return found | {code: {"description": "It is not.", "content": content(kind)} for code in also}


def html() -> dict[int | str, dict[str, Any]]:
    """What a page for people answers."""
    return says(out.Error) | {200: {"description": "A page.", "content": {"text/html": {}}}}


def describe(app: FastAPI) -> None:
    """Have the document tell of what `types` has."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {}).setdefault("schemas", {}).update(_COMPONENTS)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def only_known(request: Request) -> None:
    """A parameter that a route does not have, or that is given twice, is a mistake of whoever asks. A coroutine: what
    is none waits for a thread."""
    route = request.scope.get("route")
    names = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    given = [name for name, _ in request.query_params.multi_items()]
    wrong = next((name for name in given if name not in names or given.count(name) > 1), None)
    if wrong is not None:
        known = f"it has {', '.join(sorted(names))}, each at most once" if names else "it has none"
        error = {"loc": ("query", wrong[:100]), "msg": f"this route takes no such parameter: {known}"}
        raise RequestValidationError([error])
