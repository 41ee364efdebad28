"""When a task may start although verdicts are still to come: the look-ahead of a job's manifest.

A result is open (there is none, or none that its task's newest inputs lead to), committed (and at hand), or accepted:
a settled record accepts it, and with it all that it rests on. A task may start when every result that it rests on
directly is committed or accepted, and no chain of committed results that rest on one another under it is longer than
the look-ahead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum

from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import TaskIndex


class Standing(IntEnum):
    """How far a task's result has come."""

    OPEN = 0
    COMMITTED = 1
    ACCEPTED = 2


Standings = Callable[[TaskIndex], Standing]


def may_start(task: TaskSpec, graph: Sequence[TaskSpec], standing: Standings, look_ahead: int) -> bool:
    """Whether `task` of `graph` may be given out. Looks at most `look_ahead` + 1 results deep."""
    level = [task.deps]
    for depth in range(look_ahead + 1):
        below = _distinct(level)
        found = {dep: standing(dep) for dep in below}
        if Standing.OPEN in found.values():
            return False
        level = [graph[dep].deps for dep, known in found.items() if known == Standing.COMMITTED]
        if not level:
            return True
        if depth == look_ahead:
            return False
    return True


def rests_on(graph: Sequence[TaskSpec]) -> Mapping[TaskIndex, tuple[tuple[TaskIndex, ...], ...]]:
    """Of each task those that rest on it directly, in groups of equal `deps`: the tasks of a round are one group, which
    every task of the round before shares, so that this takes memory by tasks and not by pairs of them."""
    groups: dict[tuple[TaskIndex, ...], list[TaskIndex]] = {}
    for task in graph:
        groups.setdefault(task.deps, []).append(task.index)
    found: dict[TaskIndex, list[tuple[TaskIndex, ...]]] = {}
    for deps, tasks in groups.items():
        group = tuple(tasks)
        for dep in dict.fromkeys(deps):
            found.setdefault(dep, []).append(group)
    return {task: tuple(those) for task, those in found.items()}


def built_on(graph: Sequence[TaskSpec], tasks: Iterable[TaskIndex], depth: int | None = None) -> frozenset[TaskIndex]:
    """Everything that rests on one of `tasks`, directly or not: what has to be done again with them. With a `depth`
    what rests on them by that many steps at most."""
    directly = rests_on(graph)
    found: set[TaskIndex] = set()
    seen: set[int] = set()
    level = list(tasks)
    while level and depth != 0:
        groups = {id(group): group for task in level for group in directly.get(task, ())}
        new = [group for key, group in groups.items() if key not in seen]
        seen |= groups.keys()
        level = [task for group in new for task in group]
        found.update(level)
        depth = None if depth is None else depth - 1
    return frozenset(found)


def _distinct(level: Iterable[tuple[TaskIndex, ...]]) -> dict[TaskIndex, None]:
    """The tasks in `level`, where the same tuple comes again and again."""
    return dict.fromkeys(dep for deps in {id(deps): deps for deps in level}.values() for dep in deps)
