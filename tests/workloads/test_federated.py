"""How a job aggregates: products that come out exact, honest states that keep the laws, lies that do not, and PEFT."""

import json

import numpy as np
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import completed, start_of_round, whole_adapter
from proofyard.workloads.lora_tensors import (
    cut,
    first_state,
    initial_adapter,
    put,
    result_schema,
    state_schema,
    take,
    trained_schema,
)
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Resources

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

NONE = {"outer": "none"}
METHODS = {
    "fedit": {},
    "fedit-none": NONE,
    "ffa": {"aggregation": "ffa"} | NONE,
    "ffa-nesterov": {"aggregation": "ffa", "outer_lr": 0.7, "outer_momentum": 0.5},
    "ffa-ranks": {"aggregation": "ffa", "ranks": [2, 4]} | NONE,
    "fedex": {"aggregation": "fedex"} | NONE,
    "fedex-bounded": {"aggregation": "fedex", "merged_rank": 3} | NONE,
    "flora": {"aggregation": "flora"} | NONE,
    "flora-ranks": {"aggregation": "flora", "ranks": [4, 1]} | NONE,
    "flora-bounded": {"aggregation": "flora", "merged_rank": 6} | NONE,
    "rslora": {"aggregation": "ffa", "rslora": True} | NONE,
}
EVERY = pytest.mark.parametrize("method", METHODS)


