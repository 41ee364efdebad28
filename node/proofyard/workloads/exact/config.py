"""What a decoder of the Llama family computes, read from its config.json; what is not covered is refused by name.

Covered: Llama, Mistral, Qwen2, Qwen3, SmolLM, Granite, Gemma and Gemma 2, with tied or untied output layer, biases,
norms of queries and keys, sliding windows, soft caps and multipliers as the configuration says.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Activation
from proofyard.workloads.model_files import read_config

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "granite", "gemma", "gemma2")
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of a decoder. `windows` holds one sliding window a layer, 0 for none; `offset` is added to the
    weights of norms; `sandwich` norms a branch's output as well."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    eps: float
    theta: float
    positions: int
    activation: Activation
    windows: tuple[int, ...]
    tied: bool
    head_norms: bool
    offset: float
    sandwich: bool
    scale: float
    embedding_factor: float
    residual_factor: float
    logit_factor: float
    attention_cap: float
    logit_cap: float


def decoder_config(model: Path) -> DecoderConfig:
    """The configuration of a model directory. Raises `InputRefused` with the name of what is not covered."""
    raw = read_config(model)
    family = raw.get("model_type")
    if "auto_map" in raw:
        raise InputRefused(f"model directory {model.name}", "asks to run code of its own, which is never done here")
    if family not in FAMILIES:
        raise refused(model, f"model_type {family!r}; covered are {', '.join(FAMILIES)}")
    try:
        return _decoder_config(model, raw, family)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputRefused(
            f"model directory {model.name}", f"has a config.json that lacks or misstates {error}"
        ) from None


def _decoder_config(model: Path, raw: dict[str, Any], family: str) -> DecoderConfig:
    heads, hidden, layers = int(raw["num_attention_heads"]), int(raw["hidden_size"]), int(raw["num_hidden_layers"])
    head_dim = int(raw.get("head_dim") or hidden // heads)
    kv_heads = int(raw.get("num_key_value_heads") or heads)
    gemma = family in ("gemma", "gemma2")
    act = raw.get("hidden_activation") or raw.get("hidden_act") or ("gelu_pytorch_tanh" if gemma else "silu")
    if act not in ACTIVATIONS:
        raise refused(model, f"hidden_act {act!r}")
    if heads < 1 or kv_heads < 1 or heads % kv_heads or head_dim % 2 or not 2 <= head_dim <= 4096:
        raise refused(model, f"{heads} heads of {head_dim} numbers over {kv_heads} key heads")
    if min(hidden, layers, int(raw["vocab_size"]), int(raw["intermediate_size"])) < 1:
        raise refused(model, "a size below 1")
    config = DecoderConfig(
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=int(raw["intermediate_size"]),
        vocabulary=int(raw["vocab_size"]),
        eps=_positive(raw.get("rms_norm_eps", 1e-6)),
        theta=_theta(model, raw),
        positions=int(raw.get("max_position_embeddings", 2048)),
        activation=ACTIVATIONS[act],
        windows=_windows(raw, family, layers),
        tied=bool(raw.get("tie_word_embeddings", gemma)),
        head_norms=family == "qwen3",
        offset=1.0 if gemma else 0.0,
        sandwich=family == "gemma2",
        scale=_attention_scale(raw, family, head_dim),
        embedding_factor=float(raw.get("embedding_multiplier", 1.0)) if family == "granite" else _root(hidden, gemma),
        residual_factor=float(raw.get("residual_multiplier", 1.0)) if family == "granite" else 1.0,
        logit_factor=1 / float(raw.get("logits_scaling", 1.0)) if family == "granite" else 1.0,
        attention_cap=float(raw.get("attn_logit_softcapping") or 0.0) if family == "gemma2" else 0.0,
        logit_cap=float(raw.get("final_logit_softcapping") or 0.0) if family == "gemma2" else 0.0,
    )
    for name in ("attention_dropout", "hidden_dropout", "pretraining_tp"):
        if raw.get(name, 0) not in (0, 0.0, 1, None):
            raise refused(model, f"{name} {raw[name]!r}")
    return config


def _windows(raw: dict[str, Any], family: str, layers: int) -> tuple[int, ...]:
    size = int(raw.get("sliding_window") or 0)
    if family in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        size = 0
    if family not in ("mistral", "qwen2", "qwen3", "gemma2") or not size:
        return (0,) * layers
    kinds = raw.get("layer_types")
    if kinds is not None:
        return tuple(size if kind == "sliding_attention" else 0 for kind in list(kinds)[:layers])
    if family == "mistral":
        return (size,) * layers
    if family == "gemma2":
        return tuple(0 if layer % 2 else size for layer in range(layers))
    first = int(raw.get("max_window_layers", 28))
    return tuple(size if layer >= first else 0 for layer in range(layers))


def _theta(model: Path, raw: dict[str, Any]) -> float:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise refused(model, f"rotary positions of the type {kind!r}")
    if float(raw.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))) != 1.0:
        raise refused(model, "partial_rotary_factor")
    return _positive(raw.get("rope_theta") or rope.get("rope_theta") or 10_000.0)


def _attention_scale(raw: dict[str, Any], family: str, head_dim: int) -> float:
    if family == "granite":
        return float(raw.get("attention_multiplier", 1.0))
    if family == "gemma2":
        return 1 / math.sqrt(float(raw.get("query_pre_attn_scalar", 256)))
    return 1 / math.sqrt(head_dim)


def _root(hidden: int, gemma: bool) -> float:
    return math.sqrt(hidden) if gemma else 1.0


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < 1e30:
        raise ValueError(f"a positive number where it has {value!r}")
    return number


def refused(model: Path, what: str) -> InputRefused:
    """The error for something that a configuration asks for and that is not covered."""
    return InputRefused(f"model directory {model.name}", f"uses {what}, which exact execution does not cover")
