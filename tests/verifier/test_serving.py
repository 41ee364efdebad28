"""The API as people run it: a process of its own, which answers whatever the verifier's loop does, says what a verifier
in one process would say, has no secrets, and never outlives the verifier."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from api_scene import Scene, address, in_its_process

from proofyard.protocol.types import JobId
from proofyard.verifier.api import serving
from proofyard.verifier.api.serving import ApiUnavailable, StatusApi
from proofyard.verifier.engine.rows import Log

pytestmark = pytest.mark.timeout(120)

SECRET = "0x" + "5e" * 32
PATHS = (
    *("/", "/health", "/ready", "/v1/status", "/v1/jobs", "/v1/jobs/1", "/v1/jobs/1/tasks", "/v1/jobs/1/works"),
    *("/v1/jobs/1/audits", "/v1/jobs/1/faults", "/v1/jobs/1/log", "/v1/jobs/1/explain", "/v1/jobs/1/tasks/0"),
    *("/v1/jobs/1/tasks/0/explain", "/v1/jobs/1/tasks/1/explain", "/v1/batches", "/v1/batches/5"),
    *("/v1/batches/5/audits", "/v1/faults", "/v1/nodes", f"/v1/nodes/{address(2)}", "/v1/nodes?limit=1"),
    *("/v1/disputes", "/v1/jobs?state=done", "/v1/jobs?limit=1", "/openapi.json"),
    *("/nowhere", "/v1/jobs/99", f"/v1/nodes/{address(99)}", "/v1/jobs?limit=0", "/v1/jobs?x=1", "/v1/batches/%00"),
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def api(scene: Scene) -> Iterator[StatusApi]:
    before = os.environ.copy()
    os.environ |= {"PROOFYARD_PASSWORD": SECRET, "HTTPS_PROXY": SECRET}
    try:
        with in_its_process(scene) as found:
            httpx.get(f"{found.url}/health", timeout=60)  # it has come up
            yield found
    finally:
        os.environ.clear()
        os.environ.update(before)


def plain(answer: Any) -> Any:
    """An answer without what differs from one moment to the next."""
    found = answer.json() if "json" in answer.headers["content-type"] else answer.text
    for check in found.get("checks", ()) if isinstance(found, dict) else ():
        check.pop("seconds_ago")
    return answer.status_code, answer.headers["content-type"], found


@pytest.mark.parametrize("path", PATHS)
def test_it_says_what_a_verifier_in_one_process_would(scene: Scene, api: StatusApi, path: str) -> None:
    assert plain(httpx.get(api.url + path, timeout=30)) == plain(scene.client.get(path))


def test_metrics_are_of_both_processes(api: StatusApi) -> None:
    found = httpx.get(f"{api.url}/metrics", timeout=30).text
    for name in ("process_cpu_seconds_total", "proofyard_verifier_api_process_cpu_seconds_total"):
        assert f"\n{name} " in found
    assert 'proofyard_verifier_api_requests_total{route="/health",status="200"}' in found
    families = [line for line in found.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families)), "each is there once"


def test_it_has_no_secrets(api: StatusApi) -> None:
    process = psutil.Process(api.pid)
    assert SECRET not in str(process.environ()) + str(process.cmdline())
    assert not {name for name in process.environ() if name.startswith("PROOFYARD_")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_for_the_whole_service_leave_it_to_the_verifier_to_end(api: StatusApi, number: int) -> None:
    """A terminal and systemd tell every process; one that ended at once would be started again."""
    pid = api.pid
    os.kill(pid, number)
    assert httpx.get(f"{api.url}/health", timeout=60).status_code == 200
    assert api.pid == pid


async def test_it_answers_while_the_verifiers_loop_is_blocked(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with scene.serving() as api, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        for path in ("/v1/nodes", "/metrics"):
            assert (await client.get(path)).status_code == 200

        found: list[int] = []

        def ask() -> None:
            with httpx.Client(base_url=api.url, timeout=60) as other:
                paths = ("/health", "/ready", "/v1/status", "/v1/jobs", "/v1/jobs/1", "/v1/nodes", "/metrics")
                found.extend(other.get(path).status_code for path in paths)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)  # The verifier's loop does nothing else meanwhile.
        assert found == [200, 503, 200, 200, 200, 200, 200], "the seat does not count yet"


async def test_one_that_ends_is_started_again_and_clients_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "RETRY_S", 0.01)
    caplog.set_level("WARNING", logger="proofyard.verifier.api")
    scene = Scene(tmp_path)
    async with scene.serving() as api, httpx.AsyncClient(base_url=api.url, timeout=60) as client:
        assert (await client.get("/health", headers={"Connection": "close"})).status_code == 200
        first = api.pid
        os.kill(first, signal.SIGKILL)
        async with client.stream("GET", "/v1/jobs/1/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "id: 1"
        assert api.pid not in (0, first)
        assert "the API's process has ended" in caplog.text


async def test_lines_reach_streams(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with scene.serving() as api, httpx.AsyncClient(base_url=api.url, timeout=30) as client:
        async with client.stream("GET", "/v1/events") as events:
            lines = events.aiter_lines()
            for seq in range(1, 8000):  # more than ever wait
                api.publish(Log(job=JobId(7), seq=seq, at=1.0, kind="progress", text=""))
            with pytest.raises((httpx.HTTPError, StopAsyncIteration)):
                while True:
                    await anext(lines)
        async with client.stream("GET", "/v1/events") as events:
            api.publish(Log(job=JobId(7), seq=8000, at=1.0, kind="progress", text="here"))
            found = [line async for line in _first(events.aiter_lines(), 2)]
            assert found[0].startswith("id: ") and '"text":"here"' in found[1]


async def _first(lines: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(lines)


async def answered(url: str) -> int:
    """The status of an answer, asked for until there is one: on a busy machine a connection may be closed before its
    request has come."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with httpx.AsyncClient(base_url=url) as client:
                    return (await client.get("/health", timeout=1)).status_code
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def test_connections_that_ask_nothing_are_closed_and_never_many(tmp_path: Path) -> None:
    """One that sends nothing, one whose header never ends, one that was served and begins another request."""
    scene = Scene(tmp_path)
    async with scene.serving(streams=1, connections=7, request_s=0.3) as api:
        begun = [b"", b"GET /health HTTP/1.1\r\nX: ", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"]
        opened = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(12)]
        for (_, writer), data in zip(opened, begun * 4, strict=True):
            writer.write(data)
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
        for _, writer in opened:
            writer.close()
        assert sum(isinstance(each, bytes) and each.startswith(b"HTTP/1.1 200") for each in answers) <= 8
        assert await answered(api.url) == 200, "whoever asks is answered again"


