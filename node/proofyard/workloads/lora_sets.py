"""What a round rests on, task by task, and which of it a shard has not sent yet: functions of the committed sets alone.

With compression each task takes over what earlier ones of its shard have left out (`compression.delta`). Where every
round waits for all shards that is the residual of the one before. With `closing` a task may be late or dropped, so

  - a residual is free once its task is in a set: what the task left out is all that is missing then;
  - a task takes over all that is free of its shard when its round begins; while no set has it and none has been closed
    to it, what it took over is its own, and the shard's next task begins without;
  - what a set takes is sent, and so is what it had taken over: of a late delta as much as its discount leaves of it;
  - what is dropped is not sent: what it had taken over is free again. What it has trained itself is lost.

A round knows the sets since the last key round. What a task of a key round, or one before, had taken over is lost
with it where it is dropped after that.
"""

from collections.abc import Sequence

from proofyard.protocol.closing import Closing, sets_in
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import first_round, position_of, rested_rounds, task_at

Said = tuple[TaskIndex, bytes]
"""A task with its result."""


def whole(params: LoraParams, number: int) -> tuple[TaskIndex, ...]:
    """All tasks of a round, counted from 0."""
    return tuple(task_at(params, number, shard) for shard in range(params.workers))


def whole_rounds(params: LoraParams, number: int) -> tuple[TaskIndex, ...]:
    """The tasks whose results round `number` starts from where every round took all of its own: with `closing` the
    newest round first, as in `protocol.closing`."""
    rounds = rested_rounds(params, number)
    return tuple(task for each in (rounds[::-1] if params.closing else rounds) for task in whole(params, each))


def in_order(
    params: LoraParams, results: Sequence[bytes], round_number: int, tasks: Sequence[TaskIndex] | None
) -> list[Said]:
    """Each result with its task. Raises `StateRefused` for a set that no round takes."""
    every = whole_rounds(params, round_number)
    if params.closing is None:
        if len(results) not in (0, len(every)):
            raise StateRefused(f"a round rests on {len(every)} results, {len(results)} were given")
        return list(zip(every, results, strict=False))
    given = every if tasks is None else tasks
    if len(given) != len(results):
        raise StateRefused(f"a round rests on {len(given)} results, {len(results)} were given")
    said: list[Said] = list(zip(given, results, strict=True))
    if not params.compression:
        said.sort(key=lambda each: each[0])
    _check_sets(params, params.closing, [task for task, _ in said], round_number)
    return said


def newest(said: Sequence[Said]) -> int:
    """How many of the results that a round rests on are those that the round before it took: the first ones."""
    return len(sets_in([task for task, _ in said])[-1])


def unsent(params: LoraParams, round_number: int, shard: int, tasks: Sequence[TaskIndex]) -> tuple[TaskIndex, ...]:
    """The tasks whose residuals the shard's task in round `round_number` takes over, `tasks` being those that the round
    rests on."""
    assert params.closing is not None
    free: list[TaskIndex] = []
    taken_over: dict[TaskIndex, list[TaskIndex]] = {}
    for number, taken in enumerate(sets_in(tasks), first_round(params, round_number)):
        own = task_at(params, number, shard)
        taken_over[own], free = free, []
        for task in taken:
            if task % params.workers == shard:
                taken_over.pop(task, None)
                free.append(task)
        free += taken_over.pop(TaskIndex(own - params.closing.late_rounds * params.workers), [])
    return tuple(sorted(free))


def _check_sets(params: LoraParams, closing: Closing, tasks: Sequence[TaskIndex], round_number: int) -> None:
    sets, first = sets_in(tasks), first_round(params, round_number)
    fits = len(sets) == round_number - first and len(set(tasks)) == len(tasks)
    for number, taken in enumerate(sets, first):
        late = [number - position_of(params, task)[0] for task in taken]
        fits = fits and late.count(0) >= closing.quorum and all(0 <= each <= closing.late_rounds for each in late)
    if not fits:
        raise StateRefused(f"round {round_number + 1} cannot rest on the tasks {list(tasks)}")
