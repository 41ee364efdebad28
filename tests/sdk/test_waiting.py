"""A handle that waits for a verifier that tells stories without end."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.chain import JobRecord
from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import ExitCode, JobId
from proofyard.sdk import AsyncClient, Client, JobFailed, JobHandle, JobOver, JobRefused, JobTimeout, Limits, Timeout
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
        self.params, self.now = SimpleNamespace(receipt_time=0), 0

    @property
    def chain(self) -> Any:
        return SimpleNamespace(job=lambda job: self._record, params=lambda: self.params, next_time=lambda: self.now)

    async def failure(self, job: JobId, reason: str) -> JobFailed:
        return JobFailed(job, reason, "nothing is left")

    async def _require_hope(self, job: JobId) -> None:
        pass

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


def record(**changes: Any) -> Any:
    usual = {"id": JobId(1), "units": 8, "units_paid": 3, "units_open": 0, "closed_at": 0, "deadline": 5000}
    usual |= {"verifier": 1, "former": 0, "escrow": 0, "surplus": 0, "surplus_from": 0} | changes
    fields = {each.name: 0 for each in dataclasses.fields(JobRecord)} | usual
    return JobRecord(**fields)  # type: ignore[arg-type]


NOBODY = {"verifier": 0, "units_paid": 0}


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({}, ""),
        ({"closed_at": 900}, "it was closed 1 min 40 s ago, before it was done; nothing"),
        ({"closed_at": 900, **NOBODY}, "before it was done, and no verifier had taken it"),
        ({"closed_at": 900, "units_open": 5}, ""),
        ({"closed_at": 900, "units_paid": 8}, ""),
        (NOBODY, ""),
        ({"deadline": 940, **NOBODY}, "its time ran out 1 min ago, and no verifier had taken it"),
        ({"deadline": 940}, ""),
        ({"deadline": 800}, "its time ran out 3 min 20 s ago"),
    ],
)
async def test_a_job_that_will_not_be_done_is_not_waited_for(changes: dict[str, Any], how: str) -> None:
    """The clock is at 1000, receipts are good for 100 s."""
    teller = Storyteller("running", step=1)
    teller._record = record(**changes)
    teller.params, teller.now = SimpleNamespace(receipt_time=100), 1000
    if not how:
        await AsyncClient._require_hope(teller, JobId(1))
        return
    with pytest.raises(JobOver, match=f"job 1 is over and will not be done: .*{how}") as raised:
        await AsyncClient._require_hope(teller, JobId(1))
    assert raised.value.exit_code == ExitCode.JOB_OVER
    assert isinstance(await AsyncClient.failure(teller, JobId(1), "x"), JobOver)


async def test_what_is_settled_whole_is_said_to_be_there_whatever_its_verifier_gave_up() -> None:
    teller = Storyteller("failed", step=1)
    teller._record = record(closed_at=900, units_paid=8)
    found = await AsyncClient.failure(teller, JobId(1), "it was closed before it was done")
    assert not isinstance(found, JobOver)
    assert "settled all the same: proofyard job result 1 DIRECTORY" in str(found)
