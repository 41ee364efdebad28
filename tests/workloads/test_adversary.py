"""Every cheat that changes the computation lands far outside the tolerance, every honest variation far inside."""

import pytest
import torch

from proofyard.workloads import determinism
from proofyard.workloads.adversary import KINDS, corrupt
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.sketch import sketch_change, sketch_distance
from proofyard.workloads.workload import Inputs, Resources

SEED = bytes(range(32))


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    determinism.configure(threads=1)
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.fixture
def audited(tiny, lora_manifest):
    """The second round's first task with its inputs and first state: a place where every kind of cheat can act."""
    manifest = lora_manifest(segments=1, segment_steps=10)
    tasks, results = WORKLOAD.graph(manifest), {}
    for task in tasks[:4]:
        inputs = Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps))
        state = WORKLOAD.initial_state(manifest, task, inputs)
        if task.index == 3:
            return manifest, task, inputs, state
        runner = WORKLOAD.runner(manifest, task, inputs, Resources())
        results[task.index] = WORKLOAD.result(manifest, task, runner.run(0, state, lambda _: None))
    raise AssertionError("the job has no second round")


def distance(manifest, task, before, one, other):
    sketches = [sketch_change(WORKLOAD.change(manifest, task, before, after), SEED) for after in (one, other)]
    return sketch_distance(*sketches)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"crashing", "tiny-noise", "wrong-result"}))
def test_an_audit_tells_a_cheat_from_honest_work(audited, kind):
    manifest, task, inputs, before = audited
    cheat = corrupt(kind, WORKLOAD, manifest, task, inputs, Resources())
    claimed = cheat.run(0, before, lambda _: None)
    assert WORKLOAD.result(manifest, task, claimed)
    answer = WORKLOAD.runner(manifest, task, inputs, Resources()).run(0, before, lambda _: None)
    assert distance(manifest, task, before, claimed, answer) > 5 * manifest.tolerance


def test_noise_below_the_tolerance_passes_and_is_measured_all_the_same(audited):
    manifest, task, inputs, before = audited
    claimed = corrupt("tiny-noise", WORKLOAD, manifest, task, inputs, Resources()).run(0, before, lambda _: None)
    answer = WORKLOAD.runner(manifest, task, inputs, Resources()).run(0, before, lambda _: None)
    assert manifest.tolerance / 10 < distance(manifest, task, before, claimed, answer) < manifest.tolerance


@pytest.mark.parametrize(
    "resources", [Resources(micro_batch=1), Resources(micro_batch=3), Resources(attention="eager")]
)
def test_honest_work_done_differently_is_not_flagged(audited, resources):
    manifest, task, inputs, before = audited
    claimed = WORKLOAD.runner(manifest, task, inputs, resources).run(0, before, lambda _: None)
    answer = WORKLOAD.runner(manifest, task, inputs, Resources()).run(0, before, lambda _: None)
    assert claimed != answer
    assert distance(manifest, task, before, claimed, answer) < manifest.tolerance / 10


def test_averaging_is_done_honestly_by_every_cheat(lora_manifest, tiny):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[2]
    runner = corrupt("skip-half", WORKLOAD, manifest, task, tiny, Resources())
    assert type(runner) is type(WORKLOAD.runner(manifest, task, tiny, Resources()))
