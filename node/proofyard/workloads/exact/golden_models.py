"""Golden vectors of whole forward passes: an encoder, and decoders whose configurations switch on what a Llama lacks.

Held by `tests/vectors/exact.json`. They follow from the operations' vectors and from the order in which a model puts
operations together (docs/exact.md, Models). Weights and tokens come from `golden.numbers`, so they need no library.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.bert import FAMILIES as ENCODERS
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.golden import numbers
from proofyard.workloads.exact.models import causal_model
from proofyard.workloads.state import encode_state

Numpy = npt.NDArray[Any]

LENGTHS = (13, 1, 8)
HIDDEN, INNER, HEADS, KV_HEADS, HEAD, LAYERS, VOCABULARY = 32, 48, 4, 2, 8, 2, 61
_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
}
_DECODER: dict[str, Any] = {**_SIZES, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "rms_norm_eps": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma2": {
        **_DECODER,
        "model_type": "gemma2",
        "sliding_window": 5,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "qwen3": {**_DECODER, "model_type": "qwen3", "rope_theta": 1000000.0},
    "qwen2": {
        **_DECODER,
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "granite": {
        **_DECODER,
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.3,
        "logits_scaling": 0.7,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": INNER,
        "n_positions": 32,
        "vocab_size": VOCABULARY,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "bert": {**_SIZES, "model_type": "bert", "layer_norm_eps": 1e-12},
    "roberta": {**_SIZES, "model_type": "roberta", "layer_norm_eps": 1e-5, "pad_token_id": 1},
}


def forward(backend: Backend, name: str, folder: Path) -> list[Numpy]:
    """Hidden states (R, hidden) of the batch, and where there is an output layer the losses (R,) of the next tokens;
    the model is written into `folder`."""
    write_model(folder, name)
    ids = tokens()
    if name in ENCODERS:
        return [backend.numpy(Encoder(backend, folder).hidden(ids, LENGTHS))]
    decoder = causal_model(backend, folder)
    hidden = backend.numpy(decoder.hidden(ids, LENGTHS))
    return [hidden, np.asarray(decoder.losses(ids, np.roll(ids, -1), LENGTHS), np.float32)]


def tokens() -> Numpy:
    """Three texts end to end."""
    return ((numbers(sum(LENGTHS), of="model tokens") + 1) * np.float32(VOCABULARY / 2)).astype(np.int64)


def write_model(folder: Path, name: str) -> None:
    """A model directory; weights of a matrix (n, k) lie in [-1.5 / sqrt(k), 1.5 / sqrt(k)), rounded to binary32."""
    tensors = {
        tensor: _weights(f"{name} {tensor}", shape, 0.0 if CONFIGS[name]["model_type"] == "gemma2" else 1.0)
        for tensor, shape in _shapes(CONFIGS[name]).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(encode_state(tensors, metadata={"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(CONFIGS[name], indent=1))


def _weights(of: str, shape: tuple[int, ...], norm: float) -> Numpy:
    if len(shape) == 2:
        return numbers(*shape, bound=1.5 / shape[1] ** 0.5, of=of)
    return numbers(*shape, bound=0.25, of=of) + np.float32(norm if "norm" in of.lower() and "bias" not in of else 0)


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    if config["model_type"] == "gpt2":
        return _gpt2(config)
    return _encoder(config) if config["model_type"] in ENCODERS else _decoder(config)


def _decoder(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    family, wide, narrow = config["model_type"], HEADS * HEAD, KV_HEADS * HEAD
    sizes = {"q": (wide, HIDDEN), "k": (narrow, HIDDEN), "v": (narrow, HIDDEN), "o": (HIDDEN, wide)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if family == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    if family in ("qwen3", "granite"):
        found["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        found |= {f"{at}self_attn.{name}_proj.weight": shape for name, shape in sizes.items()}
        found |= {f"{at}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = (HIDDEN, INNER)
        found |= {f"{at}{name}.weight": (HIDDEN,) for name in norms}
        if family == "qwen2":
            found |= {f"{at}self_attn.{name}_proj.bias": sizes[name][:1] for name in "qkv"}
        if family == "qwen3":
            found |= {f"{at}self_attn.{name}_norm.weight": (HEAD,) for name in "qk"}
    return found


def _gpt2(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, HIDDEN),
        "transformer.wpe.weight": (config["n_positions"], HIDDEN),
    }
    norms = ["transformer.ln_f"]
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        stored = {"attn.c_attn": (HIDDEN, 3 * HIDDEN), "attn.c_proj": (HIDDEN, HIDDEN)}
        stored |= {"mlp.c_fc": (HIDDEN, INNER), "mlp.c_proj": (INNER, HIDDEN)}
        for name, shape in stored.items():
            found |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[1:]}
        norms += [f"{at}ln_1", f"{at}ln_2"]
    return found | {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}


def _encoder(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    tables = {"word": VOCABULARY, "position": config["max_position_embeddings"], "token_type": 2}
    found: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (rows, HIDDEN) for name, rows in tables.items()
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        layers = {f"attention.self.{name}": (HIDDEN, HIDDEN) for name in ("query", "key", "value")}
        layers |= {"attention.output.dense": (HIDDEN, HIDDEN), "intermediate.dense": (INNER, HIDDEN)}
        layers["output.dense"] = (HIDDEN, INNER)
        for name, shape in layers.items():
            found |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    return found | {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}
