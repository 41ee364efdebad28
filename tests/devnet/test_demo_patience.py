"""A demo waits while its job comes further, says before it gives up, and gives up."""

import sys
from pathlib import Path

import pytest

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import JobId
from proofyard.sdk.following import Look

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from demo_patience import Patience


def look(*kinds: str, reason: str = "") -> Look:
    lines = tuple(LogLine(seq, 0.0, kind, "") for seq, kind in enumerate(kinds, 1))
    return Look(JobReport(JobId(1), "running", 8, 0, 0, None, reason, ()), lines)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def patience(now: list[float], told: list[str]) -> Patience:
    return Patience(100.0, told.append, lambda: now[0])


def test_a_slow_job_that_comes_further_is_never_given_up(patience: Patience, now: list[float], told: list[str]) -> None:
    for step in range(10_000):
        now[0] = 20.0 * step
        assert not patience.is_over(look("progress"))
    assert told == []


def test_who_gives_up_says_so_before(patience: Patience, now: list[float], told: list[str]) -> None:
    over = []
    for second in range(120):
        now[0] = float(second)
        over.append(patience.is_over(look("assigned", "lost", reason="task 0 waits")))
    assert over.index(True) == 100
    assert [line.partition(";")[0] for line in told] == [
        f"the job has not come further for {seconds} (task 0 waits)" for seconds in ("25 s", "50 s", "1 min 15 s")
    ]
    assert "ended in 25 s if that stays so (--patience" in told[-1]


def test_the_limit_begins_anew_with_each_step(patience: Patience, now: list[float], told: list[str]) -> None:
    for now[0] in (60.0, 90.0):
        assert not patience.is_over(look())
    now[0] = 95.0
    assert not patience.is_over(look("committed"))
    now[0] = 190.0
    assert not patience.is_over(look())
    now[0] = 195.0
    assert patience.is_over(look())
