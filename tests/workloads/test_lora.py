import math

import msgspec
import numpy as np
import pytest
from adamw import train

from proofyard.artifacts import BlockStore, cid_of_bytes
from proofyard.protocol.manifest import decode_manifest, encode_manifest
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_laws import largest_averaged
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import outer_step, shortening, start_of_round
from proofyard.workloads.lora_tensors import adapter_schema, initial_adapter, put, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Resources, load_workload, task_graph

PACKAGE = "bafybeib3yq77rbcfrlhvsphfs7lf53ekpncvqmxivijzkm7dfbppj5ih2y"


def test_the_workload_is_found_by_name():
    assert load_workload("lora") is WORKLOAD


def test_a_round_rests_on_the_results_of_the_round_before_and_on_nothing_else(lora_manifest):
    tasks = WORKLOAD.graph(lora_manifest())
    assert [(t.index, t.kind, t.deps, t.segments) for t in tasks] == [
        (0, "train", (), 3),
        (1, "train", (), 3),
        (2, "train", (0, 1), 3),
        (3, "train", (0, 1), 3),
    ]
    assert WORKLOAD.finals(lora_manifest()) == (2, 3)
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
        ({"workers": 257}, "params.workers"),
        ({"rounds": 1, "workers": 10_000, "rank": 64, "modules": {"a": (4096, 4096)}}, "params.workers"),
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
        ("version", 5),
        ("look_ahead", -1),
        ("look_ahead", 100_001),
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
    assert (tensors["base.model.layers.0.self_attn.q_proj.lora_A"] == matrix).all()
    other = WORKLOAD.initial_state(manifest, WORKLOAD.graph(manifest)[1], Inputs())
    assert set(decode_state(other)) == {name for name in tensors if not name.startswith(("base.", "velocity."))}


def adapters(manifest, *factors):
    """Results of a first round: the initial adapter plus a fixed delta times each factor."""
    params = read_params(manifest)
    start = initial_adapter(params, manifest.seed)
    rng = np.random.default_rng(0)
    delta = {name: (0.1 * rng.standard_normal(array.shape)).astype(np.float32) for name, array in start.items()}
    results = [{n: (start[n] + f * delta[n]).astype(np.float32) for n in start} for f in factors]
    return start, delta, results_of(start, {n: np.zeros_like(a) for n, a in start.items()}, results)


def results_of(base, velocity, trained):
    """The results of a round; the first carries what the round started from."""
    outer = put(base, "base") | put(velocity, "velocity")
    return tuple(encode_state(put(adapter, "adapter") | ({} if n else outer)) for n, adapter in enumerate(trained))


def next_start(manifest, results):
    return start_of_round(read_params(manifest), manifest.seed, results, 1)


def test_the_next_round_starts_from_the_mean_of_the_deltas(lora_manifest):
    manifest = lora_manifest()
    start, delta, results = adapters(manifest, 1.0, 2.0)
    for name, array in next_start(manifest, results).adapter.items():
        np.testing.assert_allclose(array, start[name] + 1.5 * delta[name], atol=1e-6)


def test_the_outer_optimizer_is_nesterov_momentum(lora_manifest):
    manifest = lora_manifest(outer_lr=0.5, outer_momentum=0.9)
    start, delta, results = adapters(manifest, 1.0, 1.0)
    first = next_start(manifest, results)
    for name in start:
        np.testing.assert_allclose(first.velocity[name], delta[name], atol=1e-6)
        np.testing.assert_allclose(first.adapter[name], start[name] + 0.5 * 1.9 * delta[name], atol=1e-6)
    trained = [{name: array + delta[name] for name, array in first.adapter.items()}] * 2
    second = next_start(manifest, results_of(first.adapter, first.velocity, trained))
    for name in start:
        np.testing.assert_allclose(second.velocity[name], 1.9 * delta[name], atol=1e-5)
        expected = first.adapter[name] + 0.5 * (1 + 0.9 * 1.9) * delta[name]
        np.testing.assert_allclose(second.adapter[name], expected, atol=1e-5)


def test_a_round_starts_from_the_average_with_fresh_moments(lora_manifest):
    manifest = lora_manifest()
    _, _, results = adapters(manifest, 1.0, 2.0)
    start = next_start(manifest, results)
    for task in WORKLOAD.graph(manifest)[2:]:
        state = WORKLOAD.initial_state(manifest, task, Inputs(results=results))
        WORKLOAD.check_state(manifest, task, 0, state)
        tensors = decode_state(state)
        for name, array in start.adapter.items():
            np.testing.assert_array_equal(tensors[f"adapter.{name}"], array)
            assert not tensors[f"first.{name}"].any()
            if task.index == 2:
                np.testing.assert_array_equal(tensors[f"base.{name}"], array)
                np.testing.assert_array_equal(tensors[f"velocity.{name}"], start.velocity[name])
        assert tensors["step"] == 0


