"""Workloads over rows: states are blind, results are checked against the trace alone, laws are kept."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads import embed, evaluate, preprocess
from proofyard.workloads.errors import SegmentFailed, StateRefused
from proofyard.workloads.rows import RowsParams, RowsWorkload
from proofyard.workloads.state import TensorSpec, decode_state, encode_state
from proofyard.workloads.text_data import Document
from proofyard.workloads.workload import Inputs, Resources, require_size, task_graph


class Lengths(RowsWorkload):
    """The length of every line, and twice that."""

    name = "lengths"
    params_type = RowsParams
    row_type = Document

    def needs_model(self, params):
        return False

    def columns(self, params):
        return {"length": TensorSpec("I64", ()), "pair": TensorSpec("F32", (2,))}

    def compute(self, manifest, params, inputs, resources):
        def measure(lines):
            lengths = np.array([len(line.text) for line in lines], np.int64)
            with np.errstate(divide="ignore"):
                return {"length": lengths, "pair": np.stack([lengths, 12 / lengths], axis=1).astype(np.float32)}

        return measure

    def package(self, manifest, results, dest):
        return dest


def manifest_of(name, **params):
    return Manifest(workload=name, model=Cid("model"), data=Cid("data"), params=params)


LENGTHS = manifest_of("lengths", rows=11, segment_rows=3, segments=3)


@pytest.fixture
def inputs(tmp_path):
    data = tmp_path / "lines.jsonl"
    data.write_text("\n".join(json.dumps({"text": "x" * n}) for n in range(1, 12)))
    return Inputs(None, data)


def run(workload, manifest, inputs):
    """(task, inputs, states, result) of every task."""
    results, runs = {}, []
    for task in workload.graph(manifest):
        own = Inputs(inputs.model, inputs.data, tuple(results[d] for d in task.deps))
        runner = workload.runner(manifest, task, own, Resources())
        states = [workload.initial_state(manifest, task, own)]
        for index in range(task.segments):
            workload.check_state(manifest, task, index, states[-1])
            states.append(runner.run(index, states[-1], lambda _: None))
        workload.check_state(manifest, task, task.segments, states[-1])
        results[task.index] = workload.result(manifest, task, states.__getitem__)
        trace = [cid_of_bytes(state) for state in states]
        workload.check_result(manifest, task, results[task.index], states[-1], trace)
        runs.append((task, own, states, results[task.index]))
    return runs


def test_a_state_holds_the_rows_of_its_own_segment_and_the_result_all_of_them(inputs):
    runs = run(Lengths(), LENGTHS, inputs)
    lengths = [[decode_state(state)["length"].tolist() for state in states] for _, _, states, _ in runs]
    assert lengths == [
        [[], [1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[], [10, 11]],
    ]
    assert [decode_state(result)["length"].tolist() for *_, result in runs] == [[*range(1, 10)], [10, 11]]


def test_nothing_that_is_computed_depends_on_the_state_before(inputs):
    """An auditor that is handed another valid state before, or a worker that resumes from one, gives the same bytes."""
    workload = Lengths()
    task, own, states, _ = run(workload, LENGTHS, inputs)[0]
    other = encode_state({"length": np.full(3, 77, np.int64), "pair": np.ones((3, 2), np.float32)})
    workload.check_state(LENGTHS, task, 1, other)
    runner = workload.runner(LENGTHS, task, own, Resources())
    assert runner.run(1, other, lambda _: None) == states[2] == runner.run(1, states[1], lambda _: None)
    with pytest.raises(StateRefused):
        runner.run(1, states[0], lambda _: None)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda t: {"length": t["length"].reshape(1, -1), "pair": t["pair"]}, "expected I64"),
        (lambda t: {"length": t["length"], "pair": t["pair"].reshape(-1, 1)}, "expected F32"),
        (lambda t: {"length": t["length"].astype(np.int32), "pair": t["pair"]}, "expected I64"),
        (lambda t: {"length": t["length"]}, "missing"),
        (lambda t: {**t, "extra": t["length"]}, "does not belong"),
        (lambda t: {name: array[:-1] for name, array in t.items()}, "expected"),
        (lambda t: {**t, "pair": np.full_like(t["pair"], np.nan)}, "NaN"),
        (lambda t: {**t, "pair": np.full_like(t["pair"], np.inf)}, "infinite"),
    ],
)
def test_a_table_of_another_shape_is_no_state_and_no_result(inputs, alter, reason):
    workload = Lengths()
    for task, _, states, result in run(workload, LENGTHS, inputs):
        trace = [cid_of_bytes(state) for state in states]
        for number in range(1, len(states)):
            with pytest.raises(StateRefused, match=reason):
                workload.check_state(LENGTHS, task, number, encode_state(alter(dict(decode_state(states[number])))))
        with pytest.raises(StateRefused):
            changed = encode_state(alter(dict(decode_state(result))))
            workload.check_result(LENGTHS, task, changed, states[-1], trace)


def test_a_result_with_one_changed_bit_names_the_segment(inputs):
    workload = Lengths()
    task, _, states, result = run(workload, LENGTHS, inputs)[0]
    trace = [cid_of_bytes(state) for state in states]
    for row in range(9):
        table = {name: np.array(array) for name, array in decode_state(result).items()}
        table["length"][row] ^= 1
        with pytest.raises(StateRefused, match=f"segment {row // 3} are not those of state {row // 3 + 1}"):
            workload.check_result(LENGTHS, task, encode_state(table), states[-1], trace)


def test_states_that_do_not_exist_are_refused(inputs):
    workload = Lengths()
    task, _, states, _ = run(workload, LENGTHS, inputs)[0]
    for number in (-1, 4):
        with pytest.raises(StateRefused, match="states 0 to 3"):
            workload.check_state(LENGTHS, task, number, states[-1])
    with pytest.raises(StateRefused):
        workload.check_state(LENGTHS, task, 0, states[-1])


def test_outputs_that_are_no_numbers_are_a_failure_of_the_segment(tmp_path):
    data = tmp_path / "lines.jsonl"
    data.write_text("\n".join(json.dumps({"text": "x" * n}) for n in (3, 0)))
    manifest = manifest_of("lengths", rows=2, segment_rows=1, segments=2)
    workload, inputs = Lengths(), Inputs(None, data)
    task = workload.graph(manifest)[0]
    runner = workload.runner(manifest, task, inputs, Resources())
    state = runner.run(0, workload.initial_state(manifest, task, inputs), lambda _: None)
    with pytest.raises(SegmentFailed, match="segment 1") as failed:
        runner.run(1, state, lambda _: None)
    assert failed.value.defined


def test_the_tables_of_a_job_are_read_one_by_one_in_order_and_checked(inputs):
    workload = Lengths()
    (_, _, _, one), (_, _, _, other) = run(workload, LENGTHS, inputs)
    read = []

    def results(task):
        read.append(task)
        return (one, other)[task]

    tables = workload.tables(LENGTHS, results)
    assert next(tables)["length"].tolist() == [*range(1, 10)] and read == [0]
    assert next(tables)["length"].tolist() == [10, 11] and next(tables, None) is None
    for wrong in ((other, one), (one, one)):
        with pytest.raises(StateRefused):
            list(workload.tables(LENGTHS, wrong.__getitem__))


def test_a_job_of_as_many_tasks_as_there_may_be_is_packaged_from_small_reads(tmp_path):
    """Nothing that is read, held or sent names all results at once."""
    manifest = manifest_of("embed", rows=100_000, segment_rows=1, segments=1, dimensions=1, normalize=False)
    tasks = embed.WORKLOAD.finals(manifest)
    assert len(tasks) == len(task_graph(embed.WORKLOAD, manifest)) == 100_000
    rows = (encode_state({"embedding": np.array([[n]], np.float32)}) for n in range(len(tasks)))
    folder = embed.WORKLOAD.package(manifest, lambda _: next(rows), tmp_path / "out")
    vectors = decode_state((folder / "embeddings.safetensors").read_bytes())["embedding"]
    assert np.array_equal(vectors[:, 0], np.arange(100_000))


EVALUATE = manifest_of("evaluate", rows=4, segment_rows=2, segments=2, choices=2, max_tokens=64)


def answers(**changes):
    table = {
        "answer": np.array([0, 1], np.int64),
        "nll": np.array([[1.5, 2.5], [0.0, 3.0]]),
        "tokens": np.array([[3, 4], [0, 64]], np.int64),
    }
    return encode_state(table | changes)


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"nll": np.array([[1.5, 2.5], [0.0, -1e-9]])}, "nll"),
        ({"nll": np.array([[1.5, 2.5], [1e-9, 3.0]])}, "nll"),
        ({"nll": np.array([[1e300, 2.5], [0.0, 3.0]])}, "nll"),
        ({"nll": np.array([[np.nan, 2.5], [0.0, 3.0]])}, "nll"),
        ({"tokens": np.array([[3, 4], [-1, 64]], np.int64)}, "tokens"),
        ({"tokens": np.array([[3, 4], [0, 65]], np.int64)}, "tokens"),
        ({"answer": np.array([0, 2], np.int64)}, "answer"),
        ({"answer": np.array([-1, 1], np.int64)}, "answer"),
        ({"nll": np.array([1.5, 2.5, 0.0, 3.0])}, "nll"),
    ],
)
def test_an_evaluation_that_nothing_computes_is_refused(changes, tensor):
    workload = evaluate.WORKLOAD
    task = workload.graph(EVALUATE)[0]
    workload.check_state(EVALUATE, task, 1, answers())
    with pytest.raises(StateRefused) as refused:
        workload.check_state(EVALUATE, task, 1, answers(**changes))
    assert refused.value.tensor == tensor


def test_an_evaluation_is_summed_up_over_all_tables(tmp_path):
    manifest = manifest_of("evaluate", rows=8, segment_rows=2, segments=1, choices=2, max_tokens=64)
    folder = evaluate.WORKLOAD.package(manifest, lambda _: answers(), tmp_path)
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["loss"] == (1.5 + 3.0) / (3 + 64)
    assert (summary["rows"], summary["accuracy"]) == (8, 0.5)
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert lines == [{"nll": [1.5, 2.5], "tokens": [3, 4]}, {"nll": [0.0, 3.0], "tokens": [0, 64]}] * 4


def test_even_the_largest_losses_can_be_summed_up(tmp_path):
    """What passes as a result can be packaged by everybody: a sum that overflows would end a job for nobody's fault."""
    table = {"nll": np.full((4, 2), 64 * 2.0**128), "tokens": np.full((4, 2), 64), "answer": np.zeros(4, np.int64)}
    result = encode_state(table)
    folder = evaluate.WORKLOAD.package(EVALUATE, lambda _: result, tmp_path)
    assert json.loads((folder / "evaluation.json").read_text())["loss"] == 2.0**128


