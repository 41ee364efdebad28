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
from proofyard.workloads.exact.config import activation, check_tokens
from proofyard.workloads.exact.fields import Fields
from proofyard.workloads.exact.lora import Linear
from proofyard.workloads.exact.weights import Weights

MOST_LAYERS = 4096
_COMMON: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_FAMILIES: dict[str, dict[str, Any]] = {"bert": {}, "roberta": {"pad_token_id": 1}, "xlm-roberta": {"pad_token_id": 1}}
FAMILIES = tuple(_FAMILIES)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder. Where there is a token `pad` (RoBERTa), it has that position, and the others count on from
    it; without one (BERT) positions are counted from 0."""

    family: str
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    pad: int | None
    eps: float
    activation: Activation

    @property
    def room(self) -> int:
        """How many tokens a text may have."""
        return self.positions - (0 if self.pad is None else self.pad + 1)


def encoder_config(model: Path) -> EncoderConfig:
    """The configuration of a model directory. Raises `InputRefused` with the name of what is not covered."""
    fields = Fields(model, _FAMILIES, _COMMON)
    if fields.get("position_embedding_type") != "absolute":
        raise fields.refused(f"position_embedding_type {fields.get('position_embedding_type')!r}")
    for name in ("is_decoder", "add_cross_attention"):
        if fields.flag(name):
            raise fields.refused(name)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if hidden % heads:
        raise fields.refused(f"{heads} heads over {hidden} numbers")
    pad = None if fields.family == "bert" else fields.get("pad_token_id")
    if pad is not None and (type(pad) is not int or pad < 0):
        raise fields.misstated("pad_token_id", "a token")
    return EncoderConfig(
        family=fields.family,
        hidden=hidden,
        layers=fields.size("num_hidden_layers", MOST_LAYERS),
        heads=heads,
        inner=fields.size("intermediate_size"),
        vocabulary=fields.size("vocab_size"),
        positions=fields.size("max_position_embeddings"),
        pad=pad,
        eps=fields.positive("layer_norm_eps"),
        activation=activation(fields, "hidden_act"),
    )


class Encoder:
    """A frozen encoder."""

    def __init__(
        self, backend: Backend, model: Path, precision: str = "exact", *, weights: Weights | None = None
    ) -> None:
        self.config = config = encoder_config(model)
        self._backend = backend
        self._weights = weights = Weights(model) if weights is None else weights
        weights.check_layers(config.layers)
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
        if max(lengths, default=0) > config.room:
            raise InputRefused(
                "a text", f"has {max(lengths)} tokens, the model has {config.room} positions; set max_tokens"
            )
        check_tokens(ids, config.vocabulary)
        at = _places(ids, lengths, config.pad)
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


def _places(ids: npt.NDArray[np.int64], lengths: Sequence[int], pad: int | None) -> npt.NDArray[np.int64]:
    """(R,): each token's row in the table of positions."""
    if pad is None:
        return np.concatenate([np.arange(length) for length in lengths])
    texts = np.split(ids != pad, np.cumsum(lengths)[:-1])
    return np.concatenate([np.cumsum(counted) * counted for counted in texts]) + pad


_WORDS = "embeddings.word_embeddings.weight"
