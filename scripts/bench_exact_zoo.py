"""Faked segments of every kind of cheat that computes: each is audited by an honest executor, or refused before."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench_exact_jobs import ROWS as OF_ROWS
from bench_exact_jobs import SMOLLM2, TINY, zoo_jobs
from bench_exact_setup import Bench, say
from bench_exact_traces import Sample, Trace, answer, commit, digest, in_turns, run_task, samples
from proofyard.artifacts.builder import cid_of_bytes
from proofyard.workloads.adversary import ROWS, TRAINING, corrupt_result
from proofyard.workloads.adversary_weights import KINDS as TAMPERED
from proofyard.workloads.errors import StateRefused, WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import TRAIN
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.rows import COMPUTE
from proofyard.workloads.zoo import COMPUTING

ENDS_ITS_PROCESS, HANDS_IN_ANOTHER_RESULT = "crashing", "wrong-result"
PLANTING = {"blown-adapter", "dead-adapter", "faint-adapter", "planted-moments", "trap", "wrong-step"}
NOT_ON_TEXT = {"flipped-answer", "noise", "tiny-noise"}
KINDS = sorted(COMPUTING.keys() - {ENDS_ITS_PROCESS})

LAW, CANNOT_EXECUTE, MISMATCH, MISSED = "refused before a seat", "cannot be executed", "another state", "missed"


@dataclass
class Found:
    """How the faked segments of one kind were seen, by group of jobs."""

    drawn: Counter[str] = field(default_factory=Counter)
    how: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def add(self, group: str, how: str, place: str) -> None:
        self.drawn[group] += 1
        self.how[how] += 1
        if how == MISSED:
            self.missed.append(place)


async def measure(bench: Bench) -> dict[str, Any]:
    """The key `zoo_missed`, and how each kind was seen."""
    async with Executor(bench.folder / "zoo" / "honest") as honest, Executor(bench.folder / "zoo" / "real") as real:
        auditors = {TINY: honest, OF_ROWS: honest, SMOLLM2: real}
        committed = [trace for job in zoo_jobs(bench) for trace in await commit(auditors[job.group], job)]
        found = await in_turns(examine(bench, kind, committed, auditors) for kind in KINDS)
    return summarise(dict(zip(KINDS, found, strict=True)))


def wanted(bench: Bench, kind: str) -> dict[str, int]:
    """Faked segments of a kind by group: a tenth of them the real model's."""
    total, real = bench.size(100, 4), bench.size(10, int(kind in ("tf32", "trap", "flipped-answer")))
    rows = total * 3 // 10 if kind in ROWS or kind in TAMPERED else 0
    if kind not in TRAINING and kind not in TAMPERED and kind in ROWS:
        rows = total - real
    return {TINY: total - real - rows, OF_ROWS: rows, SMOLLM2: real}


async def examine(bench: Bench, kind: str, committed: Sequence[Trace], auditors: dict[str, Executor]) -> Found:
    found = Found()
    if kind == HANDS_IN_ANOTHER_RESULT:
        examine_results(bench, committed, found)
        return found
    async with Executor(bench.folder / "zoo" / kind, adversary=kind) as cheat:
        for group, count in wanted(bench, kind).items():
            for sample in await faked(bench, kind, [t for t in committed if t.job.group == group], count, cheat):
                found.add(group, await seen(auditors[group], sample), sample.place)
    say(f"zoo: {kind}: {dict(found.how)}")
    return found


async def faked(bench: Bench, kind: str, honest: Sequence[Trace], count: int, cheat: Executor) -> list[Sample]:
    """`count` segments in which the cheat did something, drawn from tasks that it executed from honest inputs."""
    rng = bench.random("zoo", kind)
    # Training before rows, long tasks before short ones, rows of every workload alike.
    order = sorted(
        honest, key=lambda trace: (trace.task.kind != TRAIN, trace.job.name * (trace.task.kind == TRAIN), rng.random())
    )
    pool: list[Sample] = []
    for trace in order:
        places = [s for s in samples([trace], TRAIN) + samples([trace], COMPUTE) if acts(kind, s)]
        if places and len(pool) < count:
            try:
                claimed = await run_task(cheat, trace.job, trace.task, trace.inputs)
            except StateRefused:
                continue  # noise on vectors of length 1 breaks their law so plainly that no result can be made of them
            pool += [Sample(claimed, place.index) for place in places]
    return rng.sample(pool, min(count, len(pool)))


def acts(kind: str, sample: Sample) -> bool:
    """Whether a cheat of this kind does anything in a segment; elsewhere it is honest."""
    trace = sample.trace
    workload, task = trace.job.workload, trace.task
    if task.kind == COMPUTE:
        if kind in TAMPERED:
            return workload.arithmetic
        if kind == "flipped-answer":
            return workload.name == "evaluate"
        return kind in ROWS and not (workload.name == "map" and kind in NOT_ON_TEXT)
    if kind in PLANTING:
        return sample.index >= task.segments // 2
    if kind == "stale-adapter":
        return bool(task.deps) and sample.index == 0
    if kind == "skip-tenth":
        steps = read_params(trace.job.manifest).segment_steps
        return any(step % 10 == 9 for step in range(sample.index * steps, (sample.index + 1) * steps))
    return kind in TRAINING or kind in TAMPERED


async def seen(auditor: Executor, sample: Sample) -> str:
    """How an audit of a claimed segment ends: as the verifier goes about it, laws first."""
    trace = sample.trace
    check: Callable[..., None] = trace.job.workload.check_state
    try:
        check(trace.job.manifest, trace.task, sample.index, sample.before)
    except StateRefused:
        return LAW
    found = await answer(auditor, sample)
    if found != sample.claimed:
        return MISMATCH if len(found) == len(digest(b"")) else CANNOT_EXECUTE
    return MISSED


def examine_results(bench: Bench, committed: Sequence[Trace], found: Found) -> None:
    """Results that are not what the states give."""
    for group, count in {TINY: bench.size(60, 2), OF_ROWS: bench.size(30, 1), SMOLLM2: bench.size(10, 1)}.items():
        traces = [trace for trace in committed if trace.job.group == group]
        for trace in bench.random("wrong results", group).sample(traces, min(count, len(traces))):
            states = [trace.state(number) for number in range(trace.task.segments + 1)]
            cids = [cid_of_bytes(state) for state in states]
            wrong = corrupt_result(HANDS_IN_ANOTHER_RESULT, trace.result.read_bytes())
            try:
                trace.job.workload.check_result(trace.job.manifest, trace.task, wrong, states[-1], cids)
                how = MISSED
            except WorkloadError:
                how = LAW
            found.add(group, how, f"{trace.job.name}, result of task {trace.task.index}")


def summarise(found: dict[str, Found]) -> dict[str, Any]:
    return {
        "zoo_missed": sum(len(each.missed) for each in found.values()),
        "zoo_details": {
            "least_drawn": min(sum(each.drawn.values()) for each in found.values()),
            "missed": [place for each in found.values() for place in each.missed][:20],
            "kinds": {
                kind: {"drawn": dict(each.drawn), "seen": dict(each.how), "missed": len(each.missed)}
                for kind, each in found.items()
            },
            "left_out": {ENDS_ITS_PROCESS: "it never commits to a state"},
        },
    }
