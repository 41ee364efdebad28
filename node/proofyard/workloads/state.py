"""States as canonical safetensors bytes: equal tensors have equal bytes, and so equal CIDs.

The layout is the safetensors format with every freedom taken out of it: names sorted, data in the same order
without gaps, little-endian, the header compact JSON with sorted keys, padded with spaces to a multiple of 8 bytes,
no metadata unless the caller gives it. Any safetensors reader loads it. Only numpy is needed here.

Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.protocol.manifest import TaskSpec
from proofyard.workloads.errors import StateRefused

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

MAX_HEADER_BYTES = 4 << 20
MAX_STATE_BYTES = 4 << 30

_TAGS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("|u1"),
}
_TAG_OF = {dtype: tag for tag, dtype in _TAGS.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one tensor. `dtype` is the format's tag; numpy carries BF16 as its raw uint16 words."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return _TAGS[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.count * self.numpy_dtype.itemsize


Schema = Mapping[str, TensorSpec]


def schema_of(tensors: Tensors) -> dict[str, TensorSpec]:
    """The specs of `tensors`. Raises `StateRefused` for a dtype that states do not carry."""
    specs = {}
    for name, array in tensors.items():
        tag = _TAG_OF.get(array.dtype.newbyteorder("<"))
        if tag is None:
            raise StateRefused(f"has the type {array.dtype}, states carry {', '.join(_TAGS)}", name)
        specs[name] = TensorSpec(tag, array.shape)
    return specs


def header_bytes(schema: Schema, metadata: Mapping[str, str] | None = None) -> bytes:
    """The canonical header (8-byte length and padded JSON) of a file with these tensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in sorted(schema):
        spec = schema[name]
        header[name] = {
            "data_offsets": [offset, offset + spec.nbytes],
            "dtype": spec.dtype,
            "shape": list(spec.shape),
        }
        offset += spec.nbytes
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def most_bytes(schema: Schema) -> int:
    """Bytes of a file with these tensors, at most."""
    return 8 + MAX_HEADER_BYTES + sum(spec.nbytes for spec in schema.values())


def encode_state(tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """The canonical bytes of `tensors`."""
    schema = schema_of(tensors)
    parts = [header_bytes(schema, metadata)]
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return b"".join(parts)


def read_schema(data: bytes | memoryview) -> dict[str, TensorSpec]:
    """The tensors that `data` claims to hold, checked against its length. Raises `StateRefused`."""
    if len(data) < 8:
        raise StateRefused(f"{len(data)} bytes are too few for a header")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise StateRefused(f"it claims a header of {size} bytes in a file of {len(data)}")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except (ValueError, RecursionError):
        raise StateRefused("the header is not JSON") from None
    if not isinstance(header, dict):
        raise StateRefused("the header is not a JSON object")
    schema = {name: _read_spec(name, entry) for name, entry in header.items()}
    if header_bytes(schema) != bytes(data[: 8 + size]):
        raise StateRefused("the header is not canonical (order, gaps, overlaps, spacing or metadata)")
    expected = 8 + size + sum(spec.nbytes for spec in schema.values())
    if len(data) != expected:
        raise StateRefused(f"its tensors need {expected} bytes, it has {len(data)}")
    return schema


def decode_state(
    data: bytes | memoryview,
    *,
    schema: Schema | None = None,
    finite: bool = True,
    max_bytes: int = MAX_STATE_BYTES,
) -> dict[str, Array]:
    """The tensors of a canonical state, as read-only views of `data`; nothing is copied.

    With `schema` the names, shapes and types must be exactly those; with `finite` no value may be NaN or infinite.
    Raises `StateRefused`, which names the tensor where one is to blame.
    """
    if len(data) > max_bytes:
        raise StateRefused(f"{len(data)} bytes are over the limit of {max_bytes}")
    found = read_schema(data)
    if schema is not None:
        _compare(found, schema)
    view = memoryview(data).toreadonly()
    offset = len(data) - sum(spec.nbytes for spec in found.values())
    tensors = {}
    for name in sorted(found):
        spec = found[name]
        array = np.frombuffer(view, _TAGS[spec.dtype], spec.count, offset).reshape(spec.shape)
        offset += spec.nbytes
        if finite and not is_finite(array, spec.dtype):
            raise StateRefused("holds a value that is NaN or infinite", name)
        tensors[name] = array
    return tensors


def is_finite(array: Array, tag: str) -> bool:
    """Whether every value is a finite number; `tag` tells BF16 words from plain integers."""
    if tag == "BF16":
        return not bool(np.any((array & 0x7F80) == 0x7F80))
    return tag not in ("F16", "F32", "F64") or bool(np.isfinite(array).all())


def check_number(task: TaskSpec, number: int) -> None:
    """Raise `StateRefused` for a state that a task does not have."""
    if not 0 <= number <= task.segments:
        raise StateRefused(f"task {task.index} has states 0 to {task.segments}, there is no number {number}")


def require_last(result: bytes, expected: bytes) -> None:
    """Raise `StateRefused` for a result that is not the one `expected` from the last state."""
    if result != expected:
        raise StateRefused("the result is not what the task's last state gives")


def _read_spec(name: str, entry: object) -> TensorSpec:
    if not isinstance(entry, dict) or not isinstance(entry.get("shape"), list):
        raise StateRefused("has no shape in the header", name)
    tag, shape = entry.get("dtype"), entry["shape"]
    if not isinstance(tag, str) or tag not in _TAGS:
        raise StateRefused(f"has the type {repr(tag)[:40]}, states carry {', '.join(_TAGS)}", name)
    if len(shape) > 8 or any(type(size) is not int or not 0 <= size <= MAX_STATE_BYTES for size in shape):
        raise StateRefused("has an impossible shape", name)
    return TensorSpec(tag, tuple(shape))


def _compare(found: Schema, expected: Schema) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise StateRefused("is missing", name)
        if name not in expected:
            raise StateRefused("does not belong there", name)
        if found[name] != expected[name]:
            have, want = found[name], expected[name]
            raise StateRefused(f"is {have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}", name)
