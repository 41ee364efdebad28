"""What a Hugging Face model directory says about itself, read from file headers alone."""

import json
import struct
from pathlib import Path
from typing import Any

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.state import MAX_HEADER_BYTES


def read_config(model: Path) -> dict[str, Any]:
    """The directory's config.json."""
    return _read_json_object(model / "config.json")


def end_token(model: Path) -> int:
    """The token that ends a text. Raises `InputRefused` where the model names none."""
    end = read_config(model).get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int):
        raise InputRefused(f"model directory {model.name}", "names no eos_token_id in config.json")
    return end


def weight_files(model: Path) -> list[Path]:
    """The safetensors files of the model, one or the shards that its index names. Raises `InputRefused`."""
    single, index = model / "model.safetensors", model / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputRefused(
            f"model directory {model.name}", "holds no model.safetensors; convert the model to safetensors"
        )
    names = sorted(set(_read_json_object(index).get("weight_map", {}).values()))
    files = [model / Path(name).name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise InputRefused(f"model directory {model.name}", f"lacks weight files: {', '.join(missing) or 'all'}")
    return files


def weight_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(model):
        with file.open("rb") as stream:
            start = stream.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < size <= min(MAX_HEADER_BYTES, file.stat().st_size):
                raise InputRefused(f"weight file {file.name}", "is not a safetensors file")
            try:
                header = json.loads(stream.read(size))
                shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputRefused(f"weight file {file.name}", "has a header that cannot be read") from None
    return shapes


def linear_modules(model: Path, targets: list[str], layers: list[int] | None = None) -> dict[str, tuple[int, int]]:
    """The linear layers whose last name is in `targets`, as full name to (out, in) features.

    `layers` keeps those of some transformer layers only (the number in the module's name); negative numbers count
    from the last. Raises `InputRefused` for a target that the model does not have.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, shape in weight_shapes(model).items():
        module = name.removesuffix(".weight")
        if module != name and len(shape) == 2 and module.rpartition(".")[2] in targets:
            found[module] = (shape[0], shape[1])
    lacking = sorted(set(targets) - {name.rpartition(".")[2] for name in found})
    if lacking:
        raise InputRefused(f"model directory {model.name}", f"has no linear layer named {', '.join(lacking)}")
    if layers is None:
        return found
    count = 1 + max(_layer(name) for name in found)
    wanted = {layer % count for layer in layers}
    return {name: shape for name, shape in found.items() if _layer(name) in wanted}


def _layer(module: str) -> int:
    return next((int(part) for part in module.split(".") if part.isdecimal()), -1)


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        raise InputRefused(f"model directory {path.parent.name}", f"has no readable {path.name}") from None
    if not isinstance(value, dict):
        raise InputRefused(f"model directory {path.parent.name}", f"has a {path.name} that is not a JSON object")
    return value
