"""A handle that waits for a verifier that tells stories without end."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId
from proofyard.sdk import AsyncClient, Client, JobFailed, JobHandle, JobRefused, JobTimeout, Limits, Timeout
from proofyard.sdk.errors import NotFinished
from proofyard.sdk.portal import Portal

pytestmark = pytest.mark.timeout(60)


class Storyteller(AsyncClient):
    """A client whose verifier has one more line whenever it is asked."""

    def __init__(self, state: str, *, step: int, lines: tuple[LogLine, ...] | None = None) -> None:
        self.state, self.step, self.told, self.lines = state, step, 2, lines
        self.asked_since = list[int]()
        self.timeout, self.limits = Timeout(poll=0.01, last_lines=0.1), Limits(log_lines=1000)
        self._closed = False
        self._record: Any = None

    @property
    def chain(self) -> Any:
        return SimpleNamespace(job=lambda job: self._record)

    async def left_of(self, job: JobId) -> str:
        return "nothing is left"

    async def report(self, job: JobId, since: int = 0) -> JobReport:
        self.asked_since.append(since)
        self.told += self.step
        line = LogLine(self.told, 0.0, "progress", "once upon a time")
        return JobReport(job, self.state, 1, 0, 0, None, "no more", self.lines or (line,))


def handle(teller: Storyteller) -> JobHandle:
    """The sync handle on it."""
    client = Client.__new__(Client)
    client._core, client._portal = teller, Portal("test")
    return client.job(JobId(1))


def test_a_job_that_is_over_is_over_whatever_is_still_told() -> None:
    assert handle(Storyteller("done", step=1)).wait(0).state == "done"
    with pytest.raises(JobFailed, match="nothing is left"):
        handle(Storyteller("failed", step=1)).wait()


@pytest.mark.parametrize("step", [1, 0, -1, 1 << 62])
def test_patience_ends_and_every_line_comes_once_and_in_order(step: int) -> None:
    seen: list[int] = []
    teller = Storyteller("running", step=step)
    with pytest.raises(JobTimeout):
        handle(teller).wait(0.2, on_event=lambda line: seen.append(line.seq))
    assert seen == sorted(set(seen))
    assert all(0 <= since < 1 << 63 for since in teller.asked_since), "another verifier is asked with the same number"


def test_the_number_of_lines_is_not_what_a_client_computes_with() -> None:
    teller = Storyteller("done", step=0, lines=(LogLine(1 << 64, 0.0, "done", ""),))
    assert handle(teller).wait(1).state == "done"


@pytest.mark.parametrize(("step", "lines"), [(1, 1000), (0, 1), (-1, 1)])
def test_a_log_without_end_is_read_up_to_a_limit(step: int, lines: int) -> None:
    assert len(handle(Storyteller("running", step=step)).log()) == lines


@pytest.mark.parametrize("number", [0, -1, 1 << 256, "5", "1e3", 5.0, True, None, float("nan"), [1]])
def test_what_is_no_jobs_number_is_refused(number: Any) -> None:
    with pytest.raises(JobRefused, match=r"job: .* is no job's number"):
        AsyncClient.job(cast(Any, None), number)


@pytest.mark.parametrize(
    ("state", "paid", "raises"),
    [
        ("failed", 3, JobFailed),
        ("running", 3, NotFinished),
        ("failed", 4, None),
        ("packing", 4, None),
        ("nonsense", 4, None),
    ],
)
async def test_what_is_settled_whole_is_there_whatever_its_verifier_says(state: str, paid: int, raises: Any) -> None:
    teller = Storyteller(state, step=1)
    teller._record = SimpleNamespace(units=4, units_paid=paid)
    if raises is None:
        assert await teller._said(JobId(1)) is None
        return
    with pytest.raises(raises):
        await teller._said(JobId(1))
