"""The API over a real socket: in a thread of its own, whatever the verifier's loop does, and gone when it stops."""

import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from api_scene import Scene

from proofyard.verifier.api import ApiUnavailable, StatusApi


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
