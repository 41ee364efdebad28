"""What `make bench-exact` decides by itself: manifests, segments, bounds, what it keeps and what it writes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench_exact
import bench_exact_loss
import bench_exact_manifests
import bench_exact_speed
import bench_exact_wire
import bench_exact_zoo
from bench_exact_report import MARKER, render, replace_measured
from bench_exact_setup import SEED, Bench
from bench_exact_speed import SIDES
from bench_exact_traces import Job, Sample, Trace, answer, commit, digest, samples
from bench_exact_variants import OURS
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.types import Cid
from proofyard.sdk import LoraJob
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import TRAIN, WORKLOAD
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs
from proofyard.workloads.zoo import COMPUTING


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    nowhere = tmp_path / "nowhere"
    tiny, patterns = write_tiny_model(tmp_path / "tiny"), write_tiny_corpus(tmp_path / "patterns.jsonl", labels=8)
    return Bench(tmp_path, True, SEED, "", tiny, nowhere, nowhere, patterns, nowhere)


@pytest.fixture
def job(bench: Bench) -> Job:
    size = {"rounds": 2, "workers": 2, "segments": 6, "segment_steps": 2, "batch": 2, "seq_len": 8, "rank": 2}
    size |= {"aggregation": "fedit"}  # as the plain loop trains
    spec = LoraJob(model=bench.tiny, data=bench.patterns, lr=1e-2, **size)
    return Job("job", "tiny", spec.manifest(Cid("model"), Cid("data")), Inputs(spec.model, spec.data))


def test_drawn_manifests_are_legal_the_same_every_time_and_reach_the_extremes(bench: Bench) -> None:
    drawn = bench_exact_manifests.draw_all(bench, 200)
    assert [d.manifest for d in drawn] == [d.manifest for d in bench_exact_manifests.draw_all(bench, 200)]
    found = [bench_exact_manifests.read_params(d.manifest) for d in drawn]
    assert all(any(map(holds, found)) for holds in bench_exact_manifests.EXTREMES.values())
    assert len({d.inputs.data for d in drawn}) == 5 and len({d.manifest.precision for d in drawn}) == 3


def test_every_drawn_manifest_is_executed_by_two_backends_beside_the_first(bench: Bench) -> None:
    drawn = bench_exact_manifests.draw_all(bench, 120)
    plan = bench_exact_manifests.assign(drawn)
    assert sorted(number for numbers in plan.values() for number in numbers) == sorted([*range(120), *range(120)])
    assert all(plan.values())
    slow = plan[bench_exact_manifests.PATIENT]
    assert all(drawn[number].tokens <= bench_exact_manifests.MOST_TOKENS for number in slow)


def test_a_difference_in_states_or_in_the_kind_of_failure_is_counted(bench: Bench) -> None:
    drawn = bench_exact_manifests.draw_all(bench, 3)
    run = bench_exact_manifests.Run()
    for number, (one, other) in enumerate([("done", "done"), ("done", "SegmentFailed"), ("done", "done")]):
        run.endings[number, "native"] = ("a", one)
        run.endings[number, "int8"] = ("b" if number == 2 else "a", other)
    found = bench_exact_manifests.summarise(drawn, {"native": [0, 1, 2], "int8": [0, 1, 2]}, run)
    assert found["manifests_different"] == 2


def test_cheats_act_where_they_act(job: Job) -> None:
    def places(kind: str) -> list[tuple[int, int]]:
        tasks = [Trace(job, task, job.inputs, (), Path()) for task in WORKLOAD.graph(job.manifest)]
        return [
            (sample.trace.task.index, sample.index)
            for sample in samples(tasks, TRAIN)
            if bench_exact_zoo.acts(kind, sample)
        ]

    assert places("trap") == [(task, segment) for task in range(4) for segment in (3, 4, 5)]
    assert places("stale-adapter") == [(2, 0), (3, 0)]
    assert places("skip-tenth") == [(task, 4) for task in range(4)]
    assert len(places("tf32")) == 24 and places("flipped-answer") == []
    assert {*bench_exact_zoo.KINDS} == COMPUTING.keys() - {"crashing"}


async def test_an_answer_is_the_claimed_digest_or_tells_what_a_cheat_did(job: Job, tmp_path: Path) -> None:
    async with Executor(tmp_path / "honest") as honest, Executor(tmp_path / "cheat", adversary="trap") as cheat:
        trace = (await commit(honest, job))[0]
        assert await answer(honest, Sample(trace, 2)) == Sample(trace, 2).claimed == digest(trace.state(3))
        claimed = (await commit(cheat, job))[0]
        how = [await bench_exact_zoo.seen(honest, Sample(claimed, index)) for index in (2, 3, 4)]
    assert how == [bench_exact_zoo.MISSED, bench_exact_zoo.MISMATCH, bench_exact_zoo.LAW]


@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_the_job_trained_in_plain_float32_learns_what_the_exact_one_learns(bench: Bench, job: Job) -> None:
    params = job.manifest.params | {"holdout_percent": 20}
    job = replace(job, manifest=msgspec.structs.replace(job.manifest, params=params))
    results = {"exact": await bench_exact_loss.exact_result(bench, job)}
    results["float32"] = await bench_exact_loss.plain_result(job)
    losses = bench_exact_loss.held_out_losses(job, results)
    assert losses["exact"] == pytest.approx(losses["float32"], rel=3e-3)
    assert losses["float32"] < losses["before"] - 0.02


def test_variants_have_names_of_their_own_and_pass_their_variables_on(tmp_path: Path) -> None:
    assert len({variant.name for variant in OURS}) == len(OURS)
    sse = next(variant for variant in OURS if variant.name == "int8, SSE")
    assert sse.libraries(tmp_path).endswith("DEFAULT")


def test_messages_of_an_audit_grow_with_the_inputs_and_the_reason() -> None:
    small, large = TaskSpec(index=0, kind="train"), TaskSpec(index=1, kind="train", deps=(0, 1, 2))
    sizes = [sum(map(bench_exact_wire.encoded, bench_exact_wire.audit_messages(task, ""))) for task in (small, large)]
    assert sizes[0] < sizes[1]
    assert all(
        bench_exact_wire.framed(m) > bench_exact_wire.encoded(m) for m in bench_exact_wire.audit_messages(small, "x")
    )


def test_bounds_name_what_is_missed_and_a_quick_run_is_spared_the_counts() -> None:
    figures = {"segments": 200, "different": 0, "loss_ratio": 1.004, "zoo_details": {"least_drawn": 4}}
    assert len(bench_exact.missed_bounds(figures, quick=False)) == 3
    assert bench_exact.missed_bounds(figures, quick=True) == ["loss_ratio is 1.004, must be within 0.3% of 1"]
    assert bench_exact.missed_bounds({"audit_bytes": 1024}, quick=True)
    assert not bench_exact.missed_bounds({"audit_bytes": 1023, "one_lie_expected_gain": -1e-17}, quick=True)


def test_a_run_of_some_sections_keeps_others_of_the_same_machine_alone(tmp_path: Path) -> None:
    origin = {"machine": {"cpu": "b"}, "seed": SEED, "quick": False}
    path = tmp_path / "exact.json"
    assert bench_exact.kept(path, origin) == origin | {"sections": {}}
    path.write_text(json.dumps(origin | {"sections": {"wire": {}}, "audit_bytes": 1}))
    assert bench_exact.kept(path, origin)["audit_bytes"] == 1
    assert "audit_bytes" not in bench_exact.kept(path, origin | {"machine": {"cpu": "c"}})


def test_the_page_keeps_what_stands_before_the_marker() -> None:
    page = replace_measured(f"before\n{MARKER}old figures\n", "new\n")
    assert page == f"before\n{MARKER}\nnew\n"
    with pytest.raises(ValueError, match="no line"):
        replace_measured("no marker", "new")


def test_a_page_is_made_of_whatever_was_measured() -> None:
    machine = {"cores": 2, "cpu": "some", "cpu_capability": "AVX2", "python": "3.11", "torch": "2.13"}
    sections = {"wire": {"code": "abc", "seconds": 1, "load_before": 0.5, "load_after": 0.7}}
    figures = {"seed": SEED, "machine": machine, "sections": sections, "seconds": 60.0}
    assert "###" not in render(figures)
    losses = {"exact": 2.001, "exact8": 2.01, "exact4": 2.02, "float32": 2.0}
    figures |= {"loss_ratio": 1.0005, "loss_details": {"held_out": losses, "sequences": 16, "tokens": 128}}
    assert "| exact | 2.00100 | +0.050% |" in render(figures)


def test_the_ratio_is_taken_of_the_faster_plain_side() -> None:
    sides = {
        name: bench_exact_speed.Side([seconds], [seconds], 1 << 20)
        for name, seconds in zip(SIDES, (1.0, 4.0, 2.0), strict=True)
    }
    assert bench_exact_speed.ratio(sides) == 0.5
    race = bench_exact_speed.details(sides, 2)
    machine = {"cores": 2, "cpu": "some", "cpu_capability": "AVX2", "python": "3.11", "torch": "2.13"}
    figures = {"seed": SEED, "machine": machine, "seconds": 60.0}
    figures |= {"sections": {"speed": {"code": "abc", "load_before": 0.5, "load_after": 0.7}}}
    figures |= {"lora_step_ratio": 0.5, "embed_ratio": 0.5, "evaluate_ratio": 0.5, "memory_ratio": 1.0}
    figures |= {"speed_details": {"threads": 2, "step": race}}
    assert "| step | 0.500 | 2.000 | 1.000 | 0.50 | 1 | 1 |" in render(figures)
