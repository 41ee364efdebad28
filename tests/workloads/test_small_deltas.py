"""Jobs whose tasks hand over small deltas: what is carried from round to round, and what is refused."""

import numpy as np
import pytest
from msgspec.structs import replace

from proofyard.artifacts import cid_of_bytes
from proofyard.workloads import lora_tensors
from proofyard.workloads.compression import delta
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_laws import largest_averaged, reach, weight_bound
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import start_of_round
from proofyard.workloads.lora_tensors import put, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.workload import Inputs, Resources, carried_by, task_graph

SMALL = {"compression": "topk-2bit", "compression_block": 64, "segments": 2, "segment_steps": 1, "rounds": 5}


class Job:
    """A job executed here: states, traces and results of its tasks."""

    def __init__(self, manifest, tiny):
        self.manifest, self.params = manifest, read_params(manifest)
        self.graph = task_graph(WORKLOAD, manifest)
        self.states, self.traces, self.results, self._lasts = {}, {}, {}, {}
        for task in self.graph:
            self._execute(task, tiny)

    def _execute(self, task, tiny):
        inputs = replace_inputs(self.inputs(task), tiny)
        states = [WORKLOAD.initial_state(self.manifest, task, inputs)]
        runner = WORKLOAD.runner(self.manifest, task, inputs, Resources())
        for index in range(task.segments):
            states.append(runner.run(index, states[-1], lambda progress: None))
        self.states[task.index], trace = states, [cid_of_bytes(state) for state in states]
        self.traces[task.index] = trace
        self.results[task.index] = WORKLOAD.result(self.manifest, task, states.__getitem__)
        self._lasts[trace[-1]] = states[-1]

    def inputs(self, task):
        results = tuple(self.results[dep] for dep in task.deps)
        named = carried_by(WORKLOAD, self.manifest, task, results)
        return Inputs(results=results, carried=tuple(self._lasts[cid] for cid in named))

    def final(self):
        results = [self.results[task] for task in WORKLOAD.finals(self.manifest)]
        return start_of_round(self.params, self.manifest.seed, results, self.params.rounds)


def replace_inputs(inputs, tiny):
    return Inputs(tiny.model, tiny.data, inputs.results, None, inputs.carried)


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture
def job(made, tiny, lora_manifest):
    if not made:
        made["job"] = Job(lora_manifest(**SMALL), tiny)
    return made["job"]


def test_every_state_and_result_keeps_the_laws(job):
    for task in job.graph:
        for number, state in enumerate(job.states[task.index]):
            WORKLOAD.check_state(job.manifest, task, number, state)
            assert len(state) <= WORKLOAD.max_bytes(job.manifest, task)
        last, trace = job.states[task.index][-1], job.traces[task.index]
        WORKLOAD.check_result(job.manifest, task, job.results[task.index], last, trace)


def test_a_result_is_a_small_part_of_the_adapter(job, tiny, lora_manifest):
    count = 4 * sum(array.size for array in job.final().adapter.values())
    header = 160
    assert all(len(result) - header < count / 20 for result in job.results.values())


def test_a_round_rests_on_all_before_it(job):
    assert [task.deps for task in job.graph] == [tuple(range(task.index - task.index % 2)) for task in job.graph]
    assert WORKLOAD.finals(job.manifest) == tuple(range(10))


def test_what_a_delta_leaves_out_is_in_the_same_shards_next_task(job):
    for task in job.graph[2:]:
        shard, before = task.index % 2, job.states[task.index - 2][-1]
        assert carried_by(WORKLOAD, job.manifest, task, job.inputs(task).results) == (job.traces[task.index - 2][-1],)
        first = decode_state(job.states[task.index][0])
        residual = delta.residual_in(job.params, 0, shard, before)
        assert residual.any()
        base, origin = (take(first, name) for name in ("adapter", "origin"))
        left = np.concatenate([(base[name] - origin[name]).reshape(-1) for name in sorted(base)])
        np.testing.assert_allclose(left, residual, atol=1e-7)


def test_the_deltas_make_up_all_of_training_but_the_last_residual(job):
    """Of one worker: what is sent, and the last residual, is what training has moved."""
    sent, moved = 0.0, 0.0
    for number in range(5):
        task = job.graph[2 * number]
        before, end = (decode_state(job.states[task.index][at]) for at in (0, 2))
        start = take(before, "adapter")
        trained = delta.trained(job.params, number, 0, start, decode_state(job.results[task.index]))
        sent = sent + vector(trained) - vector(start)
        moved = moved + own_training(job, task, before)
        residual = delta.residual_in(job.params, number, 0, encode_state(end))
        np.testing.assert_allclose(sent + residual, moved, atol=3e-4)


