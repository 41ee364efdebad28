"""Explanations: the numbers are those that the plan reckons with, and each statement says what shows it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_scene import Scene, address, job_row

from proofyard.protocol.dial import WAD
from proofyard.protocol.record import RecordedPayout
from proofyard.verifier.api import types as out
from proofyard.verifier.api.statements import (
    Dial,
    Fees,
    Here,
    Kind,
    Slashed,
    Standing,
    of_dial,
    of_fault,
    of_fees,
    of_payout,
    shown_by,
    why_not,
)

NODE = Standing(
    node=address(1),
    owner=address(11),
    executes=True,
    guilty=False,
    rests=False,
    stake=10**20,
    in_flight=0,
    holds=0,
    room=1,
    lost=0,
    done=0,
    others=10,
)
KIND = Kind(reward=10**18, segments=4, ready=1)
HERE = Here((NODE,), (KIND,), 1000, 1500, 2 << 30)


@pytest.mark.parametrize(
    ("changes", "barred", "says"),
    [
        ({}, (), ""),
        ({"guilty": True}, (), "costs stake"),
        ({"executes": False}, (), "does not offer to execute lora"),
        ({"holds": 1}, (), "holds 1 of the 1 tasks"),
        ({"rests": True}, (), "asked again in seconds"),
        ({"too_much": "its owner has 1 of the round's tasks"}, (), "its owner has 1 of the round's tasks"),
        ({}, (address(1),), "may not have this task again"),
        ({"in_flight": 10**21}, (), "no owner's stake backs it"),
        ({"memory_bytes": 1 << 30}, (), "takes at least 2.0 GiB of memory, more than the 1.0 GiB"),
        ({"others": 2}, (), "2 other owners are here to audit it"),
    ],
)
def test_why_a_node_gets_no_task(changes: dict[str, Any], barred: tuple[str, ...], says: str) -> None:
    found = why_not(replace(NODE, **changes), job_row(1), KIND, barred, HERE)
    assert says in found
    assert bool(found) == bool(says)


DIAL = Dial(
    consecutive_valid=40,
    stake=10**20,
    at_risk=85 * 10**18,
    in_flight=10**19,
    reward=10**18,
    trust=WAD // 40,
    fake_seen=WAD // 50,
    chance=WAD // 40,
    segments=1,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "40 valid audits in a row"),
        ({"chance": WAD // 10}, "in flight beside its stake sets the chance"),
        ({"chance": WAD, "trust": WAD, "consecutive_valid": 2}, "always audited below 10"),
        ({"chance": WAD}, "every task is audited"),
    ],
)
def test_the_dial_says_what_made_it_audit(changes: dict[str, Any], says: str) -> None:
    found = of_dial(replace(DIAL, **changes), 1, 3, address(1), shown_by("5", "bafy"))
    assert says in found.text
    assert found.facts["in_flight"] == str(10**19)
    assert found.shown.replay == "proofyard verifier dispute replay 5"


def test_a_fault_says_what_it_took() -> None:
    fault = out.Fault(
        batch="5",
        job="1",
        task=3,
        segment=2,
        node=address(1),
        owner=address(11),
        operator="4",
        kind="mismatch",
        reason="another state",
        shown=shown_by("5", "bafy", "1:3:2"),
    )
    slashes = [Slashed("9", 1, 3, 2, 7, False), Slashed("4", 1, 3, 2, 25 * 10**17, True)]
    found = of_fault(fault, slashes)
    assert (found.about, found.facts["slashed"]) == ("slashed", str(25 * 10**17))
    assert "2.5 CREDIT" in found.text and "given back" in found.text
    assert found.shown.replay == "proofyard verifier dispute replay 5 --segment 1:3:2"
    assert of_fault(fault, ()).about == "fault"


def test_pay_is_said_exactly() -> None:
    payout = RecordedPayout(operator=4, node=address(1), owner=address(11), work="1", audits="0", valid=1, segments=2)  # type: ignore[arg-type]
    found = of_payout(payout, None, shown_by("5", "bafy"))
    assert "0.000000000000000001 CREDIT for work and 2 shares" in found.text and "for audits" not in found.text
    nothing = of_payout(msgspec.structs.replace(payout, work="0", segments=0), None, shown_by("5", "bafy"))
    assert "earned nothing" in nothing.text


def test_verifiers_pay_is_said_with_who_signed() -> None:
    found = of_fees(Fees(5, 5 * 10**17, 2), "bafy")
    assert found.text == "verifiers share 0.5 CREDIT for batch 5: whoever led it and the 2 seats that signed"
    assert found.shown.replay == "proofyard verifier dispute replay 5"


def test_a_task_is_explained_from_its_rows(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    found = scene.client.get("/v1/jobs/1/tasks/0/explain").json()
    said = {
        topic: [each for each in found["because"] if each["about"] == topic] for topic in ("given", "audit", "node")
    }
    assert f"attempt 1 went to {address(1)}: train given to a node" in said["given"][0]["text"]
    assert "settled, faulty" in said["given"][0]["text"]
    decided, pending = said["audit"]
    assert f"{address(3)} cannot execute it: it divides by zero" in decided["text"]
    assert f"{address(2)} came to another state" in decided["text"]
    assert f"{address(2)} has answered" in pending["text"], "while others may still answer nobody says what"
    reasons = {each["node"]: each["text"] for each in said["node"]}
    assert "may not have this task again" in reasons[address(1)] or "costs stake" in reasons[address(1)]


def test_a_job_is_explained_and_nothing_else(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    found = scene.client.get("/v1/jobs/1/explain").json()
    assert found["because"][0]["text"] == "job 1 is running: task 1 waits: no node that executes lora is connected"
    assert {each["about"] for each in found["because"]} >= {"state", "waits", "node", "fault", "settled"}
    for path in ("/v1/jobs/9/explain", "/v1/jobs/1/tasks/9/explain", "/v1/jobs/9/tasks/0/explain"):
        assert scene.client.get(path).status_code == 404