def test_the_start_of_a_round_is_kept_and_cannot_be_written_to(lora_manifest):
    manifest = lora_manifest()
    _, _, results = adapters(manifest, 1.0, 2.0)
    start = next_start(manifest, results)
    assert next_start(manifest, tuple(bytes(bytearray(result)) for result in results)) is start
    assert next_start(lora_manifest(outer_lr=0.5), results) is not start
    assert next_start(manifest, results[:1] + adapters(manifest, 1.0, 3.0)[2][1:]) is not start
    with pytest.raises(ValueError, match="read-only"):
        next(iter(start.adapter.values()))[...] = 0


def test_one_worker_cannot_dominate_the_mean():
    assert shortening([1.0, 1.0, 10.0], 3.0) == [1.0, 1.0, 0.3]
    assert shortening([0.0, 0.0], 3.0) == [1.0, 1.0]


def test_a_huge_delta_is_shortened_and_leaves_finite_numbers(lora_manifest):
    manifest = lora_manifest(workers=3)
    params = read_params(manifest)
    wild = {n: np.full(s.shape, 3e38, np.float32) for n, s in adapter_schema(params).items()}
    start, delta, (one, _) = adapters(manifest, 1.0, 1.0)
    honest = take(decode_state(one), "adapter")
    after = outer_step(params, start, {n: np.zeros_like(a) for n, a in start.items()}, [honest, wild, honest])
    for name, array in after.adapter.items():
        assert np.abs(array - start[name]).max() < 3 * np.sqrt(sum((d**2).sum() for d in delta.values()))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("outer_lr", "outer_momentum", "rounds"),
    [(1.0, 0.0, 2), (1e-9, 0.0, 1), (10.0, 0.0, 100_000), (10.0, 1 - 2.0**-20, 100_000), (1e-9, 1 - 2.0**-20, 1000)],
)
def test_whatever_the_laws_let_pass_can_be_averaged(lora_manifest, sign, outer_lr, outer_momentum, rounds):
    """Every weight as large as it may be, and the largest velocity that rounds of such weights come to."""
    changes = {"outer_lr": outer_lr, "outer_momentum": outer_momentum, "rounds": rounds, "workers": 1}
    params = read_params(lora_manifest(**changes, max_delta_ratio=1e6))
    schema, largest = adapter_schema(params), largest_averaged(params)
    base = {name: np.full(spec.shape, -sign * largest, np.float32) for name, spec in schema.items()}
    trained = {name: -array for name, array in base.items()}
    grown = sum(outer_momentum**number for number in range(rounds)) * 2 * largest
    velocity = {name: np.full(spec.shape, sign * grown, np.float32) for name, spec in schema.items()}
    after = outer_step(params, base, velocity, [trained])
    for array in (*after.adapter.values(), *after.velocity.values(), *velocity.values()):
        assert np.isfinite(array).all()


def test_results_that_break_the_law_are_refused_where_no_number_comes_out(lora_manifest):
    """Of results that nobody has checked yet: a worker that is given them says why, and computes nothing."""
    manifest = lora_manifest(outer_lr=10.0, lr=1e6, weight_decay=0.999, segment_steps=64)
    most = {n: np.full(s.shape, 3e38, np.float32) for n, s in adapter_schema(read_params(manifest)).items()}
    zeros = {name: np.zeros_like(array) for name, array in most.items()}
    results = results_of({name: -array for name, array in most.items()}, zeros, [most, most])
    task = WORKLOAD.graph(manifest)[2]
    with pytest.raises(StateRefused, match="no number after the outer step"):
        WORKLOAD.initial_state(manifest, task, Inputs(results=results))


def test_a_weight_that_averaging_cannot_carry_is_committed_to_by_nobody(lora_manifest):
    manifest = lora_manifest(lr=1e6, weight_decay=0.999)
    task, other = WORKLOAD.graph(manifest)[:2]
    for spec, groups in ((task, ("adapter", "base")), (other, ("adapter",))):
        tensors = dict(decode_state(trained(manifest, spec, 1)))
        WORKLOAD.check_state(manifest, spec, 1, encode_state(tensors))
        for group in groups:
            name = next(name for name in tensors if name.startswith(group))
            far = np.array(tensors[name])
            far.flat[0] = np.float32(1.01 * largest_averaged(read_params(manifest)))
            with pytest.raises(StateRefused, match="farther from its start"):
                WORKLOAD.check_state(manifest, spec, 1, encode_state(tensors | {name: far}))