async def test_whoever_does_not_take_what_it_asked_for_is_let_go(tmp_path: Path) -> None:
    """Readers that stop reading would keep every connection that there may be."""
    scene = Scene(tmp_path)
    async with scene.serving(streams=1, connections=1, request_s=0.3) as api:
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        opened = [await asyncio.open_connection("127.0.0.1", api.port, limit=1) for _ in range(2)]
        for _, writer in opened:
            writer.write(ask * 400)
        assert await answered(api.url) in (200, 503)
        for _, writer in opened:
            writer.transport.abort()


async def test_it_stops_with_streams_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STOP_S", 50.0)
    scene = Scene(tmp_path)
    async with httpx.AsyncClient(timeout=30) as client:
        async with scene.serving() as api, client.stream("GET", f"{api.url}/v1/jobs/1/events") as events:
            lines, pid = events.aiter_lines(), api.pid
            assert await anext(lines) == "id: 1"
            started = time.monotonic()
            await api.__aexit__(None, None, None)
            assert time.monotonic() - started < 40.0, "it ends by itself"
            with pytest.raises((httpx.HTTPError, StopAsyncIteration)):
                while True:
                    await anext(lines)
        assert not psutil.pid_exists(pid)
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{api.url}/health")


@pytest.mark.parametrize("after", [0.0, 0.01, 0.3])
async def test_it_stops_while_it_starts(tmp_path: Path, after: float) -> None:
    before, started = psutil.Process().children(), time.monotonic()
    async with Scene(tmp_path).serving():
        await asyncio.sleep(after)
    assert time.monotonic() - started < 20
    assert psutil.Process().children() == before


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ApiUnavailable, match="choose another api_por"):
        async with Scene(tmp_path).serving(taken.getsockname()[1]):
            pass


PARENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from api_scene import Scene
async def main():
    async with Scene(Path(sys.argv[2])).serving() as api:
        while not api.pid:
            await asyncio.sleep(0.01)
        print(api.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def test_it_ends_with_a_verifier_that_is_killed(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", PARENT, here, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(30)
