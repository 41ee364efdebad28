"""What `proofyard job` says of money."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.chain.records import JobRecord
from proofyard.cli import main
from proofyard.cli.errors import UsageError
from proofyard.cli.job import _chain_facts, _refund_step
from proofyard.cli.job_flags import parsed
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, Digest, ExitCode, JobId, Wei
from proofyard.runtime.times import moment

NOW, DEADLINE, RECEIPT_TIME = 1000, 2000, 600

JOB = JobRecord(
    id=JobId(4),
    requester=Address("0x" + "1" * 40),
    deadline=DEADLINE,
    closed_at=0,
    auditors_per_segment=2,
    segments_per_audit=1,
    manifest=Digest(bytes(32)),
    units=100,
    units_open=0,
    units_paid=0,
    verifier=OperatorId(1),
    former=OperatorId(0),
    escrow=Wei(50),
    surplus=Wei(0),
    surplus_from=0,
    last_active=0,
    reward=Wei(100),
    audit_fee=Wei(10),
    former_until=0,
    workload=0,
    verifier_fee=Wei(5),
    open_block=1,
)


@pytest.fixture
def chain() -> Any:
    return SimpleNamespace(now=lambda: NOW, params=lambda: SimpleNamespace(receipt_time=RECEIPT_TIME))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, f"from {moment(2601, NOW)} on, or sooner with job cancel 4:"),
        ({"closed_at": 900}, f"from {moment(1501, NOW)} on: proofyard job refund 4"),
        ({"closed_at": 300}, "next: proofyard job refund 4"),
        ({"units_paid": 100}, "next: proofyard job refund 4"),
        (
            {"units_paid": 100, "escrow": Wei(0), "surplus": Wei(3), "surplus_from": 5000},
            f"from {moment(5000, NOW)} on:",
        ),
        ({"units_paid": 100, "escrow": Wei(0), "surplus": Wei(3), "surplus_from": 500}, "next: proofyard job refund 4"),
        ({"escrow": Wei(0)}, "nothing is left"),
    ],
    ids=["open", "closed", "long closed", "paid", "surplus bound", "surplus free", "empty"],
)
def test_when_the_rest_of_a_jobs_money_can_be_had_back(chain: Any, changes: dict[str, Any], says: str) -> None:
    assert says in _refund_step(chain, replace(JOB, **changes))


def test_a_job_shows_its_terms_and_when_its_money_is_free(chain: Any) -> None:
    facts = _chain_facts(chain, replace(JOB, surplus=Wei(3), surplus_from=5000))
    assert (facts["reward"], facts["audit_fee"], facts["verifier_fee"]) == ("100", "10", "5")
    assert (facts["escrow_free_from"], facts["surplus_free_from"]) == ("2601", "5000")
    assert _chain_facts(chain, replace(JOB, units_paid=100))["escrow_free_from"] == "0"


def test_parameters_are_read_as_people_write_them() -> None:
    words = ["a=True", "b=False", "c=None", "d=[1]", "e=x", "f=true", "g=1e-3", "h=", "i=a=b"]
    expected = {"a": True, "b": False, "c": None, "d": [1], "e": "x", "f": True, "g": 1e-3, "h": "", "i": "a=b"}
    assert parsed(words) == expected


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a=1", "a=2"]])
def test_parameters_that_say_nothing_or_twice_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parsed(words)


@pytest.mark.parametrize("flag", [("--rank", "4"), ("--lr", "0.1"), ("--seq-len", "64"), ("--model", "m")])
def test_a_flag_and_a_parameter_do_not_say_two_things(
    flag: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = flag[0].lstrip("-").replace("-", "_")
    words = ["--data", "x", "--reward", "1", "--audit-fee", "1", *flag, "--set", f"{name}=8"]
    assert main(["job", "submit", *words]) == ExitCode.USAGE
    assert f"--set {name}: {flag[0]} says it too" in capsys.readouterr().err
