"""What the API and the metrics read is the same from either database."""

from pathlib import Path
from typing import Any

import pytest
from api_scene import Scene, address

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
    for path in PATHS:
        answer, expected = scene.client.get(path), plain.client.get(path)
        assert (answer.status_code, answer.json()) == (200, expected.json()), path
        assert answer.json().get("items", True), f"{path} shows nothing"
    plain.database.close()


async def test_the_gauges_are_the_same(scene: Scene) -> None:
    await scene.watch.look()
    text = scene.client.get("/metrics").text
    assert 'proofyard_verifier_tasks{state="ready"} 2.0' in text
    assert 'proofyard_verifier_check{name="database"} 1.0' in text
    assert "proofyard_verifier_job_quiet_seconds 998.0" in text
