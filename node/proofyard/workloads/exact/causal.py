"""A causal language model in exact arithmetic: hidden states, losses, and gradients of LoRA adapters.

Rows are the tokens of a batch's sequences, one after the other, (R, hidden). What the families have in common is here;
each says how it embeds, norms, and what a layer computes (`decoder`, `gpt2`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.backend import Array, Backend, LossShape
from proofyard.workloads.exact.config import check_tokens
from proofyard.workloads.exact.lora import Adapters, Linear
from proofyard.workloads.exact.weights import Weights

Ids = npt.NDArray[np.int64]
Tables = tuple[npt.NDArray[Any], ...]


class CausalConfig(Protocol):
    """What every family's configuration says."""

    @property
    def hidden(self) -> int: ...

    @property
    def layers(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def positions(self) -> int: ...

    @property
    def room(self) -> int:
        """How many tokens a text may have."""
        ...


C = TypeVar("C", bound=CausalConfig)


@dataclass
class Cache:
    """Keys and values of one sequence so far, a pair a layer, (positions, key heads * d)."""

    layers: list[tuple[Array, Array] | None] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch stand: queries and keys of each sequence, and each row's row of the model's tables of
    positions."""

    lengths: tuple[int, ...]
    keys: tuple[int, ...]
    tables: tuple[Array, ...]


class Layer(Protocol):
    """One transformer layer. It keeps what its backward pass needs in the list `tapes`, where there is one."""

    number: int
    linears: dict[str, Linear]

    def forward(self, x: Array, rows: Rows, caches: Sequence[Cache] | None, tapes: list[Any] | None) -> Array: ...

    def backward(self, g: Array, tape: Any, rows: Rows, *, lowest: bool) -> Array: ...


class CausalModel(ABC, Generic[C]):
    """A frozen model with adapters on the linear layers named in `modules`.

    `table` is the name of the embedding table, `head` that of the output layer's weights, "" where there is none and
    the model gives hidden states alone.
    """

    def __init__(
        self,
        backend: Backend,
        config: C,
        weights: Weights,
        layers: Sequence[Layer],
        *,
        table: str,
        head: str,
        loss: LossShape,
        modules: Mapping[str, tuple[int, int]],
    ) -> None:
        self.config = config
        self._backend, self._weights, self._layers = backend, weights, layers
        self._table, self._loss = table, loss
        weights.check_layers(config.layers)
        weights.check(table, (config.vocabulary, config.hidden))
        if head:
            self._head = backend.freeze(weights.tensor(head, (config.vocabulary, config.hidden)), "exact")
        self.linears = {linear.name: linear for layer in layers for linear in layer.linears.values()}
        self.adapters = Adapters(backend, self.linears, modules)
        numbers = [layer.number for layer in layers for linear in layer.linears.values() if linear.name in modules]
        self._lowest = min(numbers, default=config.layers)
        weights.let_go()

    @abstractmethod
    def embed(self, ids: Ids, rows: Rows) -> Array:
        """(R, hidden): what enters the first layer."""

    @abstractmethod
    def norm(self, x: Array) -> Array:
        """The last norm."""

    @abstractmethod
    def norm_back(self, g: Array, x: Array) -> Array:
        """Its gradient at x."""

    @abstractmethod
    def tables(self, most: int) -> Tables:
        """Tables with a row for each of at least `most` positions, or none."""

    def hidden(self, ids: Ids, lengths: Sequence[int], *, caches: Sequence[Cache] | None = None) -> Array:
        """(R, hidden) before the output layer; with `caches`, one a sequence, the rows follow what is in them."""
        return self.norm(self._run(ids, self._rows(lengths, caches), caches, None))

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
            hidden, targets = self._some(hidden, places), targets[places]
        return self._backend.losses(hidden, self._head, targets, self._loss)

    def train(
        self,
        ids: Ids,
        targets: Ids,
        lengths: Sequence[int],
        scale: float,
        places: npt.NDArray[np.intp] | None = None,
    ) -> npt.NDArray[Any]:
        """Losses of all rows, or of those at `places`; the gradient of their sum times `scale` is added to the
        adapters' gradients."""

        def back(hidden: Array, targets: Ids) -> tuple[npt.NDArray[Any], Array]:
            return self._backend.losses_back(hidden, self._head, targets, scale, self._loss)

        return self._train(ids, targets, lengths, places, back)

    def train_weighed(
        self,
        ids: Ids,
        targets: Ids,
        lengths: Sequence[int],
        places: npt.NDArray[np.intp],
        weigh: Callable[[npt.NDArray[Any]], Sequence[tuple[int, float]]],
    ) -> npt.NDArray[Any]:
        """Losses of the rows at `places`; the gradient of their sum, each times its weight, is added to the adapters'
        gradients. `weigh` makes the weights of the losses: so many rows after the last ones have this one."""

        def back(hidden: Array, targets: Ids) -> tuple[npt.NDArray[Any], Array]:
            be, start, parts = self._backend, 0, [np.zeros((0, self.config.hidden), np.float32)]
            nll = be.losses(hidden, self._head, targets, self._loss)
            for count, weight in weigh(nll):
                own = np.arange(start, start + count)
                start += count
                if count:
                    some = self._some(hidden, own)
                    parts.append(be.numpy(be.losses_back(some, self._head, targets[own], weight, self._loss)[1]))
            return nll, be.array(np.concatenate(parts))

        return self._train(ids, targets, lengths, places, back)

    def _train(
        self,
        ids: Ids,
        targets: Ids,
        lengths: Sequence[int],
        places: npt.NDArray[np.intp] | None,
        back: Callable[[Array, Ids], tuple[npt.NDArray[Any], Array]],
    ) -> npt.NDArray[Any]:
        """`back` gives the losses of some rows before the output layer, and the gradient there."""
        check_tokens(targets, self.config.vocabulary)
        tapes: list[Any] = []
        rows = self._rows(lengths, None)
        x = self._run(ids, rows, None, tapes)
        hidden = self.norm(x)
        if places is None:
            nll, g = back(hidden, targets)
        else:
            nll, found = back(self._some(hidden, places), targets[places])
            g = self._spread(found, places, len(ids))
        g = self.norm_back(g, x)
        for layer in reversed(self._layers[self._lowest :]):
            g = layer.backward(g, tapes.pop(), rows, lowest=layer.number == self._lowest)
        return nll

    def _some(self, x: Array, places: npt.NDArray[np.intp]) -> Array:
        """The rows of x at `places`."""
        return self._backend.array(np.ascontiguousarray(self._backend.numpy(x)[places]))

    def _spread(self, x: Array, places: npt.NDArray[np.intp], count: int) -> Array:
        """`count` rows: those of x at `places`, +0 elsewhere."""
        rows = self._backend.numpy(x)
        spread = np.zeros((count, rows.shape[1]), np.float32)
        spread[places] = rows
        return self._backend.array(spread)

    def _run(self, ids: Ids, rows: Rows, caches: Sequence[Cache] | None, tapes: list[Any] | None) -> Array:
        check_tokens(ids, self.config.vocabulary)
        x = self.embed(ids, rows)
        for layer in self._layers:
            x = layer.forward(x, rows, caches, tapes if layer.number >= self._lowest else None)
        for cache, length in zip(caches or (), rows.lengths, strict=False):
            cache.length += length
        return x

    def _rows(self, lengths: Sequence[int], caches: Sequence[Cache] | None) -> Rows:
        first = [cache.length for cache in caches] if caches else [0] * len(lengths)
        keys = tuple(start + length for start, length in zip(first, lengths, strict=True))
        most = max(keys, default=0)
        check_length(most, self.config.room)
        at = np.concatenate([np.arange(start, end) for start, end in zip(first, keys, strict=True)])
        tables = tuple(self._backend.array(table[at]) for table in self.tables(most))
        return Rows(tuple(lengths), keys, tables)


def check_length(tokens: int, room: int) -> None:
    """Raise `InputRefused` for a text of more tokens than the model has positions."""
    if tokens > room:
        raise InputRefused("a text", f"has {tokens} tokens, the model has {room} positions")


def remember(be: Backend, caches: Sequence[Cache], layer: int, rows: Rows, k: Array, v: Array) -> tuple[Array, Array]:
    """Keys and values of every sequence from its beginning; the caches take them over."""
    keys, values, start = [], [], 0
    for cache, length in zip(caches, rows.lengths, strict=True):
        cache.layers += [None] * (layer + 1 - len(cache.layers))
        new = [be.numpy(array)[start : start + length] for array in (k, v)]
        old = cache.layers[layer]
        pair = [np.concatenate([past, own]) for past, own in zip(old, new, strict=True)] if old else new
        cache.layers[layer] = (pair[0], pair[1])
        keys.append(pair[0])
        values.append(pair[1])
        start += length
    return be.array(np.concatenate(keys)), be.array(np.concatenate(values))
