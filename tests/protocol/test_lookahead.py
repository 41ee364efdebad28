"""When a task may start before the verdicts that it rests on, and what is done again when one is bad."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.lookahead import Standing, built_on, may_start, rests_on
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import TaskIndex

OPEN, COMMITTED, ACCEPTED = Standing


def rounds(count: int, workers: int) -> list[TaskSpec]:
    tasks: list[TaskSpec] = []
    for index in map(TaskIndex, range(count * workers)):
        first = index // workers * workers
        deps = tuple(map(TaskIndex, range(max(0, first - workers), first)))
        tasks.append(TaskSpec(index=index, kind="train", deps=deps))
    return tasks


def startable(graph: list[TaskSpec], standing: Mapping[int, Standing], look_ahead: int) -> list[int]:
    return [t.index for t in graph if may_start(t, graph, lambda dep: standing.get(dep, OPEN), look_ahead)]


@pytest.mark.parametrize(
    ("standing", "look_ahead", "may"),
    [
        ({}, 0, [0, 1]),
        ({}, 5, [0, 1]),
        ({0: ACCEPTED, 1: COMMITTED}, 0, [0, 1]),
        ({0: ACCEPTED, 1: ACCEPTED}, 0, [0, 1, 2, 3]),
        ({0: ACCEPTED}, 9, [0, 1]),
        ({0: COMMITTED, 1: ACCEPTED}, 1, [0, 1, 2, 3]),
        ({0: COMMITTED, 1: COMMITTED, 2: COMMITTED, 3: COMMITTED}, 1, [0, 1, 2, 3]),
        ({0: ACCEPTED, 1: ACCEPTED, 2: COMMITTED, 3: COMMITTED}, 1, [0, 1, 2, 3, 4, 5]),
        ({0: COMMITTED, 1: COMMITTED, 2: COMMITTED, 3: COMMITTED}, 2, [0, 1, 2, 3, 4, 5]),
        ({0: OPEN, 1: COMMITTED, 2: COMMITTED, 3: COMMITTED}, 2, [0, 1]),
    ],
)
def test_a_task_starts_within_the_look_ahead(standing: dict[int, Standing], look_ahead: int, may: list[int]) -> None:
    assert startable(rounds(3, 2), standing, look_ahead) == may


def longest(task: TaskSpec, graph: list[TaskSpec], standing: list[Standing]) -> int:
    """The longest chain of committed results under a task, as its definition has it."""
    return max((1 + longest(graph[d], graph, standing) for d in task.deps if standing[d] == COMMITTED), default=0)


@given(st.data())
def test_the_rule_is_its_definition(data: st.DataObject) -> None:
    graph: list[TaskSpec] = []
    for index in range(data.draw(st.integers(1, 9))):
        deps = data.draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        graph.append(TaskSpec(index=TaskIndex(index), kind="any", deps=tuple(map(TaskIndex, sorted(deps)))))
    standing: list[Standing] = []
    for task in graph:
        below = {standing[dep] for dep in task.deps}
        fits = [OPEN] if OPEN in below else [OPEN, COMMITTED] if COMMITTED in below else [OPEN, COMMITTED, ACCEPTED]
        standing.append(data.draw(st.sampled_from(fits)))
    look_ahead = data.draw(st.integers(0, 4))
    for task in graph:
        wanted = all(standing[d] != OPEN for d in task.deps) and longest(task, graph, standing) <= look_ahead
        assert may_start(task, graph, standing.__getitem__, look_ahead) == wanted


def test_what_rests_on_a_bad_result_is_done_again() -> None:
    graph = rounds(3, 2)
    assert built_on(graph, [TaskIndex(1)]) == {2, 3, 4, 5}
    assert built_on(graph, [TaskIndex(2)]) == {4, 5}
    assert built_on(graph, [TaskIndex(5)]) == frozenset()


def test_a_round_is_one_group_whatever_its_width() -> None:
    found = rests_on(rounds(2, 100))
    assert set(found) == set(range(100))
    assert len({id(groups[0]) for groups in found.values()}) == 1 and found[TaskIndex(0)][0] == tuple(range(100, 200))
