"""The Llama family in exact arithmetic: hidden states, losses, and gradients of LoRA adapters, written out by hand.

Rows are the tokens of a batch's sequences, one after the other, (R, hidden). A layer keeps what its backward pass
needs (`_Tape`) and computes the cheap rest again. A new family is a few fields of `DecoderConfig`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Array, AttentionShape, Backend, LossShape
from proofyard.workloads.exact.config import DecoderConfig, check_tokens, decoder_config
from proofyard.workloads.exact.lora import Adapters, Linear
from proofyard.workloads.exact.tables import rotary
from proofyard.workloads.exact.weights import Weights

Ids = npt.NDArray[np.int64]


@dataclass
class Cache:
    """Keys and values of one sequence so far, a pair a layer, (positions, key heads * d)."""

    layers: list[tuple[Array, Array] | None] = field(default_factory=list)
    length: int = 0


@dataclass
class _Tape:
    """What a layer keeps for its backward pass; q and k are rotated, `lows` are adapters' inner products."""

    x: Array
    q_raw: Array
    k_raw: Array
    q: Array
    k: Array
    v: Array
    attended: Array
    branch: Array | None
    middle: Array
    gate: Array
    up: Array
    mlp: Array | None
    lows: dict[str, Array]


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a batch stand."""

    lengths: tuple[int, ...]
    keys: tuple[int, ...]
    cos: Array
    sin: Array


class Decoder:
    """A frozen causal language model, with adapters on the layers named in `modules`.

    Without `head` it gives hidden states alone, and the directory needs no output layer.
    """

    def __init__(
        self,
        backend: Backend,
        model: Path,
        precision: str = "exact",
        modules: Mapping[str, tuple[int, int]] | None = None,
        *,
        head: bool = True,
    ) -> None:
        self.config = config = decoder_config(model)
        self._backend = backend
        self._weights = weights = Weights(model)
        prefix = "model." if head or "model.norm.weight" in weights else ""
        self._table = f"{prefix}embed_tokens.weight"
        self._layers = [_Layer(backend, config, weights, prefix, i, precision) for i in range(config.layers)]
        self._norm = _norm_weight(backend, config, weights, f"{prefix}norm.weight", config.hidden)
        weights.check(self._table, (config.vocabulary, config.hidden))
        output = self._table if config.tied else "lm_head.weight"
        if head:
            self._head = backend.freeze(weights.tensor(output, (config.vocabulary, config.hidden)), "exact")
        self._loss = LossShape(config.logit_factor, config.logit_cap)
        linears = {linear.name: linear for layer in self._layers for linear in layer.linears.values()}
        self.adapters = Adapters(backend, linears, modules or {})
        numbers = [
            layer.number
            for layer in self._layers
            for linear in layer.linears.values()
            if linear.name in (modules or {})
        ]
        self._lowest = min(numbers, default=config.layers)
        weights.let_go()
        self._tables: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    def hidden(self, ids: Ids, lengths: Sequence[int], *, caches: Sequence[Cache] | None = None) -> Array:
        """(R, hidden) before the output layer; with `caches`, one a sequence, the rows follow what is in them."""
        return self._forward(ids, lengths, caches, None)

    def shown_logits(self, hidden: Array) -> npt.NDArray[Any]:
        """(R, vocabulary) logits for people and tests; multiplier and soft cap in numpy, not to the bit."""
        logits = self._backend.numpy(self._backend.linear(self._backend.slice(hidden), self._head))
        logits = logits * np.float32(self._loss.multiplier)
        cap = self._loss.softcap
        return np.tanh(logits / cap) * cap if cap else logits

    def losses(
        self, ids: Ids, targets: Ids, lengths: Sequence[int], places: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[Any]:
        """Negative log-likelihood in nats of the targets of all rows, or of those at `places`, binary32."""
        check_tokens(targets, self.config.vocabulary)
        hidden = self.hidden(ids, lengths)
        if places is not None:
            hidden = self._backend.array(np.ascontiguousarray(self._backend.numpy(hidden)[places]))
            targets = targets[places]
        return self._backend.losses(hidden, self._head, targets, self._loss)

    def train(self, ids: Ids, targets: Ids, lengths: Sequence[int], scale: float) -> npt.NDArray[Any]:
        """(R,) losses; the gradient of their sum times `scale` is added to the adapters' gradients."""
        be = self._backend
        check_tokens(targets, self.config.vocabulary)
        tapes: list[_Tape] = []
        rows = self._rows(lengths, None)
        x = self._run(ids, rows, None, tapes)
        normed = be.rms_norm(x, self._norm, self.config.eps)
        nll, g = be.losses_back(normed, self._head, targets, scale, self._loss)
        g = be.rms_norm_back(g, x, self._norm, self.config.eps)
        for layer in reversed(self._layers[self._lowest :]):
            g = layer.backward(g, tapes.pop(), rows, lowest=layer.number == self._lowest)
        return nll

    def _forward(
        self, ids: Ids, lengths: Sequence[int], caches: Sequence[Cache] | None, tapes: list[_Tape] | None
    ) -> Array:
        x = self._run(ids, self._rows(lengths, caches), caches, tapes)
        return self._backend.rms_norm(x, self._norm, self.config.eps)

    def _run(self, ids: Ids, rows: _Rows, caches: Sequence[Cache] | None, tapes: list[_Tape] | None) -> Array:
        check_tokens(ids, self.config.vocabulary)
        x = self._backend.array(self._weights.rows(self._table, ids))
        if self.config.embedding_factor != 1.0:
            x = self._backend.multiply(x, self.config.embedding_factor)
        for layer in self._layers:
            x = layer.forward(x, rows, caches, tapes if layer.number >= self._lowest else None)
        for cache, length in zip(caches or (), rows.lengths, strict=False):
            cache.length += length
        return x

    def _rows(self, lengths: Sequence[int], caches: Sequence[Cache] | None) -> _Rows:
        first = [cache.length for cache in caches] if caches else [0] * len(lengths)
        keys = tuple(start + length for start, length in zip(first, lengths, strict=True))
        if max(keys, default=0) > self.config.positions:
            raise InputRefused("a text", f"has {max(keys)} tokens, the model has {self.config.positions} positions")
        if self._tables is None or len(self._tables[0]) < max(keys, default=0):
            config = self.config
            most = min(config.positions, 2 * max(keys))
            self._tables = rotary(config.theta, config.head_dim, most, config.stretch)
        at = np.concatenate([np.arange(start, end) for start, end in zip(first, keys, strict=True)])
        cos, sin = (self._backend.array(table[at]) for table in self._tables)
        return _Rows(tuple(lengths), keys, cos, sin)


