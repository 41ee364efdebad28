"""Which transactions are sent again after a reorganisation: those whose subject the rows still have."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import Address, BatchId, Digest, JobId
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Batch, BatchState, Job, JobState
from proofyard.verifier.engine.world import Rows
from proofyard.verifier.sending import wanted

REQUESTER = Address("0x" + "aa" * 20)
WHAT = "theFunction"
"""What a subject ends with: the function that is called."""


def job(**changes: Any) -> Job:
    usual: dict[str, Any] = {
        "id": JobId(5),
        "manifest": raw_cid(b"m"),
        "requester": REQUESTER,
        "opened_block": 30,
        "opened_hash": bytes(32),
        "units": 10,
        "reward": "1",
        "audit_fee": "1",
        "verifier_fee": "0",
        "auditors_per_segment": 2,
        "segments_per_audit": 1,
        "deadline": 2**40,
        "workload": 0,
    }
    return Job(**usual | changes)


def batch(**changes: Any) -> Batch:
    usual: dict[str, Any] = {"id": 7, "root": Digest(bytes(32)), "members": b"", "lines": (), "chain_id": BatchId(9)}
    return Batch(**usual | changes)


def still(subject: str, *rows: Job | Batch) -> bool:
    context = SimpleNamespace(rows=Rows(rows))
    return wanted(cast(Context, context), f"{subject} {WHAT}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"state": JobState.TAKING}, True),
        ({"state": JobState.FAILED}, False),
        ({"gone": True}, False),
        ({"opened_block": 31}, False),
    ],
)
def test_a_job_is_taken_again_while_it_is_that_job(changes: dict[str, Any], expected: bool) -> None:
    assert still("take-job 5 30 0", job(**changes)) is expected


def test_a_job_that_is_not_there_is_not_taken() -> None:
    assert not still("take-job 5 30 0")


@pytest.mark.parametrize("state", BatchState)
def test_a_batch_is_committed_and_settled_again_unless_it_is_given_up(state: BatchState) -> None:
    lives = state not in (BatchState.DROPPED, BatchState.TAKEN)
    assert still("commit 7", batch(state=state)) is lives
    assert still("settle 9 0 abcd", batch(state=state)) is lives


def test_an_attempt_that_is_over_is_not_settled_again() -> None:
    assert not still("settle 9 0 abcd", batch(attempt=1))
    assert still("settle 9 1 abcd", batch(attempt=1))


@pytest.mark.parametrize(
    "subject", ["commit 8", "settle 10 0 ab", "finalize 9 100", "attend 3", "answer 1 ab", "draw 9 4"]
)
def test_what_the_rows_do_not_tell_the_contract_does(subject: str) -> None:
    assert still(subject)
