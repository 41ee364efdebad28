import time

import pytest

from proofyard.runtime.times import from_now, moment, span


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (0.9, "now"),
        (59, "in 59 s"),
        (61, "in 1 min 1 s"),
        (10_800, "in 3 h"),
        (11_000, "in 3 h 3 min"),
        (10_801, "in 3 h"),
        (200_000, "in 2 days 7 h"),
        (-5, "5 s ago"),
        (-86_400, "1 day ago"),
    ],
)
def test_how_far_a_moment_is(seconds: float, said: str) -> None:
    assert from_now(seconds) == said


def test_a_moment_is_told_in_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        assert moment(1_800_000_000, 1_799_996_400) == "2027-01-15 09:00:00+01:00 (in 1 h)"
    time.tzset()
    for nobody in (2**40 - 1, 2**96, -(2**70)):
        assert moment(nobody, 0) == "at a time that nobody knows yet" or nobody == 2**40 - 1


def test_a_span_is_never_negative() -> None:
    assert span(-3) == "0 s"
