"""What all tests have in common."""

import faulthandler
import os
import signal
import sys
from collections.abc import Generator
from types import FrameType

import pytest

TEARDOWN_S, AGAIN_S = 300, 60
"""How long a test may take to clean up, and how often it is interrupted from then on."""

for name in ("COLUMNS", "LINES"):
    # GNU readline, which pytest loads, tells child processes of a window of 80 columns where there is no terminal.
    os.environ.pop(name, None)
    os.unsetenv(name)

# Threads of torch and numpy spin while they wait for one another, which takes the cores from whatever else runs here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Whatever a test leaves behind ends: the limit on the whole test is lifted once it has failed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        __tracebackhide__ = True
        faulthandler.dump_traceback(sys.__stderr__)
        pytest.fail(f"{item.nodeid} has not cleaned up within {TEARDOWN_S} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, TEARDOWN_S, AGAIN_S)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
