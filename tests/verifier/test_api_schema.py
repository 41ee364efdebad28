"""The API against its own document: whatever is generated from the document, and whatever breaks it, is answered as
the document says. `API_SEED` generates others, as `make fuzz` does; it is printed."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from api_scene import Scene, in_its_process
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.generation import GenerationMode

SEED = int(os.environ.get("API_SEED", 1))
EXAMPLES = int(os.environ.get("API_EXAMPLES", 12))
"""Of each route and mode: seconds in all."""
SLOW_S = 5.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a process of the API is."""
    scene = Scene(tmp_path_factory.mktemp("api"))
    scene.counts = True
    asyncio.run(scene.watch.look())
    with in_its_process(scene) as api:
        yield api.url


def operations(url: str) -> list[schemathesis.APIOperation]:
    """All but the streams, which do not end."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=60)
    return [found.ok() for found in schema.exclude(tag="stream").get_all_operations()]


def in_digits(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """For JSON Schema 15.0 is the integer 15; an address of the web spells that in digits alone."""
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in (values or {}).items()
    }


def hold(url: str, operation: schemathesis.APIOperation, mode: GenerationMode) -> set[int]:
    """Ask what is generated; which statuses came."""
    seen: set[int] = set()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if mode == GenerationMode.POSITIVE:
            case.query, case.path_parameters = in_digits(case.query), in_digits(case.path_parameters)
        answer = case.call(base_url=url)
        assert answer.status_code != 500, answer.text
        assert answer.elapsed < SLOW_S
        if answer.status_code != 200:
            assert set(answer.json()) == {"error", "reason"}, answer.text
        case.validate_response(answer)
        seen.add(answer.status_code)

    ask()
    return seen


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_what_the_document_says(url: str, mode: GenerationMode) -> None:
    print(f"API_SEED={SEED}")
    chosen = [
        operation
        for operation in operations(url)
        if mode == GenerationMode.POSITIVE or [*operation.path_parameters, *operation.query]
    ]
    found = set().union(*(hold(url, operation, mode) for operation in chosen))
    assert len(chosen) >= 14
    assert (200 if mode == GenerationMode.POSITIVE else 422) in found


def test_the_document_lists_the_routes(url: str) -> None:
    """A document that lists nothing would hold whatever the API does."""
    assert len(operations(url)) >= 20
