"""A job off a terminal: a line when it has come further, one for what nobody should miss, and else none."""

import time
from collections.abc import Callable, Iterator

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.runtime.times import span
from proofyard.sdk.events import EndEvent, FaultEvent, Journal, Standing
from proofyard.sdk.following import Look

LEAST_SHARE, LEAST_S = 0.05, 15.0
"""Progress is told after so much more of the job and so many seconds, whichever comes last."""
MOST_FAULTS = 20
"""Lines about faults; a verifier can tell of any number."""
ONCE = ("opened", "failed", "done")


class Milestones:
    """What to tell of each look at a job. `clock`: seconds on this machine, from any moment on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._journal = Journal()
        self._told: set[object] = set()
        self._fraction = 0.0
        self._at = clock()
        self._loss: float | None = None

    def of(self, look: Look) -> Iterator[LogLine | str]:
        """Log lines that are told as they are, and sentences."""
        for line in look.fresh:
            event = self._journal.take(look.report, line)
            self._loss = line.loss if line.loss is not None else self._loss
            if isinstance(event, FaultEvent):
                if len(self._told) < MOST_FAULTS and self._is_new((line.kind, line.node)):
                    yield line
            elif (isinstance(event, EndEvent) or line.kind in ONCE) and self._is_new(line.kind):
                yield line
        standing = self._journal.standing(look.report)
        if standing.state not in ("done", "failed") and self._is_further(standing, look.report):
            yield _sentence(standing, look.report.reason, self._loss)

    def _is_new(self, what: object) -> bool:
        is_new = what not in self._told
        self._told.add(what)
        return is_new

    def _is_further(self, standing: Standing, report: JobReport) -> bool:
        """Whether enough has changed, and enough time has passed; what it waits for counts as much as a step."""
        now, waits = self._clock(), bool(report.reason) and ("waits", report.reason) not in self._told
        if now - self._at < LEAST_S or not (waits or standing.fraction - self._fraction >= LEAST_SHARE):
            return False
        self._told = {each for each in self._told if not (isinstance(each, tuple) and each[0] == "waits")}
        self._told.add(("waits", report.reason))
        self._fraction, self._at = standing.fraction, now
        return True


def _sentence(standing: Standing, reason: str, loss: float | None) -> str:
    parts = [
        f"{standing.fraction:.0%}: {standing.worked} of {standing.tasks} tasks worked, {standing.valid} accepted",
        *([f"loss {loss:.3f}"] if loss is not None else []),
        *([f"about {span(standing.left_s)} left"] if standing.left_s is not None else []),
        *([reason] if reason else []),
    ]
    return ", ".join(parts)
