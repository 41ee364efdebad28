"""A job that goes on from another one's round: the same bits as one that never paused, and what is refused."""

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from proofyard.protocol.closing import ClosedRound, Taken
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_params import Begins, read_params
from proofyard.workloads.lora_rounds import encode_start, start_of_round
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.sweep import WORKLOAD as SWEEP
from proofyard.workloads.workload import Inputs, Resources, begins, carried_by, task_graph

NONE = {"outer": "none"}
SHORT = {"segments": 1, "segment_steps": 1, "rounds": 3, "batch": 2, "seq_len": 16}
METHODS = {
    "fedit": {"outer_lr": 0.7, "outer_momentum": 0.5, "warmup_steps": 2, "lr_end": 0.1},
    "ffa": {"aggregation": "ffa", "ranks": [2, 4]} | NONE,
    "fedex": {"aggregation": "fedex"} | NONE,
    "flora": {"aggregation": "flora", "merged_rank": 6} | NONE,
    "closing": {"aggregation": "ffa", "closing": {"quorum": 1, "timeout_s": 60}} | NONE,
}


class Job:
    """A job executed here, from `start` where it goes on: results of its tasks."""

    def __init__(self, manifest, tiny, start=None):
        self.manifest, self.params, self.results, self._lasts = manifest, read_params(manifest), {}, {}
        rounds = range(self.params.rounds - self.params.begun) if self.params.closing else ()
        self.graph = task_graph(WORKLOAD, manifest, [in_time(number, self.params.workers) for number in rounds])
        for task in self.graph:
            given = tuple(self.results[dep] for dep in task.deps)
            carried = tuple(self._lasts[task.index - self.params.workers] for _ in self._named(task, given))
            inputs = Inputs(tiny.model, tiny.data, given, start, carried)
            states = [WORKLOAD.initial_state(manifest, task, inputs)]
            runner = WORKLOAD.runner(manifest, task, inputs, Resources())
            for index in range(task.segments):
                states.append(runner.run(index, states[-1], lambda progress: None))
            for number, state in enumerate(states):
                WORKLOAD.check_state(manifest, task, number, state)
                assert len(state) <= WORKLOAD.max_bytes(manifest, task)
            self.results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
            self._lasts[task.index] = states[-1]

    def _named(self, task, given):
        return carried_by(WORKLOAD, self.manifest, task, given)

    def start(self, number, place=0):
        """What round `number` starts from, whose results begin at task `place`."""
        given = [self.results[at] for at in range(place, place + self.params.workers)]
        return start_of_round(self.params, self.manifest.seed, given, number)

    def final(self):
        results = [self.results[task] for task in WORKLOAD.finals(self.manifest)]
        return start_of_round(self.params, self.manifest.seed, results, self.params.rounds)


def in_time(number, workers):
    """A round that took all of its own."""
    tasks = range(number * workers, (number + 1) * workers)
    return ClosedRound(number, 0, tuple(Taken(TaskIndex(task), 0) for task in tasks), ())


def going_on(manifest, start, number, **changes):
    """The manifest of a job that goes on from round `number`."""
    within = max(float(np.abs(array).max()) for array in start.outer.values())
    begin = Begins(round=number, within=within, chain_id=1, registry="0x" + "1" * 40, job="7")
    params = manifest.params | changes | {"begins": to_builtins(begin)}
    return replace(manifest, params=params, adapter=Cid("start"))


def written(folder, start):
    (folder / "start").write_bytes(encode_start(start))
    return folder / "start"


