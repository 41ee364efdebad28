"""How people name what they mean in a batch, and how a replay tells what holds."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proofyard.chain import Phase
from proofyard.cli import main
from proofyard.cli.challenge_view import facts_of, lines_of
from proofyard.cli.dispute import _checks
from proofyard.cli.errors import UsageError
from proofyard.cli.evidence import Spoken, job_in, parse_place, place_in
from proofyard.protocol.record import BatchRecord
from proofyard.protocol.types import BatchId, ExitCode, JobId, SegmentIndex, TaskIndex
from proofyard.protocol.validate import RecordInvalid


def batch(*jobs: int) -> Any:
    return SimpleNamespace(batch=3, header=SimpleNamespace(lines=[SimpleNamespace(job=JobId(job)) for job in jobs]))


def test_a_segment_is_named_with_or_without_its_job() -> None:
    assert parse_place("3:0") == Spoken(None, TaskIndex(3), SegmentIndex(0))
    assert parse_place("12:3:0") == Spoken(JobId(12), TaskIndex(3), SegmentIndex(0))


@pytest.mark.parametrize("text", ["", "3", "3:", "a:b", "1:2:3:4", "-1:2", "1: 2"])
def test_what_names_no_segment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not TASK:SEGMENT"):
        parse_place(text)


def test_the_only_job_of_a_batch_need_not_be_named() -> None:
    assert place_in(batch(5), parse_place("3:1"), None) == (5, 3, 1)
    assert place_in(batch(5, 6), parse_place("3:1"), 6) == (6, 3, 1)
    assert place_in(batch(5, 6), parse_place("5:3:1"), 6) == (5, 3, 1), "what stands with the segment wins"


def test_a_job_that_is_not_in_the_batch_is_refused_and_one_of_several_must_be_named() -> None:
    with pytest.raises(UsageError, match="has tasks of jobs 5, 6; say which with --job"):
        job_in(batch(5, 6), None)
    with pytest.raises(UsageError, match="has no task of job 7, it has jobs 5, 6"):
        job_in(batch(5, 6), 7)


def test_every_field_of_a_record_that_holds_is_told() -> None:
    fields = [field.name for field in msgspec.structs.fields(BatchRecord)]
    checks = _checks(None)
    assert [check["field"] for check in checks] == [*fields, "settlement"]
    assert all(check["holds"] for check in checks)


def test_a_replay_tells_what_held_before_the_field_that_does_not() -> None:
    checks = _checks(RecordInvalid(BatchId(1), "audits[3].votes", "one too few"))
    assert [check["field"] for check in checks][-2:] == ["repeated", "audits[3].votes"]
    assert [check["holds"] for check in checks] == [True] * (len(checks) - 1) + [False]
    assert checks[-1]["says"] == "one too few"


def test_a_field_that_is_the_settlements_comes_after_all_of_the_records() -> None:
    assert [check["field"] for check in _checks(RecordInvalid(BatchId(1), "payout_total", "other"))][-2:] == [
        "payouts",
        "payout_total",
    ]


@pytest.mark.parametrize(
    "what",
    [[], ["--record", "--fault", "0"], ["--segment", "0:0", "--record"], ["--receipt", "file"]],
    ids=["nothing", "record and fault", "segment and record", "receipt with a batch"],
)
def test_a_challenge_is_about_one_thing(what: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verifier", "dispute", "open", "1", *what]) == ExitCode.USAGE
    assert "say what is wrong" in capsys.readouterr().err


def test_a_challenge_is_shown_with_times_that_people_read() -> None:
    fields = {"id": 1, "batch": 2, "kind": SimpleNamespace(name="RECORD"), "job": 0, "round": 0, "accused": 3}
    fields |= {"challenger": "0xc", "bond": 10**18, "votes_wrong": 1, "votes_right": 0, "until": 1_795_798_464}
    fields |= {"task": 0, "segment": 0, "entry": 0}
    voting: Any = SimpleNamespace(**fields, phase=Phase.VOTE)
    over: Any = SimpleNamespace(**fields, phase=Phase.UPHELD)
    shown = dict(line.split(None, 1) for line in lines_of(voting))
    assert shown["bond"] == "1 CREDIT"
    assert shown["until"].startswith("2026-11-2") and "job" not in shown
    assert facts_of(voting)["until"] == "1795798464"
    assert not [line for line in lines_of(over) if line.startswith("until")]
