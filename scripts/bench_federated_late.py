"""Rounds that close without everybody: what a model becomes where deltas come late, or never (`bench_federated.py`).

Each round is trained on what the round before took, as in a job with `closing`; who comes when is a timetable here, and
not a clock's.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from bench_federated_setup import Bench, Part, say
from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.certificate import Delta
from proofyard.protocol.closing import Closing, Rounds, sets_of, taken_rounds
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_rounds import start_of_round
from proofyard.workloads.workload import task_graph

IN_TIME, LATE, NEVER = 0, 1, None
Timetable = Callable[[int, int, int], int | None]
"""(round, shard, shards) to how many rounds late its delta comes, or that nobody does it."""


def _one(when: int | None) -> Timetable:
    """Another shard each round."""
    return lambda number, shard, shards: when if shard == number % shards else IN_TIME


def _two_late(number: int, shard: int, shards: int) -> int | None:
    return LATE if (shard - number) % shards < 2 else IN_TIME


def _slow(number: int, shard: int, shards: int) -> int | None:
    """The last shard's machine takes two rounds for each task, and does every second one."""
    return IN_TIME if shard < shards - 1 else NEVER if number % 2 else LATE


TIMETABLES: dict[str, Timetable] = {
    "everybody in time": lambda *_: IN_TIME,
    "one of a round late": _one(LATE),
    "two of a round late": _two_late,
    "one of a round never": _one(NEVER),
    "one shard on a machine of half the speed": _slow,
}
DISCOUNTS = (5_000, 10_000)
"""Of a delta that is a round late, in basis points."""


def measure_late(bench: Bench, base: LoraParams, part: Part) -> None:
    for name, when in TIMETABLES.items():
        for discount in DISCOUNTS if "late" in name else DISCOUNTS[:1]:
            row = f"{name}, counted {discount / 10_000:g}" if "late" in name else name
            if row in part.found.get("rows", {}):
                continue
            closing = Closing(quorum=1, timeout_s=1, late_rounds=1, discount_bps=discount)
            figures = _under(bench, replace(base, closing=closing), when)
            part.put("rows", row, figures)
            say(f"{row}: {', '.join(f'{loss:.4f}' for loss in figures['losses'])}; {figures['taken']} deltas")


def late_keys(found: Mapping[str, Any]) -> dict[str, Any]:
    """The worst last loss against that of everybody in time."""
    ends = {name: each["losses"][-1] for name, each in found["rows"].items()}
    least = ends.get("everybody in time")
    return {"late_gap": max(ends.values()) / least - 1} if least and len(ends) > 1 else {}


def _under(bench: Bench, params: LoraParams, when: Timetable) -> dict[str, Any]:
    """The losses from before the first round until after the last one, and how many deltas counted."""
    assert params.closing
    manifest, rules = bench.manifest(params), Rounds(params.closing, params.workers, params.rounds)
    results: dict[TaskIndex, bytes] = {}
    sets: list[list[Delta]] = []
    late: list[TaskIndex] = []
    losses = [bench.loss(params, None)]
    for number in range(params.rounds):
        closed = taken_rounds(rules, sets)
        taken, late = late, []
        for task in task_graph(WORKLOAD, manifest, closed)[number * params.workers :][: params.workers]:
            comes = when(number, task.index % params.workers, params.workers)
            if comes is NEVER:
                continue
            results[task.index], _ = bench.run(manifest, task, [results[each] for each in task.deps])
            (late if comes else taken).append(task.index)
        sets.append([Delta(each, cid_of_bytes(results[each])) for each in sorted(taken)])
        tasks = sets_of(taken_rounds(rules, sets))[number]
        own = [results[each] for each in tasks]
        losses.append(bench.loss(params, start_of_round(params, bench.seed, own, number + 1, tasks=tasks)))
    return {"losses": losses, "taken": sum(map(len, sets))}
