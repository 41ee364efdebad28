"""Sketches: a few kilobytes that tell how far two results are apart, without either result being moved.

A segment's change is a few groups of numbers (for training: adapter and both moments). Each group x of d numbers
becomes S x, where S is a sparse Johnson-Lindenstrauss matrix of `BLOCKS` count sketches side by side, `WIDTH`
buckets each: every coordinate is added, with a random sign and the factor 1/sqrt(BLOCKS), to one bucket of each
block. S is linear and E|Sx|^2 = |x|^2 with Var(|Sx|^2) <= 2 |x|^4 / (BLOCKS * WIDTH), so the estimate of a
norm, and of the distance of two results from their sketches alone, has a relative standard error of about
1 / sqrt(2 * BLOCKS * WIDTH) = 4.4%. Source: Kane and Nelson, Sparser Johnson-Lindenstrauss Transforms, J. ACM 2014.

Signs and buckets come from Philox4x64, a counter-based generator whose raw stream numpy keeps stable, keyed by the
draw seed and the group's name: nobody can prepare a sketch before the draw, and everybody gets the same matrix.
Sums run in float64 in a fixed order, so equal results have equal sketch bytes on every machine.
"""

import hashlib
import math
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.workloads.errors import SketchRefused
from proofyard.workloads.state import Array

Change = Mapping[str, Array]
"""What a segment changed: groups of numbers, each one flat array."""

BLOCKS = 4
WIDTH = 64
MAX_GROUPS = 16
MAX_SKETCH_BYTES = 32 * 1024
_CHUNK = 1 << 20

STANDARD_ERROR = 1 / math.sqrt(2 * BLOCKS * WIDTH)
"""Relative standard error of an estimated norm or distance."""


class GroupSketch(msgspec.Struct, frozen=True):
    """One group: its number of coordinates and `BLOCKS * WIDTH` float32 values, little-endian."""

    name: str
    size: int
    values: bytes

    def vector(self) -> npt.NDArray[np.float64]:
        return np.frombuffer(self.values, "<f4").astype(np.float64)


class Sketch(msgspec.Struct, frozen=True):
    """The sketch of one change, its groups sorted by name."""

    groups: tuple[GroupSketch, ...]

    def encode(self) -> bytes:
        return encode(self)


def decode_sketch(data: bytes) -> Sketch:
    """A sketch from a peer's bytes. Raises `SketchRefused` unless it is well-formed, finite and canonical."""
    try:
        sketch = decode(data, Sketch, max_bytes=MAX_SKETCH_BYTES)
    except CodecError as error:
        raise SketchRefused(str(error)) from None
    names = [group.name for group in sketch.groups]
    if len(names) > MAX_GROUPS or names != sorted(set(names)):
        raise SketchRefused(f"a sketch has at most {MAX_GROUPS} groups in order, this one has {names}")
    for group in sketch.groups:
        if len(group.values) != BLOCKS * WIDTH * 4 or group.size < 0 or not np.isfinite(group.vector()).all():
            raise SketchRefused(f"group {group.name!r} of the sketch is not {BLOCKS * WIDTH} finite float32 values")
    if sketch.encode() != data:
        raise SketchRefused("the sketch is not canonically encoded")
    return sketch


def sketch_change(change: Change, seed: bytes) -> Sketch:
    """The sketch of `change` under a 32-byte draw seed. Raises `SketchRefused` where a number is not finite."""
    groups = []
    for name in sorted(change):
        flat = change[name].reshape(-1).astype(np.float64, copy=False)
        with np.errstate(over="ignore"):
            values = _project(flat, seed, name).astype("<f4")
        if not np.isfinite(values).all():
            raise SketchRefused(f"group {name!r} of the change holds a value that is NaN, infinite or too large")
        groups.append(GroupSketch(name, flat.size, values.tobytes()))
    return Sketch(tuple(groups))


def sketch_distance(one: Sketch, other: Sketch) -> float:
    """Estimated relative L2 distance of the two changes, the largest over the groups; in [0, about 2].

    Relative to the larger of the two norms, so it is symmetric and a zero change is at distance 1 from any other.
    Groups that differ in name or size are at infinite distance.
    """
    if [(g.name, g.size) for g in one.groups] != [(g.name, g.size) for g in other.groups]:
        return math.inf
    pairs = zip(one.groups, other.groups, strict=True)
    return max((_relative(a.vector(), b.vector()) for a, b in pairs), default=0.0)


def exact_distance(one: Change, other: Change) -> float:
    """What `sketch_distance` estimates, computed from the changes themselves."""
    if {name: one[name].size for name in one} != {name: other[name].size for name in other}:
        return math.inf
    pairs = ((one[n].reshape(-1).astype(np.float64), other[n].reshape(-1).astype(np.float64)) for n in one)
    return max((_relative(a, b) for a, b in pairs), default=0.0)


def _relative(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    scale = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / scale if scale > 0 else 0.0


def _project(flat: npt.NDArray[np.float64], seed: bytes, name: str) -> npt.NDArray[np.float64]:
    if len(seed) != 32:
        raise SketchRefused(f"a draw seed has 32 bytes, not {len(seed)}")
    key = hashlib.sha256(b"proofyard sketch" + seed + name.encode()).digest()[:16]
    stream = np.random.Philox(key=int.from_bytes(key, "little"))
    sums = np.zeros((BLOCKS, WIDTH))
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        # One word serves a coordinate: 16 bits a block, of which the lowest is the sign and the next are the bucket.
        words = stream.random_raw(part.size).astype("<u8", copy=False).view("<u2").reshape(-1, BLOCKS)
        for block in range(BLOCKS):
            places = (words[:, block] & (2 * WIDTH - 1)).astype(np.intp)
            signed = np.bincount(places, part, 2 * WIDTH).reshape(WIDTH, 2)
            sums[block] += signed[:, 1] - signed[:, 0]
    return sums.reshape(-1) / math.sqrt(BLOCKS)
