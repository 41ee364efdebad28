"""What a decoder of the Llama family computes, read from its config.json; what is not covered is refused by name.

Covered: Llama, Mistral, Qwen2, Qwen3, SmolLM, Granite, Gemma and Gemma 2, with tied or untied output layer, biases,
norms of queries and keys, sliding windows, soft caps and multipliers as the configuration says.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Activation
from proofyard.workloads.exact.fields import MOST_POSITIVE, Fields
from proofyard.workloads.exact.tables import Stretch

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
MOST_LAYERS, MOST_HEAD = 4096, 512

_COMMON: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
}
_QWEN: dict[str, Any] = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA: dict[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "granite": {
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    "gemma": {**_GEMMA, "num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"},
    "gemma2": {
        **_GEMMA,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}
FAMILIES = tuple(_FAMILIES)
_KINDS = ("full_attention", "sliding_attention")
_ROPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_STRETCHES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Kinds of rotary positions, each with the fields that it has besides."""


def defaults(family: str) -> Mapping[str, Any]:
    """What transformers takes where a configuration of a family leaves a field out."""
    return {**_COMMON, **_FAMILIES[family]}


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
    stretch: Stretch | None
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

    @property
    def room(self) -> int:
        """How many tokens a text may have."""
        return self.positions


def decoder_config(model: Path) -> DecoderConfig:
    """The configuration of a model directory. Raises `InputRefused` with the name of what is not covered."""
    fields = Fields(model, _FAMILIES, _COMMON)
    family, raw = fields.family, fields.raw
    gemma, granite = family in ("gemma", "gemma2"), family == "granite"
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    layers = fields.size("num_hidden_layers", MOST_LAYERS)
    head_dim, kv_heads = fields.size_or("head_dim", hidden // heads), fields.size_or("num_key_value_heads", heads)
    if heads % kv_heads or head_dim % 2 or not 2 <= head_dim <= MOST_HEAD:
        raise fields.refused(f"{heads} heads of {head_dim} numbers over {kv_heads} key heads")
    if raw.get("use_bidirectional_attention"):
        raise fields.refused("use_bidirectional_attention")
    return DecoderConfig(
        family=family,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        inner=fields.size("intermediate_size"),
        vocabulary=fields.size("vocab_size"),
        eps=fields.positive("rms_norm_eps"),
        theta=_theta(fields),
        stretch=_stretch(fields),
        positions=fields.size("max_position_embeddings"),
        activation=_activation(fields),
        windows=_windows(fields, layers),
        tied=fields.flag("tie_word_embeddings"),
        head_norms=family == "qwen3",
        offset=1.0 if gemma else 0.0,
        sandwich=family == "gemma2",
        scale=_attention_scale(fields, head_dim),
        embedding_factor=fields.number("embedding_multiplier") if granite else math.sqrt(hidden) if gemma else 1.0,
        residual_factor=fields.number("residual_multiplier") if granite else 1.0,
        logit_factor=1 / fields.positive("logits_scaling") if granite else 1.0,
        attention_cap=fields.positive_or_none("attn_logit_softcapping") if family == "gemma2" else 0.0,
        logit_cap=fields.positive_or_none("final_logit_softcapping") if family == "gemma2" else 0.0,
    )


def check_tokens(ids: npt.NDArray[np.int64], vocabulary: int) -> None:
    """Raise `InputRefused` for a token that a model does not have: its tokenizer knows more than its tables."""
    unknown = ids[(ids < 0) | (ids >= vocabulary)]
    if unknown.size:
        raise InputRefused("a text", f"has the token {int(unknown[0])}, the model has {vocabulary}")


def activation(fields: Fields, name: str) -> Activation:
    """The function that a field names."""
    word = fields.word(name)
    if word not in ACTIVATIONS:
        raise fields.refused(f"{name} {word!r}")
    return ACTIVATIONS[word]


def _activation(fields: Fields) -> Activation:
    if fields.family == "gemma2":
        return activation(fields, "hidden_activation")
    if fields.family == "gemma" and fields.raw.get("hidden_activation") is not None:
        return activation(fields, "hidden_activation")
    found = activation(fields, "hidden_act")
    # Gemma's first configurations said "gelu" and meant its tanh form.
    return "gelu_tanh" if fields.family == "gemma" and found == "gelu" else found


def _windows(fields: Fields, layers: int) -> tuple[int, ...]:
    none = (0,) * layers
    if fields.family not in ("mistral", "qwen2", "qwen3", "gemma2") or fields.get("sliding_window") is None:
        return none
    size = fields.size("sliding_window")
    if fields.family == "mistral":
        return (size,) * layers
    if fields.family != "gemma2" and not fields.flag("use_sliding_window"):
        return none
    kinds = fields.get("layer_types")
    if kinds is None:
        slides = _slides(fields)
        return tuple(size if slides(layer) else 0 for layer in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
        raise fields.misstated("layer_types", f"{layers} times one of {', '.join(_KINDS)}")
    return tuple(size if kind == "sliding_attention" else 0 for kind in kinds)


def _slides(fields: Fields) -> Callable[[int], bool]:
    """Which layers have a window where the configuration does not list them."""
    if fields.family == "gemma2":
        return lambda layer: layer % 2 == 0
    first = fields.get("max_window_layers")
    if type(first) is not int:
        raise fields.misstated("max_window_layers", "a whole number")
    return lambda layer: layer >= first


def _theta(fields: Fields) -> float:
    """The base of the rotary angles. What stands in rope_scaling or rope_parameters goes before a field of its own."""
    raw, rope = fields.raw, _rope(fields)
    for place in (rope, raw):
        if place.get("partial_rotary_factor", 1.0) not in (1, None):
            raise fields.refused("partial_rotary_factor")
    theta = rope.get("rope_theta", raw.get("rope_theta", 10_000.0))
    if type(theta) not in (int, float) or not 1 <= theta <= MOST_POSITIVE:
        raise fields.refused(f"rope_theta {repr(theta)[:60]}")
    return float(theta)


def _rope(fields: Fields) -> dict[str, Any]:
    """What the configuration says of rotary positions; another kind, or a field that its kind does not have, is
    refused."""
    raw = fields.raw
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise fields.misstated("rope_scaling" if raw.get("rope_scaling") else "rope_parameters", "an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _STRETCHES:
        raise fields.refused(f"rotary positions of the type {kind!r}")
    if unknown := sorted(set(rope) - {*_ROPE, *_STRETCHES[kind]}):
        raise fields.refused(f"rope_parameters with {', '.join(unknown)[:60]}")
    return rope


def _stretch(fields: Fields) -> Stretch | None:
    rope = _rope(fields)
    names = _STRETCHES[rope.get("rope_type", rope.get("type", "default"))]
    if not names:
        return None
    values = []
    for name in names:
        value: Any = rope.get(name)
        if type(value) not in (int, float) or not 1e-3 <= value <= 1e9:
            raise fields.misstates(name, value, "a number from 0.001 to 1e9")
        values.append(float(value))
    if len(values) == 1:
        return Stretch(values[0])
    factor, low, high, original = values
    if not low < high or original != int(original):
        raise fields.misstates("low_freq_factor", low, "below high_freq_factor, with whole original positions")
    return Stretch(factor, low, high, int(original))


def _attention_scale(fields: Fields, head_dim: int) -> float:
    if fields.family == "granite":
        return fields.number("attention_multiplier")
    if fields.family == "gemma2":
        return 1 / math.sqrt(fields.positive("query_pre_attn_scalar"))
    return 1 / math.sqrt(head_dim)
