"""The status API: whatever is asked of it is answered, and whatever nodes said can be shown."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from proofyard.protocol.cid import raw_cid
from proofyard.verifier.api import build_app
from proofyard.verifier.database import Database, Job, Task, log


@pytest.fixture
def api(tmp_path: Path) -> TestClient:
    database = Database(f"sqlite:///{tmp_path / 'verifier.db'}")
    with database.session() as session:
        session.add(
            Job(
                id=1,
                requester="0x",
                manifest=raw_cid(b"manifest"),
                units=1,
                reward="1",
                audit_fee="0",
                auditors_per_segment=2,
                segments_per_audit=1,
                deadline=1,
            )
        )
        session.flush()
        session.add(Task(job=1, index=0, spec=b""))
        for loss in (float("inf"), float("-inf"), float("nan"), 1.5):
            log(session, 1, "progress", "on its way", loss=loss)
    context: Any = SimpleNamespace(database=database, members={}, wallet=SimpleNamespace(address="0x"))
    return TestClient(build_app(context))


@pytest.mark.parametrize("number", [-1, -(1 << 70), 1 << 63, 1 << 70, "9" * 5000, "1e400", "%00"])
def test_a_number_that_no_database_holds_is_the_askers_mistake(api: TestClient, number: object) -> None:
    paths = (f"/jobs/{number}", f"/jobs/{number}/audits", f"/jobs?before={number}", f"/jobs/1?since={number}")
    assert {api.get(path).status_code for path in paths} == {422}


def test_a_loss_that_is_no_number_is_not_shown_as_one(api: TestClient) -> None:
    """One node could otherwise make a whole job unreadable."""
    answer = api.get("/jobs/1")
    assert answer.status_code == 200
    assert [line["loss"] for line in answer.json()["log"]] == [None, None, None, 1.5]
    assert [row["id"] for row in api.get("/jobs").json()] == [1]
    assert api.get("/jobs/1/audits").json() == []
