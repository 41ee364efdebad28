"""A service ends when it is told to, whatever its threads wait for."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from eth_account import Account

PROGRAM = """
import asyncio, concurrent.futures, sys, threading, time
from proofyard.runtime import service as runtime

def hang():
    sys.stdout.write("hangs\\n")  # in one piece: others say so at the same time
    sys.stdout.flush()
    hangs.set()
    time.sleep(60)

async def end():
    hanging.append(asyncio.create_task(asyncio.to_thread(hang)))
    while not hangs.is_set():
        await asyncio.sleep(0.01)

hanging, hangs = [], threading.Event()

async def last_word():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(print, "said", flush=True)

async def serve():
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        match sys.argv[1]:
            case "a thread":
                await asyncio.to_thread(hang)
            case "a pool":
                await asyncio.get_running_loop().run_in_executor(pool, hang)
            case "queued":
                await asyncio.gather(*(asyncio.to_thread(hang) for _ in range(64)))
            case "queued, a part's last word":
                hangs_all = asyncio.gather(*(asyncio.to_thread(hang) for _ in range(64)))
                await runtime.run_together(last_word(), asyncio.wait_for(hangs_all, None))
            case "nothing":
                print("hangs", flush=True)
                await asyncio.Event().wait()
            case "an end":
                await end()
            case "an error":
                await end()
                raise KeyError("why")
    finally:
        pool.shutdown(wait=False)
        print("cleaned up", flush=True)

code = 0
try:
    runtime.run_service(serve())
except KeyError:
    code = 7
sys.exit(runtime.leave(code))
"""


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("a thread", signal.SIGTERM),
        ("a thread", signal.SIGINT),
        ("a pool", signal.SIGTERM),
        ("queued", signal.SIGTERM),
        ("queued, a part's last word", signal.SIGTERM),
        ("nothing", signal.SIGTERM),
        ("an end", None),
        ("an error", None),
    ],
)
def test_no_thread_that_hangs_keeps_a_service(what: str, number: signal.Signals | None) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "hangs\n"
            if number is not None:
                process.send_signal(number)
            assert process.wait(50) == (7 if what == "an error" else 0)
            assert "cleaned up" in process.stdout.read()
        finally:
            process.kill()


@pytest.mark.parametrize("role", ["node", "verifier"])
def test_a_service_that_waits_for_its_chain_ends_when_told(tmp_path: Path, role: str) -> None:
    """The endpoint takes the connection and never answers."""
    wallet = tmp_path / "wallet.json"
    for file in (wallet, tmp_path / "password"):
        file.touch(0o600)
    (tmp_path / "password").write_text("pw")
    wallet.write_text(json.dumps(Account.encrypt(bytes(31) + b"\x01", "pw", kdf="pbkdf2", iterations=1000)))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        named = ["--rpc-url", address, "--registry", "0x" + "11" * 20, "--data-dir", str(tmp_path / "data")]
        keys = ["--wallet", str(wallet), "--password-file", str(tmp_path / "password")]
        command = [sys.executable, "-m", "proofyard.cli", role, "run", *named, *keys]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                deaf.settimeout(60)
                connection, _ = deaf.accept()
                with connection:
                    assert connection.recv(1), "it asks"
                    process.send_signal(signal.SIGTERM)
                    process.wait(50)
            finally:
                process.kill()


ASKED = """
import asyncio, sys
from proofyard.runtime import service as runtime

stop = runtime.Stop()

async def in_order():
    await stop.asked()
    print("asked", flush=True)
    if sys.argv[1] == "ends":
        return
    await asyncio.Event().wait()

async def serve():
    try:
        if sys.argv[1] == "starts":
            print("ready", flush=True)
            await asyncio.Event().wait()
        part = asyncio.ensure_future(in_order())
        await asyncio.sleep(0)
        print("ready", flush=True)
        await runtime.run_together(part)
    finally:
        print("cleaned up", flush=True)

runtime.run_service(serve(), stop)
"""


@pytest.mark.parametrize(
    ("what", "signals", "said"),
    [
        ("ends", 1, ["asked", "cleaned up"]),
        ("hangs", 2, ["asked", "cleaned up"]),  # the second ends what does not end by itself
        ("starts", 1, ["cleaned up"]),  # nobody heeds it yet: it ends at once
    ],
)
def test_a_service_is_asked_first_and_ended_by_the_second_signal(what: str, signals: int, said: list[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", ASKED, what], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = []
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            lines.append(process.stdout.readline().strip())
        rest = process.stdout.read().split("\n")
        assert process.wait(30) == 0
    assert [*lines, *filter(None, rest)] == said
