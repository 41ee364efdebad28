"""A Hugging Face model directory's weights as numpy arrays, mapped rather than read."""

import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import Stored, stored_tensors, weight_files

Array = npt.NDArray[Any]

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h)\.(\d{1,9})\.")
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Weights:
    """Tensors by name, binary32. Pages are read when they are used, and given back with this object.

    A number that is not finite is refused where it is read: no result could follow from it, on any machine."""

    def __init__(self, model: Path) -> None:
        self._name = model.name
        self._places: dict[str, tuple[mmap.mmap, Stored]] = {}
        for file in weight_files(model):
            self._open(file)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises `InputRefused` where there is no such tensor, or none that is read."""
        return self._place(name)[1].shape

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `InputRefused` unless there is a tensor of this shape."""
        found = self.shape(name)
        if found != shape:
            raise self._refused(f"has {name} of shape {found}, expected {shape}")

    def check_layers(self, count: int) -> None:
        """Raise `InputRefused` where there are more layers than a configuration says: half a model is another one."""
        found = [int(match[1]) for match in map(_LAYER.search, self._places) if match]
        if (most := max(found, default=-1)) >= count:
            raise self._refused(f"has weights of layer {most}, its config.json says that there are {count}")

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """A tensor in binary32, in the shape that it must have. Raises `InputRefused`."""
        if shape is not None:
            self.check(name, shape)
        # A header of odd length leaves its numbers where not every machine can read them.
        return self._widened(name, np.require(self._raw(name), requirements="A"))

    def rows(self, name: str, numbers: Array) -> Array:
        """Some rows of a matrix, in binary32."""
        return self._widened(name, self._raw(name)[numbers])

    def let_go(self) -> None:
        """Give back the pages that were read; they are read again when they are used again."""
        for mapped in {place[0] for place in self._places.values()}:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _raw(self, name: str) -> Array:
        mapped, stored = self._place(name)
        kind = np.dtype(_TYPES[stored.dtype])
        count = (stored.last - stored.first) // kind.itemsize
        return np.frombuffer(mapped, kind, count, stored.first).reshape(stored.shape)

    def _widened(self, name: str, raw: Array) -> Array:
        tag = self._places[name][1].dtype
        values = raw if tag == "F32" else widened(raw, tag)
        if not np.isfinite(values).all():
            raise self._refused(f"has numbers in {name} that are not finite")
        return values

    def _place(self, name: str) -> tuple[mmap.mmap, Stored]:
        if name not in self._places:
            raise self._refused(f"has no tensor {name}")
        mapped, stored = self._places[name]
        if stored.dtype not in _TYPES:
            raise self._refused(f"stores {name} as {stored.dtype}; exact execution reads {', '.join(_TYPES)}")
        return mapped, stored

    def _refused(self, reason: str) -> InputRefused:
        return InputRefused(f"model directory {self._name}", reason)

    def _open(self, file: Path) -> None:
        tensors = stored_tensors(file)
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        for name, stored in tensors.items():
            if name in self._places:
                raise self._refused(f"has the tensor {name[:100]!r} in two weight files")
            self._places[name] = (mapped, stored)


def widened(raw: Array, tag: str) -> Array:
    """Half-precision numbers as binary32, exactly."""
    if tag == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32)
