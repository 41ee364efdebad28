"""A model evaluated with a LoRA adapter: as PEFT has it, and refused where it is not of this model."""

import json

import msgspec
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from proofyard.protocol.types import Cid
from proofyard.sdk import EvaluateJob, JobRefused
from proofyard.sdk.adapters import read_adapter
from proofyard.workloads.errors import InputRefused, ManifestRefused
from proofyard.workloads.evaluate import WORKLOAD
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_tensors import adapter_schema
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (".is_gradient_checkpointing:FutureWarning", "Could not find a config")
]
LOSS_ERROR = 0.02


@pytest.fixture
def folder(lora_manifest, tmp_path):
    """An adapter whose B is not zero, as a job's result has it."""
    rng = np.random.default_rng(5)
    schema = adapter_schema(read_params(lora_manifest()))
    tensors = {name: rng.normal(size=spec.shape).astype(np.float32) / 3 for name, spec in schema.items()}
    return export_adapter(lora_manifest(), tensors, tmp_path / "adapter", "ipfs://elsewhere")


def evaluated(job, inputs):
    """Losses and tokens of all rows."""
    manifest = job.manifest(Cid("model"), Cid("data"))
    (task,) = WORKLOAD.graph(manifest)
    before = WORKLOAD.initial_state(manifest, task, inputs)
    after = WORKLOAD.runner(manifest, task, inputs, Resources()).run(0, before, lambda progress: None)
    WORKLOAD.check_state(manifest, task, 1, after)
    table = decode_state(after)
    return table["nll"][:, 0], table["tokens"][:, 0]


def test_the_losses_are_those_of_peft(tiny, folder, tmp_path, caplog):
    texts = ["abc def ghi", "a1 a2 a3. a2 a1", "x" * 40]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    file = tmp_path / "canonical"
    file.write_bytes(read_adapter(folder).data)
    plain, _ = evaluated(EvaluateJob(model=tiny.model, data=data), Inputs(tiny.model, data))
    adapted, tokens = evaluated(
        EvaluateJob(model=tiny.model, data=data, adapter=folder), Inputs(tiny.model, data, adapter=file)
    )
    assert "was trained on ipfs://elsewhere, and the model here is ipfs://model" in caplog.text
    base = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    for losses in (plain, adapted):
        model = base if losses is plain else peft.PeftModel.from_pretrained(base, folder)  # which changes base
        for text, loss, count in zip(texts, losses, tokens, strict=True):
            ids = torch.tensor([[256, *Tokenizer(tiny.model).tokens(text)]])
            with torch.no_grad():
                theirs = float(model(input_ids=ids, labels=ids).loss) * int(count)
            assert loss == pytest.approx(theirs, rel=LOSS_ERROR)
    assert not np.allclose(plain, adapted, rtol=LOSS_ERROR)


def test_an_adapter_as_peft_saves_it_is_read(tiny, folder, tmp_path):
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.model), folder).half()
    model.save_pretrained(tmp_path / "again")
    ours, theirs = read_adapter(folder), read_adapter(tmp_path / "again")
    assert ours.shape == theirs.shape and ours.cid != theirs.cid
    one, other = decode_state(ours.data), decode_state(theirs.data)
    assert all(np.allclose(one[name], other[name], atol=1e-3) for name in one)


def changed(folder, **words):
    config = json.loads((folder / "adapter_config.json").read_bytes())
    (folder / "adapter_config.json").write_text(json.dumps(config | words))


def rewritten(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = {name.removesuffix(".weight"): value for name, value in load(file).items()}
    file.write_bytes(encode_state({f"{name}.weight": value for name, value in change(tensors).items()}))


def load(file):
    from safetensors.numpy import load_file

    return load_file(file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: changed(f, r=5), "no A .* of rank 5 at model"),
        (lambda f: changed(f, rank_pattern={"q_proj": 2}), "rank_pattern"),
        (lambda f: changed(f, use_dora=True), "use_dora"),
        (lambda f: changed(f, peft_type="IA3"), "peft_type"),
        (lambda f: changed(f, lora_alpha=-1), "alpha"),
        (lambda f: (f / "adapter_config.json").write_text("["), "no readable adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "not a safetensors"),
        (lambda f: rewritten(f, lambda t: dict(list(t.items())[1:])), "no A .* and B"),
        (lambda f: rewritten(f, lambda t: t | {"base_model.model.lm_head": t.popitem()[1]}), "is no LoRA A or B"),
        (
            lambda f: rewritten(f, lambda t: {n: v[..., :-1] if v.shape[0] == 4 else v for n, v in t.items()}),
            "the adapter does not fit this model: .*63",
        ),
        (
            lambda f: rewritten(f, lambda t: {n.replace("q_proj", "z"): v for n, v in t.items()}),
            r"the adapter does not fit this model: .*self_attn\.z",
        ),
        (lambda f: rewritten(f, lambda t: {n: v * np.float32("nan") for n, v in t.items()}), "not finite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_paid(tiny, folder, tmp_path, change, reason):
    changed(folder, lora_dropout=0.1, init_lora_weights="gaussian")  # which say nothing of what it computes
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "abc"}')
    job = EvaluateJob(model=tiny.model, data=data, adapter=folder)
    job.manifest(Cid("model"), Cid("data"))
    change(folder)
    with pytest.raises((InputRefused, JobRefused, ManifestRefused), match=reason):
        job.manifest(Cid("model"), Cid("data"))


def test_manifest_and_adapter_belong_together(tiny, folder, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "abc"}')
    manifest = EvaluateJob(model=tiny.model, data=data, adapter=folder).manifest(Cid("model"), Cid("data"))
    without = manifest.params | {"adapter": None}
    for wrong in ({"adapter": None}, {"params": without}):
        with pytest.raises(ManifestRefused, match="adapter"):
            WORKLOAD.check(msgspec.structs.replace(manifest, **wrong))
    file = tmp_path / "other"
    for wrong in (None, file):
        file.write_bytes(encode_state({"x": np.zeros(1, np.float32)}))
        with pytest.raises(InputRefused, match="adapter"):
            WORKLOAD.check_inputs(manifest, Inputs(tiny.model, data, adapter=wrong))