@pytest.mark.parametrize("method", METHODS)
def test_a_job_that_pauses_ends_in_the_bits_of_one_that_does_not(method, tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(**SHORT, **METHODS[method])
    whole = Job(manifest, tiny)
    paused = whole.start(1)
    rest = Job(going_on(manifest, paused, 1), tiny, written(tmp_path, paused))
    assert [task.label for task in rest.graph] == [task.label for task in whole.graph[2:]]
    assert [task.deps for task in rest.graph] == [(), (), (0, 1), (0, 1)]
    assert [begins(WORKLOAD, rest.manifest, task) for task in rest.graph] == [True, True, False, False]
    assert list(rest.results.values()) == list(whole.results.values())[2:]
    assert encode_start(rest.final()) == encode_start(whole.final())


@pytest.mark.parametrize("closing", [None, {"quorum": 1, "timeout_s": 60}])
def test_small_deltas_go_on_without_what_was_left_out(closing, tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(**SHORT, compression="sign", aggregation="ffa", outer="none", closing=closing)
    paused = Job(manifest, tiny).start(1)
    rest = Job(going_on(manifest, paused, 1), tiny, written(tmp_path, paused))
    first = decode_state(rest.results[0])
    assert any(name.startswith("base.") for name in first) and not any(
        name.startswith("base.") for name in decode_state(rest.results[2])
    )
    finals = (2, 3, 0, 1) if closing else (0, 1, 2, 3)
    assert rest.final().adapter and WORKLOAD.finals(rest.manifest) == finals


def test_a_late_delta_is_taken_over_where_a_job_goes_on(tiny, lora_manifest, tmp_path):
    """Its tasks are counted from its own first round."""
    closing = {"quorum": 1, "timeout_s": 60}
    manifest = lora_manifest(**SHORT, compression="sign", aggregation="ffa", outer="none", closing=closing)
    paused = Job(manifest, tiny).start(1)
    rest = going_on(manifest, paused, 1, rounds=4)
    job = Job(rest, tiny, written(tmp_path, paused))
    rounds = WORKLOAD.rounds(rest)
    assert (rounds.rounds, rounds.key_rounds) == (3, WORKLOAD.rounds(manifest).key_rounds)
    taken = [TaskIndex(task) for task in (1, 2, 0)]  # the second round took the first one's task 1 late
    start = start_of_round(job.params, rest.seed, [job.results[task] for task in taken], 3, tasks=taken)
    assert start.adapter
    with pytest.raises(StateRefused, match="cannot rest on"):
        start_of_round(job.params, rest.seed, [job.results[task] for task in taken], 2, tasks=taken)


def test_another_learning_rate_keeps_the_laws_of_where_it_goes_on(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(**SHORT)
    paused = Job(manifest, tiny).start(2, 2)
    rest = Job(going_on(manifest, paused, 2, lr=1e-6, workers=1), tiny, written(tmp_path, paused))
    assert len(rest.graph) == 1
    low = going_on(manifest, paused, 2, lr=1e-6, workers=1)
    low.params["begins"]["within"] /= 2
    with pytest.raises(StateRefused, match=r"begins\.within"):
        WORKLOAD.initial_state(low, task_graph(WORKLOAD, low)[0], Inputs(adapter=tmp_path / "start"))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("round", 3, "params.rounds is 3, of which 3 were done"),
        ("round", 0, "params.begins.round"),
        ("within", 0.0, "params.begins.within"),
        ("within", 1e30, "params.begins.within"),
        ("within", float("nan"), "params.begins.within"),
        ("job", "../7", "params.begins.job"),
        ("registry", "0x1", "params.begins.registry"),
        ("more", 1, "params.begins"),
    ],
)
def test_what_is_no_round_to_go_on_from_is_refused_by_name(field, value, reason, lora_manifest):
    manifest = lora_manifest(**SHORT)
    start = start_of_round(read_params(manifest), 7, (), 0)
    wrong = going_on(manifest, start, 1)
    wrong.params["begins"][field] = value
    with pytest.raises(ManifestRefused, match=reason):
        WORKLOAD.check(wrong)


def test_start_and_manifest_belong_together(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(**SHORT)
    start = start_of_round(read_params(manifest), 7, (), 0)
    right = going_on(manifest, start, 1)
    file = written(tmp_path, start)
    WORKLOAD.check_inputs(right, Inputs(tiny.model, tiny.data, adapter=file))
    with pytest.raises(ManifestRefused, match="adapter is missing"):
        WORKLOAD.check(replace(right, adapter=None))
    with pytest.raises(ManifestRefused, match="adapter is given"):
        WORKLOAD.check(replace(manifest, adapter=Cid("start")))
    with pytest.raises(InputRefused, match="was given nothing to go on from"):
        WORKLOAD.check_inputs(right, Inputs(tiny.model, tiny.data))
    tensors = dict(decode_state(file.read_bytes()))
    name = next(iter(tensors))
    for wrong in ({name: np.full_like(tensors[name], np.nan)}, {name: tensors[name][:1]}):
        file.write_bytes(encode_state(tensors | wrong))
        with pytest.raises(InputRefused, match="none that this job can go on from"):
            WORKLOAD.check_inputs(right, Inputs(tiny.model, tiny.data, adapter=file))
    base = {k: v for k, v in right.params.items() if k not in ("rounds", "workers")}
    sweep = replace(right, workload="sweep", params={"base": base, "vary": {"lr": [0.1]}})
    with pytest.raises(ManifestRefused):
        SWEEP.check(sweep)
    with pytest.raises(ManifestRefused):
        SWEEP.check(replace(sweep, adapter=None))


def test_a_job_of_its_own_says_nothing_of_it(lora_manifest):
    params = read_params(lora_manifest())
    assert "begins" not in to_builtins(params) and params.begun == 0
