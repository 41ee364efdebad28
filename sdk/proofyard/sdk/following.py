"""Looking at a job again and again until it is over."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId
from proofyard.sdk.bounds import Timeout
from proofyard.sdk.errors import JobRefused, JobTimeout

FULL_PAGE = 100
"""A report with fewer lines is the newest: there is no hurry to ask again."""
SHORT_POLL_S = 0.05
LAST_SEQ = (1 << 63) - 1

Ask = Callable[[int], Awaitable[JobReport]]
"""How a job is doing, with the log lines after a number."""


@dataclass(frozen=True)
class Look:
    """A report, and of its log what was not there before, in order."""

    report: JobReport
    fresh: tuple[LogLine, ...]


def check_timeout(timeout: float | None) -> None:
    """Raise `JobRefused` for what is no time to wait."""
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and timeout >= 0):
        raise JobRefused(f"timeout: {str(timeout)[:80]} s is no time to wait; give 0 or more seconds")


async def follow(job: JobId, ask: Ask, times: Timeout, patience: float | None = None) -> AsyncGenerator[Look, None]:
    """Each look at a job until it is done or failed, with every line of its log once. Raises `JobTimeout` after
    `patience` seconds."""
    check_timeout(patience)
    give_up = None if patience is None else time.monotonic() + patience
    seen, ended = 0, None
    while True:
        report = await ask(seen)
        fresh = []
        for line in report.log:
            if seen < line.seq <= LAST_SEQ:
                seen = line.seq
                fresh.append(line)
        over = report.state in ("done", "failed")
        ended = ended or (time.monotonic() if over else None)
        yield Look(report, tuple(fresh))
        # What is left of its log comes at once; a verifier that always has one line more is not heard out.
        if over and (not fresh or time.monotonic() - (ended or 0.0) > times.last_lines):
            return
        if give_up is not None and time.monotonic() > give_up and not over:
            raise JobTimeout(job, patience or 0, report.state)
        if len(fresh) < FULL_PAGE:
            await asyncio.sleep(SHORT_POLL_S if fresh else times.poll)
