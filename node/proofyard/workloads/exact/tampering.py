"""Wrong arithmetic on purpose: for the zoo of cheats, which exact verdicts must see."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Tampering:
    """What happens to every frozen weight matrix (N, K), and to the left operand of every linear layer, in binary32."""

    weights: Change | None = None
    activations: Change | None = None


_active: Tampering | None = None


def active() -> Tampering | None:
    """The tampering in force. A model that is loaded under one is not to be used under another."""
    return _active


@contextmanager
def tampering(*, weights: Change | None = None, activations: Change | None = None) -> Iterator[None]:
    """While active, backends that are asked for compute wrong in this way."""
    global _active
    before, _active = _active, Tampering(weights, activations)
    try:
        yield
    finally:
        _active = before


class TamperedBackend:
    """A backend that does everything but slicing and freezing as another does."""

    def __init__(self, honest: Any, change: Tampering) -> None:
        self._honest = honest
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def freeze(self, weight: Array, precision: str) -> Any:
        changed = self._change.weights(weight.copy()) if self._change.weights else weight
        return self._honest.freeze(np.ascontiguousarray(changed, np.float32), precision)

    def slice(self, x: Any) -> Any:
        if self._change.activations is None:
            return self._honest.slice(x)
        changed = self._change.activations(self._honest.numpy(x).copy())
        return self._honest.slice(self._honest.array(np.ascontiguousarray(changed, np.float32)))
