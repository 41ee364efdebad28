import math

import msgspec
import numpy as np
import pytest
from adamw import train

from proofyard.protocol.manifest import decode_manifest, encode_manifest
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD, adapter_schema, initial_adapter, put, take
from proofyard.workloads.lora_average import shortening
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Resources, load_workload


def test_the_workload_is_found_by_name():
    assert load_workload("lora") is WORKLOAD


def test_a_round_trains_in_parallel_and_then_averages(lora_manifest):
    tasks = WORKLOAD.graph(lora_manifest())
    assert [(t.index, t.kind, t.deps, t.segments) for t in tasks] == [
        (0, "train", (), 3),
        (1, "train", (), 3),
        (2, "average", (0, 1), 1),
        (3, "train", (2,), 3),
        (4, "train", (2,), 3),
        (5, "average", (3, 4, 2), 1),
    ]
    assert tasks[0].work_units == 3 * 2 * 4 * 32


def test_parameters_survive_the_manifest_bytes(lora_manifest):
    manifest = lora_manifest()
    again = decode_manifest(encode_manifest(manifest))
    assert WORKLOAD.graph(again) == WORKLOAD.graph(manifest)
    assert WORKLOAD.initial_state(again, WORKLOAD.graph(again)[0], Inputs()) == WORKLOAD.initial_state(
        manifest, WORKLOAD.graph(manifest)[0], Inputs()
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rank": 0}, "params.rank"),
        ({"rank": 65}, "params.rank"),
        ({"rank": "8"}, "params.rank"),
        ({"lr": -1.0}, "params.lr"),
        ({"lr": math.nan}, "params.lr"),
        ({"lr": math.inf}, "params.lr"),
        ({"alpha": math.nan}, "params.alpha"),
        ({"lr": 1e7}, "params.lr"),
        ({"eps": 0.0}, "params.eps"),
        ({"eps": 1e-31}, "params.eps"),
        ({"clip": 0.0}, "params.clip"),
        ({"beta2": 1.0}, "params.beta2"),
        ({"segments": 0}, "params.segments"),
        ({"seq_len": 1 << 40}, "params.seq_len"),
        ({"seq_len": 1 << 17, "batch": 4096}, "params.batch"),
        ({"modules": {}}, "params.modules"),
        ({"modules": {"a": (1 << 30, 4)}}, "params.modules"),
        ({"rounds": 1 << 20}, "params.rounds"),
        ({"shard_by": "moon"}, "params.shard_by"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"modules": {str(i): (1 << 20, 1 << 20) for i in range(100)}}, "params.rank"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(lora_manifest, changes, field):
    with pytest.raises(ManifestRefused) as caught:
        WORKLOAD.check(lora_manifest(**changes))
    assert field in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 1),
        ("version", 3),
        ("model", None),
        ("data", None),
        ("seed", -1),
        ("precision", "bf16"),
        ("precision", ""),
    ],
)
def test_a_manifest_field_out_of_range_is_refused_by_name(lora_manifest, field, value):
    with pytest.raises(ManifestRefused) as caught:
        WORKLOAD.check(msgspec.structs.replace(lora_manifest(), **{field: value}))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": 1e-30},
        {"beta1": 0.0, "beta2": 0.0},
        {"lr": 0.0},
        {"lr": 1e6, "weight_decay": 0.999},
        {"alpha": 1e6},
        {"clip": 1e-6},
        {"segment_steps": 64},
        {"rank": 64},
    ],
)
@pytest.mark.parametrize("precision", ["exact", "exact8", "exact4"])
def test_whatever_computes_the_same_everywhere_may_be_asked_for(lora_manifest, changes, precision):
    WORKLOAD.check(msgspec.structs.replace(lora_manifest(**changes), precision=precision))


def test_a_missing_parameter_is_refused_by_name(lora_manifest):
    manifest = lora_manifest()
    params = {name: value for name, value in manifest.params.items() if name != "seq_len"}
    with pytest.raises(ManifestRefused, match="seq_len"):
        WORKLOAD.check(msgspec.structs.replace(manifest, params=params))


