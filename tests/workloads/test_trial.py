"""A requester's model is loaded as nodes load it, before anybody pays, where that is possible."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob, EvaluateJob, JobRefused, LoraJob, MapJob, SweepJob
from proofyard.sdk.preparing import refusing
from proofyard.workloads import trial
from proofyard.workloads.errors import ExecutionError, InputRefused, ModelMisread, OutOfMemory, to_wire
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.trial import try_model
from proofyard.workloads.warmup import Warm

CIDS = (Cid("model"), Cid("data"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tiny_corpus(tmp_path / "text.jsonl")


JOBS: dict[str, Any] = {
    "lora": lambda inputs: LoraJob(**inputs),
    "sweep": lambda inputs: SweepJob(**inputs, vary={"lr": [0.1]}, base={"holdout_percent": 30, "seq_len": 64}),
    "evaluate": lambda inputs: EvaluateJob(**inputs),
    "embed": lambda inputs: EmbedJob(**inputs),
}


@pytest.mark.parametrize("name", JOBS)
def test_weights_that_are_no_numbers_are_found(name: str, model: Path, data: Path) -> None:
    """No header shows it: the files are as they should be."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.inf
    save_file(tensors, file, {"format": "pt"})
    manifest = JOBS[name]({"model": model, "data": data}).manifest(*CIDS)
    with pytest.raises(InputRefused, match=r"numbers in model.layers.1.mlp.up_proj.weight that are not finite"):
        try_model(manifest, model)


@pytest.mark.parametrize("name", ["lora", "embed"])
def test_a_model_that_is_one_passes(name: str, model: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = JOBS[name]({"model": model, "data": data}).manifest(*CIDS)
    try_model(manifest, model)
    assert not caplog.records
    with pytest.MonkeyPatch.context() as patch:
        answering(patch, AssertionError("a model that was tried is known"))
        try_model(manifest, model)


def test_no_model_is_loaded_for_a_tokenizer(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "model.safetensors").unlink()
    manifest = MapJob(model=model, data=data, chunk_tokens=8).manifest(*CIDS)
    monkeypatch.setattr(subprocess, "run", None)
    try_model(manifest, model)


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Manifest(workload="lora", params={}, model=CIDS[0], data=CIDS[1])


def test_it_sees_no_variable_of_whoever_tries_it(
    manifest: Manifest, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}

    def run(*_: Any, env: dict[str, str], **__: Any) -> Any:
        seen.update(env)
        return SimpleNamespace(stdout=b"[null, []]")

    monkeypatch.setenv("PROOFYARD_WALLET_PASSWORD", "secret")
    monkeypatch.setattr(trial.Sandbox, "run", run)
    monkeypatch.setattr(trial, "warm_up", lambda resources: Warm())
    try_model(manifest, model)
    assert "PATH" in seen and "secret" not in seen.values()


def answering(monkeypatch: pytest.MonkeyPatch, output: bytes | Exception) -> None:
    def run(*given: Any, **more: Any) -> Any:
        if isinstance(output, Exception):
            raise output
        return SimpleNamespace(stdout=output)

    monkeypatch.setattr(trial.Sandbox, "run", run)
    monkeypatch.setattr(trial, "warm_up", lambda resources: Warm())


def test_a_model_that_is_misread_is_refused_before_it_is_paid_for(
    model: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, msgspec.json.encode((to_wire(ModelMisread("it computes 30% apart")), [])))
    with (
        pytest.raises(JobRefused, match=r"^model: it computes 30% apart; nothing was published or paid"),
        refusing(),
    ):
        try_model(manifest, model)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"Killed",
        b"[1]",
        subprocess.TimeoutExpired("x", 1),
        msgspec.json.encode((to_wire(OutOfMemory("no room")), [])),
        msgspec.json.encode((to_wire(ExecutionError("transformers cannot load model to check it")), [])),
    ],
)
def test_what_this_machine_alone_lacks_stops_nobody(
    output: Any, model: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answering(monkeypatch, output)
    try_model(manifest, model)
    assert "could not be tried here" in caplog.text


@pytest.mark.parametrize("lack", ["torch", "transformers", "memory"])
def test_where_torch_or_memory_lack_it_is_left_to_nodes(
    lack: str, model: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, AssertionError("nothing is tried"))
    if lack == "memory":
        monkeypatch.setattr(trial.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    else:
        monkeypatch.setattr(trial.importlib.util, "find_spec", lambda name: None if name == lack else object())
    try_model(manifest, model)
