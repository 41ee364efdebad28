"""Rounds that do not wait for all of their shards: what one starts from, and which jobs may have them."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import start_of_round
from proofyard.workloads.lora_tensors import cut, first_state, put, result_schema, state_schema, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.workload import Inputs, Resources

RULES = {"quorum": 2, "timeout_s": 60, "late_rounds": 2, "discount_bps": 2500}
WORKERS = 4
SMALL = {"modules": {"a": (6, 5), "b": (4, 7)}, "rank": 3, "alpha": 2.0, "lr": 0.01, "rounds": 6, "workers": WORKERS}
SHAPE = {"segments": 3, "segment_steps": 1, "batch": 1, "seq_len": 8}


def params_of(**changes):

    return msgspec.convert(SMALL | SHAPE | {"closing": RULES} | changes, LoraParams)


def plain(params):

    return msgspec.structs.replace(params, closing=None)


def result_of(params, start, task, draw, size=0.1):
    """What a task might hand over: its start, moved at random."""
    shard, rng = task % params.workers, np.random.default_rng(draw)
    begun = cut(start.adapter, 0, params.rank_of(shard))
    moved = {
        name: (array + size * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in sorted(begun.items())
    }
    return put(moved, "adapter") | start.outer


def results_of(params, seed, tasks, before, draw=0):
    """{task: bytes}; `before`: the start of each round."""
    return {task: encode_state(result_of(params, before[task // params.workers], task, (draw, task))) for task in tasks}


def starts(params, seed, rounds):
    """Starts that could be those of rounds: the first is the seed's, the others what all shards make of it."""
    found = [start_of_round(params, seed, (), 0)]
    for number in range(1, rounds):
        own = range((number - 1) * params.workers, number * params.workers)
        results = results_of(params, seed, own, found)
        found.append(start_of_round(params, seed, list(results.values()), number, tasks=list(results)))
    return found


