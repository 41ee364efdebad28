"""Every cheat that changes the computation gives other bytes than an honest audit; how it is seen is known for each."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Cid
from proofyard.workloads.adversary import KINDS, ROWS, TAMPERED, TRAINING, corrupt, corrupt_result
from proofyard.workloads.adversary_weights import half_precision, low_bits, mantissa, pruned
from proofyard.workloads.errors import StateRefused, WorkloadError
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state
from proofyard.workloads.workload import Inputs, Resources, load_workload

PLANTED = {"blown-adapter", "dead-adapter", "faint-adapter", "planted-moments", "trap", "wrong-step"}


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    lines = [{"text": f"question {n} is", "choices": [f"{n}", "zz y"], "answer": n % 2} for n in range(16)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


_SECOND_ROUND: list[tuple[Manifest, TaskSpec, Inputs]] = []


@pytest.fixture
def second_round(tiny, lora_manifest):
    """The second round's first task with its inputs: a place where every kind of cheat can act. Computed once."""
    if not _SECOND_ROUND:
        manifest = lora_manifest(segments=2, segment_steps=10, batch=2, seq_len=16)
        tasks, results = WORKLOAD.graph(manifest), {}
        for task in tasks[:2]:
            inputs = Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps))
            results[task.index] = WORKLOAD.result(manifest, task, run(WORKLOAD, manifest, task, inputs).__getitem__)
        _SECOND_ROUND.append((manifest, tasks[2], Inputs(tiny.model, tiny.data, (results[0], results[1]))))
    return _SECOND_ROUND[0]


def run(workload, manifest, task, inputs, kind=None, resources=None):
    """All states of a task, honestly or by a cheat."""
    resources = resources or Resources()
    states = [workload.initial_state(manifest, task, inputs)]
    order = (manifest, task, inputs, resources)
    runner = corrupt(kind, workload, *order) if kind else workload.runner(*order)
    for index in range(task.segments):
        states.append(runner.run(index, states[-1], lambda _: None))
    return states


def faults(workload, manifest, task, inputs, states):
    """(segment, how it is seen): by the laws before anybody is seated, or by auditors who find something else."""
    found = []
    for index in range(task.segments):
        try:
            workload.check_state(manifest, task, index, states[index])
        except StateRefused:
            found.append((index, "law"))
            continue
        try:
            runner = workload.runner(manifest, task, inputs, Resources())
            after = runner.run(index, states[index], lambda _: None)
            workload.check_state(manifest, task, index + 1, after)
        except WorkloadError as error:
            assert error.defined
            found.append((index, "cannot execute"))
            continue
        if after != states[index + 1]:
            found.append((index, "mismatch"))
    return found


@pytest.mark.parametrize("kind", sorted((TRAINING.keys() | TAMPERED.keys()) - PLANTED - {"crashing", "skip-once"}))
def test_an_audit_of_any_segment_tells_a_cheat_from_honest_work(second_round, kind):
    manifest, task, inputs = second_round
    states = run(WORKLOAD, manifest, task, inputs, kind)
    assert states[0] == WORKLOAD.initial_state(manifest, task, inputs)
    seen = [0] if kind == "stale-adapter" else [0, 1]
    found = faults(WORKLOAD, manifest, task, inputs, states)
    assert [segment for segment, _ in found] == seen
    assert found[0] == (0, "mismatch")


def test_who_cheats_once_does_so_in_the_first_round(tiny, lora_manifest, second_round):
    manifest = lora_manifest(segments=2, segment_steps=4, batch=2, seq_len=16)
    task, inputs = WORKLOAD.graph(manifest)[0], Inputs(tiny.model, tiny.data)
    states = run(WORKLOAD, manifest, task, inputs, "skip-once")
    assert faults(WORKLOAD, manifest, task, inputs, states) == [(0, "mismatch"), (1, "mismatch")]
    assert run(WORKLOAD, *second_round, "skip-once") == run(WORKLOAD, *second_round)


@pytest.mark.parametrize("kind", sorted(PLANTED))
def test_a_planted_state_frees_nothing_every_segment_after_it_shows_it(tiny, lora_manifest, kind):
    """Half of the task is honest; the plant is seen, and whatever begins with it before anybody is seated."""
    manifest = lora_manifest(segments=6, segment_steps=4, batch=2, seq_len=16)
    task = WORKLOAD.graph(manifest)[0]
    states = run(WORKLOAD, manifest, task, tiny, kind)
    assert states[:4] == run(WORKLOAD, manifest, task, tiny)[:4]
    found = faults(WORKLOAD, manifest, task, tiny, states)
    assert [segment for segment, _ in found] == [3, 4, 5]
    assert found[0] == (3, "mismatch")
    after = {"wrong-step": ["law", "mismatch"], "faint-adapter": ["cannot execute"] * 2}.get(kind, ["law"] * 2)
    assert [how for _, how in found[1:]] == after
    if after[1] == "law":
        with pytest.raises(StateRefused):
            last = states[-1]
            WORKLOAD.check_result(manifest, task, WORKLOAD.result(manifest, task, lambda _: last), last, [])


def test_a_dead_adapter_that_slips_through_the_draw_convicts_at_the_next_segment(tiny, lora_manifest):
    """At a learning rate of 0 nothing is dead; anywhere else re-executing it is a defined failure."""
    manifest = lora_manifest(segments=4, segment_steps=2, batch=2, seq_len=16)
    task = WORKLOAD.graph(manifest)[0]
    states = run(WORKLOAD, manifest, task, tiny, "dead-adapter")
    with pytest.raises(WorkloadError, match="no gradient reaches") as refused:
        WORKLOAD.runner(manifest, task, tiny, Resources()).run(3, states[3], lambda _: None)
    assert refused.value.defined


