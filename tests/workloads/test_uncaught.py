"""Cheats that no audit has caught yet: whatever they hand over as large as it may be, honest tasks of the next rounds
can begin and end."""

from itertools import pairwise

import numpy as np
import pytest
from adamw import train

from proofyard.workloads import lora_rounds
from proofyard.workloads.compression import delta
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_laws import check_training, largest_averaged, reach, weight_bound
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import start_of_round
from proofyard.workloads.lora_sets import whole_rounds
from proofyard.workloads.lora_tensors import first_state, hands_on, position_of, put, take, task_at
from proofyard.workloads.state import encode_state

NESTEROV = {"outer": "nesterov", "outer_lr": 0.7, "outer_momentum": 0.9}
CLOSING = {"closing": {"quorum": 2, "timeout_s": 60, "late_rounds": 2, "discount_bps": 5000}}
METHODS = {
    "plain": {"outer": "plain", "outer_lr": 1.0},
    "large outer steps": {"outer": "plain", "outer_lr": 10.0},
    "nesterov": NESTEROV,
    "both factors": NESTEROV | {"aggregation": "fedit"},
    "unequal ranks": NESTEROV | {"aggregation": "ffa", "ranks": [2, 4, 4]},
    "median": NESTEROV | {"robust": "median", "robust_hostile": 1},
    "geometric": NESTEROV | {"robust": "geometric-median", "robust_hostile": 1},
    "clipping": NESTEROV | {"robust": "centered-clipping", "robust_hostile": 1},
    "fedex": {"aggregation": "fedex", "outer": "none"},
    "overlap": {"overlap": True, "outer": "plain", "outer_lr": 1.0},
    "overlap, momentum": NESTEROV | {"overlap": True},
    "closing": NESTEROV | CLOSING,
    "weight decay": NESTEROV | {"lr": 0.5, "weight_decay": 0.9},
}


def at_the_limit(params, number, shard, start):
    """A result whose every weight is as large as the laws of its last state let it be."""
    most = min(weight_bound(params, number, params.task_steps), largest_averaged(params))
    most = np.nextafter(np.float32(most), np.float32(0))
    begun = first_state(params, shard, start.outer)
    trained = {name: np.full_like(array, most) for name, array in take(begun, "adapter").items()}
    return encode_state(put(trained, "adapter") | (start.outer if hands_on(params, shard) else {}))


def starts_after_cheats(params, rounds):
    """The start of each round where every worker of every round cheats."""
    starts, results = [], {}
    for number in range(rounds):
        tasks = whole_rounds(params, number)
        if params.closing and number > 1:  # the last shard is late in every round
            late = task_at(params, number - 2, params.workers - 1)
            tasks = (late, *tasks[:-1])
        starts.append(start_of_round(params, 7, [results[task] for task in tasks], number, tasks=tasks))
        for task in range(number * params.workers, (number + 1) * params.workers):
            _, shard = position_of(params, task)
            results[task] = at_the_limit(params, number, shard, starts[-1])
    return starts


@pytest.mark.parametrize("method", METHODS)
def test_honest_tasks_keep_the_laws_whatever_cheats_have_handed_over(lora_manifest, method):
    params = read_params(lora_manifest(rounds=9, workers=3, modules={"a": (12, 9)}, **METHODS[method]))
    for number, start in enumerate(starts_after_cheats(params, 8)):
        assert max(np.abs(array).max() for array in start.adapter.values()) <= weight_bound(params, number, 0)
        for shard in range(params.workers):
            begun = first_state(params, shard, start.outer)
            check_training(params, number, 0, begun)
            last = list(train(params, 5, params.task_steps, lambda step, name, weight: np.ones(weight.shape),
                              take(begun, "adapter")))[-1]  # fmt: skip
            carried = {n: a for n, a in begun.items() if n.split(".")[0] not in ("adapter", "first", "second", "step")}
            names = {n for n in begun if n not in carried}
            check_training(params, number, params.segments, {n: a for n, a in last.items() if n in names} | carried)


def test_without_the_cut_they_would_not(lora_manifest, monkeypatch):
    """What the test above looks for is there."""
    monkeypatch.setattr(lora_rounds, "_held", lambda params, base, trained: trained)
    params = read_params(lora_manifest(rounds=9, workers=3, modules={"a": (12, 9)}, **NESTEROV))
    over = [
        np.abs(start.adapter["a.lora_B"]).max() > weight_bound(params, number, 0)
        for number, start in enumerate(starts_after_cheats(params, 8))
    ]
    assert any(over)