METHODS = {
    "ffa": {"aggregation": "ffa", "outer": "none"},
    "fedit": {"aggregation": "fedit", "outer_momentum": 0.9, "outer_lr": 0.7},
    "ffa-ranks": {"aggregation": "ffa", "ranks": (1, 3, 2, 3), "outer": "plain", "outer_lr": 0.5},
    "ffa-lengths": {"aggregation": "ffa", "shard_segments": (1, 2, 3, 3), "outer": "none"},
    "robust": {
        "robust": "trimmed-mean",
        "robust_hostile": 1,
        "aggregation": "fedit",
        "closing": RULES | {"late_rounds": 0, "quorum": 3},
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_a_round_that_is_whole_and_in_time_starts_as_it_does_without_rules(method):
    """Bit for bit: the sums are the same ones."""
    ruled = params_of(**METHODS[method])
    params = plain(ruled)
    known, free = [start_of_round(ruled, 7, (), 0)], [start_of_round(params, 7, (), 0)]
    for number in range(1, 4):
        tasks = [TaskIndex(task) for task in range((number - 1) * WORKERS, number * WORKERS)]
        said = results_of(ruled, 7, tasks, known, draw=number)
        whole = [decode_state(said[task]) for task in tasks]
        less = [whole[0], *(put(take(each, "adapter"), "adapter") for each in whole[1:])]
        known.append(start_of_round(ruled, 7, list(said.values()), number, tasks=tasks))
        free.append(start_of_round(params, 7, list(map(encode_state, less)), number))
        assert encode_state(known[-1].outer) == encode_state(free[-1].outer)
        assert any(array.any() for array in known[-1].adapter.values())


sets = st.integers(2, 4).flatmap(
    lambda number: st.tuples(
        st.just(number),
        st.sets(st.integers((number - 1) * WORKERS, number * WORKERS - 1), min_size=2),
        st.sets(st.integers(max(0, number - 3) * WORKERS, (number - 1) * WORKERS - 1)),
    )
)


@settings(deadline=None, max_examples=40)
@given(sets, st.randoms(use_true_random=False), st.sampled_from(["ffa", "fedit", "ffa-ranks", "ffa-lengths"]))
def test_a_start_does_not_depend_on_the_order_in_which_results_are_named(drawn, rng, method):
    number, own, late = drawn
    params = params_of(**METHODS[method])
    tasks = sorted(own | late)
    said = results_of(params, 7, tasks, starts(params, 7, number))
    before = start_of_round(params, 7, [said[task] for task in tasks], number, tasks=tasks)
    rng.shuffle(tasks)
    again = start_of_round(params, 7, [said[task] for task in tasks], number, tasks=tasks)
    assert encode_state(before.outer) == encode_state(again.outer)


@settings(deadline=None, max_examples=40)
@given(sets, st.integers(0, 10_000))
def test_every_delta_counts_once_from_its_own_start_by_work_and_lateness(drawn, discount):
    number, own, late = drawn
    params = params_of(**METHODS["ffa-lengths"], closing=RULES | {"discount_bps": discount}, max_delta_ratio=1e6)
    before, tasks = starts(params, 7, number), sorted(own | late)
    said = results_of(params, 7, tasks, before, draw=1)
    after = start_of_round(params, 7, [said[task] for task in tasks], number, tasks=tasks)
    weights = {
        task: params.segments_of(task % WORKERS) * (discount / 10_000) ** (number - 1 - task // WORKERS)
        for task in tasks
    }
    for name, array in before[number - 1].adapter.items():
        moved = {
            task: take(decode_state(said[task]), "adapter")[name].astype(np.float64)
            - before[task // WORKERS].adapter[name]
            for task in tasks
        }
        expected = array + sum(weights[task] * moved[task] for task in tasks) / sum(weights.values())
        np.testing.assert_allclose(after.adapter[name], expected, atol=1e-6)


def test_late_deltas_that_count_nothing_change_nothing():
    """Nor do they shorten others."""
    params = params_of(**METHODS["fedit"], closing=RULES | {"discount_bps": 0}, max_delta_ratio=1.0)
    before = starts(params, 7, 2)
    said = results_of(params, 7, [1, 4, 5], before, draw=1)
    alone = start_of_round(params, 7, [said[4], said[5]], 2, tasks=[4, 5])
    both = start_of_round(params, 7, list(said.values()), 2, tasks=list(said))
    assert encode_state(alone.outer) == encode_state(both.outer)


def test_what_no_shard_of_a_set_has_trained_stays():
    params = params_of(**METHODS["ffa-ranks"])
    before = starts(params, 7, 2)
    said = results_of(params, 7, [4, 6], before, draw=1)
    after = start_of_round(params, 7, list(said.values()), 2, tasks=list(said))
    for name, array in before[1].adapter.items():
        np.testing.assert_array_equal(after.adapter[name][:, 2:], array[:, 2:])
        assert (after.adapter[name][:, :2] != array[:, :2]).any()


@pytest.mark.parametrize(
    "tasks",
    [[12, 13, 0], [12], [12, 12, 13], [12, 13, 16], [8, 9, 10]],
    ids=["too late", "few", "twice", "early", "none"],
)
def test_a_set_that_no_round_takes_is_refused(tasks):
    params = params_of()
    one = encode_state(result_of(params, start_of_round(params, 7, (), 0), 0, 1))
    with pytest.raises(StateRefused, match="cannot rest on"):
        start_of_round(params, 7, [one] * len(tasks), 4, tasks=tasks)


def test_a_task_trains_from_a_set_with_a_late_delta_and_keeps_the_laws(tiny, lora_manifest, tmp_path):
    """A whole job of two rounds, whose second one lacks shard 0 of the first, and whose result has it late."""
    rules = {"closing": {"quorum": 1, "timeout_s": 60}, "aggregation": "ffa", "ranks": [2, 4], "outer": "none"}
    manifest = lora_manifest(**rules, segments=1, segment_steps=2, batch=2)
    params, results = read_params(manifest), {}
    for task, deps in zip(WORKLOAD.graph(manifest), [(), (), (1,), (1,)], strict=True):
        task = msgspec.structs.replace(task, deps=deps)
        inputs = Inputs(tiny.model, tiny.data, tuple(results[dep] for dep in deps))
        states = [WORKLOAD.initial_state(manifest, task, inputs)]
        runner = WORKLOAD.runner(manifest, task, inputs, Resources())
        states.append(runner.run(0, states[0], lambda _: None))
        for number, state in enumerate(states):
            WORKLOAD.check_state(manifest, task, number, state)
            assert decode_state(state, schema=state_schema(params, task.index // 2, task.index % 2))
            assert len(state) <= WORKLOAD.max_bytes(manifest, task)
        trace = [cid_of_bytes(state) for state in states]
        results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
        assert decode_state(results[task.index], schema=result_schema(params, task.index % 2))
        WORKLOAD.check_result(manifest, task, results[task.index], states[-1], trace)
        with pytest.raises(StateRefused, match="base"):
            WORKLOAD.check_result(manifest, task, results[task.index], states[-1], [trace[1], trace[1]])
    after = start_of_round(params, manifest.seed, [results[0], results[2], results[3]], 2, tasks=[0, 2, 3])
    without = start_of_round(params, manifest.seed, [results[2], results[3]], 2, tasks=[2, 3])
    assert encode_state(after.outer) != encode_state(without.outer)


def test_a_first_state_whose_adapter_is_not_what_its_chain_carries_is_refused(lora_manifest):
    manifest = lora_manifest(closing={"quorum": 1, "timeout_s": 60}, aggregation="ffa", ranks=[2, 4], outer="none")
    params, task = read_params(manifest), WORKLOAD.graph(manifest)[1]
    state = first_state(params, 1, start_of_round(params, manifest.seed, (), 0).outer)
    WORKLOAD.check_state(manifest, task, 0, encode_state(state))
    name = next(name for name in state if name.startswith("adapter."))
    lie = {**state, name: state[name] + np.float32(0.5)}
    with pytest.raises(StateRefused, match="not the base"):
        WORKLOAD.check_state(manifest, task, 0, encode_state(lie))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"closing": {"quorum": 3, "timeout_s": 60}}, "closing.*quorum of 3 is more than the 2 workers"),
        ({"closing": {"quorum": 0, "timeout_s": 60}}, "closing.quorum"),
        ({"closing": {"quorum": 1, "timeout_s": 0}}, "closing.timeout_s"),
        ({"closing": {"quorum": 1, "timeout_s": 60, "late_rounds": 9}}, "closing.late_rounds"),
        ({"closing": {"quorum": 1, "timeout_s": 60, "discount_bps": 10_001}}, "closing.discount_bps"),
        ({"closing": {"quorum": 1}}, "timeout_s"),
        ({"closing": {"quorum": 1, "timeout_s": 60, "patience": 1}}, "patience"),
        ({"closing": {"quorum": 1, "timeout_s": 60, "ahead": 1}}, "closing.*ahead is given"),
        ({"aggregation": "fedex", "outer": "none"}, "closing.*fedex"),
        ({"aggregation": "flora", "outer": "none"}, "closing.*flora"),
        ({"workers": 4, "robust": "median", "robust_hostile": 1}, "closing.late_rounds"),
        (
            {
                "workers": 5,
                "robust": "median",
                "robust_hostile": 2,
                "closing": {"quorum": 4, "timeout_s": 9, "late_rounds": 0},
            },
            "robust_hostile.*4 votes",
        ),
        ({"workers": 200}, "400 deltas"),
    ],
)
def test_rules_that_no_job_can_keep_are_refused_by_their_field(lora_manifest, changes, match):
    with pytest.raises(ManifestRefused, match=match):
        WORKLOAD.check(lora_manifest(**{"closing": {"quorum": 1, "timeout_s": 60}} | changes))


def test_a_sweep_has_no_rules_for_rounds(lora_manifest):
    manifest = lora_manifest()
    base = {name: value for name, value in manifest.params.items() if name not in ("rounds", "workers", "lr")}

    def sweep(**more):
        return msgspec.structs.replace(manifest, workload="sweep", params={"base": base, "vary": {"lr": [0.1]}} | more)

    SWEEP.check(sweep())
    with pytest.raises(ManifestRefused, match="closing"):
        SWEEP.check(sweep(base=base | {"closing": {"quorum": 1, "timeout_s": 60}}))
    with pytest.raises(ManifestRefused, match="closing"):
        SWEEP.check(sweep(vary={"closing": [{"quorum": 1, "timeout_s": 60}]}))