def test_the_first_state_follows_from_the_seed_alone(lora_manifest):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    state = WORKLOAD.initial_state(manifest, task, Inputs())
    assert state == WORKLOAD.initial_state(manifest, task, Inputs())
    assert state != WORKLOAD.initial_state(msgspec.structs.replace(manifest, seed=8), task, Inputs())
    tensors = decode_state(state)
    matrix = tensors["adapter.model.layers.0.self_attn.q_proj.lora_A"]
    assert 0.05 < matrix.std() < 0.1 and abs(matrix).max() <= 1 / 8
    assert not any(tensors[name].any() for name in tensors if not name.endswith("lora_A"))


def adapters(manifest, *factors):
    """Results of training tasks: the initial adapter plus a fixed delta times each factor."""
    params = read_params(manifest)
    start = initial_adapter(params, manifest.seed)
    rng = np.random.default_rng(0)
    delta = {name: rng.standard_normal(array.shape).astype(np.float32) for name, array in start.items()}
    results = [{n: (start[n] + f * delta[n]).astype(np.float32) for n in start} for f in factors]
    return start, delta, tuple(encode_state(put(result, "adapter")) for result in results)


def average(manifest, results):
    task = next(t for t in WORKLOAD.graph(manifest) if t.kind == "average")
    before = WORKLOAD.initial_state(manifest, task, Inputs(results=results))
    after = WORKLOAD.runner(manifest, task, Inputs(), Resources()).run(0, before, lambda _: None)
    return task, before, after


def test_averaging_takes_the_mean_of_the_deltas(lora_manifest):
    manifest = lora_manifest()
    start, delta, results = adapters(manifest, 1.0, 2.0)
    task, before, after = average(manifest, results)
    for number, state in enumerate((before, after)):
        WORKLOAD.check_state(manifest, task, number, state)
    assert WORKLOAD.result(manifest, task, [before, after].__getitem__) == after
    WORKLOAD.check_result(manifest, task, after, after, [])
    with pytest.raises(StateRefused, match="not what"):
        WORKLOAD.check_result(manifest, task, before, after, [])
    for name, array in take(decode_state(after), "adapter").items():
        np.testing.assert_allclose(array, start[name] + 1.5 * delta[name], atol=1e-6)


def test_the_outer_optimizer_is_nesterov_momentum(lora_manifest):
    manifest = lora_manifest(outer_lr=0.5, outer_momentum=0.9)
    start, delta, results = adapters(manifest, 1.0, 1.0)
    _, _, after = average(manifest, results)
    tensors = decode_state(after)
    for name in start:
        np.testing.assert_allclose(tensors[f"velocity.{name}"], delta[name], atol=1e-6)
        expected = start[name] + 0.5 * (delta[name] + 0.9 * delta[name])
        np.testing.assert_allclose(tensors[f"adapter.{name}"], expected, atol=1e-6)


def test_the_next_round_starts_from_the_average_with_fresh_moments(lora_manifest):
    manifest = lora_manifest()
    _, _, results = adapters(manifest, 1.0, 2.0)
    _, _, after = average(manifest, results)
    task = WORKLOAD.graph(manifest)[3]
    tensors = decode_state(WORKLOAD.initial_state(manifest, task, Inputs(results=(after,))))
    for name, array in take(decode_state(after), "adapter").items():
        np.testing.assert_array_equal(tensors[f"adapter.{name}"], array)
        assert not tensors[f"first.{name}"].any()
    assert tensors["step"] == 0


def test_one_worker_cannot_dominate_the_mean():
    assert shortening([1.0, 1.0, 10.0], 3.0) == [1.0, 1.0, 0.3]
    assert shortening([0.0, 0.0], 3.0) == [1.0, 1.0]


