"""Small deltas in rounds that do not wait for everybody: what is sent in the end, and what a round starts from."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.certificate import Delta
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.closing import rested_on, sets_in, taken_rounds
from proofyard.protocol.types import TaskIndex
from proofyard.workloads import lora_tensors
from proofyard.workloads.compression import delta
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import LoraParams, read_params
from proofyard.workloads.lora_rounds import start_of_round
from proofyard.workloads.lora_sets import unsent
from proofyard.workloads.lora_tensors import carries_outer, key_rounds, take
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, Resources, carried_by, finals_of, possible_finals, task_graph

WORKERS, ROUNDS = 3, 7
SMALL = {"modules": {"a": (6, 5), "b": (4, 7)}, "rank": 3, "alpha": 2.0, "lr": 0.01, "aggregation": "ffa"}
SHAPE = {"rounds": ROUNDS, "workers": WORKERS, "segments": 1, "segment_steps": 1, "batch": 1, "seq_len": 8}


def params_of(late_rounds=2, **changes):
    closing = {"quorum": 1, "timeout_s": 60, "late_rounds": late_rounds, "discount_bps": 2500}
    return msgspec.convert(
        SMALL | SHAPE | {"outer": "none", "compression": "sign", "closing": closing} | changes, LoraParams
    )


@st.composite
def histories(draw):
    """How late deltas may be, and the sets that rounds took, each in ascending order."""
    late_rounds, sets, left = draw(st.integers(0, 3)), [], []
    for number in range(draw(st.integers(1, ROUNDS))):
        own = range(number * WORKERS, (number + 1) * WORKERS)
        left = [task for task in left if task // WORKERS >= number - late_rounds]
        taken = {draw(st.sampled_from(own)), *(task for task in [*left, *own] if draw(st.booleans()))}
        left = [task for task in [*left, *own] if task not in taken]
        sets.append(tuple(sorted(map(TaskIndex, taken))))
    return late_rounds, sets


@settings(deadline=None)
@given(histories(), st.integers(1, ROUNDS))
def test_the_sets_that_a_round_rests_on_are_told_from_its_tasks_alone(history, every):
    _, sets = history
    for number in range(1, len(sets) + 1):
        found = sets_in(rested_on(sets, number, every))
        assert found == sets[(number - 1) // every * every : number]
    assert sets_in(()) == []


@settings(deadline=None, max_examples=200)
@given(histories(), st.sampled_from([1, 2, 3, 32]))
def test_what_is_left_out_is_taken_over_once_and_lost_by_key_rounds_alone(history, every):
    """Of an encoding that sends nothing: what each task has trained is in what it leaves out, with all it took over."""
    late_rounds, sets = history
    params = params_of(late_rounds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora_tensors, "KEY_ROUNDS", every)
        for shard in range(WORKERS):
            left_out = {}
            for number in range(len(sets) + 1):
                own, taken = TaskIndex(number * WORKERS + shard), {task for each in sets[:number] for task in each}
                over = unsent(params, number, shard, rested_on(sets, number, key_rounds(params)))
                assert set(over) <= taken and all(task % WORKERS == shard for task in over)
                mine = [task for task in range(shard, number * WORKERS, WORKERS) if task // WORKERS < number]
                waits = [task for task in mine if task not in taken and task // WORKERS >= number - late_rounds]
                held = [left_out[task] for task in over] + [left_out[task] - {task} for task in waits]
                together = set().union(*held)
                assert sum(map(len, held)) == len(together), "nothing is sent twice"
                sent = {task for task in mine if task in taken}
                assert together == sent if key_rounds(params) >= ROUNDS else together <= sent
                left_out[own] = {own}.union(*(left_out[task] for task in over))


def result_of(params, task, start, draw):
    """What a task might hand over, and the numbers that it says."""
    number, shard = divmod(task, params.workers)
    count = sum(array[:, : params.rank_of(shard)].size for array in start.adapter.values())
    codec = delta.codec_of(params, number)
    said = codec.encode(np.random.default_rng((draw, task)).standard_normal(count).astype(np.float32) * np.float32(0.1))
    named = np.frombuffer(cid_bytes(cid_of_bytes(b"%d" % task)), np.uint8)
    carried = start.outer if carries_outer(params, number, shard) else {}
    return encode_state({**carried, delta.DELTA: said, delta.LAST: named})


def starts_of(params, sets, draw=0):
    """The start of each round, with the results by task."""
    starts, results = [start_of_round(params, 7, (), 0)], {}
    for number in range(1, len(sets) + 1):
        own = range((number - 1) * params.workers, number * params.workers)
        results |= {task: result_of(params, task, starts[-1], draw) for task in own}
        tasks = rested_on(sets, number, key_rounds(params))
        starts.append(start_of_round(params, 7, [results[task] for task in tasks], number, tasks=tasks))
    return starts, results


@pytest.mark.parametrize("every", [1, 2, 32])
@pytest.mark.parametrize(
    "changes",
    [
        {"compression": "int8"},
        {"compression_turns": 2, "compression_warmup": 1, "outer": "nesterov", "outer_momentum": 0.9},
        {"ranks": (1, 3, 2), "outer": "plain", "outer_lr": 0.5},
    ],
    ids=["int8", "sign", "ranks"],
)
def test_rounds_that_are_whole_and_in_time_start_as_they_do_without_rules(every, changes, monkeypatch):
    """Bit for bit, with any key rounds."""
    monkeypatch.setattr(lora_tensors, "KEY_ROUNDS", every)
    ruled = params_of(**changes)
    plain = msgspec.structs.replace(ruled, closing=None)
    sets = [tuple(map(TaskIndex, range(WORKERS * each, WORKERS * (each + 1)))) for each in range(5)]
    starts, _ = starts_of(ruled, sets)
    free = [start_of_round(plain, 7, (), 0)]
    for number in range(1, 6):
        first = lora_tensors.first_round(plain, number) * WORKERS
        given = [result_of(plain, task, free[task // WORKERS], 0) for task in range(first, number * WORKERS)]
        free.append(start_of_round(plain, 7, given, number))
        assert encode_state(free[-1].outer) == encode_state(starts[number].outer)


@settings(deadline=None, max_examples=30)
@given(histories(), st.sampled_from([1, 2, 32]), st.integers(0, 10_000))
def test_every_delta_counts_once_by_its_lateness_on_the_start_of_the_round_that_takes_it(history, every, discount):
    late_rounds, sets = history
    rules = {"quorum": 1, "timeout_s": 60, "late_rounds": late_rounds, "discount_bps": discount}
    params = params_of(closing=rules, max_delta_ratio=1e6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora_tensors, "KEY_ROUNDS", every)
        starts, results = starts_of(params, sets)
        for number, taken in enumerate(sets):
            weights = {task: (discount / 10_000) ** (number - task // WORKERS) for task in taken}
            base = starts[number].adapter
            moved = {}
            for task in taken:
                its_round, shard = divmod(task, WORKERS)
                result = decode_state(results[task])
                there = delta.trained(params, its_round, shard, base, result)
                moved[task] = {name: there[name].astype(np.float64) - base[name] for name in base}
            for name, array in base.items():
                mean = sum(weights[task] * moved[task][name] for task in taken) / sum(weights.values())
                np.testing.assert_allclose(starts[number + 1].adapter[name], array + mean, atol=1e-6)


@pytest.mark.parametrize(
    "tasks",
    [(0, 1, 2, 3, 4, 5), (3, 4), (3, 4, 0, 1, 3), (3, 3, 0), (6, 3, 0), (3, 0, 6), ()],
    ids=["oldest first", "one is missing", "taken twice", "twice in a set", "early", "in no order", "none"],
)
def test_sets_that_no_rounds_take_are_refused(tasks):
    params = params_of(late_rounds=0)
    _, results = starts_of(params, [(0, 1, 2), (3, 4, 5), (6, 7, 8)])
    with pytest.raises(StateRefused, match="cannot rest on"):
        start_of_round(params, 7, [results[task] for task in tasks], 2, tasks=tasks)


SETS = [(0,), (1, 2, 3), (4,), (6, 7), (8, 9)]
"""Task 1 is late for round 2, and task 5 for every one."""
OVER = {2: [0], 4: [2], 5: [1, 3], 6: [4], 8: [6], 9: [1, 3, 7]}


def test_a_job_with_a_late_and_a_dropped_shard_trains_and_keeps_the_laws(tiny, lora_manifest, tmp_path):
    rules = {"closing": {"quorum": 1, "timeout_s": 60, "discount_bps": 10_000}, "aggregation": "ffa", "outer": "none"}
    small = {"compression": "sign", "segments": 1, "segment_steps": 2, "batch": 2, "rounds": 5, "ranks": [2, 4]}
    manifest = lora_manifest(**rules | small)
    params, results, lasts, begun = read_params(manifest), {}, {}, {}
    whole = WORKLOAD.rounds(manifest)
    assert whole.key_rounds == 32
    for number in range(5):
        said = [tuple(Delta(task, cid_of_bytes(results[task])) for task in taken) for taken in SETS[:number]]
        graph = task_graph(WORKLOAD, manifest, taken_rounds(whole, said))
        assert len(graph) == 2 * number + 2
        for task in graph[2 * number :]:
            given = tuple(results[dep] for dep in task.deps)
            named = carried_by(WORKLOAD, manifest, task, given)
            assert named == tuple(cid_of_bytes(lasts[each]) for each in OVER.get(task.index, []))
            carried = tuple(lasts[each] for each in OVER.get(task.index, []))
            states = [WORKLOAD.initial_state(manifest, task, Inputs(results=given, carried=carried))]
            if carried:
                with pytest.raises(StateRefused, match="last states"):
                    WORKLOAD.initial_state(manifest, task, Inputs(results=given, carried=carried[1:]))
            inputs = Inputs(tiny.model, tiny.data, given, carried=carried)
            runner = WORKLOAD.runner(manifest, task, inputs, Resources())
            states.append(runner.run(0, states[0], lambda _: None))
            for place, state in enumerate(states):
                WORKLOAD.check_state(manifest, task, place, state)
                assert len(state) <= WORKLOAD.max_bytes(manifest, task)
            begun[task.index], lasts[task.index] = states
            results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
            trace = [cid_of_bytes(state) for state in states]
            WORKLOAD.check_result(manifest, task, results[task.index], states[-1], trace)
    for task, over in OVER.items():
        left = [delta.residual_in(params, each // 2, each % 2, lasts[each]) for each in over]
        first = decode_state(begun[task])
        base, origin = (take(first, name) for name in ("adapter", "origin"))
        missing = np.concatenate([(base[name] - origin[name]).reshape(-1) for name in sorted(base)])
        np.testing.assert_allclose(missing, sum(left), atol=1e-6)
    said = [tuple(Delta(task, cid_of_bytes(results[task])) for task in taken) for taken in SETS]
    closed = taken_rounds(whole, said)
    finals = finals_of(WORKLOAD, manifest, closed)
    assert finals == (8, 9, 6, 7, 4, 1, 2, 3, 0) and set(finals) <= possible_finals(WORKLOAD, manifest)
    assert [each.dropped for each in closed] == [(), (), (), (5,), ()]
    assert WORKLOAD.package_of(manifest, finals, results.__getitem__, tmp_path / "adapter").is_dir()