def test_what_a_round_started_from_cannot_be_altered_on_the_way(lora_manifest):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    states = [trained(manifest, task, number) for number in range(4)]
    trace = [cid_of_bytes(state) for state in states]
    WORKLOAD.check_result(manifest, task, WORKLOAD.result(manifest, task, states.__getitem__), states[3], trace)
    for group in ("base", "velocity"):
        tensors = dict(decode_state(states[3]))
        name = next(name for name in tensors if name.startswith(group))
        last = encode_state(tensors | {name: tensors[name] + np.float32(0.25)})
        result = WORKLOAD.result(manifest, task, lambda _, last=last: last)
        with pytest.raises(StateRefused, match="are not those of the task's first state"):
            WORKLOAD.check_result(manifest, task, result, last, [*trace[:3], cid_of_bytes(last)])
    tensors = dict(decode_state(states[0]))
    name = next(name for name in tensors if name.startswith("base"))
    with pytest.raises(StateRefused, match="not the base"):
        WORKLOAD.check_state(manifest, task, 0, encode_state(tensors | {name: tensors[name] + np.float32(1)}))


def test_a_whole_job_gives_the_adapter_that_it_always_gave(tiny, lora_manifest, tmp_path):
    """The CID of the package when an averaging task stood between the rounds: whoever computes the average, and when,
    changes no bit."""
    manifest = lora_manifest(rounds=3, segments=2, outer_lr=0.7, outer_momentum=0.9, max_delta_ratio=1.0)
    results = {}
    for task in task_graph(WORKLOAD, manifest):
        own = Inputs(tiny.model, tiny.data, tuple(results[dep] for dep in task.deps))
        states = [WORKLOAD.initial_state(manifest, task, own)]
        runner = WORKLOAD.runner(manifest, task, own, Resources())
        for index in range(task.segments):
            WORKLOAD.check_state(manifest, task, index, states[-1])
            states.append(runner.run(index, states[-1], lambda _: None))
        results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
        WORKLOAD.check_result(manifest, task, results[task.index], states[-1], [cid_of_bytes(s) for s in states])
    package = WORKLOAD.package(manifest, results.__getitem__, tmp_path / "out")
    assert BlockStore(tmp_path / "store").put_directory(package) == PACKAGE


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
        next_start(manifest, (good, encode_state(tensors)))
    assert caught.value.tensor


def trained(manifest, task, number):
    """A state of a training task that keeps all laws, without any model."""
    params = read_params(manifest)
    rng = np.random.default_rng(1)
    steps = train(params, manifest.seed, number * params.segment_steps, lambda s, n, w: rng.standard_normal(w.shape))
    start = initial_adapter(params, manifest.seed)
    outer = {} if task.index else put(start, "base") | put({n: np.zeros_like(a) for n, a in start.items()}, "velocity")
    return encode_state(list(steps)[-1] | outer)


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
    task = WORKLOAD.graph(manifest)[1]
    states = [trained(manifest, task, number) for number in range(4)]
    result = WORKLOAD.result(manifest, task, states.__getitem__)
    assert set(decode_state(result)) == {name for name in decode_state(states[3]) if name.startswith("adapter.")}
    WORKLOAD.check_result(manifest, task, result, states[3], [])
    with pytest.raises(StateRefused, match="not what"):
        WORKLOAD.check_result(manifest, task, WORKLOAD.result(manifest, task, lambda _: states[2]), states[3], [])
    with pytest.raises(StateRefused, match="expected"):
        WORKLOAD.check_result(manifest, task, result, states[2], [])


def test_the_number_of_inputs_must_fit_the_task(lora_manifest):
    manifest = lora_manifest()
    _, _, (one, _) = adapters(manifest, 1.0, 1.0)
    with pytest.raises(StateRefused, match="2 inputs, 1"):
        WORKLOAD.initial_state(manifest, WORKLOAD.graph(manifest)[2], Inputs(results=(one,)))
    with pytest.raises(StateRefused, match="rests on 2 results, 1"):
        next_start(manifest, (one,))


def test_learning_rate_warms_up_and_decays(lora_manifest):
    params = read_params(lora_manifest(warmup_steps=2, lr_end=0.5))
    rates = [params.lr_at(step) for step in range(12)]
    assert rates[:3] == [0.005, 0.01, 0.01]
    assert rates == rates[:2] + sorted(rates[2:], reverse=True)
    assert 0.005 < rates[-1] < 0.006
