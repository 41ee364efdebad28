"""A handle that waits for a verifier that tells stories without end."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId
from proofyard.sdk import JobFailed, JobHandle, JobRefused, JobTimeout
from proofyard.sdk import client as clients
from proofyard.sdk.errors import NotFinished

pytestmark = pytest.mark.timeout(60)


class Storyteller:
    """A verifier that has one more line whenever it is asked."""

    def __init__(self, state: str, *, step: int) -> None:
        self.state, self.step, self.told, self.asked_since = state, step, 1, []  # type: ignore[var-annotated]

    def left_of(self, job: JobId) -> str:
        return "nothing is left"

    def report(self, job: JobId, since: int) -> JobReport:
        self.asked_since.append(since)
        self.told += self.step
        line = LogLine(self.told, 0.0, "progress", "once upon a time")
        return JobReport(job, self.state, 1, 0, 0, None, "no more", (line,))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_S": 0.01, "SHORT_POLL_S": 0.001, "LAST_LINES_S": 0.1}.items():
        monkeypatch.setattr(clients, name, seconds)


def test_a_job_that_is_over_is_over_whatever_is_still_told() -> None:
    teller: Any = Storyteller("done", step=1)
    assert JobHandle(teller, JobId(1)).wait(0).state == "done"
    failed: Any = Storyteller("failed", step=1)
    with pytest.raises(JobFailed):
        JobHandle(failed, JobId(1)).wait()


@pytest.mark.parametrize("step", [1, 0, -1, 1 << 62])
def test_patience_ends_and_every_line_comes_once_and_in_order(step: int) -> None:
    seen: list[int] = []
    teller: Any = Storyteller("running", step=step)
    with pytest.raises(JobTimeout):
        JobHandle(teller, JobId(1)).wait(0.2, on_event=lambda line: seen.append(line.seq))
    assert seen == sorted(set(seen))
    assert all(0 <= since < 1 << 63 for since in teller.asked_since), "another verifier is asked with the same number"


def test_the_number_of_lines_is_not_what_a_client_computes_with() -> None:
    told: Any = SimpleNamespace(
        report=lambda job, since: JobReport(job, "done", 1, 1, 0, None, "", (LogLine(1 << 64, 0.0, "done", ""),))
    )
    assert JobHandle(told, JobId(1)).wait(1).state == "done"


@pytest.mark.parametrize("number", [0, -1, 1 << 256, "5", "1e3", 5.0, True, None, float("nan"), [1]])
def test_what_is_no_jobs_number_is_refused(number: Any) -> None:
    with pytest.raises(JobRefused, match=r"job: .* is no job's number"):
        clients.Client.job(cast(Any, None), number)


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
def test_what_is_settled_whole_is_there_whatever_its_verifier_says(state: str, paid: int, raises: Any) -> None:
    teller: Any = Storyteller(state, step=1)
    teller.chain = SimpleNamespace(job=lambda job: SimpleNamespace(units=4, units_paid=paid))
    if raises is None:
        assert JobHandle(teller, JobId(1))._said() is None
        return
    with pytest.raises(raises):
        JobHandle(teller, JobId(1))._said()
