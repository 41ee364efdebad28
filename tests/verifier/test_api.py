"""The API: whatever is asked of it is answered, in pages, with reasons; whatever nodes said can be shown, and nothing
that would help a node to cheat."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_scene import Scene, address, digest, everything, job_row, task_row
from sqlalchemy.exc import OperationalError

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.engine.rows import JobState, TaskState


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def get(scene: Scene, path: str) -> Any:
    answer = scene.client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json()


@pytest.mark.parametrize("number", [-1, -(1 << 70), 1 << 63, 1 << 70, "9" * 5000, "1e400", "%00"])
def test_a_number_that_no_database_holds_is_the_askers_mistake(scene: Scene, number: object) -> None:
    paths = [f"/v1/jobs/{number}{rest}" for rest in ("", "/tasks", "/works", "/audits", "/faults", "/log", "/explain")]
    paths += [f"/v1/batches/{number}", f"/v1/jobs/1/tasks/{number}", f"/v1/jobs/1/tasks/{number}/explain"]
    paths += [f"/v1/jobs?cursor={number}", f"/v1/jobs?limit={number}", f"/v1/jobs/1/works?task={number}"]
    answers = {path[:60]: scene.client.get(path) for path in paths}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 422)
    assert all(answer.json()["error"] == "invalid" for answer in answers.values())


def test_a_loss_that_is_no_number_is_not_shown_as_one(scene: Scene) -> None:
    """One node could otherwise make a whole job unreadable."""
    lines = get(scene, "/v1/jobs/1/log")["items"]
    assert [line["loss"] for line in lines] == [None, None, None, 1.5, None]


def test_ids_and_amounts_are_strings(scene: Scene) -> None:
    job = get(scene, "/v1/jobs/1")["job"]
    assert (job["id"], job["units"], job["reward"]) == ("1", str(1 << 60), str(10**20))
    assert get(scene, "/v1/jobs/1")["task_states"] == {"ready": 2}
    assert get(scene, "/v1/jobs/1")["batches"] == ["5"]
    assert get(scene, "/v1/jobs/1/works")["items"][0]["outcome"] == "faulty"
    assert get(scene, "/v1/batches/5")["lines"] == [{"job": "1", "units": "100"}]


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_pages_together_are_everything_once(tmp_path: Path, limit: int) -> None:
    rows = [job_row(number, JobState.DONE) for number in range(1, 6)]
    scene = Scene(tmp_path, [*rows, *(task_row(5, index, TaskState.ACCEPTED) for index in range(5))])
    for path, name in (("/v1/jobs", "id"), ("/v1/jobs/5/tasks", "task"), ("/v1/nodes", "address")):
        found, cursor = [], ""
        while True:
            page = get(scene, f"{path}?limit={limit}{cursor}")
            assert len(page["items"]) <= limit
            found += [item[name] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert len(found) == len(set(found)) == (3 if path == "/v1/nodes" else 5), path


@pytest.mark.parametrize("path", ["/v1/jobs/1/audits", "/v1/faults", "/v1/jobs/1/faults", "/v1/jobs/1/works"])
def test_the_next_page_begins_behind_the_last_row(scene: Scene, path: str) -> None:
    first = get(scene, f"{path}?limit=1")
    second = get(scene, f"{path}?limit=1&cursor={first['next']}")
    assert first["items"] and first["items"] != second["items"]


def test_an_answer_is_shown_only_once_nobody_can_copy_it(scene: Scene) -> None:
    decided, pending = get(scene, "/v1/jobs/1/audits")["items"]
    assert (decided["verdict"], decided["fault"], decided["claimed"]) == ("fault", "mismatch", digest(3).hex())
    assert [seat["answer"] is None for seat in decided["seats"]] == [False, False]
    assert [seat["reason"] for seat in decided["seats"]] == ["", "it divides by zero"]
    assert (pending["verdict"], pending["claimed"]) == ("pending", None)
    assert [(seat["state"], seat["answer"]) for seat in pending["seats"]] == [("opened", None)]


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/jobs/99", 404, "not-found"),
        ("/v1/batches/99", 404, "not-found"),
        (f"/v1/nodes/{address(99)}", 404, "not-found"),
        ("/nowhere", 404, "not-found"),
        ("/jobs", 404, "not-found"),
        ("/v1/jobs?stat=done", 422, "invalid"),
        ("/v1/jobs?state=fine", 422, "invalid"),
        ("/v1/jobs?limit=501", 422, "invalid"),
        ("/v1/jobs?limit=1&limit=2", 422, "invalid"),
        ("/v1/jobs?cursor=abc", 422, "invalid"),
        ("/v1/jobs/1/audits?cursor=1", 422, "invalid"),
        ("/v1/jobs/1/events?x=1", 422, "invalid"),
    ],
)
def test_every_error_is_json_with_a_reason(scene: Scene, path: str, status: int, error: str) -> None:
    answer = scene.client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert len(answer.json()["reason"]) > 10


@pytest.mark.parametrize(
    "number", ["+1", "%201", "1%20", "1%0a", "1_0", "1.0", "1e0", "0x1", "-0", "%D9%A1", "true", ""]
)
def test_a_number_is_written_in_digits_alone(scene: Scene, number: str) -> None:
    paths = [f"/v1/batches/{number}", f"/v1/jobs/1/tasks/{number}"] if number else []
    for path in [*paths, f"/v1/jobs?limit={number}", f"/v1/jobs/1/works?task={number}", f"/v1/jobs?cursor={number}"]:
        answer = scene.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid"), path


def test_a_nodes_address_may_be_in_any_spelling(scene: Scene) -> None:
    known = get(scene, "/v1/nodes")["items"][0]["address"]
    for spelling in (known, known.lower(), known.upper(), known[2:], known[2:].upper()):
        assert get(scene, f"/v1/nodes/{spelling}")["address"] == known
    for wrong in (known[:-1], known + "0", "alice", f"%20{known}"):
        assert scene.client.get(f"/v1/nodes/{wrong}").status_code == 422


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/v1/jobs", "/v1/jobs/999", "/v1/jobs/x", "/nowhere", "/"]
)
def test_whoever_asks_for_the_head_gets_that_of_the_answer(scene: Scene, path: str) -> None:
    whole, head = scene.client.get(path), scene.client.head(path)
    assert (head.status_code, head.text) == (whole.status_code, "")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_nothing_can_be_written(scene: Scene) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = scene.client.request(method, "/v1/jobs")
        assert (answer.status_code, answer.json()["error"], answer.headers["allow"]) == (405, "not-allowed", "GET")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("select", {}, Exception("gone")), 503),
        (ProofyardError("the chain is away"), 503),
        (RuntimeError("a fault with a secret in it"), 500),
    ],
)
def test_what_fails_behind_the_api_is_said_without_details(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("proofyard.verifier.api.listing.read", fail)
    answer = scene.client.get("/v1/jobs")
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "reason"}
    assert "secret" not in answer.text


async def test_health_and_readiness_say_what_does_not_hold(scene: Scene) -> None:
    assert get(scene, "/health")["alive"] is True
    assert scene.client.get("/ready").status_code == 503
    await scene.watch.look()
    ready = scene.client.get("/ready")
    assert ready.status_code == 503
    failing = {check["name"]: check["reason"] for check in ready.json()["checks"] if not check["holds"]}
    assert failing == {"seat": "its seat does not count for the quorum yet"}
    scene.context.followed_s = lambda: 120.0
    await scene.watch.look()
    reasons = {check["name"]: check["reason"] for check in get_any(scene, "/ready")["checks"]}
    assert reasons["chain"] == "the chain was last read 120 s ago"


def get_any(scene: Scene, path: str) -> Any:
    return scene.client.get(path).json()


async def test_a_disk_that_is_full_is_said(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.verifier.health.LEAST_DISK", 1 << 62)
    await scene.watch.look()
    reasons = {check["name"]: check["reason"] for check in get_any(scene, "/ready")["checks"]}
    assert "MiB are left on the disk of" in reasons["database"]
    assert scene.client.get("/health").status_code == 200


async def test_an_engine_that_takes_nothing_in_is_not_alive(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_events: Any) -> list[str]:
        raise ProofyardError("the engine has stopped")

    monkeypatch.setattr("proofyard.verifier.health.DEAD_S", 0.0)
    scene.context.runner.tell_all = never
    await scene.watch.look()
    answer = scene.client.get("/health")
    assert (answer.status_code, answer.json()["reasons"]) == (503, ["the engine has stopped"])


def test_the_document_describes_every_route(scene: Scene) -> None:
    document = get(scene, "/openapi.json")
    names = set(document["components"]["schemas"])
    text = msgspec.json.encode(document).decode()
    for part in text.split("#/components/schemas/")[1:]:
        assert part.split('"')[0] in names
    assert {"/v1/jobs", "/v1/jobs/{job}/tasks/{task}/explain", "/v1/events", "/ready"} <= set(document["paths"])


def test_there_is_something_of_everything(scene: Scene) -> None:
    """The other tests see rows of all kinds."""
    assert {row.table for row in everything()} == {"job", "task", "work", "batch", "segment", "seat", "fault", "log"}
