"""The API over a real socket: in a thread of its own, whatever the verifier's loop does, and gone when it stops."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from api_scene import Scene

from proofyard.verifier.api import serving as api_module
from proofyard.verifier.api.serving import ApiUnavailable, StatusApi


async def test_it_answers_while_the_verifiers_loop_is_blocked(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with StatusApi(scene.api) as api, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        assert (await client.get("/v1/nodes")).status_code == 200

        found: list[int] = []

        def ask() -> None:
            with httpx.Client(base_url=api.url) as other:
                found.extend(other.get(path).status_code for path in ("/health", "/v1/jobs", "/v1/jobs/1", "/metrics"))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)  # The verifier's loop does nothing else meanwhile.
        assert found == [200, 200, 200, 200]


async def test_connections_that_ask_nothing_are_closed_and_never_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends nothing, one whose header never ends, one that was served and begins another request."""
    monkeypatch.setattr(api_module, "REQUEST_S", 0.3)
    monkeypatch.setattr(api_module, "CONNECTIONS", 8)
    scene = Scene(tmp_path)
    scene.api.streams.limit = 0
    async with StatusApi(scene.api) as api:
        begun = [b"", b"GET /health HTTP/1.1\r\nX: ", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"]
        opened = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(12)]
        for (_, writer), data in zip(opened, begun * 4, strict=True):
            writer.write(data)
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
        for _, writer in opened:
            writer.close()
        assert sum(isinstance(each, bytes) and each.startswith(b"HTTP/1.1 200") for each in answers) <= 8
        async with httpx.AsyncClient(base_url=api.url) as client:
            assert (await client.get("/health")).status_code == 200, "whoever asks is answered again"


async def test_it_stops_with_streams_open(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with httpx.AsyncClient() as client:
        async with StatusApi(scene.api) as api:
            async with client.stream("GET", f"{api.url}/v1/jobs/1/events") as events:
                lines = events.aiter_lines()
                assert await anext(lines) == "id: 1"
                started = time.monotonic()
                await api.__aexit__(None, None, None)
                with pytest.raises((httpx.HTTPError, StopAsyncIteration)):
                    while True:
                        await anext(lines)
            assert time.monotonic() - started < 3.0
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{api.url}/health")


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        scene.context.settings.api_port = taken.getsockname()[1]
        with pytest.raises(ApiUnavailable, match="choose another api_port"):
            async with StatusApi(scene.api):
                pass
