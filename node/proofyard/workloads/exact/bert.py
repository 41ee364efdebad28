"""BERT-like encoders in exact arithmetic: BERT, RoBERTa, XLM-RoBERTa.

Rows are the tokens of a batch's texts, one text after the other, (R, hidden).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Activation, Array, AttentionShape, Backend
from proofyard.workloads.exact.config import ACTIVATIONS, refused
from proofyard.workloads.exact.lora import Linear
from proofyard.workloads.exact.weights import Weights
from proofyard.workloads.model_files import read_config

FAMILIES = ("bert", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder. `first_position` is the position of a text's first token in the table of positions."""

    family: str
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    first_position: int
    eps: float
    activation: Activation


def encoder_config(model: Path) -> EncoderConfig:
    """The configuration of a model directory. Raises `InputRefused` with the name of what is not covered."""
    raw = read_config(model)
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise refused(model, f"model_type {family!r}; covered are {', '.join(FAMILIES)}")
    act, kind = raw.get("hidden_act", "gelu"), raw.get("position_embedding_type", "absolute")
    if act not in ACTIVATIONS:
        raise refused(model, f"hidden_act {act!r}")
    if kind != "absolute" or raw.get("is_decoder"):
        raise refused(model, f"position_embedding_type {kind!r}" if kind != "absolute" else "is_decoder")
    try:
        first = 0 if family == "bert" else int(raw.get("pad_token_id", 1)) + 1
        config = EncoderConfig(
            family=family,
            hidden=int(raw["hidden_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=int(raw["num_attention_heads"]),
            inner=int(raw["intermediate_size"]),
            vocabulary=int(raw["vocab_size"]),
            positions=int(raw["max_position_embeddings"]),
            first_position=first,
            eps=float(raw.get("layer_norm_eps", 1e-12)),
            activation=ACTIVATIONS[act],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputRefused(
            f"model directory {model.name}", f"has a config.json that lacks or misstates {error}"
        ) from None
    if min(config.hidden, config.heads, config.inner, config.vocabulary) < 1 or config.hidden % config.heads:
        raise refused(model, f"{config.heads} heads over {config.hidden} numbers")
    return config


class Encoder:
    """A frozen encoder."""

    def __init__(self, backend: Backend, model: Path, precision: str = "exact") -> None:
        self.config = config = encoder_config(model)
        self._backend = backend
        self._weights = weights = Weights(model)
        self._prefix = next((p for p in ("bert.", "roberta.") if f"{p}{_WORDS}" in weights), "")
        hidden = config.hidden
        self._positions = weights.tensor(
            f"{self._prefix}embeddings.position_embeddings.weight", (config.positions, hidden)
        )
        kinds = f"{self._prefix}embeddings.token_type_embeddings.weight"
        self._kind = np.array(weights.tensor(kinds)[0]) if kinds in weights else np.zeros(hidden, np.float32)
        weights.check(f"{self._prefix}{_WORDS}", (config.vocabulary, hidden))
        self._norm = self._layer_norm_of("embeddings.LayerNorm")
        self._layers = [self._layer(number, precision) for number in range(config.layers)]

    def hidden(self, ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Array:
        """(R, hidden): every token's last hidden state."""
        config, be = self.config, self._backend
        longest = max(lengths, default=0)
        if longest > config.positions - config.first_position:
            room = config.positions - config.first_position
            raise InputRefused("a text", f"has {longest} tokens, the model has {room} positions; set max_tokens")
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < config.vocabulary:
            raise InputRefused("a text", f"has the token {int(ids.max())}, the model knows {config.vocabulary}")
        at = np.concatenate([np.arange(length) for length in lengths]) + config.first_position
        words = self._weights.rows(f"{self._prefix}{_WORDS}", ids)
        x = self._normed(be.array((words + self._kind) + self._positions[at]), self._norm)
        shape = AttentionShape(
            tuple(lengths), tuple(lengths), float(1 / np.sqrt(np.float64(config.hidden // config.heads))), False
        )
        for layer in self._layers:
            x = self._run(layer, x, shape)
        return x

    def _run(self, layer: dict[str, Any], x: Array, shape: AttentionShape) -> Array:
        be, heads = self._backend, self.config.heads
        sliced = be.slice(x)
        q, k, v = (layer[name].forward(x, sliced)[0] for name in ("query", "key", "value"))
        attended = be.attention(q, k, v, heads, heads, shape)
        x = self._normed(be.add(self._dense(layer["attended"], attended), x), layer["middle"])
        inner = be.activate(self._dense(layer["inner"], x), self.config.activation)
        return self._normed(be.add(self._dense(layer["outer"], inner), x), layer["last"])

    def _dense(self, linear: Linear, x: Array) -> Array:
        return linear.forward(x, self._backend.slice(x))[0]

    def _normed(self, x: Array, norm: tuple[Array, Array]) -> Array:
        return self._backend.layer_norm(x, *norm, self.config.eps)

    def _layer(self, number: int, precision: str) -> dict[str, Any]:
        hidden, inner = self.config.hidden, self.config.inner
        at = f"{self._prefix}encoder.layer.{number}."
        shapes = {
            "query": ("attention.self.query", (hidden, hidden)),
            "key": ("attention.self.key", (hidden, hidden)),
            "value": ("attention.self.value", (hidden, hidden)),
            "attended": ("attention.output.dense", (hidden, hidden)),
            "inner": ("intermediate.dense", (inner, hidden)),
            "outer": ("output.dense", (hidden, inner)),
        }
        layer: dict[str, Any] = {
            short: Linear(self._backend, self._weights, at + name, shape, precision)
            for short, (name, shape) in shapes.items()
        }
        norms = {"middle": "attention.output.LayerNorm", "last": "output.LayerNorm"}
        prefix = at.removeprefix(self._prefix)
        return layer | {short: self._layer_norm_of(prefix + name) for short, name in norms.items()}

    def _layer_norm_of(self, name: str) -> tuple[Array, Array]:
        weight, bias = (
            self._weights.tensor(f"{self._prefix}{name}.{part}", (self.config.hidden,)) for part in ("weight", "bias")
        )
        return self._backend.array(weight), self._backend.array(bias)


_WORDS = "embeddings.word_embeddings.weight"