def row_job(name, tiny, questions):
    sizes = {"segment_rows": 4, "segments": 4}
    params = {
        "embed": {"rows": 16, "dimensions": 64, "max_tokens": 32},
        "evaluate": {"rows": 16, "choices": 2, "max_tokens": 32},
        "map": {"rows": 16},
    }[name]
    manifest = Manifest(workload=name, model=Cid("model"), data=Cid("data"), params=params | sizes)
    data = questions
    if name != "evaluate":
        data = questions.parent / "lines.jsonl"
        data.write_text("\n".join(tiny.data.read_text().splitlines()[:16]))
    return load_workload(name), manifest, Inputs(tiny.model, data)


@pytest.mark.parametrize("kind", sorted(ROWS.keys() | TAMPERED.keys()))
@pytest.mark.parametrize("name", ["embed", "evaluate", "map"])
def test_an_audit_of_any_segment_of_rows_tells_a_cheat(tiny, questions, name, kind):
    workload, manifest, inputs = row_job(name, tiny, questions)
    task = workload.graph(manifest)[0]
    honest, states = run(workload, manifest, task, inputs), run(workload, manifest, task, inputs, kind)
    acts = {"map": ROWS.keys() - {"flipped-answer", "noise", "tiny-noise"}, "embed": {*KINDS} - {"flipped-answer"}}
    if kind not in acts.get(name, KINDS):
        assert states == honest
        return
    found = faults(workload, manifest, task, inputs, states)
    assert [segment for segment, _ in found] == [0, 1, 2, 3]
    assert all(how in ("law", "mismatch") for _, how in found)
    for index in range(4):
        assert states[index + 1] != honest[index + 1]


@pytest.mark.parametrize("name", ["embed", "evaluate", "map"])
def test_a_wrong_result_over_right_states_is_refused(tiny, questions, name):
    workload, manifest, inputs = row_job(name, tiny, questions)
    task = workload.graph(manifest)[0]
    states = run(workload, manifest, task, inputs)
    trace = [cid_of_bytes(state) for state in states]
    result = workload.result(manifest, task, states.__getitem__)
    workload.check_result(manifest, task, result, states[-1], trace)
    with pytest.raises(StateRefused):
        workload.check_result(manifest, task, corrupt_result("wrong-result", result), states[-1], trace)
    assert corrupt_result("rows-nudged", result) == result


@pytest.mark.parametrize("resources", [Resources(micro_batch=1), Resources(micro_batch=3), Resources(threads=2)])
def test_honest_work_done_differently_is_the_same_to_the_bit(second_round, resources):
    manifest, task, inputs = second_round
    assert run(WORKLOAD, manifest, task, inputs, resources=resources) == run(WORKLOAD, manifest, task, inputs)


def sweep_of(lora_manifest):
    base = {k: v for k, v in lora_manifest().params.items() if k not in ("lr", "rounds", "workers")}
    params = {"base": base, "vary": {"lr": [0.01, 0.02]}, "sequences": 4}
    return Manifest(workload="sweep", model=Cid("model"), data=Cid("data"), params=params)


def test_scoring_is_done_honestly_by_all_but_the_one_that_cheats_on_everything(lora_manifest, tiny):
    manifest, workload = sweep_of(lora_manifest), load_workload("sweep")
    task = workload.graph(manifest)[1]
    runner = corrupt("skip-half", workload, manifest, task, tiny, Resources())
    assert type(runner) is type(workload.runner(manifest, task, tiny, Resources()))
    assert type(corrupt("everything-at-once", workload, manifest, task, tiny, Resources())) is not type(runner)


def test_a_sweeps_training_is_cheated_on_as_lora_is(tiny, lora_manifest):
    manifest, workload = sweep_of(lora_manifest), load_workload("sweep")
    task = workload.graph(manifest)[2]
    states = run(workload, manifest, task, tiny, "moments-nudged")
    assert [how for _, how in faults(workload, manifest, task, tiny, states)] == ["mismatch"] * 3


@given(st.floats(-1e30, 1e30).map(np.float32), st.integers(1, 22))
def test_rounding_to_fewer_bits_is_to_the_nearest(value, bits):
    rounded = mantissa(bits)(np.array([value], np.float32))[0]
    assert int(np.float32(rounded).view(np.uint32)) % (1 << (23 - bits)) == 0
    assert abs(float(rounded) - float(value)) <= abs(float(value)) * 2.0 ** -(bits + 1) + 1e-44 * 2.0 ** (23 - bits)


def test_tampered_weights_keep_their_shape_and_are_close_but_not_equal():
    weights = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    for tamper, error in [(half_precision, 1e-3), (mantissa(10), 1e-3), (mantissa(7), 8e-3), (low_bits, 2e-3)]:
        changed = tamper(weights)
        assert changed.shape == weights.shape and changed.dtype == np.float32
        assert 0 < np.abs(changed - weights).max() < error * np.abs(weights).max()
    assert (pruned(weights) == 0).sum() == 20
    assert half_precision(np.array([1e6, -1e6], np.float32)).tolist() == [65504, -65504]


def test_what_is_made_up_keeps_every_law(lora_manifest, tiny):
    """So that audits, not laws, are what finds it."""
    manifest = lora_manifest(segments=3, segment_steps=5)
    for task in (WORKLOAD.graph(manifest)[0], WORKLOAD.graph(manifest)[1]):
        states = run(WORKLOAD, manifest, task, tiny, "fake-all")
        for number, state in enumerate(states):
            WORKLOAD.check_state(manifest, task, number, state)
        assert decode_state(states[-1])["step"] == 15
