"""A job's inputs, looked at in the sandbox by whoever has a key."""

import sys
from pathlib import Path

import pytest

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads import inspection, rehearsal
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.errors import ExecutorCrashed, InputRefused
from proofyard.workloads.inspection import check_inputs, training_rows
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import Inputs, load_workload


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    return Inputs(write_tiny_model(folder / "model"), write_tiny_corpus(folder / "text.jsonl", documents=9))


@pytest.fixture
def manifest(inputs: Inputs) -> Manifest:
    assert inputs.model is not None
    params = {
        "modules": linear_modules(inputs.model, ["q_proj"]),
        "rank": 2,
        "alpha": 4.0,
        "lr": 0.01,
        "rounds": 1,
        "workers": 2,
        "segments": 2,
        "segment_steps": 1,
        "batch": 2,
        "seq_len": 16,
    }
    return Manifest(workload="lora", model=Cid("model"), data=Cid("data"), params=params)


def test_it_finds_what_nodes_would_find(inputs: Inputs, manifest: Manifest, tmp_path: Path) -> None:
    check_inputs(manifest, inputs)
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "few words"}\n')
    refusals = []
    for check in (check_inputs, load_workload("lora").check_inputs):
        with pytest.raises(InputRefused) as refusal:
            check(manifest, Inputs(inputs.model, short))
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]


def test_rows_are_counted_there_too(inputs: Inputs, manifest: Manifest) -> None:
    assert inputs.model is not None and inputs.data is not None
    params = read_params(manifest)
    assert training_rows(inputs.model, inputs.data, params) == rehearsal.count_training_rows(
        inputs.model, inputs.data, params
    )


def test_no_tokenizer_is_read_in_this_process(
    inputs: Inputs, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_over(*_: object) -> None:
        raise AssertionError("whoever has the key read it")

    monkeypatch.setattr(rehearsal, "Tokenizer", taken_over)
    check_inputs(manifest, inputs)


@pytest.mark.parametrize("place", ["/", "/etc", "/proc"])
def test_a_folder_that_is_no_model_is_refused(place: str, inputs: Inputs, manifest: Manifest) -> None:
    with pytest.raises(InputRefused, match="holds no model"):
        check_inputs(manifest, Inputs(Path(place), inputs.data))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "ended with code -6"),
        ("print('[' * 100_000)", "ended with code 0"),
        ('print(\'{"error": ["SystemExit", {}]}\')', "does not exist"),
        ('print(\'{"error": ["InputRefused", {"what": 1}]}\')', "does not exist"),
        ("print('{}')", "said something else"),
    ],
)
def test_a_process_that_was_taken_over_is_not_believed(
    code: str, said: str, inputs: Inputs, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = inspection.Sandbox.command

    def other(*given: object, **named: object) -> object:
        found = command(*given, **named)  # type: ignore[arg-type]
        return type(found)((sys.executable, "-c", code))

    monkeypatch.setattr(inspection.Sandbox, "command", other)
    assert inputs.model is not None and inputs.data is not None
    with pytest.raises(ExecutorCrashed, match=said):
        training_rows(inputs.model, inputs.data, read_params(manifest))