@pytest.mark.parametrize(("lr", "steps"), [(0.5, 2), (0.05, 10)])
def test_decay_draws_towards_zero_whatever_cheats_say(lora_manifest, lr, steps):
    """Else each round of theirs would begin farther away than the one before, by what decay can move."""
    changes = {"lr": lr, "weight_decay": 0.9, "segment_steps": steps, "outer": "plain", "outer_lr": 1.0}
    params = read_params(lora_manifest(rounds=60, workers=3, modules={"a": (12, 9)}, **changes))
    starts = starts_after_cheats(params, 60)
    assert max(np.abs(array).max() for array in starts[-1].adapter.values()) < 1e4


def test_a_job_goes_on_with_all_the_velocity_that_it_takes_over(lora_manifest):
    """A small learning rate, after another job's large one."""
    begins = {"round": 3, "within": 40.0, "chain_id": 1, "registry": "0x" + "11" * 20, "job": "1"}
    params = read_params(lora_manifest(rounds=30, begins=begins, lr=1e-6, modules={"a": (12, 9)}, **NESTEROV))
    start = start_of_round(read_params(lora_manifest(modules={"a": (12, 9)}, **NESTEROV)), 7, (), 0)
    full = {name: np.full_like(array, 40.0) for name, array in start.adapter.items()}
    begun = encode_state(put(full, "base") | put(full, "velocity"))
    start = start_of_round(params, 7, (), 3, begun)
    for number in range(4, 12):
        results = [
            encode_state(put(start.adapter, "adapter") | (start.outer if hands_on(params, shard) else {}))
            for shard in range(params.workers)
        ]
        start = start_of_round(params, 7, results, number)
        assert max(np.abs(array).max() for array in start.adapter.values()) <= weight_bound(params, number, 0)


def test_a_bound_bounds_where_nothing_moves_for_ever(lora_manifest):
    """Nothing times infinity would be no number, and none is larger than that."""
    params = read_params(lora_manifest(lr=0.0, segments=4096, segment_steps=2**20, compression="int8"))
    assert min(reach(params, 0).delta, largest_averaged(params)) > 0


def test_what_training_can_do_is_not_cut(lora_manifest):
    """The strongest gradients: the same one in every step."""
    params = read_params(lora_manifest(modules={"a": (12, 9)}, eps=1e-30))
    start = start_of_round(params, 7, (), 0)
    trained = take(list(train(params, 5, params.task_steps, lambda step, name, weight: np.ones(weight.shape),
                              dict(start.adapter)))[-1], "adapter")  # fmt: skip
    trained = {name: trained[name] for name in start.adapter}
    held = lora_rounds._held(params, start.adapter, trained)
    assert all(held[name] is trained[name] for name in trained)
    assert all((trained[name] != start.adapter[name]).all() for name in trained)


def test_lies_about_what_was_left_out_count_for_no_more_than_can_have_been(lora_manifest):
    """Of small deltas: two residuals as large as the laws let each be."""
    small = {"compression": "topk-2bit", "compression_block": 64}
    params = read_params(lora_manifest(rounds=6, modules={"a": (12, 9)}, **small))
    reached = [reach(params, number) for number in range(6)]
    assert reached[0].left_out == 0 and all(before.left_out < after.left_out for before, after in pairwise(reached))
    start = start_of_round(params, 7, (), 0)
    size = sum(array.size for array in start.adapter.values())
    lies = [np.full(size, reached[number].delta, np.float32) for number in (1, 2)]
    begun = delta.begun(params, 3, 1, start.outer, lies, reached[3].left_out)
    for name, array in take(begun, "adapter").items():
        assert np.abs(array - begun[f"origin.{name}"]).max() <= np.float32(reached[3].left_out)


def test_no_small_delta_is_larger_than_its_round_can_make_one(lora_manifest):
    manifest = lora_manifest(rounds=3, compression="int8")
    params, task = read_params(manifest), WORKLOAD.graph(manifest)[0]
    first = delta.begun(params, 0, 0, start_of_round(params, manifest.seed, (), 0).outer, [], 0.0)

    def last_moved(part):
        most = np.float32(part * reach(params, 0).delta)
        far = put({name: array + most for name, array in take(first, "adapter").items()}, "adapter")
        return encode_state(delta.finished(params, 0, 0, first | far | {"step": np.int64(params.task_steps)}))

    WORKLOAD.check_state(manifest, task, task.segments, last_moved(0.9))
    with pytest.raises(StateRefused, match="more than all steps so far can have moved"):
        WORKLOAD.check_state(manifest, task, task.segments, last_moved(1.1))
