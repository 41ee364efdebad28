"""Live events: nothing is lost that a reader can ask for again, and no reader holds up the verifier."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from api_scene import Scene, fill

from proofyard.protocol.types import JobId
from proofyard.verifier.api import queries
from proofyard.verifier.api import streams as module
from proofyard.verifier.api import types as out
from proofyard.verifier.api.streams import Streams, TooManyStreams
from proofyard.verifier.engine.rows import Log


def line(seq: int, job: int = 1) -> Log:
    return Log(job=JobId(job), seq=seq, at=1.0, kind="progress", text=f"line {seq}")


async def ids(stream: AsyncIterator[bytes], count: int) -> list[str]:
    found = []
    while len(found) < count:
        event = (await anext(stream)).decode()
        if event.startswith("id: "):
            found.append(event.split("\n", 1)[0].removeprefix("id: "))
    return found


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def say(streams: Streams, *rows: Log) -> None:
    """The next lines."""
    streams.publish(streams._count, rows)


def read(scene: Scene) -> module.ReadLog:
    async def page(job: int, after: int, limit: int) -> out.Page[out.LogLine]:
        return await asyncio.to_thread(partial(queries.LOG.page, scene.database.engine, str(after), limit, job=job))

    return page


async def test_a_reader_gets_what_was_and_what_comes_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    stream = scene.streams.of_job(scene.streams.enter(), 1, 1, read(scene))
    assert await ids(stream, 2) == ["2", "3"]
    fill(scene.database, [line(6)])
    say(scene.streams, line(5), line(1, job=2), line(6))
    assert await ids(stream, 3) == ["4", "5", "6"]
    say(scene.streams, line(7))
    assert await ids(stream, 1) == ["7"]
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(scene.streams) == 0


async def test_lines_that_come_out_of_order_are_read_from_the_database(scene: Scene) -> None:
    stream = scene.streams.of_job(scene.streams.enter(), 1, 5, read(scene))
    first = asyncio.ensure_future(ids(stream, 2))
    await asyncio.sleep(0)
    fill(scene.database, [line(6), line(7)])
    say(scene.streams, line(7))
    say(scene.streams, line(6))
    assert await first == ["6", "7"]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_the_stream_of_all_jobs_goes_on_where_it_ended(scene: Scene) -> None:
    stream = scene.streams.of_all(scene.streams.enter(), None)
    waiting = asyncio.ensure_future(ids(stream, 1))
    await asyncio.sleep(0)
    say(scene.streams, line(6))
    last = (await waiting)[0]
    await stream.aclose()  # type: ignore[attr-defined]
    say(scene.streams, line(7))
    say(scene.streams, line(1, job=2))
    again = scene.streams.of_all(scene.streams.enter(), last)
    boot, _, number = last.partition("-")
    assert await ids(again, 2) == [f"{boot}-{int(number) + 1}", f"{boot}-{int(number) + 2}"]
    await again.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("last", ["", "x", "0-1", "9" * 5000, "²", "--"])
async def test_who_asks_for_what_is_forgotten_is_told_so(scene: Scene, last: str) -> None:
    stream = scene.streams.of_all(scene.streams.enter(), last)
    assert await anext(stream) == b"event: gap\ndata: {}\n\n"
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_number_of_any_length_is_one_that_is_not_known(scene: Scene) -> None:
    say(scene.streams, line(6))
    for number in ("0" * 5000, "0" * 20 + "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}"):
        stream = scene.streams.of_all(scene.streams.enter(), f"{scene.streams._boot}-{number}")
        assert await anext(stream) == b"event: gap\ndata: {}\n\n"
        await stream.aclose()  # type: ignore[attr-defined]


async def test_a_reader_that_is_too_slow_is_let_go(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE", 3)
    streams = Streams(2)
    queue = streams.enter()
    say(streams, *(line(seq) for seq in range(6, 16)))
    assert len(streams) == 0
    seen = [event async for event in streams.of_all(queue, None)]
    assert len(seen) == 0, "what it has not read it asks for when it comes back"


async def test_no_more_readers_than_are_allowed(scene: Scene) -> None:
    queues = [scene.streams.enter(), scene.streams.enter()]
    with pytest.raises(TooManyStreams):
        scene.streams.enter()
    answer = await asyncio.to_thread(scene.client.get, "/v1/events")
    assert (answer.status_code, answer.json()["error"]) == (503, "busy")
    for queue in queues:
        scene.streams.leave(queue)


async def test_stopping_ends_every_stream(scene: Scene) -> None:
    stream = scene.streams.of_all(scene.streams.enter(), None)
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    scene.streams.stop()
    assert await waiting is None


async def test_lines_that_were_missed_end_every_stream(scene: Scene) -> None:
    """Its readers come back with their last ids: those of a job find all in the database, the others learn of the
    gap."""
    stream = scene.streams.of_all(scene.streams.enter(), None)
    waiting = asyncio.ensure_future(ids(stream, 1))
    await asyncio.sleep(0)
    say(scene.streams, line(6))
    last = (await waiting)[0]
    scene.streams.publish(100, [line(107)])
    assert await anext(stream, None) is None
    again = scene.streams.of_all(scene.streams.enter(), last)
    assert await anext(again) == b"event: gap\ndata: {}\n\n"
    await again.aclose()  # type: ignore[attr-defined]
