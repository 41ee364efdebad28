"""Epochs of a data set in rounds, segments and steps: measured once, told, and never less than was asked for."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.cid import make_cid
from proofyard.protocol.manifest import MAX_TASKS
from proofyard.protocol.types import Digest
from proofyard.sdk import JobRefused, LoraJob
from proofyard.sdk.epochs import training_length
from proofyard.sdk.specs import check_spec
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.rehearsal import count_training_rows
from proofyard.workloads.text_data import Documents, pack, shard
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

SOME = make_cid(Digest(bytes(32)))
PARAMS = LoraParams(
    modules={"a": (8, 8)},
    rank=1,
    alpha=1.0,
    lr=0.1,
    rounds=1,
    workers=4,
    segments=4,
    segment_steps=2,
    batch=4,
    seq_len=16,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("epochs") / "model")


@pytest.fixture
def job(model: Path, tmp_path: Path) -> LoraJob:
    return LoraJob(model=model, data=write_tiny_corpus(tmp_path / "text.jsonl"), batch=2, seq_len=32)


def write(path: Path, documents: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, documents)) + "\n")
    return path


CONVERSATIONS = [
    {"text": "x" * (1 + number % 14), "trained": [[0, 1]] if number % 4 else []} for number in range(90)
] + [{"text": "plain " * (number % 4)} for number in range(9)]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["text", "conversations", "both", "last"])
def test_rows_are_counted_as_they_are_packed(kind: str, workers: int, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    if kind == "text":
        write_tiny_corpus(data, documents=7)
    else:
        write(data, {"conversations": CONVERSATIONS[:90], "both": CONVERSATIONS, "last": CONVERSATIONS[::-1]}[kind])
    params = LoraJob(model=model, data=data, workers=workers, seq_len=16, rounds=1)._params()
    found = count_training_rows(model, data, params)
    documents = Documents(data, params.holdout_percent)
    packed = [len(pack(shard(documents, workers, each, params.shard_by), model, 16)) for each in range(workers)]
    assert found.of_workers == tuple(packed)
    assert found.documents == len(list(documents))


@settings(deadline=None)
@given(st.floats(1e-3, 50), st.integers(1, 100_000), st.integers(1, 8), st.integers(1, 64), st.integers(1, 64))
def test_training_is_as_long_as_was_asked_for_and_little_longer(
    epochs: float, rows: int, workers: int, segments: int, segment_steps: int
) -> None:
    import msgspec

    params = msgspec.structs.replace(PARAMS, workers=workers, segments=segments, segment_steps=segment_steps)
    try:
        length = training_length(epochs, rows, params)
    except JobRefused as error:
        assert f"at most {MAX_TASKS:,}" in str(error)
        return
    assert length.segments <= segments
    assert length.segment_steps <= segment_steps
    assert length.trained >= epochs * (1 - 1e-9)
    steps = math.ceil(epochs * rows / (workers * params.batch))
    assert steps <= length.rounds * length.segments * length.segment_steps
    assert length.rounds * length.segments * length.segment_steps < steps + length.rounds * (segments + 1)


def test_what_a_job_is_made_of_is_told_before_it_is_paid(job: LoraJob) -> None:
    half, told = replace(job, epochs=0.5).measured()
    assert half.epochs is None
    assert told.startswith("0.5 epochs of 9")
    twice, told = replace(job, epochs=2).measured()
    words = f"{twice.rounds} rounds of 4 tasks, each {twice.segments} segments of 2 steps of 2 sequences of 32 tokens"
    assert told.endswith(words)
    assert twice.manifest(SOME, SOME) == replace(job, epochs=2.0).manifest(SOME, SOME)
    assert twice.rounds is not None and half.rounds is not None and half.rounds < twice.rounds


def test_a_small_data_set_makes_a_round_shorter(job: LoraJob) -> None:
    short = replace(job, epochs=1, workers=4, segments=64, segment_steps=64).measured()[0]
    assert (short.rounds, short.segments) == (1, 57) or short.segments * short.segment_steps < 64 * 64


def test_nothing_is_measured_where_nobody_speaks_of_epochs(job: LoraJob) -> None:
    assert job.measured() == (job, "")
    assert job.manifest(SOME, SOME).params["rounds"] == 2


def test_epochs_and_rounds_are_one_thing(job: LoraJob) -> None:
    with pytest.raises(JobRefused, match=r"epochs: is 2, and rounds is 3; .*give one of them"):
        replace(job, epochs=2, rounds=3).manifest(SOME, SOME)


@pytest.mark.parametrize("epochs", [0, -1, float("nan"), float("inf"), 1e9])
def test_what_is_no_number_of_epochs_is_refused(epochs: float, job: LoraJob) -> None:
    with pytest.raises(JobRefused, match=r"epochs: is .*give a number from above 0"):
        replace(job, epochs=epochs).measured()


def test_more_tasks_than_a_job_may_have_are_refused_by_the_name_of_epochs(job: LoraJob) -> None:
    with pytest.raises(JobRefused, match=r"epochs: 1000 of this data make .* raise batch, segments"):
        replace(job, epochs=1000, segments=1, segment_steps=1).measured()


def test_data_that_cannot_be_read_is_refused_as_ever(job: LoraJob, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="line 1"):
        replace(job, epochs=1, data=write(tmp_path / "bad.jsonl", [{"text": 5}])).measured()


@pytest.mark.parametrize("epochs", ["2", True, [2]])
def test_epochs_are_numbers(epochs: Any, job: LoraJob) -> None:
    with pytest.raises(JobRefused, match=r"epochs: is .*give a number"):
        check_spec(replace(job, epochs=epochs))
