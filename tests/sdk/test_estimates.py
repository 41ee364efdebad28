"""An estimate rests on what the chain shows, and on nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.chain import BatchSettled, JobOpened
from proofyard.protocol.settlement import Line
from proofyard.protocol.types import Cid, JobId, ProofyardError
from proofyard.sdk.estimates import MOST_JOBS, basis_of, rates_of

LORA, MAP = 0, 4


def opened(job: int, block: int, *, units: int = 100, reward: int = 1000, workload: int = LORA) -> Any:
    event = JobOpened.__new__(JobOpened)
    vars(event).update(
        job=JobId(job), units=units, reward=reward, workload=workload, position=SimpleNamespace(block=block)
    )
    return event


def settled(batch: int, block: int, **lines: int) -> Any:
    event = BatchSettled.__new__(BatchSettled)
    units = tuple(Line(JobId(int(job[1:])), count, 0) for job, count in lines.items())  # type: ignore[arg-type]
    vars(event).update(batch=batch, lines=units, record=Cid("r"), position=SimpleNamespace(block=block))
    return event


def rates(*events: Any, workload: int = LORA) -> Any:
    chain: Any = SimpleNamespace(
        recent_events=lambda topics: list(events), block_number=lambda: 999, block_time=lambda block: 12 * block
    )

    def read(cid: Cid, most: int) -> bytes:
        raise ProofyardError("nobody has it")

    return rates_of(chain, read, workload)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [opened(1, 5)],
        [opened(1, 5), settled(1, 9, j1=99)],
        [opened(1, 5, workload=MAP), settled(1, 9, j1=100)],
        [settled(1, 9, j1=100)],
    ],
    ids=["nothing", "running", "half settled", "another workload", "opened before"],
)
def test_without_a_job_that_was_settled_whole_nothing_is_said(events: list[Any]) -> None:
    found = rates(*events)
    assert (found.jobs, found.seconds(100), found.reward(100), found.audited) == ((), None, None, None)
    assert "is not known" in basis_of(found, "lora")


def test_time_and_price_are_those_of_the_middle_job_by_units() -> None:
    jobs = [opened(n, 10 * n, units=100 * n, reward=1000 * n * n) for n in (1, 2, 3)]
    ends = [settled(n, 10 * n + 5, **{f"j{n}": 100 * n}) for n in (1, 2, 3)]
    found = rates(*jobs, *ends)
    assert [job.seconds for job in found.jobs] == [60, 60, 60]
    assert found.seconds(600).middle == 180
    assert found.seconds(1).middle == 60, "a small job waits for blocks as they did"
    assert (found.reward(300).least, found.reward(300).middle, found.reward(300).most) == (3000, 6000, 9000)
    assert basis_of(found, "lora").startswith("measured of 3 lora jobs settled whole in the blocks 0 to 999")


def test_a_settlement_that_replaces_a_voided_one_counts_once_and_the_newest_jobs_do() -> None:
    once = rates(opened(1, 5), settled(1, 9, j1=100), settled(1, 15, j1=100))
    assert [job.seconds for job in once.jobs] == [120]
    many = [opened(n, n) for n in range(1, 60)] + [settled(n, n + 1, **{f"j{n}": 100}) for n in range(1, 60)]
    assert [job.job for job in rates(*many).jobs] == list(range(60 - MOST_JOBS, 60))