def made_up(params, seed, shard, start, size=0.05):
    """A result of a shard: its first adapter, and something added to each number."""
    state = first_state(params, shard, start.outer)
    rng = np.random.default_rng([seed, shard])
    trained = {
        name: (array + size * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in sorted(take(state, "adapter").items())
    }
    return encode_state(put(trained, "adapter") | ({} if shard else start.outer))


def round_of(params, seed, start, round_number):
    """Results of made-up training, and the start after them."""
    results = [made_up(params, 100 * round_number + seed, shard, start) for shard in range(params.workers)]
    return results, start_of_round(params, seed, results, round_number)


def model_product(params, seed, start, module):
    """What the adapter and the merged factors of a start add to a layer's weights, but for the scale."""
    own = completed(params, seed, start.adapter)
    total = own[f"{module}.lora_B"].astype(np.float64) @ own[f"{module}.lora_A"].astype(np.float64)
    if start.merged:
        total += start.merged[f"{module}.lora_B"].astype(np.float64) @ start.merged[f"{module}.lora_A"].astype(
            np.float64
        )
    return total


def worker_product(params, seed, shard, start, result, module):
    """The same for what a worker has trained."""
    trained = take(decode_state(result), "adapter")
    if params.aggregation == "ffa":
        whole = {name: np.array(array) for name, array in start.adapter.items()}
        for name, array in trained.items():
            whole[name][:, : params.rank_of(shard)] = array
        trained = whole
    return model_product(params, seed, type(start)(trained, {}, start.merged), module)


@EVERY
def test_a_state_and_a_result_have_their_schema_and_size(lora_manifest, method):
    manifest = lora_manifest(**METHODS[method], rounds=3)
    params = read_params(manifest)
    start = start_of_round(params, manifest.seed, (), 0)
    for number in range(1, 4):
        for task in WORKLOAD.graph(manifest)[2 * number - 2 : 2 * number]:
            shard = task.index % 2
            state = encode_state(first_state(params, shard, start.outer))
            assert decode_state(state, schema=state_schema(params, 0, shard))
            assert len(state) <= WORKLOAD.max_bytes(manifest, task)
            WORKLOAD.check_state(manifest, task, 0, state)
        results, start = round_of(params, manifest.seed, start, number)
        for shard, result in enumerate(results):
            assert decode_state(result, schema=result_schema(params, shard))
            assert len(result) <= WORKLOAD.max_bytes(manifest, task)


@pytest.mark.parametrize("method", ["ffa", "fedex", "flora", "flora-ranks"])
def test_the_model_after_a_round_is_the_mean_of_the_workers_models(lora_manifest, method):
    """Over three rounds: what the factors multiply to, against the products of what each worker has trained."""
    manifest = lora_manifest(**METHODS[method], rounds=3, max_delta_ratio=1e6)
    params, seed = read_params(manifest), manifest.seed
    before = start_of_round(params, seed, (), 0)
    for number in range(1, 4):
        results, after = round_of(params, seed, before, number)
        for module in params.modules:
            products = [worker_product(params, seed, s, before, r, module) for s, r in enumerate(results)]
            expected = np.mean(products, axis=0)
            np.testing.assert_allclose(model_product(params, seed, after, module), expected, atol=1e-6)
        before = after


def test_plain_averaging_is_another_model_than_the_mean(lora_manifest):
    manifest = lora_manifest()
    params, seed = read_params(manifest), manifest.seed
    before = start_of_round(params, seed, (), 0)
    results, after = round_of(params, seed, before, 1)
    module = next(iter(params.modules))
    products = [worker_product(params, seed, s, before, r, module) for s, r in enumerate(results)]
    assert np.abs(model_product(params, seed, after, module) - np.mean(products, axis=0)).max() > 1e-3


def test_shards_of_a_smaller_rank_train_the_first_columns_and_start_from_the_same_model(lora_manifest):
    manifest = lora_manifest(**METHODS["ffa-ranks"])
    params, seed = read_params(manifest), manifest.seed
    _, start = round_of(params, seed, start_of_round(params, seed, (), 0), 1)
    state = first_state(params, 0, start.outer)
    name = next(iter(start.adapter))
    assert state[f"adapter.{name}"].shape[1] == 2 and f"adapter.{name.replace('lora_B', 'lora_A')}" not in state
    np.testing.assert_array_equal(
        np.concatenate([state[f"adapter.{name}"], state[f"rest.{name}"]], axis=1), start.adapter[name]
    )
    results = [made_up(params, 5, shard, start) for shard in range(2)]
    after = start_of_round(params, seed, results, 2)
    one, two = (take(decode_state(result), "adapter")[name] for result in results)
    np.testing.assert_allclose(after.adapter[name][:, :2], (one + two[:, :2]) / 2, atol=1e-6)
    np.testing.assert_allclose(after.adapter[name][:, 2:], two[:, 2:], atol=1e-6)


@EVERY
def test_lies_about_what_a_round_started_from_are_refused(lora_manifest, method):
    manifest = lora_manifest(**METHODS[method], segments=1)
    params = read_params(manifest)
    task, other = WORKLOAD.graph(manifest)[:2]
    start = start_of_round(params, manifest.seed, (), 0)
    first = encode_state(first_state(params, 0, start.outer))
    trained = trained_state(params, 0, start)
    last = encode_state(trained)
    result = WORKLOAD.result(manifest, task, lambda _: last)
    WORKLOAD.check_result(manifest, task, result, last, [cid_of_bytes(first), cid_of_bytes(last)])
    for prefix in ("base", "velocity", "merged"):
        for name in [name for name in trained if name.startswith(prefix)][:1]:
            lie = encode_state({**trained, name: trained[name] + np.float32(0.125)})
            made = WORKLOAD.result(manifest, task, lambda _, lie=lie: lie)
            with pytest.raises(StateRefused):
                WORKLOAD.check_result(manifest, task, made, lie, [cid_of_bytes(first), cid_of_bytes(lie)])
    last = encode_state(trained_state(params, 1, start))
    result = WORKLOAD.result(manifest, other, lambda _: last)
    assert set(decode_state(result)) == {f"adapter.{name}" for name in trained_schema(params, params.rank_of(1))}
    WORKLOAD.check_result(manifest, other, result, last, [])
    for name in [name for name in state_schema(params, 0, 1) if name.startswith(("merged", "rest"))][:1]:
        planted = {
            **trained_state(params, 1, start),
            name: np.full(state_schema(params, 0, 1)[name].shape, 1e-3, np.float32),
        }
        with pytest.raises(StateRefused, match="farther from its start"):
            WORKLOAD.check_state(manifest, other, 1, encode_state(planted))
    grown = dict(trained)
    name = next(name for name in grown if name.startswith("adapter."))
    grown[name] = grown[name] + np.float32(100)
    with pytest.raises(StateRefused, match="farther from its start"):
        WORKLOAD.check_state(manifest, task, 1, encode_state(grown))


def trained_state(params, shard, start):
    """The state after a segment of AdamW without any model, gradients made up."""
    from adamw import train

    rng = np.random.default_rng(shard)
    state = first_state(params, shard, start.outer)
    *_, last = train(
        params, 0, params.segment_steps, lambda s, n, w: rng.standard_normal(w.shape), take(state, "adapter")
    )
    return state | last


@EVERY
def test_a_whole_job_trains_keeps_the_laws_and_gives_peft_the_same_logits(tiny, lora_manifest, tmp_path, method):
    """Real segments on a tiny model; then the job's model in exact arithmetic against PEFT's in float32 on the same
    tokens, 1% of the logits' spread apart at most."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    from proofyard.workloads.causal_lm import adapted_model

    manifest = lora_manifest(**METHODS[method], segments=1, batch=2, lr=0.02)
    params, results = read_params(manifest), {}
    for task in WORKLOAD.graph(manifest):
        inputs = Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps))
        first = WORKLOAD.initial_state(manifest, task, inputs)
        last = WORKLOAD.runner(manifest, task, inputs, Resources()).run(0, first, lambda progress: None)
        results[task.index] = WORKLOAD.result(manifest, task, [first, last].__getitem__)
        trace = [cid_of_bytes(first), cid_of_bytes(last)]
        WORKLOAD.check_result(manifest, task, results[task.index], last, trace)
        for prefix in ("merged", "rest", "base"):
            for name, array in take(decode_state(first), prefix).items():
                np.testing.assert_array_equal(take(decode_state(last), prefix)[name], array)
    folder = WORKLOAD.package(manifest, results.__getitem__, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    ids = np.arange(40, 72)
    with torch.no_grad():
        plain = base(input_ids=torch.from_numpy(ids)[None]).logits[0].numpy()
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()(input_ids=torch.from_numpy(ids)[None])
    theirs = theirs.logits[0].numpy()
    # The job's own model: as the next round's workers would start from it.
    start = start_of_round(params, manifest.seed, [results[t] for t in WORKLOAD.finals(manifest)], params.rounds)
    decoder = adapted_model(tiny.model, params.modules, manifest.precision, Resources()).decoder
    decoder.adapters.set(completed(params, manifest.seed, start.adapter), params.scale, kept=start.merged)
    ours = decoder.shown_logits(decoder.hidden(ids, [len(ids)]))
    assert np.linalg.norm(plain - theirs) > 0.02 * np.linalg.norm(plain)
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs - theirs.mean(axis=1, keepdims=True))
    assert json.loads((folder / "adapter_config.json").read_text()).get("use_rslora", False) is params.rslora


def test_gradients_beside_kept_factors_are_those_of_the_whole_adapter(tiny, lora_manifest):
    """Half of an adapter's ranks kept still: the other gradients, in every layer, as with all trained."""
    from proofyard.workloads.causal_lm import adapted_model

    params = read_params(lora_manifest())
    model = adapted_model(tiny.model, params.modules, "exact", Resources())
    rng = np.random.default_rng(3)
    whole = {n: rng.normal(0, 0.05, a.shape).astype(np.float32) for n, a in initial_adapter(params, 1).items()}
    rows = rng.integers(0, 256, (2, 17))
    found = []
    for trained, kept in ((whole, {}), (cut(whole, 0, 2), cut(whole, 2, 4))):
        for trains_a in (True, False):
            model.decoder.adapters.set(trained, 2.0, trains_a=trains_a, kept=kept)
            loss = model.train(rows, 1 / 32)
            found.append((loss, {n: model.backend.numpy(g) for n, g in model.decoder.adapters.gradients().items()}))
    assert not [name for name in found[1][1] if name.endswith("lora_A")]
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-3)
        expected = cut({name: found[0][1][name] for name in gradients}, 0, 2)
        for name, gradient in cut(gradients, 0, 2).items():
            np.testing.assert_allclose(gradient, expected[name], atol=0.02 * np.abs(expected[name]).max())


