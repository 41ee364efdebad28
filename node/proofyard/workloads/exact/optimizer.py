"""AdamW with gradient clipping on the tensors of a state: docs/exact.md, Optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact.backend import AdamStep, Array, Backend

Tensors = Mapping[str, npt.NDArray[Any]]
MARGIN = 0.000001


@dataclass(frozen=True)
class Hyperparameters:
    """AdamW's, as a manifest gives them; `clip` bounds the gradient's norm."""

    beta1: float
    beta2: float
    eps: float
    decay: float
    clip: float


class AdamW:
    """Weights and both moments, as the backend's arrays, in the order of their names."""

    def __init__(
        self,
        backend: Backend,
        weights: Tensors,
        first: Tensors,
        second: Tensors,
        hyper: Hyperparameters,
    ) -> None:
        self._backend = backend
        self.weights: dict[str, Array] = {name: backend.array(np.array(weights[name])) for name in sorted(weights)}
        self._first = {name: backend.array(np.array(first[name])) for name in self.weights}
        self._second = {name: backend.array(np.array(second[name])) for name in self.weights}
        self._hyper = hyper

    def step(self, gradients: Mapping[str, Array], number: int, rate: float) -> float:
        """Apply step `number` (from 1 in this round); returns the gradient's norm before clipping."""
        be = self._backend
        squares = [np.float32(be.square_sum(gradients[name])) for name in self.weights]
        with np.errstate(all="ignore"):
            total = squares[0]
            for square in squares[1:]:
                total = total + square
            norm = np.sqrt(total)
            factor = np.minimum(np.float32(1), np.float32(self._hyper.clip) / (norm + np.float32(MARGIN)))
        scalars = adam_step(self._hyper, number, rate)
        for name in self.weights:
            self.weights[name], self._first[name], self._second[name] = be.adamw(
                self.weights[name],
                gradients[name],
                self._first[name],
                self._second[name],
                float(factor),
                scalars,
            )
        return float(norm)

    def tensors(self) -> tuple[dict[str, npt.NDArray[Any]], ...]:
        """Weights and both moments as numpy arrays."""
        groups = (self.weights, self._first, self._second)
        return tuple({name: self._backend.numpy(array) for name, array in group.items()} for group in groups)


def adam_step(hyper: Hyperparameters, number: int, rate: float) -> AdamStep:
    """The scalars of step `number`, in binary64; powers by repeated multiplication, which no library rounds for us."""
    power1 = power2 = 1.0
    for _ in range(number):
        power1, power2 = power1 * hyper.beta1, power2 * hyper.beta2
    return AdamStep(
        beta1=hyper.beta1,
        beta2=hyper.beta2,
        rest1=1 - hyper.beta1,
        rest2=1 - hyper.beta2,
        correction2=1 - power2,
        rate=rate / (1 - power1),
        keep=1 - rate * hyper.decay,
        eps=hyper.eps,
    )
