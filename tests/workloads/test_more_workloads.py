"""Embedding, evaluating, preprocessing and sweeping: each as a whole job on a tiny model."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob, EvaluateJob, MapJob, SweepJob
from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_tensors import adapter_schema, put, result_schema
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.sweep import candidate_manifest
from proofyard.workloads.text_data import read_documents
from proofyard.workloads.tiny import write_tiny_corpus
from proofyard.workloads.workload import Inputs, Resources, load_workload


def manifest_of(name, **params):
    return Manifest(workload=name, model=Cid("model"), data=Cid("data"), seed=3, params=params)


def run_job(manifest, inputs, resources=None):
    """Every task in order, through the interface alone. Returns (task, states) pairs and the results."""
    workload = load_workload(manifest.workload)
    results, runs = {}, []
    for task in workload.graph(manifest):
        own = Inputs(inputs.model, inputs.data, tuple(results[d] for d in task.deps))
        states = [workload.initial_state(manifest, task, own)]
        runner = workload.runner(manifest, task, own, resources or Resources())
        for index in range(task.segments):
            workload.check_state(manifest, task, index, states[-1])
            states.append(runner.run(index, states[-1], lambda _: None))
        results[task.index] = workload.result(manifest, task, states.__getitem__)
        trace = [cid_of_bytes(state) for state in states]
        workload.check_result(manifest, task, results[task.index], states[-1], trace)
        runs.append((task, states))
    return runs, results.__getitem__


def embed_manifest(**changes):
    params = {"rows": 100, "segment_rows": 16, "segments": 4, "dimensions": 64, "max_tokens": 32}
    return manifest_of("embed", **params | changes)


def test_every_line_gets_its_vector_whatever_the_cut(tiny, tmp_path):
    manifest = embed_manifest()
    runs, results = run_job(manifest, tiny)
    assert [(task.kind, task.segments) for task, _ in runs] == [("compute", 4), ("compute", 3)]
    folder = load_workload("embed").package(manifest, results, tmp_path / "out")
    vectors = load_file(folder / "embeddings.safetensors")["embedding"]
    assert vectors.shape == (100, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    whole = embed_manifest(segment_rows=100, segments=1)
    _, one_by_one = run_job(whole, tiny, Resources(micro_batch=1))
    again = load_workload("embed").package(whole, one_by_one, tmp_path / "again")
    assert (again / "embeddings.safetensors").read_bytes() == (folder / "embeddings.safetensors").read_bytes()
    assert one_by_one(0) == (folder / "embeddings.safetensors").read_bytes()


def test_each_state_has_the_rows_of_its_segment_and_the_last_one_may_be_short(tiny):
    (_, states), (_, rest) = run_job(embed_manifest(), tiny)[0]
    assert [len(decode_state(state)["embedding"]) for state in (*states, *rest)] == [0, 16, 16, 16, 16, 0, 16, 16, 4]


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("embed", {"rows": 0}, "rows"),
        ("embed", {"dimensions": 0}, "dimensions"),
        ("embed", {"pooling": "max"}, "pooling"),
        ("embed", {"rows": 1 << 39}, "segments"),
        ("embed", {"colour": 1}, "colour"),
    ],
)
def test_bad_parameters_are_refused_by_name(name, changes, field):
    with pytest.raises(ManifestRefused, match=field):
        load_workload(name).graph(embed_manifest(**changes))


def test_a_data_file_of_another_length_and_a_model_of_another_size_are_refused(tiny):
    with pytest.raises(InputRefused, match="100 lines"):
        run_job(embed_manifest(rows=99), tiny)
    with pytest.raises(InputRefused, match="64 numbers"):
        run_job(embed_manifest(dimensions=65), tiny)


def test_evaluation_gives_the_models_perplexity(tiny, tmp_path):
    manifest = manifest_of("evaluate", rows=100, segment_rows=30, segments=2, max_tokens=64)
    _, results = run_job(manifest, tiny)
    folder = load_workload("evaluate").package(manifest, results, tmp_path / "out")
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["rows"] == 100
    assert summary["perplexity"] == pytest.approx(math.exp(summary["loss"]))
    assert 5 < summary["loss"] < 7
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 100


def test_multiple_choice_is_scored_by_the_choices_alone(tiny, tmp_path):
    data = tmp_path / "questions.jsonl"
    lines = [{"text": f"question {n}", "choices": ["aaa", "zz"], "answer": n % 2} for n in range(4)]
    data.write_text("\n".join(json.dumps(line) for line in lines))
    manifest = manifest_of("evaluate", rows=4, segment_rows=2, segments=2, choices=2)
    _, results = run_job(manifest, Inputs(tiny.model, data))
    np.testing.assert_array_equal(decode_state(results(0))["tokens"], [[3, 2]] * 4)
    folder = load_workload("evaluate").package(manifest, results, tmp_path / "out")
    assert json.loads((folder / "evaluation.json").read_text())["accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    with pytest.raises(InputRefused, match=r"params\.choices says 3"):
        run_job(manifest_of("evaluate", rows=4, segment_rows=2, segments=2, choices=3), Inputs(tiny.model, data))


def test_preprocessing_filters_chunks_and_keeps_the_first_of_equal_texts(tiny, tmp_path):
    data = tmp_path / "raw.jsonl"
    texts = ["one  two\nthree four", "no", "one two three four", "x" * 500, "five six seven"]
    data.write_text("\n".join(json.dumps({"text": text, "shard": str(n)}) for n, text in enumerate(texts)))
    manifest = manifest_of(
        "map", rows=5, segment_rows=1, segments=2, min_characters=3, max_characters=100, chunk_tokens=10
    )
    workload = load_workload("map")
    runs, results = run_job(manifest, Inputs(tiny.model, data))
    folder = workload.package(manifest, results, tmp_path / "out")
    documents = read_documents(folder / "data.jsonl")
    assert [(d.text, d.shard) for d in documents] == [
        ("one two", "0"),
        ("three", "0"),
        ("four", "0"),
        ("five six", "4"),
        ("seven", "4"),
    ]
    assert [decode_state(results(n))["records"].tolist() for n in range(3)] == [[3, 0], [3, 0], [2]]
    assert [decode_state(state)["records"].tolist() for state in runs[0][1]] == [[], [3], [0]]


def test_preprocessing_whole_texts_needs_no_model(tmp_path):
    data = write_tiny_corpus(tmp_path / "corpus.jsonl", labels=1, documents=3)
    manifest = msgspec.structs.replace(manifest_of("map", rows=3, segment_rows=2, segments=2), model=None)
    _, results = run_job(manifest, Inputs(None, data))
    assert decode_state(results(0))["records"].tolist() == [1, 1, 1]


def sweep_manifest(lora_manifest, **params):
    base = {k: v for k, v in lora_manifest().params.items() if k not in ("lr", "rounds", "workers")}
    return manifest_of(
        "sweep", **{"base": base, "vary": {"lr": [1e-9, 0.02], "batch": [2, 4]}, "sequences": 4} | params
    )


def test_a_sweep_ranks_its_candidates_and_delivers_the_best(tiny, lora_manifest, tmp_path):
    """One of them trains B alone, and is scored and delivered with its A."""
    base = lora_manifest(aggregation="ffa").params
    manifest = sweep_manifest(
        lora_manifest, base={k: v for k, v in base.items() if k not in ("lr", "rounds", "workers")}
    )
    runs, results = run_job(manifest, tiny)
    assert [task.kind for task, _ in runs] == ["train", "score"] * 4
    assert runs[0][0].label == "train batch 2, lr 1e-09"
    folder = load_workload("sweep").package(manifest, results, tmp_path / "out")
    ranking = json.loads((folder / "ranking.json").read_text())
    assert [row["params"]["lr"] for row in ranking] == [0.02, 0.02, 1e-9, 1e-9]
    assert ranking[0]["loss"] < ranking[-1]["loss"]
    assert {file.name for file in (folder / "best").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}


def result_of(loss):
    return encode_state({"loss": np.array(loss)})


def test_a_ranking_follows_from_the_scores_and_delivers_the_first_of_the_best(lora_manifest, tmp_path):
    manifest = sweep_manifest(lora_manifest)
    schema = result_schema(read_params(candidate_manifest(manifest, 0)), 0)
    losses, read = (2.0, 1.5, 1.5, 3.0), []

    def results(task):
        read.append(task)
        number = task // 2
        if task % 2:
            return result_of(losses[number])
        return encode_state({name: np.full(spec.shape, number, np.float32) for name, spec in schema.items()})

    folder = load_workload("sweep").package(manifest, results, tmp_path)
    ranking = json.loads((folder / "ranking.json").read_text())
    assert [(row["candidate"], row["loss"]) for row in ranking] == [(1, 1.5), (2, 1.5), (0, 2.0), (3, 3.0)]
    assert all((array == 1).all() for array in load_file(folder / "best" / "adapter_model.safetensors").values())
    assert read == [1, 3, 5, 7, 2]
    assert set(read) <= set(load_workload("sweep").finals(manifest))


def test_a_score_is_checked(lora_manifest):
    manifest = sweep_manifest(lora_manifest)
    workload = load_workload("sweep")
    task = workload.graph(manifest)[1]
    adapter = adapter_schema(read_params(candidate_manifest(manifest, 0)))
    before = put({name: np.zeros(spec.shape, np.float32) for name, spec in adapter.items()}, "adapter")
    for loss, fine in ((0.0, True), (2.5, True), (-0.1, False), (math.inf, False)):
        state = encode_state(before | {"loss": np.array(loss)})
        if fine:
            workload.check_state(manifest, task, 1, state)
            workload.check_result(manifest, task, result_of(loss), state, [])
            with pytest.raises(StateRefused, match="not what"):
                workload.check_result(manifest, task, result_of(loss + 1), state, [])
        else:
            with pytest.raises(StateRefused):
                workload.check_state(manifest, task, 1, state)
            with pytest.raises(StateRefused):
                workload.package(manifest, lambda _, loss=loss: result_of(loss), Path("nowhere"))
    with pytest.raises(StateRefused, match="does not belong"):
        workload.check_state(manifest, task, 0, encode_state(before | {"loss": np.array(1.0)}))


def test_a_random_search_draws_different_candidates(lora_manifest):
    workload = load_workload("sweep")
    manifest = sweep_manifest(lora_manifest, vary={"lr": [0.1 * n for n in range(1, 11)], "batch": [1, 2]}, samples=6)
    labels = [task.label for task in workload.graph(manifest) if task.kind == "train"]
    assert len(set(labels)) == 6
    assert labels == [task.label for task in workload.graph(manifest) if task.kind == "train"]


@pytest.mark.parametrize(
    ("vary", "field"),
    [
        ({"rank": [1, 2]}, "rank"),
        ({"lr": [-1.0]}, "lr of candidate 0"),
        ({"moon": [1]}, "moon"),
        ({"lr": []}, "vary"),
        ({"lr": [n / 1e6 for n in range(1000)], "clip": [n / 1e3 for n in range(1, 1001)]}, "1000000 candidates"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused_by_field(lora_manifest, vary, field):
    with pytest.raises(ManifestRefused, match=field):
        load_workload("sweep").check(sweep_manifest(lora_manifest, vary=vary))


def test_job_specs_make_manifests_that_the_workloads_accept(tiny, tmp_path):
    model, data = tiny.model, tiny.data
    jobs = [
        EmbedJob(model=model, data=data),
        EvaluateJob(model=model, data=data, segment_rows=10),
        MapJob(data=data),
        SweepJob(model=model, data=data, vary={"lr": [1e-3, 1e-2]}, base={"seq_len": 32}),
    ]
    tasks = [len(load_workload(m.workload).graph(m)) for m in (job.manifest(Cid("model"), Cid("data")) for job in jobs)]
    assert tasks == [1, 2, 1, 4]
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InputRefused, match="no line"):
        MapJob(data=empty).manifest(None, Cid("data"))
    with pytest.raises(InputRefused, match="cannot be read"):
        MapJob(data=tmp_path / "nothing").manifest(None, Cid("data"))
