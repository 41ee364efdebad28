"""`proofyard devnet` as a person meets it: ports, interrupts, what is left behind."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from proofyard.chain.errors import ToolNotFound
from proofyard.cli import main
from proofyard.devnet import terminated_like_interrupted
from proofyard.protocol.types import ExitCode

pytestmark = pytest.mark.timeout(400)


@contextmanager
def devnet(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "proofyard.cli", "devnet", "--nodes", "1", "--rpc-port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--dir", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def survivors(directory: Path) -> list[list[str]]:
    """Processes that belong to the network in `directory`, and chains without a parent."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(str(directory) in part for part in line):
            found.append(line)
    return found


def test_ctrl_c_stops_a_running_network_cleanly(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with devnet(directory) as process:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0
    facts = json.loads(output)
    assert [member["role"] for member in facts["members"]] == ["node", "requester", "verifier"]
    assert len(pids) >= 3
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert survivors(directory) == []


@pytest.mark.parametrize("stage", ["logs/anvil.log", "logs/verifier-1.log", "logs/node-1.log"])
def test_an_interrupt_while_starting_leaves_nothing_behind(tmp_path: Path, stage: str) -> None:
    directory = tmp_path / "net"
    with devnet(directory) as process:
        wait_for((directory / stage).exists)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=240)
        assert process.returncode == 130
    assert "Traceback" not in said
    assert survivors(directory) == []


def test_an_interrupt_that_got_lost_ends_the_next_wait() -> None:
    with terminated_like_interrupted() as interrupts:
        interrupts.pause(0)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupts.pause(0)


def test_an_interrupt_waits_until_what_was_started_is_in_somebodys_hands() -> None:
    done = []
    with terminated_like_interrupted() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.held():
        signal.raise_signal(signal.SIGTERM)
        done.append(True)
    assert done


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = main(["devnet", "--dir", str(tmp_path / "net"), "--rpc-port", str(port)])
    assert code == ExitCode.PORT_IN_USE
    assert f"error: port {port} is in use" in capsys.readouterr().err


def test_a_machine_without_anvil_is_told_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(tool: str) -> Path:
        raise ToolNotFound(tool, "@foundry-rs/anvil")

    monkeypatch.setattr("proofyard.chain.devchain.find_tool", missing)
    assert main(["devnet", "--dir", str(tmp_path / "net"), "--rpc-port", "0"]) == ExitCode.TOOL_MISSING
    assert "make setup" in capsys.readouterr().err


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    assert main(["devnet", "--dir", str(tmp_path), "--rpc-port", "0"]) == ExitCode.USAGE
    assert "holds other files" in capsys.readouterr().err
    assert precious.read_text() == "mine"
