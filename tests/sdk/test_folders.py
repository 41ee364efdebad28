"""What leaves a requester's folder, and what comes into one."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gguf
import peft
import pytest
import transformers
from safetensors.numpy import load_file

from proofyard.artifacts import BlockStore
from proofyard.artifacts.dag import entries
from proofyard.chain.turns import MAX_MODELS, Turns
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.messages import JobReport
from proofyard.protocol.types import Cid, JobId
from proofyard.sdk import Artifacts, AsyncClient, DestinationTaken, JobFailed, Limits, LoraJob, NoVerifier
from proofyard.sdk.adapters import complete_adapters
from proofyard.sdk.destinations import require_free, require_new
from proofyard.sdk.packaging import complete
from proofyard.sdk.specs import called
from proofyard.workloads.errors import InputRefused
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
    cache = tmp_path / "models--org--name" / "snapshots" / "1234"
    blobs = cache.parent.parent / "blobs"
    cache.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, blobs / str(number))
        (cache / file.name).symlink_to(f"../../blobs/{number}")
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
        DestinationTaken, match=rf"is not empty: it holds {held.rstrip('/')}; name a new file or an empty folder"
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
    complete_adapters(folder, str(model.resolve()), model)
    assert json.loads((folder / "proofyard.json").read_text()) == {"base_model": "ipfs://bafymodel"}
    assert (folder / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    loaded: Any = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
    assert loaded.peft_config["default"].base_model_name_or_path == str(model.resolve())
    assert transformers.AutoModelForCausalLM.from_pretrained(folder) is not None
    for name, said in (("org/name", "org/name"), ("", "ipfs://bafymodel")):
        export_adapter(manifest, adapter, folder, f"ipfs://{manifest.model}")
        complete_adapters(folder, name, tmp_path)
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == said
        assert json.loads((folder / "proofyard.json").read_text()) == {"base_model": "ipfs://bafymodel"}


def test_llama_cpp_knows_each_tensor_of_an_adapter(model: Path, tmp_path: Path) -> None:
    """Its converter (`convert_lora_to_gguf.py --base MODEL`) asks this table for the layer of each pair."""
    job = LoraJob(model=model, data=write_tiny_corpus(tmp_path / "text.jsonl"), targets="all-linear")
    manifest = job.manifest(Cid("bafymodel"), Cid("data"))
    folder = export_adapter(manifest, initial_adapter(read_params(manifest), 0), tmp_path / "adapter", "org/name")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    tensors = load_file(folder / "adapter_model.safetensors")
    pairs = {tuple(name.removeprefix("base_model.model.").rsplit(".lora_", 1)) for name in tensors}
    assert len(pairs) == 2 * len(read_params(manifest).modules) == 28
    for base, half in pairs:
        assert table.get_name(f"{base}.weight", (".weight",)), base
        assert half in ("A.weight", "B.weight")
    assert {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name} == {8}


@pytest.mark.parametrize(
    ("given", "remembered", "named"),
    [
        (None, "", "ipfs://bafymodel"),
        (None, "org/name", "org/name"),
        (None, "MODEL", "MODEL"),
        (None, "/gone/model", "ipfs://bafymodel"),
        ("org/other", "MODEL", "org/other"),
        ("MODEL", "org/name", "MODEL"),
    ],
)
def test_an_adapter_is_completed_by_what_the_wallet_remembers(
    given: str | None, remembered: str, named: str, model: Path, tmp_path: Path
) -> None:
    job, keystore = JobId(7), tmp_path / "alice.json"
    place = "5 0xregistry 7"
    if remembered:
        with Turns(keystore).take() as turn:
            turn.name_model(place, remembered.replace("MODEL", str(model)))
    result = tmp_path / "result" / "best"
    result.mkdir(parents=True)
    (result / "adapter_config.json").write_text('{"base_model_name_or_path": "ipfs://bafymodel"}')
    with Turns(keystore).take() as turn:
        base = called(given.replace("MODEL", str(model))) if given else turn.model(place)
    store = BlockStore(tmp_path / "store")
    manifest = Manifest(workload="lora", params={}, model=link_model(store, model)[0])
    names: Any = lambda cid: {"/".join(each.path): each.cid for each in entries(store.get_block, cid)}  # noqa: E731
    complete(job, tmp_path / "result", manifest, base, lambda cid, most: store.get_bytes(cid, most), names, Limits())
    said = json.loads((result / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert said == named.replace("MODEL", str(model.resolve()))
    assert (result / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes(), "from wherever it is"


def test_names_of_models_are_remembered_for_a_while(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "alice.json")
    for number in range(MAX_MODELS + 2):
        turns._kept.models[str(number)] = "m"
    with Turns(None).take() as turn:
        turn._kept.models.update(turns._kept.models)
        turn.name_model("new", "org/name")
        assert (turn.model("new"), turn.model("0"), turn.model("nobody")) == ("org/name", "", "")


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "chat_template.jinja", "config.json", "vocab.txt"])
def test_a_link_out_of_a_models_folder_publishes_nothing(name: str, model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_text("private")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(InputRefused, match=f"has {name} as a link out of it, to {secret}; copy it in"):
        link_model(BlockStore(tmp_path / "store"), model)


def test_weights_may_lie_elsewhere_and_links_within_a_folder_are_its_own(model: Path, tmp_path: Path) -> None:
    """Weights are what they say, or refused: no secret is one."""
    plain = link_model(BlockStore(tmp_path / "plain"), model)[0]
    (model / "model.safetensors").rename(tmp_path / "disk.safetensors")
    (model / "model.safetensors").symlink_to(tmp_path / "disk.safetensors")
    (model / "tokenizer.json").rename(model / "own.json")
    (model / "tokenizer.json").symlink_to("own.json")
    cid, left_out = link_model(BlockStore(tmp_path / "store"), model)
    assert (cid, left_out) == (plain, ["own.json"])


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".git/config", "id_rsa", "server.pem", "wandb/run.log", "runs/events", "__pycache__/x.pyc"),
        *(".ipynb_checkpoints/n.ipynb", "nested/deep/model.safetensors", "token", "tokenizer.json.bak", "config.json~"),
        *("training_args.bin", "pytorch_model.bin", "model.safetensors.tmp", "TOKENIZER.JSON", "README.md"),
    ],
)
def test_nothing_else_of_a_models_folder_leaves_it(name: str, model: Path, tmp_path: Path) -> None:
    plain = link_model(BlockStore(tmp_path / "plain"), model)[0]
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("private")
    assert link_model(BlockStore(tmp_path / "store"), model) == (plain, [name.partition("/")[0]])


DESTINATIONS: dict[str, tuple[Any, bool]] = {
    "new": (lambda dest: None, True),
    "an empty folder": (lambda dest: dest.mkdir(), True),
    "a file": (lambda dest: dest.write_text("mine"), False),
    "an empty file": (lambda dest: dest.touch(), False),
    "a folder with a file": (lambda dest: (dest / "a").mkdir(parents=True), False),
    "a folder with a hidden file": (lambda dest: dest.mkdir() or (dest / ".a").touch(), False),
    "a link to a file": (lambda dest: dest.symlink_to(__file__), False),
    "a link to nothing": (lambda dest: dest.symlink_to("nowhere"), False),
    "a link to a folder": (lambda dest: dest.symlink_to(Path(__file__).parent), False),
    "a pipe": (os.mkfifo, False),
}


@pytest.mark.parametrize("what", DESTINATIONS)
def test_an_artifact_is_written_over_nothing(what: str, tmp_path: Path) -> None:
    make, free = DESTINATIONS[what]
    make(tmp_path / "dest")
    artifacts = Artifacts(tmp_path / "store")
    cid = artifacts.store.put_bytes(b"content")
    if free:
        require_new(tmp_path / "dest", force=False)
        return
    for more in ({}, {"car": True}, {"span": (0, 3)}):
        with pytest.raises(DestinationTaken, match="--force"):
            artifacts.get(cid, tmp_path / "dest", **more)  # type: ignore[arg-type]


class Told(AsyncClient):
    """A client whose job is done on chain; `status` is what its verifier says, or why it cannot be asked."""

    def __init__(self, folder: Path, status: Any) -> None:
        super().__init__("", "", cast(Any, None), data_dir=folder)
        self.status, self.packaged = status, list[Any]()

    @property
    def chain(self) -> Any:
        return SimpleNamespace(job=lambda job: SimpleNamespace(units=4, units_paid=3))

    async def report(self, job: JobId, since: int = 0) -> Any:
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    async def failure(self, job: JobId, reason: str) -> JobFailed:
        return JobFailed(job, reason)

    async def prove(self, job: JobId) -> Any:
        return SimpleNamespace(job=job)

    async def package(self, proven: Any, said: Any, dest: Path, on_replace: Any = None, model: Any = None) -> Path:
        self.packaged.append(said)
        return dest


async def test_a_paid_result_is_had_while_its_verifier_is_away(tmp_path: Path) -> None:
    away = Told(tmp_path / "1", NoVerifier("away"))
    assert await away.job(JobId(7)).result(tmp_path / "out") == tmp_path / "out"
    assert away.packaged == [None]
    done = JobReport(JobId(7), "done", tasks=1, tasks_valid=1, batches_settled=1, result=Cid("r"), reason="", log=())
    told = Told(tmp_path / "2", done)
    await told.job(JobId(7)).result(tmp_path / "out")
    assert told.packaged == [Cid("r")]
    failed = Told(tmp_path / "3", JobReport(JobId(7), "failed", 1, 0, 0, None, "no", ()))
    with pytest.raises(JobFailed):
        await failed.job(JobId(7)).result(tmp_path / "out")
