"""Every family that is covered, as small random models: what transformers computes, gradients too, and the same bits
for a token at a time, for rows alone and for a batch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from scripts.compatibility import section

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.exact import backends
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.causal import Cache
from proofyard.workloads.exact.config import defaults
from proofyard.workloads.exact.gpt2 import FAMILIES as CONV1D
from proofyard.workloads.exact.models import CAUSAL, causal_blueprint, causal_model
from proofyard.workloads.exact.models import ENCODERS as COVERED
from proofyard.workloads.exact.selfcheck import distance

Numpy = npt.NDArray[Any]

LENGTHS = (23, 1, 14)
RANK, FACTOR = 4, 1.5
VOCABULARY = 211
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 9}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.3,
    "logits_scaling": 0.7,
}


@dataclass(frozen=True)
class Model:
    """A model to be made: a configuration class, what is set in it, how it is stored, changes to config.json."""

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"
    edit: Callable[[dict[str, Any]], Any] = lambda raw: None


def _old_rope(raw: dict[str, Any]) -> None:
    """As transformers wrote it before release 5."""
    raw["rope_theta"] = raw.pop("rope_parameters")["rope_theta"]


def _both_ropes(raw: dict[str, Any]) -> None:
    raw["rope_theta"] = 17.0  # what stands in rope_parameters counts


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


DECODERS = {
    "llama": Model("LlamaConfig", {**GROUPED, **_rope(500000.0)}),
    "llama with biases": Model(
        "LlamaConfig", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu"}
    ),
    "llama of wide heads": Model("LlamaConfig", {"head_dim": 40, "num_key_value_heads": 1, "hidden_act": "relu"}),
    "llama in bf16": Model("LlamaConfig", GROUPED, torch.bfloat16),
    "llama in fp16 shards": Model("LlamaConfig", {"tie_word_embeddings": True}, torch.float16, "30KB"),
    "llama, old rope_theta": Model("LlamaConfig", _rope(250.5), edit=_old_rope),
    "llama, two rope_theta": Model("LlamaConfig", _rope(250.5), edit=_both_ropes),
    "llama 3.1": Model(
        "LlamaConfig",
        {
            **GROUPED,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama, linear": Model(
        "LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5}}
    ),
    "mistral": Model("MistralConfig", {**GROUPED, "sliding_window": 7}),
    "mistral without window": Model("MistralConfig", {**GROUPED, "sliding_window": None}, torch.bfloat16),
    "qwen2": Model("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True}, torch.bfloat16),
    "qwen2 with windows": Model(
        "Qwen2Config",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": Model("Qwen3Config", {"num_key_value_heads": 1, "head_dim": 24, "tie_word_embeddings": True}),
    "qwen3 in bf16 shards": Model("Qwen3Config", GROUPED, torch.bfloat16, "30KB"),
    "granite": Model("GraniteConfig", {"num_key_value_heads": 2, **MULTIPLIERS}),
    "gemma": Model("GemmaConfig", {"num_key_value_heads": 1, "head_dim": 32}),
    "gemma2": Model("Gemma2Config", {**GROUPED, **CAPS, "sliding_window": 6}),
    "gemma2 without caps": Model(
        "Gemma2Config", {**GROUPED, "attn_logit_softcapping": None, "final_logit_softcapping": None}, torch.bfloat16
    ),
    "gpt2": Model("GPT2Config"),
    "gpt2, other switches": Model(
        "GPT2Config",
        {
            "n_inner": 80,
            "activation_function": "relu",
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
        },
        torch.bfloat16,
        "30KB",
    ),
    "gpt2 without scaling": Model("GPT2Config", {"scale_attn_weights": False, "n_head": 8}, torch.float16),
}
ENCODERS = {
    "bert": Model("BertConfig"),
    "bert in fp16": Model("BertConfig", {"hidden_act": "gelu_new"}, torch.float16),
    "roberta": Model("RobertaConfig", {"type_vocab_size": 1}),
    "xlm-roberta": Model("XLMRobertaConfig", {"type_vocab_size": 1}, torch.bfloat16, "40KB"),
}


@pytest.fixture(scope="module")
def backend() -> Backend:
    try:
        return backends()["native"]()
    except NoCompiler:
        return backends()["float32"]()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a model, made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = write(tmp_path_factory.mktemp("family") / "model", {**DECODERS, **ENCODERS}[name])
        return made[name]

    return get


def write(folder: Path, model: Model) -> Path:
    config = getattr(transformers, model.config)(**{**SIZES, **model.settings})
    kind = transformers.AutoModel if model in ENCODERS.values() else transformers.AutoModelForCausalLM
    network = kind.from_config(config).eval()
    draw = np.random.Generator(np.random.Philox(5))
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            parameter.copy_(torch.from_numpy(_weights(draw, name, tuple(parameter.shape), config.model_type)))
    network.to(model.dtype).save_pretrained(folder, max_shard_size=model.shard)
    raw = json.loads((folder / "config.json").read_text())
    model.edit(raw)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _weights(draw: np.random.Generator, name: str, shape: tuple[int, ...], family: str) -> Numpy:
    """Matrices that keep the size of what they multiply, norms about 1, biases that count."""
    x = draw.standard_normal(shape).astype(np.float32)
    if name.endswith("bias"):
        return x * np.float32(0.3)
    if len(shape) == 1:
        return x * np.float32(0.2) + np.float32(0 if "gemma" in family else 1)
    table = "embed" in name or name.endswith(("wte.weight", "wpe.weight"))
    inputs = shape[0] if family in CONV1D and "head" not in name else shape[1]
    return x * np.float32(0.25 if table else 1.2 / inputs**0.5)


def tokens(count: int = sum(LENGTHS), seed: int = 9) -> Numpy:
    return np.random.Generator(np.random.Philox(seed)).integers(4, VOCABULARY, count)


def texts(ids: Numpy) -> list[Numpy]:
    return np.split(ids, np.cumsum(LENGTHS)[:-1])


def theirs(folder: Path, kind: Any) -> Any:
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def bits(x: Numpy) -> Numpy:
    return np.ascontiguousarray(x).view(np.uint32)


@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_those_of_transformers(name: str, directory: Callable[[str], Path], backend: Backend) -> None:
    ids = tokens()
    network = theirs(directory(name), transformers.AutoModelForCausalLM)
    with torch.inference_mode():
        expected = np.concatenate([network(torch.from_numpy(text)[None]).logits[0].numpy() for text in texts(ids)])
        labels = torch.from_numpy(ids[:23]).clone()
        labels[:9] = -100
        own_loss = network(torch.from_numpy(ids[:23])[None], labels=labels[None]).loss.item()
    decoder = causal_model(backend, directory(name))
    masked = decoder.losses(ids[:22], ids[1:23], [22], np.arange(8, 22))
    assert abs(masked.mean() - own_loss) < 0.05, "what the model itself makes of labels, some of them masked"
    found = decoder.shown_logits(decoder.hidden(ids, LENGTHS))
    assert np.std(expected - expected.mean(axis=1, keepdims=True)) > 0.1, "a model that says nothing tests nothing"
    assert distance(found, expected) < 0.02
    nll = torch.nn.functional.cross_entropy(torch.from_numpy(expected), torch.from_numpy(ids), reduction="none")
    assert np.abs(decoder.losses(ids, ids, LENGTHS) - nll.numpy()).max() < 0.1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("name", DECODERS)
def test_gradients_are_those_of_peft(name: str, directory: Callable[[str], Path], backend: Backend) -> None:
    linears = causal_blueprint(directory(name)).linears
    targets = sorted({module.rpartition(".")[2] for module in linears})
    network = theirs(directory(name), transformers.AutoModelForCausalLM)
    peft: Any = get_peft_model(
        network,
        LoraConfig(
            r=RANK,
            lora_alpha=RANK * FACTOR,
            target_modules=targets,
            fan_in_fan_out=any(linear.transposed for linear in linears.values()),
        ),
    )
    draw = np.random.Generator(np.random.Philox(6))
    state: dict[str, Numpy] = {}
    parameters: dict[str, Any] = {}
    for full, parameter in sorted(peft.named_parameters()):
        if parameter.requires_grad:
            values = (draw.standard_normal(tuple(parameter.shape)) * 0.1).astype(np.float32)
            parameter.data = torch.from_numpy(values.copy())
            short = full.removeprefix("base_model.model.").removesuffix(".default.weight")
            state[short], parameters[short] = values, parameter
    modules = {
        short.removesuffix(".lora_A"): (len(state[short.replace("lora_A", "lora_B")]), x.shape[1])
        for short, x in state.items()
        if short.endswith("lora_A")
    }
    assert modules == {module: linear.shape for module, linear in linears.items()}
    ids, scale = tokens(), 1 / (sum(LENGTHS) - len(LENGTHS) + 1)
    inputs = [text[:-1] for text in texts(ids) if len(text) > 1]
    targets_of = [text[1:] for text in texts(ids) if len(text) > 1]
    for text, target in zip(inputs, targets_of, strict=True):
        logits = peft(input_ids=torch.from_numpy(text)[None]).logits[0]
        (torch.nn.functional.cross_entropy(logits, torch.from_numpy(target), reduction="sum") * scale).backward()
    decoder = causal_model(backend, directory(name), modules=modules)
    decoder.adapters.set(state, FACTOR)
    decoder.train(np.concatenate(inputs), np.concatenate(targets_of), [len(text) for text in inputs], scale)
    found = {short: backend.numpy(g).astype(np.float64) for short, g in decoder.adapters.gradients().items()}
    assert found.keys() == parameters.keys()
    for short, g in found.items():
        expected = parameters[short].grad.numpy().astype(np.float64)
        assert g.shape == expected.shape
        assert np.linalg.norm(g - expected) < 0.1 * np.linalg.norm(expected), short
        cosine = (g * expected).sum() / (np.linalg.norm(g) * np.linalg.norm(expected))
        assert cosine > 0.99, short


@pytest.mark.parametrize("name", DECODERS)
def test_a_row_has_the_same_bits_alone_and_a_token_at_a_time(
    name: str, directory: Callable[[str], Path], backend: Backend
) -> None:
    ids = tokens()
    decoder = causal_model(backend, directory(name))
    together = bits(backend.numpy(decoder.hidden(ids, LENGTHS)))
    alone = [backend.numpy(decoder.hidden(text, [len(text)])) for text in texts(ids)]
    assert (bits(np.concatenate(alone)) == together).all()
    caches = [Cache() for _ in LENGTHS]
    rows: list[list[Numpy]] = [[] for _ in LENGTHS]
    for step in range(max(LENGTHS)):
        here = [i for i, length in enumerate(LENGTHS) if step < length]
        new = np.array([texts(ids)[i][step] for i in here])
        found = backend.numpy(decoder.hidden(new, [1] * len(here), caches=[caches[i] for i in here]))
        for i, row in zip(here, found, strict=True):
            rows[i].append(row)
    assert (bits(np.concatenate([np.stack(part) for part in rows])) == together).all()


@pytest.mark.parametrize("name", ["mistral", "gemma2", "qwen3", "gpt2"])
def test_parts_of_a_text_follow_a_cache(name: str, directory: Callable[[str], Path], backend: Backend) -> None:
    ids = tokens(23)
    decoder = causal_model(backend, directory(name))
    cache = Cache()
    parts = [decoder.hidden(part, [len(part)], caches=[cache]) for part in np.split(ids, [9, 10, 20])]
    assert (bits(np.concatenate(parts)) == bits(decoder.hidden(ids, [23]))).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_are_those_of_transformers(name: str, directory: Callable[[str], Path], backend: Backend) -> None:
    ids = tokens()
    ids[3] = SIZES["pad_token_id"]  # RoBERTa gives it no position of its own
    network = theirs(directory(name), transformers.AutoModel)
    with torch.inference_mode():
        given = [torch.from_numpy(text)[None] for text in texts(ids)]
        expected = np.concatenate([network(x, torch.ones_like(x)).last_hidden_state[0].numpy() for x in given])
    encoder = Encoder(backend, directory(name))
    found = backend.numpy(encoder.hidden(ids, LENGTHS))
    assert distance(found, expected) < 0.02
    alone = [backend.numpy(encoder.hidden(text, [len(text)])) for text in texts(ids)]
    assert (bits(np.concatenate(alone)) == bits(found)).all()


@pytest.mark.parametrize("name", ["qwen3", "gemma2 without caps", "gpt2"])
def test_a_decoder_without_output_layer_gives_hidden_states(
    name: str, tmp_path: Path, directory: Callable[[str], Path], backend: Backend
) -> None:
    """Directories of embedding models have neither the output layer nor the prefix of a language model."""
    theirs(directory(name), transformers.AutoModel).save_pretrained(tmp_path)
    whole, bare = causal_model(backend, directory(name)), causal_model(backend, tmp_path, head=False)
    ids = tokens()
    assert (bits(backend.numpy(whole.hidden(ids, LENGTHS))) == bits(backend.numpy(bare.hidden(ids, LENGTHS)))).all()


def test_the_page_lists_the_families_that_are_tried_here() -> None:
    tried = {getattr(transformers, model.config).model_type for model in (*DECODERS.values(), *ENCODERS.values())}
    assert {row["family"] for row in section("models").rows} == tried == {*CAUSAL, *COVERED}


@pytest.mark.parametrize("name", sorted({model.config for model in DECODERS.values()}))
def test_what_a_configuration_leaves_out_is_what_transformers_takes(name: str) -> None:
    theirs = getattr(transformers, name)
    ours = CONV1D.get(theirs.model_type) or defaults(theirs.model_type)
    assert {key: getattr(theirs, key, value) for key, value in ours.items()} == ours
    assert theirs.model_type in CONV1D or theirs.default_theta == 10_000
