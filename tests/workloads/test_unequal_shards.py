"""Jobs whose shards train for different lengths: what each task is, and what its delta counts."""

import numpy as np
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.sdk.epochs import training_length
from proofyard.sdk.errors import JobRefused
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import merge_step, outer_step, start_of_round
from proofyard.workloads.lora_tensors import STEP, cut, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Resources, carried_by

UNEQUAL = {"shard_segments": [1, 3], "aggregation": "ffa", "outer": "none"}


def moved(params, base, lengths):
    """What shards have trained `base` to, each entry moved by its shard's length."""
    starts = [cut(base, 0, params.rank_of(shard)) for shard in range(params.workers)]
    return [
        {name: array + np.float32(length) for name, array in start.items()}
        for start, length in zip(starts, lengths, strict=True)
    ]


def test_a_task_is_as_long_as_its_shard_says_and_is_paid_for_that(lora_manifest):
    tasks = WORKLOAD.graph(lora_manifest(**UNEQUAL))
    assert [task.segments for task in tasks] == [1, 3, 1, 3]
    assert [task.work_units for task in tasks] == [2 * 4 * 32, 6 * 4 * 32] * 2


@pytest.mark.parametrize("shares", [[1, 3], [3, 1], [2, 6]])
def test_a_delta_counts_by_its_work(lora_manifest, shares):
    params = read_params(lora_manifest(**UNEQUAL | {"shard_segments": shares, "segments": max(shares)}))
    base = start_of_round(params, 7, (), 0).adapter
    after = outer_step(params, base, {}, moved(params, base, [0.25, -0.5])).adapter
    small, large = (each / sum(shares) for each in shares)
    for name in base:
        np.testing.assert_allclose(after[name] - base[name], 0.25 * small - 0.5 * large, atol=1e-6)


def test_equal_lengths_count_as_if_nothing_was_said(lora_manifest):
    for method in ("ffa", "fedit", "fedex", "flora"):
        plain = read_params(lora_manifest(aggregation=method, outer="none", rounds=3))
        said = read_params(lora_manifest(aggregation=method, outer="none", rounds=3, shard_segments=[3, 3]))
        assert plain.shares == said.shares == (1, 1)
        start = start_of_round(plain, 7, (), 0)
        rng = np.random.default_rng(1)
        trained = moved(plain, start.adapter, rng.normal(0, 0.1, 2))
        if plain.merges:
            found = [merge_step(each, start.adapter, start.merged, trained, (7, 1)).outer for each in (plain, said)]
        else:
            found = [outer_step(each, start.adapter, {}, trained, (7, 1)).outer for each in (plain, said)]
        assert encode_state(found[0]) == encode_state(found[1])


def test_products_count_by_their_work(lora_manifest):
    params = read_params(lora_manifest(**UNEQUAL | {"aggregation": "flora"}, modules={"a": (6, 5)}, rank=2))
    start = start_of_round(params, 7, (), 0)
    trained = moved(params, start.adapter, [0.25, -0.5])
    merged = merge_step(params, start.adapter, start.merged, trained, (7, 1)).merged
    expected = sum(
        share * each["a.lora_B"].astype(np.float64) @ each["a.lora_A"]
        for share, each in zip((0.25, 0.75), trained, strict=True)
    )
    np.testing.assert_allclose(merged["a.lora_B"].astype(np.float64) @ merged["a.lora_A"], expected, atol=1e-6)


def test_ranks_that_only_one_shard_trains_are_its_own_whatever_its_work(lora_manifest):
    params = read_params(lora_manifest(**UNEQUAL, ranks=[2, 4]))
    base = start_of_round(params, 7, (), 0).adapter
    after = outer_step(params, base, {}, moved(params, base, [0.25, -0.5])).adapter
    for name in base:
        step = after[name] - base[name]
        np.testing.assert_allclose(step[:, :2], 0.25 / 4 - 0.5 * 3 / 4, atol=1e-6)
        np.testing.assert_allclose(step[:, 2:], -0.5, atol=1e-6)


def test_a_delta_is_not_shortened_for_what_more_work_makes_of_it(lora_manifest):
    params = read_params(lora_manifest(**UNEQUAL, max_delta_ratio=1.0))
    base = start_of_round(params, 7, (), 0).adapter
    after = outer_step(params, base, {}, moved(params, base, [0.25, 0.75])).adapter
    cheat = outer_step(params, base, {}, moved(params, base, [25.0, 0.75])).adapter
    for name in base:
        np.testing.assert_allclose(after[name] - base[name], 0.25 / 4 + 0.75 * 3 / 4, atol=1e-6)
        assert (cheat[name] - base[name]).max() < 25.0 / 4


@pytest.mark.parametrize("compression", [None, "int8"])
def test_a_whole_job_trains_and_keeps_the_laws(tiny, lora_manifest, tmp_path, compression):
    manifest = lora_manifest(**UNEQUAL, compression=compression, segment_steps=1, batch=2)
    results, lasts = {}, {}
    for task in WORKLOAD.graph(manifest):
        given = tuple(results[dep] for dep in task.deps)
        carried = tuple(lasts[cid] for cid in carried_by(WORKLOAD, manifest, task, given))
        inputs = Inputs(tiny.model, tiny.data, given, None, carried)
        states = [WORKLOAD.initial_state(manifest, task, inputs)]
        told = []
        runner = WORKLOAD.runner(manifest, task, inputs, Resources())
        for index in range(task.segments):
            states.append(runner.run(index, states[-1], told.append))
            WORKLOAD.check_state(manifest, task, index + 1, states[-1])
        assert [each.steps for each in told] == [task.segments] * task.segments
        assert int(decode_state(states[-1])[STEP]) == task.segments
        trace = [cid_of_bytes(state) for state in states]
        lasts[trace[-1]] = states[-1]
        results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
        WORKLOAD.check_result(manifest, task, results[task.index], states[-1], trace)
        short = encode_state({**decode_state(states[-1]), STEP: np.array(task.segments + 1, np.int64)})
        with pytest.raises(StateRefused, match="expected"):
            WORKLOAD.check_state(manifest, task, task.segments, short)
    assert (WORKLOAD.package(manifest, results.__getitem__, tmp_path / "adapter") / "adapter_config.json").exists()
    assert any(array.any() for array in take(decode_state(states[-1]), "adapter").values()) or compression


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"shard_segments": [3]}, "2 workers"),
        ({"shard_segments": [1, 2]}, "segments 3"),
        ({"shard_segments": [0, 3]}, ">= 1"),
        ({"shard_segments": [1, 2, 3], "workers": 3, "robust": "median", "robust_hostile": 1}, "one length"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lora_manifest, changes, allowed):
    with pytest.raises(ManifestRefused, match="shard_segments") as caught:
        WORKLOAD.check(lora_manifest(**UNEQUAL | changes))
    assert allowed in str(caught.value)


def test_epochs_are_not_counted_over_shards_of_different_lengths(lora_manifest):
    with pytest.raises(JobRefused, match="give rounds"):
        training_length(2, 100, read_params(lora_manifest(**UNEQUAL)))
