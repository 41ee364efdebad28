"""Which network a model directory is, and whether it is one: from its configuration and its weight files' headers.

`causal_model` and `text_encoder` make the network that the directory says; with `Blueprint` and `WeightHeaders` they
look at names and shapes alone: the same code, so that what is refused is the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact import bert, config, gpt2
from proofyard.workloads.exact.backend import Array, Backend
from proofyard.workloads.exact.bert import Encoder
from proofyard.workloads.exact.causal import CausalModel
from proofyard.workloads.exact.decoder import Decoder
from proofyard.workloads.exact.gpt2 import Gpt2
from proofyard.workloads.exact.weights import Weights
from proofyard.workloads.model_files import read_config

CAUSAL = (*config.FAMILIES, *gpt2.FAMILIES)
ENCODERS = bert.FAMILIES

Modules = Mapping[str, tuple[int, int]]


def causal_model(
    backend: Backend,
    model: Path,
    precision: str = "exact",
    modules: Modules | None = None,
    *,
    head: bool = True,
    weights: Weights | None = None,
) -> CausalModel[Any]:
    """The causal language model of a directory. Raises `InputRefused` with the name of what is not covered."""
    kind = Gpt2 if _family(model, CAUSAL) in gpt2.FAMILIES else Decoder
    return kind(backend, model, precision, modules, head=head, weights=weights)


def text_encoder(
    backend: Backend, model: Path, precision: str = "exact", *, weights: Weights | None = None
) -> Encoder | CausalModel[Any]:
    """The encoder of a directory, or the decoder whose hidden states embed. Raises `InputRefused`."""
    if _family(model, (*ENCODERS, *CAUSAL)) in ENCODERS:
        return Encoder(backend, model, precision, weights=weights)
    return causal_model(backend, model, precision, head=False, weights=weights)


def causal_blueprint(model: Path, modules: Modules | None = None) -> CausalModel[Any]:
    """`causal_model` without weights: what cannot be made of this directory is refused. It computes nothing."""
    return causal_model(cast(Backend, Blueprint()), model, modules=modules, weights=WeightHeaders(model))


def encoder_blueprint(model: Path) -> Encoder | CausalModel[Any]:
    """`text_encoder` without weights."""
    return text_encoder(cast(Backend, Blueprint()), model, weights=WeightHeaders(model))


class Blueprint:
    """What making a network asks of a backend, without a number of it."""

    name = "blueprint"

    def array(self, values: Array) -> Array:
        return values

    def freeze(self, weight: npt.NDArray[Any], _precision: str) -> None:
        return None


class WeightHeaders(Weights):
    """Tensors of the right shapes that hold nothing: the files' headers are read, their numbers are not."""

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        if shape is not None:
            self.check(name, shape)
        found: npt.NDArray[Any] = np.broadcast_to(np.float32(0), self.shape(name))
        return found


def _family(model: Path, known: tuple[str, ...]) -> str:
    family = read_config(model).get("model_type", "")
    if not isinstance(family, str) or family not in known:
        raise InputRefused(
            f"model directory {model.name}",
            f"uses the model_type {family!r}, which exact execution does not cover; covered are {', '.join(known)}",
        )
    return family
