"""Whole training steps: the committed vectors, on every backend, and written out once more from docs/exact.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file

from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.exact import backends
from proofyard.workloads.exact.backend import AttentionShape, Backend, LossShape
from proofyard.workloads.exact.golden import PRECISIONS, digest
from proofyard.workloads.exact.golden_training import FACTOR, HYPER, LENGTHS, MODULES, RATE, adapter, tokens, training
from proofyard.workloads.exact.optimizer import adam_step
from proofyard.workloads.exact.reference import Reference, add_in_order, f32
from proofyard.workloads.exact.tables import rotary
from proofyard.workloads.tiny import HEADS, HIDDEN, LAYERS, write_tiny_model

VECTORS = Path(__file__).parent.parent / "vectors" / "exact.json"
F32 = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("training") / "model")


def committed(precision: str) -> list[str]:
    """The digests of the states after each step."""
    return [step["state"] for step in json.loads(VECTORS.read_text())["training"][precision]]


def _make(name: str) -> Backend:
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    try:
        return backends()[name]()
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", sorted(backends()))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_backend_trains_the_same_states(name: str, precision: str, model: Path) -> None:
    backend = _make(name)
    for parts in (1, 2, 3):
        assert [step.digest for step in training(backend, model, precision, parts)] == committed(precision)


def test_a_training_step_follows_from_the_page(model: Path) -> None:
    plain = Plain(load_file(model / "model.safetensors"))
    weights = adapter()
    first, second = ({name: np.zeros_like(x) for name, x in weights.items()} for _ in range(2))
    for step, expected in enumerate(committed("exact")):
        gradients = plain.gradients(weights, tokens(step))
        update(weights, first, second, gradients, step + 1)
        assert digest([group[name] for group in (weights, first, second) for name in sorted(group)]) == expected


B = Reference()
SHAPE = AttentionShape(LENGTHS, LENGTHS, (HIDDEN // HEADS) ** -0.5)


def update(weights: dict[str, F32], first: dict[str, F32], second: dict[str, F32], g: dict[str, F32], n: int) -> None:
    """One step of the optimiser."""
    squares = [np.array([B.square_sum(g[name])], np.float32) for name in sorted(weights)]
    norm = np.sqrt(add_in_order(squares))
    factor = float(np.minimum(f32(1), f32(HYPER.clip) / (norm + f32(0.000001)))[0])
    step = adam_step(HYPER, n, RATE)
    for name in weights:
        weights[name], first[name], second[name] = B.adamw(
            weights[name], g[name], first[name], second[name], factor, step
        )


class Plain:
    """A decoder of the Llama family without any options, by docs/exact.md and the reference's operations."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors
        cos, sin = rotary(10000.0, HIDDEN // HEADS, max(LENGTHS))
        self.cos, self.sin = (np.concatenate([table[:length] for length in LENGTHS]) for table in (cos, sin))

    def gradients(self, adapters: dict[str, F32], text: npt.NDArray[Any]) -> dict[str, F32]:
        """Gradients of the adapters of a batch given as its sequences end to end."""
        ends = np.cumsum([length + 1 for length in LENGTHS])
        runs = [text[end - length - 1 : end] for end, length in zip(ends, LENGTHS, strict=True)]
        ids, targets = np.concatenate([run[:-1] for run in runs]), np.concatenate([run[1:] for run in runs])
        self.adapters, self.found = adapters, dict[str, F32]()
        table = self.tensors["model.embed_tokens.weight"]
        x, kept = table[ids], []
        for layer in range(LAYERS):
            x, tape = self.forward(f"model.layers.{layer}.", x)
            kept.append(tape)
        h = self.norm("model.norm", x)
        _, g = B.losses_back(h, B.freeze(table, "exact"), targets, 1 / sum(LENGTHS), LossShape())
        g = self.norm_back("model.norm", g, x)
        for layer in reversed(range(LAYERS)):
            g = self.backward(f"model.layers.{layer}.", g, *kept[layer])
        return self.found

    def forward(self, at: str, x: F32) -> tuple[F32, tuple[F32, ...]]:
        h1 = self.norm(f"{at}input_layernorm", x)
        q, k, v = (self.linear(f"{at}self_attn.{name}_proj", h1) for name in "qkv")
        q, k = (B.rotate(y, self.cos, self.sin) for y in (q, k))
        attended = B.attention(q, k, v, HEADS, HEADS, SHAPE)
        middle = x + self.linear(f"{at}self_attn.o_proj", attended)
        h2 = self.norm(f"{at}post_attention_layernorm", middle)
        gate, up = (self.linear(f"{at}mlp.{name}_proj", h2) for name in ("gate", "up"))
        inner = B.gated(gate, up, "silu")
        out = middle + self.linear(f"{at}mlp.down_proj", inner)
        return out, (x, h1, q, k, v, attended, middle, h2, gate, up, inner)

    def backward(self, at: str, g: F32, *tape: F32) -> F32:
        x, h1, q, k, v, attended, middle, h2, gate, up, inner = tape
        dgate, dup = B.gated_back(self.linear_back(f"{at}mlp.down_proj", g, inner), gate, up, "silu")
        dh = self.linear_back(f"{at}mlp.gate_proj", dgate, h2) + self.linear_back(f"{at}mlp.up_proj", dup, h2)
        g = g + self.norm_back(f"{at}post_attention_layernorm", dh, middle)
        dattended = self.linear_back(f"{at}self_attn.o_proj", g, attended)
        dq, dk, dv = B.attention_back(dattended, q, k, v, HEADS, HEADS, SHAPE)
        dq, dk = (B.rotate(y, self.cos, self.sin, back=True) for y in (dq, dk))
        parts = zip("qkv", (dq, dk, dv), strict=True)
        dh = add_in_order([self.linear_back(f"{at}self_attn.{name}_proj", d, h1) for name, d in parts])
        return g + self.norm_back(f"{at}input_layernorm", dh, x)

    def linear(self, name: str, x: F32) -> F32:
        y = B.product(x, self.tensors[f"{name}.weight"])
        if name in MODULES:
            low = B.product(x, self.adapters[f"{name}.lora_A"])
            y = y + B.multiply(B.product(low, self.adapters[f"{name}.lora_B"]), FACTOR)
        return y

    def linear_back(self, name: str, dy: F32, x: F32) -> F32:
        dx = B.product_over_rows(dy, self.tensors[f"{name}.weight"])
        if name in MODULES:
            a, b = self.adapters[f"{name}.lora_A"], self.adapters[f"{name}.lora_B"]
            low, g = B.product(x, a), B.multiply(dy, FACTOR)
            dlow = B.product_over_rows(g, b)
            dx = dx + B.product_over_rows(dlow, a)
            self.found[f"{name}.lora_A"] = B.sum_rows(dlow, x, LENGTHS)
            self.found[f"{name}.lora_B"] = np.ascontiguousarray(B.sum_rows(low, g, LENGTHS).T)
        return dx

    def norm(self, name: str, x: F32) -> F32:
        return B.rms_norm(x, self.tensors[f"{name}.weight"], 1e-5)

    def norm_back(self, name: str, g: F32, x: F32) -> F32:
        return B.rms_norm_back(g, x, self.tensors[f"{name}.weight"], 1e-5)
