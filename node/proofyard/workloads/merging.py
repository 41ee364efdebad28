"""A LoRA adapter added to its model's weights: a Hugging Face folder that needs no adapter any more, always of the same
bytes.

Of each adapted layer, in binary64, one operation after another and each rounded once: the sum over rank r = 0, 1, ...
of B[o, r] * A[r, i], beginning with the first product; that times alpha / rank; that plus the weight. The result is
rounded to binary32, and from there to the type in which the model stores the weight (bfloat16 and float16 to nearest
even). All other bytes are the model's. No library's matrix product has a say in it, so whoever merges the same files
gets the same CID.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.exact.models import causal_blueprint
from proofyard.workloads.exact.weights import Weights
from proofyard.workloads.model_files import published_files, stored_tensors, weight_files
from proofyard.workloads.peft_folder import AdapterShape
from proofyard.workloads.state import Array

ROWS_AT_ONCE = 1024


def merge(model: Path, shape: AdapterShape, tensors: dict[str, Array], dest: Path) -> Path:
    """Write the model with the adapter merged into it to the folder `dest`. Raises `InputRefused` where the adapter
    does not fit it."""
    linears = causal_blueprint(model, shape.modules).linears
    weights = Weights(model)
    dest.mkdir(parents=True, exist_ok=True)
    names, _ = published_files(model)
    for name in names:
        shutil.copyfile(model / name, dest / name)
        (dest / name).chmod(0o644)
    places = {name: (file.name, at) for file in weight_files(model) for name, at in stored_tensors(file).items()}
    for module in shape.modules:
        linear = linears[module]
        name = f"{linear.stored}.weight"
        if name not in places:
            raise InputRefused("the adapter", f"is on {module}, which this model stores no weight of")
        file, at = places[name]
        a, b = (tensors[f"{module}.lora_{kind}"].astype(np.float64) for kind in "AB")
        weight = weights.tensor(name)
        rows, other = (a.T, b.T) if linear.transposed else (b, a)
        with (dest / file).open("r+b") as stream:
            stream.seek(at.first)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                merged = _delta(rows[some], other) * np.float64(shape.scale) + weight[some].astype(np.float64)
                stream.write(_stored(merged.astype(np.float32), at.dtype))
        weights.let_go()
    return dest


def _delta(rows: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, rank) times (rank, m), in the order of the rank."""
    total = rows[:, :1] * other[:1]
    for number in range(1, rows.shape[1]):
        total = total + rows[:, number : number + 1] * other[number : number + 1]
    return total


def _stored(values: npt.NDArray[Any], dtype: str) -> bytes:
    """Binary32 in the type that a weight is stored in, little-endian."""
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    if dtype == "BF16":
        bits = values.view(np.uint32)
        even = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype("<u2").tobytes()
    return values.astype("<f4").tobytes()
