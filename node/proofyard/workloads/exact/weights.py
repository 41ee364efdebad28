"""A Hugging Face model directory's weights as numpy arrays, mapped rather than read."""

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import weight_files
from proofyard.workloads.state import MAX_HEADER_BYTES

Array = npt.NDArray[Any]

_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Weights:
    """Tensors by name, binary32. Pages are read when they are used, and given back with this object."""

    def __init__(self, model: Path) -> None:
        self._name = model.name
        self._places: dict[str, tuple[mmap.mmap, str, tuple[int, ...], int]] = {}
        for file in weight_files(model):
            self._open(file)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `InputRefused` unless there is a tensor of this shape."""
        found = self._place(name)[2]
        if found != shape:
            raise InputRefused(f"model directory {self._name}", f"has {name} of shape {found}, expected {shape}")

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Array:
        """A tensor in binary32, in the shape that it must have. Raises `InputRefused`."""
        if shape is not None:
            self.check(name, shape)
        mapped, tag, found, start = self._place(name)
        raw = np.frombuffer(mapped, _TYPES[tag], int(np.prod(found, dtype=np.int64)), start).reshape(found)
        return raw if tag == "F32" else widened(raw, tag)

    def rows(self, name: str, numbers: Array) -> Array:
        """Some rows of a matrix, in binary32."""
        mapped, tag, found, start = self._place(name)
        raw = np.frombuffer(mapped, _TYPES[tag], found[0] * found[1], start).reshape(found)[numbers]
        return raw if tag == "F32" else widened(raw, tag)

    def let_go(self) -> None:
        """Give back the pages that were read; they are read again when they are used again."""
        for mapped in {place[0] for place in self._places.values()}:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _place(self, name: str) -> tuple[mmap.mmap, str, tuple[int, ...], int]:
        if name not in self._places:
            raise InputRefused(f"model directory {self._name}", f"has no tensor {name}")
        return self._places[name]

    def _open(self, file: Path) -> None:
        size = file.stat().st_size
        with file.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size >= 8 else None
        try:
            assert mapped is not None
            (length,) = struct.unpack("<Q", mapped[:8])
            assert 0 < length <= min(MAX_HEADER_BYTES, size - 8)
            header = json.loads(mapped[8 : 8 + length])
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                shape, (first, last) = tuple(map(int, entry["shape"])), entry["data_offsets"]
                tag = entry["dtype"]
                count = int(np.prod(shape, dtype=np.int64))
                if tag in _TYPES:
                    width = np.dtype(_TYPES[tag]).itemsize
                    assert min(shape, default=1) > 0
                    assert first >= 0 and last - first == count * width and 8 + length + last <= size
                    self._places[name] = (mapped, tag, shape, 8 + length + first)
        except (AssertionError, ValueError, KeyError, TypeError, AttributeError):
            raise InputRefused(f"weight file {file.name}", "is not a safetensors file that can be read") from None


def widened(raw: Array, tag: str) -> Array:
    """Half-precision numbers as binary32, exactly."""
    if tag == "BF16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32)
