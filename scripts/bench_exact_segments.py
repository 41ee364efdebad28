"""Honest segments: one machine's default run commits to them, every other way to compute answers to its share."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from msgspec.structs import replace

from bench_exact_jobs import ROWS, SMOLLM2, TINY, lora_jobs, row_jobs
from bench_exact_setup import Bench, say
from bench_exact_traces import Job, Sample, Trace, answer, commit, digest, in_turns, run_task, samples
from bench_exact_variants import SLOW, Variant, all_variants
from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import TRAIN
from proofyard.workloads.params import convert_params
from proofyard.workloads.rows import COMPUTE, RowsWorkload
from proofyard.workloads.state import encode_state

LEAST = 300
"""Segments of the tiny model that even a slow variant answers."""
GROUPS_APART = "native, rows in other groups"


@dataclass
class Count:
    """What one variant answered: segments by group, those that differ, or why it cannot compute here."""

    segments: dict[str, int] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0
    libraries: str = ""
    unavailable: str = ""

    def add(self, sample: Sample, found: str) -> None:
        group = sample.trace.job.group
        self.segments[group] = self.segments.get(group, 0) + 1
        if found != sample.claimed:
            self.different.append(f"{sample.place}: {found}")


async def measure(bench: Bench) -> dict[str, Any]:
    """The keys `segments` and `different`, and details by variant."""
    committed = await commit_all(bench)
    variants = all_variants(bench)
    shares = {variant.name: share(bench, variant, committed, variants) for variant in variants}
    found = await in_turns(run_variant(bench, v, shares[v.name]) for v in variants)
    counts = dict(zip(shares, found, strict=True))
    counts[GROUPS_APART] = await regrouped(bench, [trace for trace in committed if trace.job.group == ROWS])
    return summarise(counts, bench)


async def commit_all(bench: Bench) -> list[Trace]:
    """The traces of all jobs by this machine's default."""
    async with Executor(bench.folder / "committed") as executor:
        return [trace for job in [*lora_jobs(bench), *row_jobs(bench)] for trace in await commit(executor, job)]


def share(bench: Bench, variant: Variant, committed: Sequence[Trace], variants: Sequence[Variant]) -> list[Sample]:
    """The segments that a variant answers, drawn, in an order that loads each model once."""
    every = samples(committed, TRAIN) + samples(committed, COMPUTE)
    usual = len([v for v in variants if v.name not in SLOW])
    slow = len(variants) - usual
    wanted = {
        TINY: bench.size(LEAST if variant.name in SLOW else -(-(9_850 - slow * LEAST) // usual), 10),
        SMOLLM2: 0 if variant.name in SLOW else bench.size(-(-150 // usual), _quickly(variant)),
        ROWS: bench.size(-(-900 // len(variants)), 6),
    }
    drawn: list[Sample] = []
    for group, count in wanted.items():
        members = [sample for sample in every if sample.trace.job.group == group]
        if variant.name in SLOW:
            members = [sample for sample in members if sample.trace.job.inputs.model == bench.tiny]
        chosen = bench.random("share", variant.name, group).sample(range(len(members)), min(count, len(members)))
        drawn += [members[number] for number in sorted(chosen)]
    return drawn


def _quickly(variant: Variant) -> int:
    """Loading the real model takes seconds: in a quick run a few variants do it."""
    return int(variant.name in ("native-sse", "int8, AVX2 without VNNI", "float32, AVX-512"))


async def run_variant(bench: Bench, variant: Variant, share: Sequence[Sample]) -> Count:
    folder = bench.folder / "variants" / variant.name.replace(" ", "-")
    count = Count(libraries=variant.libraries(folder))
    try:
        async with variant.executor(folder) as executor:
            if not executor.backend:
                raise ExecutionError("its arithmetic does not reproduce the golden vectors here, so no node uses it")
            started = time.monotonic()
            for sample in share:
                count.add(sample, await answer(executor, sample))
            count.seconds = time.monotonic() - started
    except ExecutionError as error:
        count.unavailable = str(error)
    say(f"segments: {variant.name}: {sum(count.segments.values())} answered, {len(count.different)} different")
    return count


async def regrouped(bench: Bench, traces: Sequence[Trace]) -> Count:
    """The same lines in segments of another length, so that every row is computed beside other ones."""
    count = Count()
    async with Executor(bench.folder / "regrouped") as executor:
        for trace in traces:
            if trace.task.kind == COMPUTE:
                await _regroup(executor, trace, count)
    return count


async def _regroup(executor: Executor, trace: Trace, count: Count) -> None:
    job, workload = trace.job, cast(RowsWorkload, trace.job.workload)
    params = convert_params(job.manifest, workload.params_type)
    rows = params.segment_rows + 2
    size = {"segment_rows": rows, "segments": -(-params.rows // rows)}
    other = Job(job.name, job.group, replace(job.manifest, params=job.manifest.params | size), job.inputs)
    table = (await run_task(executor, other, workload.graph(other.manifest)[0], trace.inputs)).result.read_bytes()
    whole = workload.read_table(params, table, params.rows)
    for index in range(trace.task.segments):
        cut = workload.cut_table(whole, params.segment_range(trace.task, index))
        count.add(Sample(trace, index), digest(encode_state(cut)))


def summarise(counts: dict[str, Count], bench: Bench) -> dict[str, Any]:
    totals = {g: sum(count.segments.get(g, 0) for count in counts.values()) for g in (TINY, SMOLLM2, ROWS)}
    different = [f"{name}: {place}" for name, count in counts.items() for place in count.different]
    releases = sorted({count.libraries.split()[0] for count in counts.values() if count.libraries and count.segments})
    return {
        "segments": sum(totals.values()),
        "different": len(different),
        "segments_details": {
            "lora": totals[TINY] + totals[SMOLLM2],
            "of_these_smollm2": totals[SMOLLM2],
            "rows": totals[ROWS],
            "torch_releases": len(releases),
            "releases": releases,
            "other_torch": bench.other_torch or "none installed; set OTHER_TORCH to a release to install it",
            "different": different[:20],
            "variants": {
                name: count.segments
                | {
                    "different": len(count.different),
                    "seconds": round(count.seconds, 1),
                    "libraries": count.libraries,
                    "unavailable": count.unavailable,
                }
                for name, count in counts.items()
            },
        },
    }
