"""The Llama family in exact arithmetic, written out by hand: docs/exact.md, Decoder.

A layer keeps what its backward pass needs (`_Tape`) and computes the cheap rest again. A new family is a few fields of
`DecoderConfig`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Array, AttentionShape, Backend, LossShape
from proofyard.workloads.exact.causal import Cache, CausalModel, Ids, Rows, remember
from proofyard.workloads.exact.config import DecoderConfig, decoder_config
from proofyard.workloads.exact.lora import Linear
from proofyard.workloads.exact.tables import rotary
from proofyard.workloads.exact.weights import Weights


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


class Decoder(CausalModel[DecoderConfig]):
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
        weights: Weights | None = None,
    ) -> None:
        config = decoder_config(model)
        weights = Weights(model) if weights is None else weights
        prefix = "model." if head or "model.norm.weight" in weights else ""
        layers = [_Layer(backend, config, weights, prefix, i, precision) for i in range(config.layers)]
        self._norm = _norm_weight(backend, config, weights, f"{prefix}norm.weight", config.hidden)
        self._tables: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        super().__init__(
            backend,
            config,
            weights,
            layers,
            table=f"{prefix}embed_tokens.weight",
            head=("" if not head else f"{prefix}embed_tokens.weight" if config.tied else "lm_head.weight"),
            loss=LossShape(config.logit_factor, config.logit_cap),
            modules=modules or {},
        )

    def embed(self, ids: Ids, rows: Rows) -> Array:
        x = self._backend.array(self._weights.rows(self._table, ids))
        factor = self.config.embedding_factor
        return x if factor == 1.0 else self._backend.multiply(x, factor)

    def norm(self, x: Array) -> Array:
        return self._backend.rms_norm(x, self._norm, self.config.eps)

    def norm_back(self, g: Array, x: Array) -> Array:
        return self._backend.rms_norm_back(g, x, self._norm, self.config.eps)

    def tables(self, most: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self._tables is None or len(self._tables[0]) < most:
            config = self.config
            self._tables = rotary(config.theta, config.head_dim, min(config.positions, 2 * most), config.stretch)
        return self._tables


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

    def forward(self, x: Array, rows: Rows, caches: Sequence[Cache] | None, tapes: list[_Tape] | None) -> Array:
        be, config = self._backend, self._config
        lows: dict[str, Array] = {}
        h = be.rms_norm(x, self._before_attention, config.eps)
        q_raw, k_raw, v = self._apply("qkv", h, lows)
        q = be.rotate(self._head_norm(q_raw, self._q_norm), *rows.tables)
        k = be.rotate(self._head_norm(k_raw, self._k_norm), *rows.tables)
        if caches is not None:
            k, v = remember(be, caches, self.number, rows, k, v)
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

    def backward(self, g: Array, tape: _Tape, rows: Rows, *, lowest: bool) -> Array:
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
        dq = self._head_norm_back(be.rotate(dq, *rows.tables, back=True), tape.q_raw, self._q_norm)
        dk = self._head_norm_back(be.rotate(dk, *rows.tables, back=True), tape.k_raw, self._k_norm)
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

    def _shape(self, rows: Rows) -> AttentionShape:
        config = self._config
        window = config.windows[self.number]
        return AttentionShape(rows.lengths, rows.keys, config.scale, True, window, config.attention_cap)


def _norm_weight(backend: Backend, config: DecoderConfig, weights: Weights, name: str, size: int) -> Array:
    weight = weights.tensor(name, (size,))
    return backend.array(weight + np.float32(config.offset) if config.offset else weight)