def test_manifests_without_these_fields_mean_what_they_meant(lora_manifest):
    params = read_params(lora_manifest())
    assert (params.aggregation, params.outer, params.robust, params.ranks) == ("fedit", "nesterov", "mean", ())
    start = start_of_round(params, 7, (), 0)
    assert set(start.outer) == {
        f"{group}.{name}" for group in ("base", "velocity") for name in initial_adapter(params, 7)
    }
    assert whole_adapter(params, 7, start).keys() == start.adapter.keys()


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"aggregation": "fedavg"}, "params.aggregation", "'fedavg'"),
        ({"aggregation": "fedit", "ranks": [4, 4]}, "params.ranks", "ffa or flora"),
        ({"aggregation": "ffa", "ranks": [4]}, "params.ranks", "2 workers"),
        ({"aggregation": "ffa", "ranks": [2, 3]}, "params.ranks", "rank 4"),
        ({"aggregation": "ffa", "merged_rank": 3}, "params.merged_rank", "merges nothing"),
        ({"aggregation": "fedex"}, "params.outer", "none"),
        ({"aggregation": "flora", "outer": "none", "outer_lr": 0.5}, "params.outer", "plain or nesterov"),
        ({"outer": "plain", "outer_momentum": 0.5}, "params.outer", "nesterov"),
        ({"robust_hostile": 1}, "params.robust", "name a robust rule"),
        ({"robust": "krum", "workers": 5}, "params.robust_hostile", "1 to 1"),
        ({"robust": "krum", "workers": 4, "robust_hostile": 1}, "params.robust_hostile", "none"),
        ({"robust": "median", "workers": 5, "robust_hostile": 3}, "params.robust_hostile", "1 to 2"),
        (
            {"robust": "median", "workers": 5, "robust_hostile": 2, "robust_bucket": 2},
            "params.robust_hostile",
            "1 to 1",
        ),
        ({"robust": "median", "workers": 300, "rounds": 1, "robust_hostile": 2}, "params.robust", "at most 256"),
        (
            {"aggregation": "ffa", "ranks": [4, 2, 4], "robust": "median", "workers": 3, "robust_hostile": 1},
            "params.ranks",
            "one rank",
        ),
        (
            {"aggregation": "fedex", "outer": "none", "robust": "median", "workers": 3, "robust_hostile": 1},
            "params.robust",
            "geometric-median",
        ),
        ({"aggregation": "flora", "outer": "none", "merged_rank": 1021}, None, ""),
        (
            {"aggregation": "flora", "outer": "none", "rounds": 1000, "modules": {"a": (4096, 4096)}},
            "params.merged_rank",
            "at most 1024",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_refused_with_what_is_allowed(lora_manifest, changes, field, allowed):
    manifest = lora_manifest(**changes)
    if field is None:
        WORKLOAD.check(manifest)
        return
    with pytest.raises(ManifestRefused) as caught:
        WORKLOAD.check(manifest)
    assert caught.value.field == field and allowed in str(caught.value)


@pytest.mark.parametrize(
    "robust", ["trimmed-mean", "median", "geometric-median", "centered-clipping", "krum", "multi-krum"]
)
@pytest.mark.parametrize("aggregation", ["ffa", "fedit", "fedex", "flora"])
def test_one_hostile_result_of_five_decides_little(lora_manifest, robust, aggregation):
    """A worker that hands in 1,000 times its update, the other way round: the start stays nearer to the honest one
    than its own length."""
    manifest = lora_manifest(
        workers=5, aggregation=aggregation, robust=robust, robust_hostile=1, **NONE, modules={"a": (12, 9)}
    )
    try:
        params = read_params(manifest)
    except ManifestRefused as error:
        assert aggregation in ("fedex", "flora") and error.field == "params.robust"
        return
    start = start_of_round(params, 7, (), 0)
    state = first_state(params, 1, start.outer)
    rng = np.random.default_rng(4)
    common = {n: rng.standard_normal(a.shape) for n, a in sorted(take(state, "adapter").items())}
    sides = [1.0, 1.1, 0.9, 1.05, -1000.0]
    results = []
    for shard, side in enumerate(sides):
        trained = {n: (state[f"adapter.{n}"] + 0.05 * side * c).astype(np.float32) for n, c in common.items()}
        results.append(encode_state(put(trained, "adapter") | ({} if shard else start.outer)))
    after = model_product(params, 7, start_of_round(params, 7, results, 1), "a")
    right = worker_product(params, 7, 1, start, results[0], "a")
    before = model_product(params, 7, start, "a")
    assert np.linalg.norm(after - right) < np.linalg.norm(right - before)


def test_the_order_of_the_buckets_follows_from_the_round(lora_manifest):
    manifest = lora_manifest(workers=6, aggregation="ffa", robust="median", robust_hostile=1, robust_bucket=2, **NONE)
    params = read_params(manifest)
    start = start_of_round(params, 7, (), 0)
    results = [made_up(params, 1, shard, start) for shard in range(6)]
    one, two = (start_of_round(params, 7, results, number) for number in (1, 2))
    assert any((one.adapter[name] != two.adapter[name]).any() for name in one.adapter)


def test_a_larger_delta_is_shortened_in_every_method(lora_manifest):
    for method in ("ffa", "fedex", "flora"):
        params = read_params(lora_manifest(**METHODS[method], workers=3, modules={"a": (12, 9)}))
        start = start_of_round(params, 7, (), 0)
        results = [made_up(params, 1, shard, start, 1e30 if shard == 2 else 0.05) for shard in range(3)]
        after = start_of_round(params, 7, results, 1)
        assert np.isfinite(model_product(params, 7, after, "a")).all()
        assert np.linalg.norm(take(after.outer, "base")["a.lora_B"]) < 10


@pytest.mark.parametrize("method", ["fedex", "fedex-bounded", "flora", "flora-bounded"])
def test_whatever_training_can_reach_may_be_merged_and_more_may_not(lora_manifest, method):
    """Every trained weight as large as the laws let it be, in every round; then twice the largest merged entry."""
    from proofyard.workloads.lora_laws import check_training, largest_merged, weight_bound

    manifest = lora_manifest(**METHODS[method], rounds=6, segments=1, max_delta_ratio=1e6, modules={"a": (12, 9)})
    params = read_params(manifest)
    rng = np.random.default_rng(2)
    start = start_of_round(params, 7, (), 0)
    for number in range(1, 6):
        results = []
        for shard in range(2):
            most = weight_bound(params, number - 1, params.task_steps)
            trained = {n: (most * rng.choice([-1, 1], a.shape)).astype(np.float32) for n, a in start.adapter.items()}
            results.append(encode_state(put(trained, "adapter") | ({} if shard else start.outer)))
        start = start_of_round(params, 7, results, number)
        state = first_state(params, 1, start.outer)
        check_training(params, number, 0, state)
    state["merged.a.lora_A"] = np.full_like(state["merged.a.lora_A"], 2 * largest_merged(params, "a", 5))
    with pytest.raises(StateRefused, match="farther from its start"):
        check_training(params, 5, 0, state)


def test_weights_as_large_as_the_laws_let_pass_can_be_merged():
    from proofyard.workloads.lora_laws import largest_averaged

    for method, bounded in (("fedex", 3), ("flora", 3), ("fedex", 0), ("flora", 0)):
        params = LoraParams(
            modules={"a": (64, 32)}, rank=8, alpha=8.0, lr=1.0, rounds=4, workers=2, segments=1, segment_steps=1,
            batch=1, seq_len=8, aggregation=method, outer="none", merged_rank=bounded, max_delta_ratio=1e6,
        )  # fmt: skip
        start = start_of_round(params, 1, (), 0)
        for number in range(1, 5):
            results = [
                encode_state(
                    put({n: np.full(a.shape, sign * largest_averaged(params), np.float32) for n, a in
                         start.adapter.items()}, "adapter") | ({} if shard else start.outer)
                )
                for shard, sign in enumerate((1, -1))
            ]  # fmt: skip
            start = start_of_round(params, 1, results, number)
        assert all(np.isfinite(array).all() for array in start.outer.values())
