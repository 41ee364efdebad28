"""A frozen causal language model with LoRA adapters beside chosen linear layers, in exact arithmetic."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import OutOfMemory
from proofyard.workloads.exact import backend_for
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.models import causal_model
from proofyard.workloads.exact.selfcheck import check_decoder
from proofyard.workloads.exact.tampering import Tampering, active
from proofyard.workloads.model_files import weight_files
from proofyard.workloads.state import Array
from proofyard.workloads.tokenizer import Tokens
from proofyard.workloads.workload import Resources


class AdaptedModel:
    """The model of one job, ready to compute losses and gradients for any adapter of that job's shape."""

    def __init__(
        self, path: Path, modules: Mapping[str, tuple[int, int]], precision: str, resources: Resources
    ) -> None:
        memory, size = resources.memory_bytes, sum(file.stat().st_size for file in weight_files(path))
        if memory is not None and size > memory:
            raise OutOfMemory(
                f"the model's weights have {size >> 20} MiB, over this node's limit of {memory >> 20} MiB"
            )
        self.backend: Backend = backend_for(resources)
        self.decoder = causal_model(self.backend, path, precision, modules)
        check_decoder(path, self.decoder, precision)

    def train(self, sequences: Sequence[Tokens], scale: float) -> float:
        """The summed loss in nats of sequences of tokens, of each the first one and those that are not learned left
        out (`text_data.pack`); the gradient of that sum times `scale` is added to the adapters' gradients, sequence by
        sequence. The sum is exactly rounded."""
        return self._sum(self.decoder.train(*_flat(sequences), scale, _learned(sequences)))

    def loss_sum(self, sequences: Sequence[Tokens]) -> float:
        """The summed loss alone."""
        return self._sum(self.decoder.losses(*_flat(sequences), _learned(sequences)))

    def answer_losses(self, sequences: Sequence[Tokens]) -> list[float]:
        """The summed loss of the learned tokens of each sequence."""
        losses = self.decoder.losses(*_flat(sequences), np.concatenate(_places(sequences)))
        return [self._sum(part) for part in _split(losses, sequences)]

    def train_answers(self, sequences: Sequence[Tokens], weigh: Callable[[list[float]], Sequence[float]]) -> None:
        """The gradient of each sequence's summed loss times its weight is added to the adapters' gradients; the weights
        are what `weigh` makes of the sums."""

        def weights(losses: Array) -> list[tuple[int, float]]:
            parts = _split(losses, sequences)
            return list(zip(map(len, parts), weigh([self._sum(part) for part in parts]), strict=True))

        self.decoder.train_weighed(*_flat(sequences), np.concatenate(_places(sequences)), weights)

    def scored_losses(self, texts: Sequence[Tokens], wanted: Sequence[Array]) -> list[Array]:
        """For each text the losses, binary32, of the tokens that follow the positions `wanted`."""
        lengths = [len(text) - 1 for text in texts]
        starts = np.cumsum([0, *lengths])
        ids = np.concatenate([text[:-1] for text in texts])
        targets = np.concatenate([text[1:] for text in texts])
        places = np.concatenate([start + at for start, at in zip(starts, wanted, strict=False)])
        losses = self.decoder.losses(ids, targets, lengths, places)
        return np.split(losses, np.cumsum([len(at) for at in wanted])[:-1])

    @staticmethod
    def _sum(losses: Array) -> float:
        return math.fsum(losses)


def _flat(sequences: Sequence[Tokens]) -> tuple[Tokens, Tokens, list[int]]:
    """Inputs and targets of sequences, end to end, and how many each has."""
    plain = [np.where(tokens < 0, ~tokens, tokens) for tokens in sequences]
    inputs, targets = (np.concatenate([tokens[part] for tokens in plain]) for part in (slice(-1), slice(1, None)))
    return inputs.astype(np.int64), targets.astype(np.int64), [len(tokens) - 1 for tokens in plain]


def _learned(sequences: Sequence[Tokens]) -> npt.NDArray[np.intp] | None:
    """Which targets of `_flat` are learned; None where all are."""
    learned = np.concatenate([tokens[1:] for tokens in sequences]) >= 0
    return None if learned.all() else np.flatnonzero(learned)


def _places(sequences: Sequence[Tokens]) -> list[npt.NDArray[np.intp]]:
    """Which targets of `_flat` are learned, of each sequence."""
    starts = np.cumsum([0, *(len(tokens) - 1 for tokens in sequences)])
    return [np.flatnonzero(tokens[1:] >= 0) + start for tokens, start in zip(sequences, starts, strict=False)]


def _split(losses: Array, sequences: Sequence[Tokens]) -> list[Array]:
    """The losses at `_places`, of each sequence."""
    return np.split(losses, np.cumsum([len(places) for places in _places(sequences)])[:-1])


_loaded: dict[tuple[Path, object, str, Resources, Tampering | None], AdaptedModel] = {}


def adapted_model(
    path: Path, modules: Mapping[str, tuple[int, int]], precision: str, resources: Resources
) -> AdaptedModel:
    """The model for a job, kept loaded from task to task. Raises `OutOfMemory` before loading one that cannot fit."""
    key = (path.resolve(), tuple(sorted(modules.items())), precision, resources, active())
    if key not in _loaded:
        _loaded.clear()
        gc.collect()
        _loaded[key] = AdaptedModel(path, modules, precision, resources)
    return _loaded[key]
