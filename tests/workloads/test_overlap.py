"""Rounds that start while the deltas of the one before travel (`overlap`)."""

from unittest.mock import patch

import numpy as np
import pytest
from msgspec.structs import replace
from test_federated import made_up
from test_going_on import Job, going_on

from proofyard.protocol.lookahead import Standing, built_on, may_start
from proofyard.workloads import lora_rounds
from proofyard.workloads.errors import ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_laws import largest_averaged
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import Origin, Start, counted, encode_start, outer_step, start_of_round
from proofyard.workloads.lora_sets import whole_rounds
from proofyard.workloads.lora_tensors import put, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.sweep import WORKLOAD as SWEEP

OVERLAP = {"overlap": True}
PLAIN = {"outer": "none"}
MOMENTUM = {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.9}


def one_by_one(params, seed, rounds):
    """The start of each round, and the results of each, by the rule itself: a round starts where the one before it did,
    moved by what the round before that has trained from its own start."""
    starts, results = [start_of_round(params, seed, (), 0)], []
    for number in range(rounds + 2):
        if number:
            made = results[number - 2] if number > 1 else []
            starts.append(moved(params, starts[-1], starts[number - 2] if made else None, made))
        if number < rounds:
            results.append([made_up(params, 10 * number + seed, each, starts[-1]) for each in range(params.workers)])
    return starts, results


def moved(params, start, began, made):
    """Nesterov's outer step with the mean of what was trained, in binary64."""
    if not made:
        return start
    adapter, momentum = {}, {}
    for name, base in start.adapter.items():
        deltas = [take(decode_state(each), "adapter")[name].astype(np.float64) - began.adapter[name] for each in made]
        mean = sum(deltas) / len(deltas)
        velocity = params.outer_momentum * (start.velocity[name].astype(np.float64) if start.velocity else 0.0) + mean
        adapter[name] = (base + params.outer_lr * (mean + params.outer_momentum * velocity)).astype(np.float32)
        momentum[name] = velocity.astype(np.float32)
    return Start(adapter, momentum if start.velocity else {})


