"""A service ends when it is told to, whatever its threads wait for."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, concurrent.futures, sys, threading, time
from proofyard.runtime import service as runtime

def hang():
    print("hangs", flush=True)
    time.sleep(60)

async def end():
    hanging.append(asyncio.create_task(asyncio.to_thread(hang)))
    await asyncio.sleep(0.1)

hanging = []

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
            start = time.monotonic()
            assert process.wait(20) == (7 if what == "an error" else 0)
            assert time.monotonic() < start + 5
            assert "cleaned up" in process.stdout.read()
        finally:
            process.kill()