def embedding(vectors, **changes):
    manifest = manifest_of("embed", rows=2, segment_rows=2, segments=1, dimensions=3, **changes)
    task = embed.WORKLOAD.graph(manifest)[0]
    embed.WORKLOAD.check_state(manifest, task, 1, encode_state({"embedding": np.array(vectors, np.float32)}))


def test_vectors_are_of_length_one_or_nothing():
    embedding([[1, 0, 0], [0.6, 0, 0.8]])
    embedding([[0, 0, 0], [1e-16, -1e-20, 0]])
    embedding([[7, 0, 0], [3e38, 3e38, 3e38]], normalize=False)
    for vector in ([0.99, 0, 0], [1.01, 0, 0], [1e-3, 0, 0], [3e38, 3e38, 3e38]):
        with pytest.raises(StateRefused, match="length"):
            embedding([[1, 0, 0], vector])


MAP = manifest_of("map", rows=4, segment_rows=2, segments=2, min_characters=3)


def lines_of(tmp_path, *texts):
    data = tmp_path / "raw.jsonl"
    data.write_text("\n".join(json.dumps({"text": text, "shard": str(n)}) for n, text in enumerate(texts)))
    return Inputs(None, data)


def test_ragged_tables_are_cut_into_their_states_again(tmp_path):
    workload = preprocess.WORKLOAD
    inputs = lines_of(tmp_path, "one two", "no", "one two", "three \u20ac four")
    ((task, _, states, result),) = run(workload, MAP, inputs)
    assert [decode_state(state)["records"].tolist() for state in states] == [[], [1, 0], [1, 1]]
    assert decode_state(result)["records"].tolist() == [1, 0, 1, 1]
    folder = workload.package(MAP, lambda _: result, tmp_path / "out")
    texts = [json.loads(line)["text"] for line in (folder / "data.jsonl").read_text().splitlines()]
    assert texts == ["one two", "three \u20ac four"]
    trace = [cid_of_bytes(state) for state in states]
    moved = workload.join_tables([workload.cut_table(decode_state(result), range(2, 4)), decode_state(states[1])])
    with pytest.raises(StateRefused, match="rows of segment 0"):
        workload.check_result(MAP, task, encode_state(moved), states[-1], trace)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ends": [10**9]}, "fit the text"),
        ({"ends": [0]}, "fit the text"),
        ({"ends": [-5]}, "fit the text"),
        ({"records": [1, 1]}, "fit the records"),
        ({"records": [2, -1]}, "fit the records"),
        ({"records": [1 << 62, 1 << 62]}, "fit the records"),
        ({"records": [1]}, "counts 1 lines, expected 2"),
        ({"ends": [[10]]}, "flat"),
        ({"text": [123]}, "fit the text"),
        ({"rows": [1]}, "expected flat tensors"),
    ],
)
def test_a_ragged_table_that_does_not_fit_together_is_refused(tmp_path, changes, reason):
    workload = preprocess.WORKLOAD
    task, _, states, _ = run(workload, MAP, lines_of(tmp_path, "one two", "no", "one two", "three"))[0]
    tensors = dict(decode_state(states[1]))
    for name, values in changes.items():
        tensors[name] = np.array(values, np.uint8 if name == "text" else np.int64)
    with pytest.raises(StateRefused, match=reason):
        workload.check_state(MAP, task, 1, encode_state(tensors))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=60) | st.text(min_size=1, max_size=20).map(lambda text: text.encode()))
