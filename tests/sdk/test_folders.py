"""What leaves a requester's folder, and what comes into one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import transformers

from proofyard.artifacts import BlockStore
from proofyard.protocol.messages import JobReport
from proofyard.protocol.types import Cid, JobId
from proofyard.sdk import DestinationTaken, JobFailed, JobHandle, LoraJob, NoVerifier
from proofyard.sdk.adapters import complete_adapters, require_free
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_tensors import initial_adapter
from proofyard.workloads.model_files import link_model
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

PRIVATE = (
    "optimizer.pt",
    "train_private.csv",
    "hf_token.txt",
    "trainer_state.json",
    "secrets.json",
    "other.safetensors",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def names(store: BlockStore, cid: Cid) -> set[str]:
    folder = store.export(cid, store.path / "out")
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_models_folder_is_published_without_what_is_no_models(model: Path, tmp_path: Path) -> None:
    plain, _ = link_model(BlockStore(tmp_path / "plain"), model)
    for name in (*PRIVATE, ".env"):
        (model / name).write_text("private")
    (model / "checkpoint-500").mkdir()
    (model / "checkpoint-500" / "model.safetensors").write_text("private")
    store = BlockStore(tmp_path / "store")
    cid, left_out = link_model(store, model)
    assert left_out == sorted([".env", "checkpoint-500", *PRIVATE])
    assert cid == plain, "whoever has the model beside other files has the same one"
    assert names(store, cid) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_shards_are_those_of_the_index(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model-00002-of-00001.safetensors").write_text("stray")
    store = BlockStore(tmp_path / "store")
    cid, left_out = link_model(store, model)
    assert left_out == ["model-00002-of-00001.safetensors"]
    assert {"model-00001-of-00001.safetensors", "model.safetensors.index.json"} < names(store, cid)


def test_a_link_of_a_hubs_cache_stands_for_its_file_and_a_change_is_seen(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in model.iterdir():
        (cache / file.name).symlink_to(file)
    store = BlockStore(tmp_path / "store")
    assert link_model(store, cache)[0] == link_model(BlockStore(tmp_path / "other"), model)[0]
    before = link_model(store, model)[0]
    (model / "tokenizer.json").unlink()
    assert link_model(store, model)[0] != before


@pytest.mark.parametrize("held", ["data.jsonl", ".hidden", "folder/"])
def test_a_folder_that_holds_something_is_not_written_to(held: str, tmp_path: Path) -> None:
    require_free(tmp_path / "new", force=False)
    require_free(tmp_path, force=False)
    (tmp_path / held).mkdir() if held.endswith("/") else (tmp_path / held).write_text("mine")
    with pytest.raises(
        DestinationTaken, match=rf"is not empty: it holds {held.rstrip('/')}; name a new or empty folder"
    ):
        require_free(tmp_path, force=False)
    require_free(tmp_path, force=True)


def test_a_file_is_no_folder_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DestinationTaken, match="is a file"):
        require_free(tmp_path / "file", force=True)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_an_adapter_names_the_requesters_model_and_brings_its_tokenizer(model: Path, tmp_path: Path) -> None:
    data = write_tiny_corpus(tmp_path / "text.jsonl")
    manifest = LoraJob(model=model, data=data).manifest(Cid("bafymodel"), Cid("data"))
    adapter = initial_adapter(read_params(manifest), 0)
    folder = export_adapter(manifest, adapter, tmp_path / "adapter", f"ipfs://{manifest.model}")
    complete_adapters(folder, str(model), model)
    assert json.loads((folder / "proofyard.json").read_text()) == {"base_model": "ipfs://bafymodel"}
    assert (folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    loaded: Any = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
    assert loaded.peft_config["default"].base_model_name_or_path == str(model.resolve())
    assert transformers.AutoModelForCausalLM.from_pretrained(folder) is not None
    complete_adapters(folder, "org/name", model)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/name"


class Told:
    """A client whose job is done on chain; `status` is what its verifier says, or why it cannot be asked."""

    def __init__(self, status: Any) -> None:
        self.status, self.packaged = status, list[Any]()
        self.submitted: dict[Any, Any] = {}

    def report(self, job: JobId, since: int) -> Any:
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    def left_of(self, job: JobId) -> str:
        return ""

    def prove(self, job: JobId) -> Any:
        return SimpleNamespace(job=job)

    def package(self, proven: Any, said: Any, dest: Path, on_replace: Any) -> Path:
        self.packaged.append(said)
        return dest


def test_a_paid_result_is_had_while_its_verifier_is_away(tmp_path: Path) -> None:
    away: Any = Told(NoVerifier("away"))
    assert JobHandle(away, JobId(7)).result(tmp_path / "out") == tmp_path / "out"
    assert away.packaged == [None]
    done = JobReport(JobId(7), "done", tasks=1, tasks_valid=1, batches_settled=1, result=Cid("r"), reason="", log=())
    told: Any = Told(done)
    JobHandle(told, JobId(7)).result(tmp_path / "out")
    assert told.packaged == [Cid("r")]
    failed: Any = Told(JobReport(JobId(7), "failed", 1, 0, 0, None, "no", ()))
    with pytest.raises(JobFailed):
        JobHandle(failed, JobId(7)).result(tmp_path / "out")
