import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from proofyard.devnet.errors import ChildDied, ChildNotReady
from proofyard.devnet.memory import PeakMemory, tree_bytes
from proofyard.devnet.process import Child, stop_all


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "a killed process takes a moment to vanish, but not this long"
        time.sleep(0.02)


def child(tmp_path: Path, *args: str) -> Child:
    return Child("node-1", args, log=tmp_path / "logs" / "node-1.log", ready=tmp_path / "ready")


def test_a_child_that_dies_early_is_told_with_its_last_log_line(tmp_path: Path) -> None:
    dying = child(tmp_path, "no-such-command")
    with pytest.raises(ChildDied, match=r"node-1 ended with exit code 2: error: No such command 'no-such-command'"):
        dying.wait_ready(120)


def test_a_child_that_serves_nothing_in_time_is_told(tmp_path: Path, sleeper: Child) -> None:
    with pytest.raises(ChildNotReady, match="was not ready after"):
        sleeper.wait_ready(0.1)


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho started\nsleep 300 & wait\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    started = child(tmp_path, "run")
    try:
        until(lambda: "started" in started.last_line())
        yield started
    finally:
        started.kill()


def test_stopping_leaves_nothing_of_the_process_group(sleeper: Child) -> None:
    group = [p for p in psutil.process_iter() if _group(p) == sleeper.pid]
    assert len(group) >= 1
    stop_all([sleeper])
    until(lambda: not any(_group(p) == sleeper.pid for p in psutil.process_iter()))


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else -1
    except (ProcessLookupError, psutil.NoSuchProcess):
        return -1


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from proofyard.devnet.process import Child\n"
        f"sys.executable = {str(_sleeping_script(tmp_path))!r}\n"
        f"c = Child('x', ['run'], log=Path({str(tmp_path / 'x.log')!r}), ready=Path({str(tmp_path / 'r')!r}))\n"
        "print(c.pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sleeping_script(tmp_path: Path) -> Path:
    script = tmp_path / "sleeping"
    script.write_text("#!/bin/sh\nexec sleep 300\n")
    script.chmod(0o755)
    return script


def test_peak_memory_counts_descendants() -> None:
    with PeakMemory(interval_s=0.02) as peak:
        alone = tree_bytes()
        program = "x = b'1' * 60_000_000; print('up', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert tree_bytes() > alone + 50_000_000
            until(lambda: peak.peak_bytes > alone + 50_000_000)
            other.communicate("\n")
    assert peak.peak_bytes > alone + 50_000_000
