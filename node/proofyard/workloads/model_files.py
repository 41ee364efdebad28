"""What a Hugging Face model directory says about itself, read from file headers alone."""

import errno
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from proofyard.protocol.types import Cid
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.state import MAX_HEADER_BYTES

MAX_DIMENSIONS = 8
LFS_POINTER = b"version https://git-lfs"
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Bytes of a number of each type; of others the size is not checked, nor are they read."""


def read_config(model: Path) -> dict[str, Any]:
    """The directory's config.json."""
    return _read_json_object(model / "config.json")


def end_token(model: Path) -> int:
    """The token that ends a text. Raises `InputRefused` where the model names none."""
    end = read_config(model).get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if type(end) is not int:
        raise InputRefused(
            f"model directory {model.name}",
            "names no eos_token_id in config.json; write the token that ends a text there",
        )
    return end


def is_file(path: Path) -> bool:
    """Whether there is a file. A pipe would be waited for, a link in a circle or a name that is too long for any file
    is none: whoever published the model says what is there."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise


def weight_files(model: Path) -> list[Path]:
    """The safetensors files of the model, one or the shards that its index names. Raises `InputRefused`."""
    single, index = model / "model.safetensors", model / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputRefused(
            f"model directory {model.name}", "holds no model.safetensors; convert the model to safetensors"
        )
    places = _read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputRefused(f"model directory {model.name}", f"has no weight_map of file names in {index.name}")
    files = [model / Path(name).name for name in sorted(set(places.values()))]
    missing = [file.name[:100] for file in files if not is_file(file)]
    if missing or not files:
        raise InputRefused(f"model directory {model.name}", f"lacks weight files: {', '.join(missing) or 'all'}")
    return files


TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
)
PUBLISHED = ("config.json", "generation_config.json", *TOKENIZER_FILES)
"""What nodes read of a model beside its weights, and what whoever uses the result needs."""
INDEX = "model.safetensors.index.json"


def _require_own(model: Path, names: Iterable[str]) -> None:
    """Raise `InputRefused` for a link out of a model's directory: nobody publishes by it what lies elsewhere. The hub's
    cache keeps a model's files in `blobs` beside its snapshots."""
    home = model.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for name in sorted(names):
        target = (model / name).resolve()
        if not any(target.is_relative_to(each) for each in homes):
            raise InputRefused(
                f"model directory {model.name}", f"has {name} as a link out of it, to {target}; copy it in"
            )


def published_files(model: Path) -> tuple[list[str], list[str]]:
    """The names of a model directory's files that a job publishes, and of what is left out: what is no model's file, or
    hidden, belongs to nobody else."""
    names = {entry.name for entry in model.iterdir()}
    taken = {name for name in PUBLISHED if (model / name).is_file()}
    _require_own(model, taken)
    if (model / "model.safetensors").is_file() or (model / INDEX).is_file():
        weights = {file.name for file in weight_files(model)}
        taken |= weights | ({INDEX} if "model.safetensors" not in weights else set())
    return sorted(taken), sorted(names - taken)


def link_model(store: "Linking", model: Path) -> tuple[Cid, list[str]]:
    """Make a model directory an artifact where it lies, without what `published_files` leaves out; the names of that.

    Requesters, nodes and verifiers that have the model give it the same CID by this.
    """
    taken, left_out = published_files(model)
    folder = Path(store.path) / "models" / hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in set(folder.iterdir()) - {folder / name for name in taken}:
        stale.unlink()
    for name in taken:
        target, link = (model / name).resolve(), folder / name
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return store.link_directory(folder, follow=True), left_out


class Linking(Protocol):
    """What of a block store is needed to link a directory."""

    @property
    def path(self) -> Path: ...

    def link_directory(self, path: Path, *, follow: bool) -> Cid: ...


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its type, its shape, and the bytes [first, last) of the file that hold it."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int


def stored_tensors(file: Path) -> dict[str, Stored]:
    """What a weight file's header says, checked as the format demands: every tensor inside the file, as large as its
    shape, none over another, no bytes between them. Raises `InputRefused` with the name of the tensor."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            stream.seek(0)
            pointer = stream.read(len(LFS_POINTER)) == LFS_POINTER
            raise _unreadable(
                file, "is a pointer of Git LFS; `git lfs pull`" if pointer else "is not a safetensors file"
            )
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            raise _unreadable(file, "has a header that cannot be read") from None
    if not isinstance(header, dict):
        raise _unreadable(file, "has a header that is not an object")
    header.pop("__metadata__", None)
    found = {name: _stored(file, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].first, item[1].last)):
        if tensor.first != end or tensor.last > size:
            where = (
                "outside the file" if tensor.last > size else "over another" if tensor.first < end else "after a gap"
            )
            raise _unreadable(file, f"holds the tensor {name[:100]!r} {where}")
        end = tensor.last
    if end != size:
        raise _unreadable(file, f"has {size - end} bytes that belong to no tensor")
    return found


def _stored(file: Path, name: str, entry: Any, start: int) -> Stored:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, first, last]
    except (KeyError, TypeError, ValueError):
        raise _unreadable(file, f"has a header that misstates the tensor {name[:100]!r}") from None
    counted = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    if not counted or len(shape) > MAX_DIMENSIONS or not isinstance(dtype, str) or first > last:
        raise _unreadable(file, f"has a header that misstates the tensor {name[:100]!r}")
    if dtype in _WIDTHS and last - first != math.prod(shape) * _WIDTHS[dtype]:
        raise _unreadable(file, f"holds the tensor {name[:100]!r} in {last - first} bytes, not those of its shape")
    return Stored(dtype, tuple(shape), start + first, start + last)


def _unreadable(file: Path, reason: str) -> InputRefused:
    return InputRefused(f"weight file {file.name}", reason)


def weight_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    return {name: tensor.shape for file in weight_files(model) for name, tensor in stored_tensors(file).items()}


def files_of(path: Path) -> tuple[str, ...]:
    """Where a file or a model's directory lies, with what its links lead to: what a process needs to read it."""
    found = [path.absolute(), path.resolve()]
    found += [each.resolve() for each in path.iterdir() if each.is_symlink()] if path.is_dir() else []
    return tuple(dict.fromkeys(map(str, found)))


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if is_file(path) else None
    except (FileNotFoundError, ValueError, RecursionError):
        value = None
    if value is None:
        raise InputRefused(f"model directory {path.parent.name}", f"has no readable {path.name}") from None
    if not isinstance(value, dict):
        raise InputRefused(f"model directory {path.parent.name}", f"has a {path.name} that is not a JSON object")
    return value