def test_a_huge_delta_is_shortened_and_leaves_finite_numbers(lora_manifest):
    manifest = lora_manifest(workers=3)
    params = read_params(manifest)
    wild = encode_state(
        put({n: np.full(s.shape, 3e38, np.float32) for n, s in adapter_schema(params).items()}, "adapter")
    )
    start, delta, (one, other) = adapters(manifest, 1.0, 1.0)
    _, _, after = average(manifest, (one, wild, other))
    for name, array in take(decode_state(after), "adapter").items():
        assert np.abs(array - start[name]).max() < 3 * np.sqrt(sum((d**2).sum() for d in delta.values()))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda t: t.pop("adapter.model.layers.0.self_attn.q_proj.lora_A"), "missing"),
        (lambda t: t.update(extra=np.zeros(1, np.float32)), "does not belong"),
        (lambda t: t.update({k: np.full_like(v, np.nan) for k, v in list(t.items())[:1]}), "NaN"),
        (lambda t: t.update({k: v.astype(np.float64) for k, v in list(t.items())[:1]}), "expected F32"),
    ],
)
def test_a_poisoned_result_is_refused_by_tensor(lora_manifest, break_it, reason):
    manifest = lora_manifest()
    _, _, (good, other) = adapters(manifest, 1.0, 2.0)
    tensors = dict(decode_state(other))
    break_it(tensors)
    with pytest.raises(StateRefused, match=reason) as caught:
        average(manifest, (good, encode_state(tensors)))
    assert caught.value.tensor


def trained(manifest, task, number):
    """A state of a training task that keeps all laws, without any model."""
    params = read_params(manifest)
    rng = np.random.default_rng(1)
    steps = train(params, manifest.seed, number * params.segment_steps, lambda s, n, w: rng.standard_normal(w.shape))
    return encode_state(list(steps)[-1])


def test_a_training_state_is_checked_whole(lora_manifest):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    assert trained(manifest, task, 0) == WORKLOAD.initial_state(manifest, task, Inputs())
    for number in range(4):
        WORKLOAD.check_state(manifest, task, number, trained(manifest, task, number))
        with pytest.raises(StateRefused, match="expected"):
            WORKLOAD.check_state(manifest, task, (number + 1) % 4, trained(manifest, task, number))
    with pytest.raises(StateRefused, match="states 0 to 3"):
        WORKLOAD.check_state(manifest, task, 4, trained(manifest, task, 4))
    tensors = dict(decode_state(trained(manifest, task, 2)))
    name = next(name for name in tensors if name.startswith("adapter.") and name.endswith("lora_A"))
    for change in (
        {name: tensors[name].T},
        {name: tensors[name].astype(np.float64)},
        {name: tensors[name].reshape(-1)},
        {"extra": tensors[name]},
        {"step": np.array([4], np.int64)},
        {"step": np.array(4, np.int32)},
    ):
        with pytest.raises(StateRefused):
            WORKLOAD.check_state(manifest, task, 2, encode_state(tensors | change))


def test_a_training_result_is_the_adapter_of_the_last_state_and_nothing_else(lora_manifest):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    states = [trained(manifest, task, number) for number in range(4)]
    result = WORKLOAD.result(manifest, task, states.__getitem__)
    assert set(decode_state(result)) == {name for name in decode_state(states[3]) if name.startswith("adapter.")}
    WORKLOAD.check_result(manifest, task, result, states[3], [])
    with pytest.raises(StateRefused, match="not what"):
        WORKLOAD.check_result(manifest, task, WORKLOAD.result(manifest, task, lambda _: states[2]), states[3], [])
    with pytest.raises(StateRefused, match="expected"):
        WORKLOAD.check_result(manifest, task, result, states[2], [])


def test_the_number_of_inputs_must_fit_the_task(lora_manifest):
    with pytest.raises(StateRefused, match="2 inputs, 1"):
        _, _, (one, _) = adapters(lora_manifest(), 1.0, 1.0)
        average(lora_manifest(), (one,))


def test_learning_rate_warms_up_and_decays(lora_manifest):
    params = read_params(lora_manifest(warmup_steps=2, lr_end=0.5))
    rates = [params.lr_at(step) for step in range(12)]
    assert rates[:3] == [0.005, 0.01, 0.01]
    assert rates == rates[:2] + sorted(rates[2:], reverse=True)
    assert 0.005 < rates[-1] < 0.006
