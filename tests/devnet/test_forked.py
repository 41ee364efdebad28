import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from proofyard.devnet import fork_server
from proofyard.devnet.errors import ChildDied, DevnetError
from proofyard.devnet.forked import Forked, ForkServer
from proofyard.devnet.process import Child

SLEEPS = """
import os, time
from pathlib import Path
print("started", os.environ.get("ROLE"), Path.cwd(), flush=True)
time.sleep(300)
"""


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forked here sleeps, in the place of the command line."""
    package = tmp_path / "sleeping"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SLEEPS)
    runner = tmp_path / "server.py"
    runner.write_text(
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"server = runpy.run_path({fork_server.__file__!r})\n"
        "server['main'].__globals__.update(PROGRAM='sleeping', LOADED=())\n"
        "server['main']()\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {runner} "$3"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.fixture
def server(program: None) -> Iterator[ForkServer]:
    started = ForkServer()
    try:
        yield started
    finally:
        started.close()


def sleeper(server: ForkServer, tmp_path: Path, **env: str) -> Forked:
    log = tmp_path / "log"
    forked = server.start([], log, {**os.environ, **env})
    until(lambda: "started" in log.read_text())
    return forked


def test_it_has_its_own_variables_folder_log_and_group(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forked = sleeper(server, tmp_path, ROLE="node")
    assert (tmp_path / "log").read_text() == f"started node {tmp_path}\n"
    assert os.getpgid(forked.pid) == forked.pid
    assert forked.poll() is None


def test_how_it_ends_is_known(server: ForkServer, tmp_path: Path) -> None:
    first, second = sleeper(server, tmp_path), server.start([], tmp_path / "second", {})
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.01)
    first.terminate()
    assert first.wait(120) == -signal.SIGTERM
    assert second.poll() is None
    os.killpg(second.pid, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert first.returncode == -signal.SIGTERM
    first.terminate()  # reaches nobody


def test_all_end_with_the_server_and_the_server_with_its_owner(server: ForkServer, tmp_path: Path) -> None:
    forked = sleeper(server, tmp_path)
    server.close()
    until(lambda: not alive(forked.pid))


def test_a_server_that_died_is_told(server: ForkServer, tmp_path: Path) -> None:
    forked = sleeper(server, tmp_path)
    (process,) = (p for p in psutil.Process().children() if p.pid == psutil.Process(forked.pid).ppid())
    process.kill()
    assert forked.wait(120) == -signal.SIGTERM
    until(lambda: not alive(forked.pid))
    until(lambda: server.ended)
    with pytest.raises(DevnetError, match="has ended; start the network again"):
        server.start(["node", "run"], tmp_path / "log", {})


def test_nothing_outlives_an_owner_that_is_killed(program: None, tmp_path: Path) -> None:
    owner = (
        "import sys, time, os; from pathlib import Path; from proofyard.devnet.forked import ForkServer\n"
        f"sys.executable = {sys.executable!r}\n"
        f"print(ForkServer().start([], Path({str(tmp_path / 'log')!r}), dict(os.environ)).pid, flush=True)\n"
        "time.sleep(300)"
    )
    with subprocess.Popen([sys.orig_argv[0], "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    until(lambda: not alive(pid))


def test_a_command_runs_as_it_does_by_itself(tmp_path: Path) -> None:
    server = ForkServer()
    try:
        child = Child("node-1", ["no-such-command"], log=tmp_path / "log", ready=tmp_path / "ready", server=server)
        with pytest.raises(ChildDied, match=r"node-1 ended with exit code 2: error: No such command 'no-such-command'"):
            child.wait_ready(120)
        assert not child.kill()
    finally:
        server.close()