class _Layer:
    """One transformer layer."""

    def __init__(
        self, backend: Backend, config: DecoderConfig, weights: Weights, prefix: str, number: int, precision: str
    ) -> None:
        self._backend, self._config, self.number = backend, config, number
        prefix = f"{prefix}layers.{number}."
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        shapes = {
            "self_attn.q_proj": (wide, config.hidden),
            "self_attn.k_proj": (narrow, config.hidden),
            "self_attn.v_proj": (narrow, config.hidden),
            "self_attn.o_proj": (config.hidden, wide),
            "mlp.gate_proj": (config.inner, config.hidden),
            "mlp.up_proj": (config.inner, config.hidden),
            "mlp.down_proj": (config.hidden, config.inner),
        }
        self.linears = {
            name.partition(".")[2][0]: Linear(backend, weights, prefix + name, shape, precision)
            for name, shape in shapes.items()
        }

        def norm(name: str, size: int = config.hidden) -> Array:
            return _norm_weight(backend, config, weights, f"{prefix}{name}.weight", size)

        self._before_attention = norm("input_layernorm")
        if config.sandwich:
            self._after_attention: Array | None = norm("post_attention_layernorm")
            self._before_mlp, self._after_mlp = norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm")
        else:
            self._after_attention, self._after_mlp = None, None
            self._before_mlp = norm("post_attention_layernorm")
        self._q_norm = norm("self_attn.q_norm", config.head_dim) if config.head_norms else None
        self._k_norm = norm("self_attn.k_norm", config.head_dim) if config.head_norms else None

    def forward(self, x: Array, rows: _Rows, caches: Sequence[Cache] | None, tapes: list[_Tape] | None) -> Array:
        be, config = self._backend, self._config
        lows: dict[str, Array] = {}
        h = be.rms_norm(x, self._before_attention, config.eps)
        q_raw, k_raw, v = self._apply("qkv", h, lows)
        q = be.rotate(self._head_norm(q_raw, self._q_norm), rows.cos, rows.sin)
        k = be.rotate(self._head_norm(k_raw, self._k_norm), rows.cos, rows.sin)
        if caches is not None:
            k, v = self._remember(caches, rows, k, v)
        attended = be.attention(q, k, v, config.heads, config.kv_heads, self._shape(rows))
        (out,) = self._apply("o", attended, lows)
        branch = self._branch(out, self._after_attention)
        middle = be.add(x, branch)
        h = be.rms_norm(middle, self._before_mlp, config.eps)
        gate, up = self._apply("gu", h, lows)
        (mlp,) = self._apply("d", be.gated(gate, up, config.activation), lows)
        if tapes is not None:
            kept = (out, mlp) if config.sandwich else (None, None)
            tapes.append(_Tape(x, q_raw, k_raw, q, k, v, attended, kept[0], middle, gate, up, kept[1], lows))
        return be.add(middle, self._branch(mlp, self._after_mlp))

    def backward(self, g: Array, tape: _Tape, rows: _Rows, *, lowest: bool) -> Array:
        be, config, lengths = self._backend, self._config, rows.lengths
        down = self._branch_back(g, tape.mlp, self._after_mlp)
        inner = be.gated(tape.gate, tape.up, config.activation) if self.linears["d"].adapter else None
        dact = self._back("d", down, inner, tape, lengths)
        dgate, dup = be.gated_back(dact, tape.gate, tape.up, config.activation)
        h = be.rms_norm(tape.middle, self._before_mlp, config.eps) if self._adapted("gu") else None
        dh = be.add(self._back("g", dgate, h, tape, lengths), self._back("u", dup, h, tape, lengths))
        g = be.add(g, be.rms_norm_back(dh, tape.middle, self._before_mlp, config.eps))
        dout = self._branch_back(g, tape.branch, self._after_attention)
        dattended = self._back("o", dout, tape.attended, tape, lengths)
        dq, dk, dv = be.attention_back(
            dattended, tape.q, tape.k, tape.v, config.heads, config.kv_heads, self._shape(rows)
        )
        dq = self._head_norm_back(be.rotate(dq, rows.cos, rows.sin, back=True), tape.q_raw, self._q_norm)
        dk = self._head_norm_back(be.rotate(dk, rows.cos, rows.sin, back=True), tape.k_raw, self._k_norm)
        h = be.rms_norm(tape.x, self._before_attention, config.eps) if self._adapted("qkv") else None
        if lowest:
            for name, gradient in zip("qkv", (dq, dk, dv), strict=True):
                if self.linears[name].adapter:
                    self.linears[name].backward(gradient, h, tape.lows[name], lengths, wants_input=False)
            return g
        dh = be.add(self._back("q", dq, h, tape, lengths), self._back("k", dk, h, tape, lengths))
        dh = be.add(dh, self._back("v", dv, h, tape, lengths))
        return be.add(g, be.rms_norm_back(dh, tape.x, self._before_attention, config.eps))

    def _apply(self, names: str, x: Array, lows: dict[str, Array]) -> list[Array]:
        """The outputs of layers that share their input."""
        sliced, outputs = self._backend.slice(x), []
        for name in names:
            y, low = self.linears[name].forward(x, sliced)
            if low is not None:
                lows[name] = low
            outputs.append(y)
        return outputs

    def _back(self, name: str, g: Array, x: Array | None, tape: _Tape, lengths: Sequence[int]) -> Array:
        return self.linears[name].backward(g, x, tape.lows.get(name), lengths)

    def _adapted(self, names: str) -> bool:
        return any(self.linears[name].adapter for name in names)

    def _branch(self, out: Array, norm: Array | None) -> Array:
        """What a branch adds to the residual stream."""
        if norm is not None:
            out = self._backend.rms_norm(out, norm, self._config.eps)
        factor = self._config.residual_factor
        return out if factor == 1.0 else self._backend.multiply(out, factor)

    def _branch_back(self, g: Array, out: Array | None, norm: Array | None) -> Array:
        factor = self._config.residual_factor
        g = g if factor == 1.0 else self._backend.multiply(g, factor)
        return g if norm is None else self._backend.rms_norm_back(g, out, norm, self._config.eps)

    def _head_norm(self, x: Array, weight: Array | None) -> Array:
        if weight is None:
            return x
        rows = x.reshape(-1, self._config.head_dim)
        return self._backend.rms_norm(rows, weight, self._config.eps).reshape(x.shape)

    def _head_norm_back(self, g: Array, x: Array, weight: Array | None) -> Array:
        if weight is None:
            return g
        d = self._config.head_dim
        return self._backend.rms_norm_back(g.reshape(-1, d), x.reshape(-1, d), weight, self._config.eps).reshape(
            g.shape
        )

    def _shape(self, rows: _Rows) -> AttentionShape:
        config = self._config
        window = config.windows[self.number]
        return AttentionShape(rows.lengths, rows.keys, config.scale, True, window, config.attention_cap)

    def _remember(self, caches: Sequence[Cache], rows: _Rows, k: Array, v: Array) -> tuple[Array, Array]:
        """Keys and values of every sequence from its beginning; the caches take them over."""
        be = self._backend
        keys, values, start = [], [], 0
        for cache, length in zip(caches, rows.lengths, strict=True):
            cache.layers += [None] * (self._config.layers - len(cache.layers))
            new = [be.numpy(array)[start : start + length] for array in (k, v)]
            old = cache.layers[self.number]
            pair = [np.concatenate([past, own]) for past, own in zip(old, new, strict=True)] if old else new
            cache.layers[self.number] = (pair[0], pair[1])
            keys.append(pair[0])
            values.append(pair[1])
            start += length
        return be.array(np.concatenate(keys)), be.array(np.concatenate(values))


def _norm_weight(backend: Backend, config: DecoderConfig, weights: Weights, name: str, size: int) -> Array:
    weight = weights.tensor(name, (size,))
    return backend.array(weight + np.float32(config.offset) if config.offset else weight)