def own_training(job, task, before):
    """What a task's training moved, from its delta, its residual and what was left out before it."""
    last = decode_state(job.states[task.index][-1])
    codec = delta.codec_of(job.params, task.index // 2)
    whole = codec.decode(last["delta"], vector(take(before, "adapter")).size)
    residual = delta.residual_in(job.params, task.index // 2, task.index % 2, job.states[task.index][-1])
    return whole + residual - (vector(take(before, "adapter")) - vector(take(before, "origin")))


def vector(tensors):
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


def test_key_rounds_change_no_bit(job, tiny, lora_manifest, monkeypatch):
    adapter = job.final().adapter
    monkeypatch.setattr(lora_tensors, "KEY_ROUNDS", 2)
    keyed = Job(lora_manifest(**SMALL), tiny)
    assert keyed.graph[8].deps == (4, 5, 6, 7)
    assert WORKLOAD.finals(keyed.manifest) == (8, 9)
    assert any(name.startswith("base.") for name in decode_state(keyed.results[4]))
    for task in keyed.graph:
        last, trace = keyed.states[task.index][-1], keyed.traces[task.index]
        WORKLOAD.check_result(keyed.manifest, task, keyed.results[task.index], last, trace)
    for name, array in keyed.final().adapter.items():
        assert array.tobytes() == adapter[name].tobytes()


def test_the_base_of_a_key_round_is_that_of_its_first_state(tiny, lora_manifest, monkeypatch):
    monkeypatch.setattr(lora_tensors, "KEY_ROUNDS", 1)
    keyed = Job(lora_manifest(**SMALL | {"rounds": 2}), tiny)
    task, last = keyed.graph[2], decode_state(keyed.states[2][-1])
    name = next(name for name in last if name.startswith("velocity."))
    other = encode_state(last | {name: last[name] + np.float32(1)})
    trace = [*keyed.traces[2][:-1], cid_of_bytes(other)]
    result = WORKLOAD.result(keyed.manifest, task, lambda number: other)
    with pytest.raises(StateRefused, match="task's first state"):
        WORKLOAD.check_result(keyed.manifest, task, result, other, trace)


def test_a_result_that_names_another_state_is_refused(job):
    task, result = job.graph[0], decode_state(job.results[0])
    named = np.array(result["last"])
    named[-1] ^= 1
    with pytest.raises(StateRefused, match="not what the task's last state gives"):
        changed = encode_state(result | {"last": named})
        WORKLOAD.check_result(job.manifest, task, changed, job.states[0][-1], job.traces[0])
    with pytest.raises(StateRefused, match="names no state"):
        carried_by(WORKLOAD, job.manifest, job.graph[2], [encode_state(result | {"last": named * 0}), job.results[1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": np.array(3, np.int64)}, "'step' is 3 in the last state, expected 2"),
        ({"delta": "unclean"}, "'delta' is no encoding: a block of zeros says more"),
        ({"delta": "large"}, "'delta' holds more than all steps so far can have moved"),
        ({"residual": "large"}, "'residual' holds more"),
    ],
)
def test_a_last_state_that_breaks_a_law_is_refused(job, changes, message):
    last = dict(decode_state(job.states[0][-1]))
    for name, value in changes.items():
        if isinstance(value, str):
            changed = np.array(last[name])
            changed[:2] = np.frombuffer(np.array([0x7B80 if value == "large" else 0], "<u2").tobytes(), np.uint8)
            value = changed
        last[name] = value
    with pytest.raises(StateRefused, match=message):
        WORKLOAD.check_state(job.manifest, job.graph[0], 2, encode_state(last))


def test_the_bounds_of_deltas_grow_and_are_found_at_once(lora_manifest):
    params = read_params(lora_manifest(**SMALL | {"rounds": 50_000}))
    bounds = [reach(params, number).delta for number in (0, 1, 2, 10)]
    assert bounds == sorted(bounds) and bounds[0] > 0
    assert weight_bound(params, 3, 2) > weight_bound(replace(params, compression=None), 3, 2)
    assert reach(params, 49_999).delta > 0
    assert largest_averaged(params) < largest_averaged(replace(params, compression=None))


def test_inputs_that_are_no_results_are_refused(job):
    task = job.graph[2]
    good = job.inputs(task)
    for inputs in (
        Inputs(results=good.results[:1], carried=good.carried),
        Inputs(results=(good.results[0], b"x"), carried=good.carried),
        Inputs(results=good.results, carried=(job.states[0][0],)),
        Inputs(results=good.results),
    ):
        with pytest.raises(StateRefused):
            WORKLOAD.initial_state(job.manifest, task, inputs)


def test_the_package_is_the_same_from_the_results_alone(job, tmp_path):
    one, other = (WORKLOAD.package(job.manifest, job.results.__getitem__, tmp_path / name) for name in "ab")
    name = "adapter_model.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()
    final = take(decode_state(encode_state(put(job.final().adapter, "x"))), "x")
    assert len((one / name).read_bytes()) > 4 * vector(final).size


@pytest.mark.parametrize("name", ["int8", "int4", "two-bit", "sign"])
def test_the_other_encodings_train_as_well(tiny, lora_manifest, name):
    other = Job(lora_manifest(**SMALL | {"compression": name, "compression_turns": 2, "rounds": 2}), tiny)
    for task in other.graph:
        last, trace = other.states[task.index][-1], other.traces[task.index]
        WORKLOAD.check_result(other.manifest, task, other.results[task.index], last, trace)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"compression": "zip"}, "compression"),
        ({"compression_block": 15}, "compression_block"),
        ({"compression_block": 513}, "compression_block"),
        ({"compression_turns": 0}, "compression_turns"),
        ({"compression_warmup": -1}, "compression_warmup"),
    ],
)
def test_a_wrong_value_is_refused_by_name(lora_manifest, changes, field):
    with pytest.raises(ManifestRefused, match=field):
        WORKLOAD.check(lora_manifest(**SMALL | changes))


def test_a_sweep_keeps_its_adapters_whole(lora_manifest):
    base = {name: value for name, value in lora_manifest(**SMALL).params.items() if name not in ("rounds", "workers")}
    manifest = replace(lora_manifest(), workload="sweep", params={"base": base, "vary": {"lr": [0.1]}})
    with pytest.raises(ManifestRefused, match=r"params\.base\.compression"):
        SWEEP.check(manifest)
