"""A LoRA adapter as PEFT keeps it, read into the one form that nodes know: a canonical file of binary32 tensors, and
its shape, which stands in a job's parameters."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused
from proofyard.workloads.exact.weights import Weights
from proofyard.workloads.lora_export import PEFT_PREFIX
from proofyard.workloads.lora_params import MAX_ADAPTER_VALUES, Count, Positive
from proofyard.workloads.lora_tensors import adapter_schema
from proofyard.workloads.model_files import is_file
from proofyard.workloads.state import Array, decode_state, encode_state

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`modules` maps each adapted linear layer to its (out, in) features; what its product with B (out, rank) and A
    (rank, in) adds is multiplied by alpha / rank."""

    modules: Annotated[dict[str, tuple[Count, Count]], Meta(min_length=1, max_length=4096)]
    rank: Annotated[int, Meta(ge=1, le=1024)]
    alpha: Positive

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class _AdapterWeights(Weights):
    """The tensors of an adapter's folder."""

    def __init__(self, folder: Path) -> None:
        self._name = folder.name
        self._places = {}
        if not (folder / WEIGHTS).is_file():
            raise InputRefused(f"adapter {folder}", f"holds no {WEIGHTS}; name a folder that PEFT has saved")
        self._open(folder / WEIGHTS)

    @property
    def names(self) -> list[str]:
        return sorted(self._places)

    def _refused(self, reason: str) -> InputRefused:
        return InputRefused(f"adapter {self._name}", reason)


def read_words(folder: Path) -> dict[str, Any]:
    """What an adapter's configuration says, in PEFT's words. Raises `InputRefused`."""
    try:
        found = json.loads((folder / CONFIG).read_bytes()) if is_file(folder / CONFIG) else None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputRefused(f"adapter {folder}", f"holds no readable {CONFIG}; name a folder that PEFT has saved")
    return found


def read_tensors(folder: Path, rank: int) -> tuple[dict[str, tuple[int, int]], dict[str, Array]]:
    """The adapted layers of an adapter's folder with their (out, in) features, and the tensors `<layer>.lora_A`
    (rank, in) and `<layer>.lora_B` (out, rank), binary32. Raises `InputRefused` that names the tensor."""
    weights = _AdapterWeights(folder)
    tensors: dict[str, Array] = {}
    for name in weights.names:
        layer, _, kind = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").removesuffix(".default").rpartition(".")
        if not name.startswith(PEFT_PREFIX) or not layer or kind not in ("lora_A", "lora_B"):
            raise InputRefused(f"adapter {folder.name}", f"has the tensor {name[:100]!r}, which is no LoRA A or B")
        tensors[f"{layer}.{kind}"] = weights.tensor(name)
    modules = {}
    for layer in sorted({name.rpartition(".")[0] for name in tensors}):
        a, b = tensors.get(f"{layer}.lora_A"), tensors.get(f"{layer}.lora_B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise InputRefused(
                f"adapter {folder.name}", f"has no A (rank, in) and B (out, rank) of rank {rank} at {layer}"
            )
        modules[layer] = (int(b.shape[0]), int(a.shape[1]))
    return modules, tensors


def check_shape(shape: AdapterShape) -> None:
    """Raise `ManifestRefused` for an adapter that is larger than any may be."""
    values = sum(shape.rank * sum(each) for each in shape.modules.values())
    if values > MAX_ADAPTER_VALUES:
        raise ManifestRefused("params.adapter", f"has {values} values, at most {MAX_ADAPTER_VALUES} are allowed")


def canonical(tensors: Mapping[str, Array]) -> bytes:
    """The file that nodes read."""
    return encode_state(tensors)


def read_canonical(shape: AdapterShape, file: Path | None) -> dict[str, Array]:
    """The tensors of such a file. Raises `InputRefused` where they are not of this shape."""
    if file is None:
        raise InputRefused("the task", "was given no adapter")
    try:
        return decode_state(file.read_bytes(), schema=adapter_schema(shape))
    except StateRefused as error:
        raise InputRefused("the adapter", f"is not what params.adapter says: {error}") from None
