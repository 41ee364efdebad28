"""AdamW as docs/exact.md has it, in plain numpy, fed with made-up gradients: honest training states by the thousand."""

from collections.abc import Callable

import numpy as np

from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import STEP, initial_adapter, put
from proofyard.workloads.state import Array

Gradients = Callable[[int, str, Array], Array]
"""(step from 0, name, weight) to a gradient of the weight's shape."""


def clipped(gradients: dict[str, Array], clip: float) -> dict[str, Array]:
    norm = np.float32(0)
    for name in sorted(gradients):
        norm = np.float32(norm + tree(np.square(gradients[name])))
    norm = np.float32(np.sqrt(norm))
    if not np.isfinite(norm):
        raise FloatingPointError("the gradient's norm is not finite: the segment has failed")
    factor = np.float32(min(1.0, clip / (float(norm) + 1e-6)))
    return {name: gradient * factor for name, gradient in gradients.items()}


def tree(x: Array) -> np.float32:
    flat = np.zeros(1 << max(0, x.size - 1).bit_length(), np.float32)
    flat[: x.size] = x.reshape(-1)
    while flat.size > 1:
        flat = flat[: flat.size // 2] + flat[flat.size // 2 :]
    return np.float32(flat[0])


def train(params: LoraParams, seed: int, steps: int, gradients: Gradients, start: dict[str, Array] | None = None):
    """States after every step as tensors, the first one before any. Raises `FloatingPointError` where it diverges."""
    weights = dict(start or initial_adapter(params, seed))
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    f32 = np.float32
    power1 = power2 = 1.0
    yield _state(0, weights, first, second)
    with np.errstate(all="ignore"):
        for step in range(steps):
            power1, power2, lr = power1 * params.beta1, power2 * params.beta2, params.lr_at(step)
            raw = {name: gradients(step, name, weight).astype(f32) for name, weight in sorted(weights.items())}
            for name, g in clipped(raw, params.clip).items():
                m = first[name] * f32(params.beta1) + g * f32(1 - params.beta1)
                v = second[name] * f32(params.beta2) + (g * f32(1 - params.beta2)) * g
                scale = np.sqrt(v / f32(1 - power2)) + f32(params.eps)
                moved = (m * f32(lr / (1 - power1))) / scale
                p = weights[name] * f32(1 - lr * params.weight_decay) - moved
                if not (np.isfinite(p).all() and np.isfinite(m).all() and np.isfinite(v).all()):
                    raise FloatingPointError(f"step {step} is not finite: the segment has failed")
                weights[name], first[name], second[name] = p + f32(0), m + f32(0), v + f32(0)
            yield _state(step + 1, weights, first, second)


def _state(step: int, weights: dict[str, Array], first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
    tensors = put(weights, "adapter") | put(first, "first") | put(second, "second")
    return {STEP: np.array(step, np.int64)} | tensors
