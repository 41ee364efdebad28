"""Golden vectors of whole training steps: a tiny decoder, adapters of every kind of layer, AdamW, three steps in a row.

Held by `tests/vectors/exact.json`. They follow from the operations' vectors and from the order in which a decoder puts
operations together (docs/exact.md, Decoder), and it is the order that they are here for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.golden import digest, numbers
from proofyard.workloads.exact.optimizer import AdamW, Hyperparameters
from proofyard.workloads.tiny import HIDDEN, INNER, VOCABULARY

LENGTHS = (24, 7, 17)
STEPS, RANK, FACTOR, RATE = 3, 4, 2.0, 0.01
HYPER = Hyperparameters(beta1=0.9, beta2=0.99, eps=1e-5, decay=0.01, clip=0.5)
MODULES: dict[str, tuple[int, int]] = {
    "model.layers.0.self_attn.v_proj": (HIDDEN, HIDDEN),
    **{f"model.layers.1.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    **{f"model.layers.1.mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")},
    "model.layers.1.mlp.down_proj": (HIDDEN, INNER),
}

Numpy = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """What a training step leaves: losses (R,), the gradient's norm before clipping, and the digest of the adapter's
    tensors, first and second moments, each group in the order of the names."""

    losses: Numpy
    norm: Numpy
    digest: str


def training(backend: Backend, model: Path, precision: str, parts: int = 1) -> Iterator[Step]:
    """Three steps on `write_tiny_model(model)`, each batch computed in 1 to 3 parts."""
    decoder = Decoder(backend, model, precision, MODULES)
    weights = adapter()
    zeros = {name: np.zeros_like(x) for name, x in weights.items()}
    optimizer = AdamW(backend, weights, zeros, zeros, HYPER)
    for step in range(STEPS):
        decoder.adapters.set(optimizer.tensors()[0], FACTOR)
        losses = np.concatenate([decoder.train(*part, 1 / sum(LENGTHS)) for part in _parts(tokens(step), parts)])
        norm = optimizer.step(decoder.adapters.gradients(), step + 1, RATE)
        groups = [group[name] for group in optimizer.tensors() for name in sorted(group)]
        yield Step(losses, np.array([norm], np.float32), digest(groups))


def adapter() -> dict[str, Numpy]:
    """A (rank, in) and B (out, rank) of every adapted layer."""
    tensors = {}
    for name, (outputs, inputs) in MODULES.items():
        tensors[f"{name}.lora_A"] = numbers(RANK, inputs, bound=0.125, of=f"{name} A")
        tensors[f"{name}.lora_B"] = numbers(outputs, RANK, bound=0.125, of=f"{name} B")
    return tensors


def tokens(step: int) -> Numpy:
    """A step's sequences end to end, each one token longer than what is predicted in it."""
    count = sum(LENGTHS) + len(LENGTHS)
    return ((numbers(count, of=f"tokens {step}") + 1) * np.float32(VOCABULARY / 2)).astype(np.int64)


def _parts(ids: Numpy, parts: int) -> Iterator[tuple[Numpy, Numpy, list[int]]]:
    """Inputs, targets and lengths of runs of sequences."""
    ends = np.cumsum([length + 1 for length in LENGTHS])
    for run in np.array_split(np.arange(len(LENGTHS)), parts):
        sequences = [ids[ends[i] - LENGTHS[i] - 1 : ends[i]] for i in run]
        inputs, targets = (np.concatenate([s[cut] for s in sequences]) for cut in (slice(-1), slice(1, None)))
        yield inputs, targets, [LENGTHS[i] for i in run]
