"""GPT-2 in exact arithmetic: learned positions, LayerNorms, fused queries, keys and values, an MLP without gate.

Its linear layers are `Conv1D`s, whose weights are stored (in, out); everything else of a linear layer is the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Activation, Array, AttentionShape, Backend, LossShape
from proofyard.workloads.exact.causal import Cache, CausalModel, Ids, Rows, remember
from proofyard.workloads.exact.config import MOST_HEAD, MOST_LAYERS, activation
from proofyard.workloads.exact.fields import Fields
from proofyard.workloads.exact.lora import Linear
from proofyard.workloads.exact.weights import Weights

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_positions": 1024,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }
}


@dataclass(frozen=True)
class Gpt2Config:
    """Sizes and switches. `scales` holds what each layer's scores are multiplied by."""

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    eps: float
    activation: Activation
    tied: bool
    scales: tuple[float, ...]

    @property
    def room(self) -> int:
        return self.positions


def gpt2_config(model: Path) -> Gpt2Config:
    """The configuration of a model directory. Raises `InputRefused` with the name of what is not covered."""
    fields = Fields(model, FAMILIES, {})
    hidden, heads, layers = fields.size("n_embd"), fields.size("n_head"), fields.size("n_layer", MOST_LAYERS)
    if hidden % heads or hidden // heads > MOST_HEAD:
        raise fields.refused(f"{heads} heads over {hidden} numbers")
    if fields.flag("add_cross_attention"):
        raise fields.refused("add_cross_attention")
    scale = 1 / math.sqrt(hidden // heads) if fields.flag("scale_attn_weights") else 1.0
    by_layer = fields.flag("scale_attn_by_inverse_layer_idx")
    return Gpt2Config(
        hidden=hidden,
        layers=layers,
        heads=heads,
        inner=fields.size_or("n_inner", 4 * hidden),
        vocabulary=fields.size("vocab_size"),
        positions=fields.size("n_positions"),
        eps=fields.positive("layer_norm_epsilon"),
        activation=activation(fields, "activation_function"),
        tied=fields.flag("tie_word_embeddings"),
        scales=tuple(scale / (number + 1 if by_layer else 1) for number in range(layers)),
    )


class Gpt2(CausalModel[Gpt2Config]):
    """A frozen GPT-2; see `Decoder`. Its modules are named as in the model with its output layer, whether the weight
    file says `transformer.` before each name or not."""

    def __init__(
        self,
        backend: Backend,
        model: Path,
        precision: str = "exact",
        modules: Mapping[str, tuple[int, int]] | None = None,
        *,
        head: bool = True,
        weights: Weights | None = None,
    ) -> None:
        config = gpt2_config(model)
        weights = Weights(model) if weights is None else weights
        prefix = "transformer." if "transformer.wte.weight" in weights else ""
        layers = [_Layer(backend, config, weights, prefix, number, precision) for number in range(config.layers)]
        self._places = weights.tensor(f"{prefix}wpe.weight", (config.positions, config.hidden))
        self._norm = _LayerNorm(backend, weights, f"{prefix}ln_f", config)
        super().__init__(
            backend,
            config,
            weights,
            layers,
            table=f"{prefix}wte.weight",
            head="" if not head else f"{prefix}wte.weight" if config.tied else "lm_head.weight",
            loss=LossShape(),
            modules=modules or {},
        )

    def embed(self, ids: Ids, rows: Rows) -> Array:
        return self._backend.add(self._backend.array(self._weights.rows(self._table, ids)), rows.tables[0])

    def norm(self, x: Array) -> Array:
        return self._norm.forward(x)

    def norm_back(self, g: Array, x: Array) -> Array:
        return self._norm.backward(g, x)

    def tables(self, most: int) -> tuple[npt.NDArray[Any], ...]:
        return (self._places,)


class _LayerNorm:
    """LayerNorm with weight and bias; its gradient is RMSNorm's at the centred row, centred."""

    def __init__(self, backend: Backend, weights: Weights, name: str, config: Gpt2Config) -> None:
        self._backend, self._eps = backend, config.eps
        self._weight = backend.array(weights.tensor(f"{name}.weight", (config.hidden,)))
        self._bias = backend.array(weights.tensor(f"{name}.bias", (config.hidden,)))

    def forward(self, x: Array) -> Array:
        return self._backend.layer_norm(x, self._weight, self._bias, self._eps)

    def backward(self, g: Array, x: Array) -> Array:
        be = self._backend
        return be.centre(be.rms_norm_back(g, be.centre(x), self._weight, self._eps))


@dataclass
class _Tape:
    """What a layer keeps for its backward pass."""

    x: Array
    q: Array
    k: Array
    v: Array
    attended: Array
    middle: Array
    inner: Array
    lows: dict[str, Array]


class _Layer:
    """One transformer layer."""

    def __init__(
        self, backend: Backend, config: Gpt2Config, weights: Weights, prefix: str, number: int, precision: str
    ) -> None:
        self._backend, self._config, self.number = backend, config, number
        hidden, inner, at = config.hidden, config.inner, f"h.{number}."
        shapes = {
            "qkv": ("attn.c_attn", (3 * hidden, hidden)),
            "out": ("attn.c_proj", (hidden, hidden)),
            "up": ("mlp.c_fc", (inner, hidden)),
            "down": ("mlp.c_proj", (hidden, inner)),
        }
        self.linears = {
            short: Linear(
                backend,
                weights,
                f"transformer.{at}{name}",
                shape,
                precision,
                stored=f"{prefix}{at}{name}",
                transposed=True,
            )
            for short, (name, shape) in shapes.items()
        }
        self._before_attention = _LayerNorm(backend, weights, f"{prefix}{at}ln_1", config)
        self._before_mlp = _LayerNorm(backend, weights, f"{prefix}{at}ln_2", config)

    def forward(self, x: Array, rows: Rows, caches: Sequence[Cache] | None, tapes: list[_Tape] | None) -> Array:
        be, config, hidden = self._backend, self._config, self._config.hidden
        lows: dict[str, Array] = {}
        fused = self._apply("qkv", self._before_attention.forward(x), lows)
        q, k, v = (be.columns(fused, part * hidden, (part + 1) * hidden) for part in range(3))
        if caches is not None:
            k, v = remember(be, caches, self.number, rows, k, v)
        attended = be.attention(q, k, v, config.heads, config.heads, self._shape(rows))
        middle = be.add(x, self._apply("out", attended, lows))
        inner = self._apply("up", self._before_mlp.forward(middle), lows)
        down = self._apply("down", be.activate(inner, config.activation), lows)
        if tapes is not None:
            tapes.append(_Tape(x, q, k, v, attended, middle, inner, lows))
        return be.add(middle, down)

    def backward(self, g: Array, tape: _Tape, rows: Rows, *, lowest: bool) -> Array:
        be, config, lengths = self._backend, self._config, rows.lengths
        acted = be.activate(tape.inner, config.activation) if self.linears["down"].adapter else None
        dacted = self._back("down", g, acted, tape, lengths)
        ones = be.array(np.ones(tuple(tape.inner.shape), np.float32))
        dinner = be.gated_back(dacted, tape.inner, ones, config.activation)[0]
        h = self._before_mlp.forward(tape.middle) if self.linears["up"].adapter else None
        dh = self._back("up", dinner, h, tape, lengths)
        g = be.add(g, self._before_mlp.backward(dh, tape.middle))
        dattended = self._back("out", g, tape.attended, tape, lengths)
        parts = be.attention_back(dattended, tape.q, tape.k, tape.v, config.heads, config.heads, self._shape(rows))
        h = self._before_attention.forward(tape.x) if self.linears["qkv"].adapter else None
        dfused = be.beside(parts)
        if lowest:
            if self.linears["qkv"].adapter:
                self.linears["qkv"].backward(dfused, h, tape.lows["qkv"], lengths, wants_input=False)
            return g
        return be.add(g, self._before_attention.backward(self._back("qkv", dfused, h, tape, lengths), tape.x))

    def _apply(self, name: str, x: Array, lows: dict[str, Array]) -> Array:
        y, low = self.linears[name].forward(x, self._backend.slice(x))
        if low is not None:
            lows[name] = low
        return y

    def _back(self, name: str, g: Array, x: Array | None, tape: _Tape, lengths: Sequence[int]) -> Array:
        return self.linears[name].backward(g, x, tape.lows.get(name), lengths)

    def _shape(self, rows: Rows) -> AttentionShape:
        return AttentionShape(rows.lengths, rows.keys, self._config.scales[self.number], True)