def test_a_record_that_is_no_document_is_refused_before_anybody_packages_it(record):
    """Whatever passes can be packaged without an error; nothing else passes."""
    workload = preprocess.WORKLOAD
    manifest = manifest_of("map", rows=1, segment_rows=1, segments=1)
    (task,) = workload.graph(manifest)
    table = {"text": np.frombuffer(record, np.uint8), "ends": np.array([len(record)]), "records": np.array([1])}
    with pytest.raises(StateRefused, match="no document"):
        workload.check_state(manifest, task, 1, encode_state(table))
    plain = json.dumps({"shard": "", "text": record.decode("latin-1")}, ensure_ascii=False, sort_keys=True).encode()
    table |= {"text": np.frombuffer(plain, np.uint8), "ends": np.array([len(plain)])}
    workload.check_state(manifest, task, 1, encode_state(table))
    with TemporaryDirectory() as folder:
        made = workload.package(manifest, lambda _: encode_state(table), Path(folder) / "out") / "data.jsonl"
        assert made.read_bytes() == plain + b"\n"


@pytest.mark.parametrize(
    "record", [b'{"shard":"","text":"a"}', b'{"shard": "", "text": "\\ud800"}', b"[]", b"1", b"[" * 5000]
)
def test_records_in_another_form_are_refused(record):
    table = {"text": np.frombuffer(record, np.uint8), "ends": np.array([len(record)]), "records": np.array([1])}
    manifest = manifest_of("map", rows=1, segment_rows=1, segments=1)
    with pytest.raises(StateRefused, match="no document"):
        preprocess.WORKLOAD.check_state(manifest, preprocess.WORKLOAD.graph(manifest)[0], 1, encode_state(table))


def test_what_a_workload_cannot_make_is_refused_by_its_size():
    workload = Lengths()
    manifest = manifest_of("lengths", rows=100_000, segment_rows=50_000, segments=2)
    task = task_graph(workload, manifest)[0]
    whole = encode_state({"length": np.zeros(100_000, np.int64), "pair": np.zeros((100_000, 2), np.float32)})
    require_size(workload, manifest, task, len(whole), "the result")
    with pytest.raises(StateRefused, match="the result has"):
        require_size(workload, manifest, task, 8 * len(whole), "the result")
