"""What the API and the metrics read is the same from either database."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from api_scene import Scene, address, in_its_process
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from proofyard.verifier.store.database import open_for_reading

PATHS = (
    *("/v1/jobs", "/v1/jobs?state=running&limit=1", "/v1/jobs?cursor=2", "/v1/jobs/1", "/v1/jobs/1/tasks?cursor=0"),
    *("/v1/jobs/1/tasks/0", "/v1/jobs/1/works?cursor=0.0", "/v1/jobs/1/works?task=0", "/v1/jobs/1/audits?limit=1"),
    *("/v1/jobs/1/audits?cursor=1.1.0.2", "/v1/batches", "/v1/batches?state=formed", "/v1/batches/5"),
    *("/v1/batches/5/audits", "/v1/faults", f"/v1/faults?cursor=0.1.0.{address(1)}", "/v1/jobs/1/faults"),
    *("/v1/jobs/1/log?cursor=2", "/v1/jobs/1/explain", "/v1/jobs/1/tasks/0/explain"),
)


@pytest.fixture
def scene(url: str, tmp_path: Path) -> Any:
    scene = Scene(tmp_path, url=url)
    yield scene
    scene.database.close()


def test_every_route_answers_the_same(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = Scene(tmp_path / "plain")
    with in_its_process(scene) as api, httpx.Client(base_url=api.url, timeout=30) as client:
        for path in PATHS:
            answer, expected = client.get(path), plain.client.get(path)
            assert (answer.status_code, answer.json()) == (200, expected.json()), path
            assert answer.json().get("items", True), f"{path} shows nothing"
    plain.database.close()


def test_nothing_can_be_written_for_a_request(scene: Scene) -> None:
    engine = open_for_reading(scene.begin.database)
    for change in ("delete from job", "update job set state = 'done'", "create table more (id integer)"):
        with engine.connect() as connection:
            assert connection.execute(text("select count(*) from job")).scalar_one() == 2
            with pytest.raises(SQLAlchemyError, match=r"read-only|readonly"):
                connection.execute(text(change))
    engine.dispose()


async def test_the_gauges_are_the_same(scene: Scene) -> None:
    await scene.watch.look()
    found = scene.client.get("/metrics").text
    assert 'proofyard_verifier_tasks{state="ready"} 2.0' in found
    assert 'proofyard_verifier_check{name="database"} 1.0' in found
    assert "proofyard_verifier_job_quiet_seconds 998.0" in found
