"""What comes back packed from SQLite is what a driver would give, value for value, in the query's order."""

from pathlib import Path

import pytest
from api_scene import Scene, address, everything
from sqlalchemy import event, func, literal, select

from proofyard.protocol.types import JobId
from proofyard.verifier.api import queries
from proofyard.verifier.api.listing import statement_of
from proofyard.verifier.api.reading import read, read_all
from proofyard.verifier.engine.rows import Log
from proofyard.verifier.store.tables import KINDS, TABLES

TEXTS = ("", "\x00", "a\x00b", '"\\\n\t\x1f', "\u2028\U0001f600\ufffd", "x" * 100_000)
TIMES = (1_764_200_000.1234567, 0.1 + 0.2, 1e-320, 5e-324, float("inf"), float("-inf"), -0.0)


def lines() -> list[Log]:
    return [
        Log(job=JobId(1), seq=number, at=at, kind="k", text=text, task=-1, node=address(1), loss=at, step=(1 << 63) - 1)
        for number, (text, at) in enumerate([(t, a) for t in TEXTS for a in TIMES], 1)
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_rows_of_each_kind_come_back_as_they_are(tmp_path: Path, kind: type) -> None:
    scene = Scene(tmp_path, [*everything(), *lines()[5:]])
    query = select(TABLES[kind]).order_by(*TABLES[kind].primary_key.columns)
    with scene.database.engine.connect() as connection:
        plain = [dict(row) for row in connection.execute(query).mappings()]
    found = read(scene.database.engine, query)
    assert plain and repr(found) == repr(plain)


def test_a_page_is_one_step_of_the_database(tmp_path: Path) -> None:
    scene, asked = Scene(tmp_path), []
    event.listen(scene.database.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    for path, most in (("/v1/jobs/1/audits", 1), ("/v1/jobs/1", 1), ("/v1/jobs/1/explain", 1)):
        asked.clear()
        assert scene.client.get(path).status_code == 200
        assert len(asked) <= most, asked
    scene.client.get("/v1/jobs/1/tasks/0/explain")
    assert len(asked) <= 2


def test_the_order_is_the_querys(tmp_path: Path) -> None:
    scene = Scene(tmp_path, lines())
    for limit in (1, 7, 1000):
        found = read(scene.database.engine, statement_of(queries.LOG, ("job",)), job=1, limit=limit)
        assert [row["seq"] for row in found] == list(range(1, min(limit, len(lines())) + 1))


def test_several_queries_are_answered_each(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    nothing = select(TABLES[Log]).where(literal(value=False))
    count = select(func.count().label("n")).select_from(TABLES[Log])
    assert read_all(scene.database.engine, nothing, count, job=1) == [[], [{"n": 5}]]