@pytest.mark.parametrize("outer", [PLAIN, MOMENTUM])
@pytest.mark.parametrize("aggregation", ["ffa", "fedit"])
def test_a_rounds_start_is_that_of_the_one_before_moved_by_what_the_second_before_has_trained(
    lora_manifest, outer, aggregation
):
    params = read_params(lora_manifest(rounds=5, workers=2, aggregation=aggregation, **OVERLAP, **outer))
    starts, results = one_by_one(params, 7, 5)
    for number in range(7):
        given = [results[task // 2][task % 2] for task in whole_rounds(params, number)]
        found = start_of_round(params, 7, given, number)
        for group in ("adapter", "velocity"):
            ours, theirs = getattr(found, group), getattr(starts[number], group)
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=3e-6, atol=1e-7)


def test_what_each_task_rests_on_and_that_nothing_is_left_out(lora_manifest):
    manifest = lora_manifest(rounds=5, workers=2, **OVERLAP, **PLAIN)
    deps = [task.deps for task in WORKLOAD.graph(manifest)]
    assert deps[:4] == [()] * 4, "the first two rounds start from the same"
    assert deps[4:6] == [(0, 1)] * 2 and deps[6:8] == [(0, 1, 2, 3)] * 2 and deps[8:] == [(2, 3, 4, 5)] * 2
    assert WORKLOAD.finals(manifest) == (6, 7, 8, 9)
    params = read_params(manifest)
    starts, results = one_by_one(params, 7, 5)
    final = start_of_round(params, 7, [each for made in results[3:] for each in made], 6)
    for name, first in starts[0].adapter.items():
        total = first.astype(np.float64)
        for number, made in enumerate(results):
            for each in made:
                trained = take(decode_state(each), "adapter")[name]
                total = total + (trained.astype(np.float64) - starts[number].adapter[name]) / 2
        np.testing.assert_allclose(final.adapter[name], total, rtol=1e-5, atol=1e-6)
    one = lora_manifest(rounds=1, workers=2, **OVERLAP, **PLAIN)
    assert WORKLOAD.finals(one) == (0, 1)


@pytest.mark.parametrize("look_ahead", [0, 1, 2, 3])
def test_a_step_of_the_look_ahead_is_two_rounds(look_ahead, lora_manifest):
    graph = WORKLOAD.graph(lora_manifest(rounds=12, workers=2, **OVERLAP, **PLAIN))
    task, judged = graph[-1], 2 * (12 - 1 - 2 * look_ahead - 2 + 1)
    for accepted, may in ((judged, True), (judged - 1, False)):
        standings = [Standing.ACCEPTED if index < accepted else Standing.COMMITTED for index in range(24)]
        assert may_start(task, graph, standings.__getitem__, look_ahead) == may
    assert built_on(graph, [graph[6].index]) == set(range(10, 24)), "of the fourth round, and the fifth stands"


def test_a_result_is_read_once(lora_manifest):
    params = read_params(lora_manifest(rounds=4, workers=2, **OVERLAP, **PLAIN))
    _, results = one_by_one(params, 7, 4)
    with patch.object(lora_rounds, "decode_state", wraps=decode_state) as reads:
        start_of_round(params, 8, [*results[1], *results[2]], 4)
    assert reads.call_count == 4


def test_starts_follow_from_each_other_to_the_bit(lora_manifest):
    """Nobody sees the start of the round in between: whoever computes a later one makes the same bits of it."""
    params = read_params(lora_manifest(rounds=6, workers=3, **OVERLAP, **MOMENTUM))
    results, starts = [], []
    for number in range(6):
        starts.append(start_of_round(params, 7, [results[each] for each in whole_rounds(params, number)], number))
        results += [made_up(params, number, shard, starts[-1]) for shard in range(3)]
    assert encode_start(starts[1]) == encode_start(starts[0])
    for number in range(2, 6):
        trained = [take(decode_state(results[3 * (number - 2) + shard]), "adapter") for shard in range(3)]
        origins = [Origin(shard, starts[number - 2].adapter) for shard in range(3)]
        before = starts[number - 1]
        found = outer_step(params, before.adapter, before.velocity, trained, (7, number - 1), origins)
        assert encode_start(found) == encode_start(starts[number])


def test_robust_rules_outvote_a_liar_in_rounds_that_overlap(lora_manifest):
    params = read_params(lora_manifest(rounds=4, workers=3, robust="median", robust_hostile=1, **OVERLAP, **PLAIN))
    _, results = one_by_one(params, 7, 4)
    lie = made_up(params, 99, 2, start_of_round(params, 7, (), 0), size=100.0)
    honest, lied = [*results[0], *results[1]], [*results[0][:2], lie, *results[1][:2], lie]
    one, other = (start_of_round(params, 7, each, 3).adapter for each in (honest, lied))
    first = start_of_round(params, 7, (), 0).adapter
    for name in one:
        assert np.abs(other[name] - first[name]).max() < 1.0, "the liar's numbers are about a hundred"


def test_a_job_with_overlap_is_executed_and_its_model_loads(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(rounds=3, segments=1, aggregation="ffa", lr=0.02, **OVERLAP, **PLAIN)
    job = Job(manifest, tiny)
    folder = WORKLOAD.package(manifest, job.results.__getitem__, tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").is_file()
    taken = WORKLOAD.finals(manifest)
    found = counted(job.params, 7, [job.results[task] for task in taken], 4, tasks=taken)
    assert [(task, each.late) for task, each in found.items()] == [(4, 0), (5, 0)]


def test_a_job_that_goes_on_begins_with_two_rounds_from_the_same_start(tiny, lora_manifest):
    manifest = lora_manifest(rounds=2, segments=1, **OVERLAP, **PLAIN)
    job = Job(manifest, tiny)
    finals = [job.results[task] for task in WORKLOAD.finals(manifest)]
    start = start_of_round(job.params, 7, finals, 3)
    more = going_on(manifest, start, 2, rounds=5)
    graph = WORKLOAD.graph(more)
    assert [WORKLOAD.begins(more, task) for task in graph] == [True] * 4 + [False] * 2
    adapter = tiny.model.parent / "begins"
    adapter.write_bytes(encode_start(start))
    rest = Job(more, tiny, adapter)
    assert len(rest.results) == 6
    whole = Job(lora_manifest(rounds=5, segments=1, **OVERLAP, **PLAIN), tiny)
    assert rest.results[2] == whole.results[6], "the fourth round starts with all deltas of the first two as well"
    assert rest.results[0] != whole.results[4], "and the third without those of the second"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compression": "int8", "aggregation": "ffa"}, "params.overlap.*compression"),
        ({"closing": {"quorum": 1, "timeout_s": 9}}, "params.overlap.*closing"),
        ({"aggregation": "flora", "outer": "none"}, "params.overlap.*flora"),
        ({"workers": 129, "rounds": 2}, "at most 128"),
    ],
)
def test_what_does_not_go_with_overlap_is_refused(lora_manifest, changes, says):
    with pytest.raises(ManifestRefused, match=says):
        read_params(lora_manifest(**{**PLAIN, **OVERLAP, **changes}))


def test_a_round_rests_on_both_rounds_whole(lora_manifest):
    params = read_params(lora_manifest(rounds=4, workers=2, **OVERLAP, **PLAIN))
    _, results = one_by_one(params, 7, 4)
    with pytest.raises(StateRefused, match="rests on 4 results, 2 were given"):
        start_of_round(params, 7, results[1], 3)


def test_a_sweep_has_no_rounds_that_overlap(lora_manifest):
    manifest = lora_manifest()
    base = {name: value for name, value in manifest.params.items() if name not in ("rounds", "workers", "lr")}

    def sweep(base, **vary):
        SWEEP.check(replace(manifest, workload="sweep", params={"base": base, "vary": {"lr": [0.1]} | vary}))

    sweep(base)
    sweep(base | {"overlap": False})
    with pytest.raises(ManifestRefused, match=r"params\.base\.overlap"):
        sweep(base | OVERLAP)
    with pytest.raises(ManifestRefused, match=r"params\.vary\.overlap"):
        sweep(base, overlap=[True, False])


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("outer", [{"outer": "plain", "outer_lr": 10.0}, MOMENTUM | {"outer_lr": 10.0}])
def test_the_largest_weights_that_the_laws_let_pass_make_a_start_all_the_same(lora_manifest, outer, way):
    """The second of two steps one after another begins where no result says, and no law looks."""
    params = read_params(lora_manifest(rounds=4, workers=2, **OVERLAP, **outer))
    largest, first = np.float32(largest_averaged(params)), start_of_round(params, 7, (), 0)

    def full(tensors, value):
        return {name: np.full_like(array, value) for name, array in tensors.items()}

    results = []
    for base in (largest, way * largest):
        start = Start(full(first.adapter, base), full(first.velocity, -2 * largest * params.rounds))
        results += [encode_state(put(full(first.adapter, -base), "adapter") | more) for more in (start.outer, {})]
    found = start_of_round(params, 7, results, 4)
    assert all(np.isfinite(array).all() for array in found.outer.values())
