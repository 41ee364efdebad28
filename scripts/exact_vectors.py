"""The golden vectors of exact execution: `python scripts/exact_vectors.py` writes them from the numpy reference.

`golden.json` beside the code holds digests, which a node compares at start; `tests/vectors/exact.json` holds small
cases with all their numbers, for implementations that are not this one (docs/exact.md). `--check` writes nothing and
fails where a file is not what would be written.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proofyard.workloads.exact import golden, golden_models, golden_training, reference
from proofyard.workloads.exact.backend import AdamStep, AttentionShape, LossShape
from proofyard.workloads.exact.golden import ACTIVATIONS, PRECISIONS, awkward, line, numbers, spoilt
from proofyard.workloads.exact.reference import Reference
from proofyard.workloads.exact.tables import frequency, rotary
from proofyard.workloads.tiny import write_tiny_model

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "exact.json"
NOTE = (
    "docs/exact.md specifies the operations. An array of binary32 numbers is its shape and the hexadecimal bits of its"
    " numbers in row-major order, every NaN 7fc00000; integers are plain. Training: the model is `write_tiny_model` of"
    " proofyard.workloads.tiny, everything else is stated in proofyard.workloads.exact.golden_training; a state is the"
    " sha256 over its tensors, of each a line such as 'float32 [4, 64]' and its little-endian numbers. Models: weights"
    " and tokens are stated in proofyard.workloads.exact.golden_models, `hidden` is that sha256 over the hidden states."
)


def digests() -> dict[str, str]:
    """What golden.json holds."""
    backend = Reference()
    cases = {**golden.operations(), **golden.large()}
    return {name: golden.digest(case(backend)) for name, case in cases.items()}


def vectors() -> dict[str, Any]:
    """What tests/vectors/exact.json holds."""
    with np.errstate(all="ignore"):
        return {
            "note": NOTE,
            "tree": [_case(reference.tree, x=numbers(2, n)) for n in (1, 2, 5, 8)],
            "functions": _functions(),
            "slices": [_slices(x) for x in (awkward(14, 5), spoilt(5, 3))],
            "frozen": [_frozen(precision) for precision in PRECISIONS],
            "products": _products(),
            "norms": _norms(),
            "rotary": _rotary(),
            "attention": _attention(),
            "losses": _losses(),
            "adamw": _adamw(),
            "models": {name: _model(name) for name in golden_models.CONFIGS},
            "training": {precision: _training(precision) for precision in PRECISIONS},
        }


def texts() -> dict[Path, str]:
    """Each file's path and contents."""
    return {
        golden.PATH: json.dumps(digests(), indent=1) + "\n",
        VECTORS: _lines(vectors()) + "\n",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a file differs")
    if parser.parse_args().check:
        stale = [path.name for path, text in texts().items() if not path.exists() or path.read_text() != text]
        for name in stale:
            print(f"{name} is not what the reference gives: run scripts/exact_vectors.py", file=sys.stderr)
        return 1 if stale else 0
    for path, text in texts().items():
        path.write_text(text)
    return 0


# -- cases ---------------------------------------------------------------------------------------------------------


def _functions() -> dict[str, Any]:
    x = line().reshape(-1)[::3]
    positive = np.abs(x[np.isfinite(x) & (np.abs(x) >= np.finfo(np.float32).tiny)])
    cap = np.float32(2.5)
    cases = {name: _case(getattr(reference, name), x=x) for name in ("exp", "sigmoid", "tanh", "erf")}
    for name in ACTIVATIONS:
        cases[name] = _case(getattr(reference, name), x=x)
        cases[f"derivative of {name}"] = _case(getattr(reference, f"{name}_slope"), x=x)
    return cases | {
        "log": _case(reference.log, x=positive),
        "softcap": {"cap": 2.5} | _case(lambda x: reference.softcap(x, cap), x=x),
        "derivative of softcap": {"cap": 2.5} | _case(lambda x: reference.softcap_slope(x, cap), x=x),
    }


def _slices(x: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {"in": {"x": _array(x)}, "out": _sliced(reference.slice_rows(x))}


def _frozen(precision: str) -> dict[str, Any]:
    weight = numbers(2, 70, of="w")
    return {"precision": precision, "in": {"W": _array(weight)}, "out": _sliced(reference.freeze(weight, precision))}


def _sliced(slices: reference.Slices) -> dict[str, Any]:
    return {"hi": slices.high.tolist(), "lo": slices.low.tolist(), "scale": _array(slices.scale)}


def _products() -> dict[str, Any]:
    backend = Reference()
    x, w = numbers(3, 10), numbers(2, 10, of="w")
    return {
        "product": [
            _case(reference.product, x=x, w=w),
            _case(reference.product, x=awkward(8, 5), w=awkward(4, 5, of="w")),
            _case(reference.product, x=spoilt(3, 4), w=numbers(2, 4, of="w")),
        ],
        "product_over_rows": [
            _case(reference.product_over_rows, x=numbers(3, 4), w=numbers(4, 5, of="w")),
            _case(reference.product_over_rows, x=awkward(8, 4), w=awkward(4, 5, of="w")),
            _case(reference.product_over_rows, x=numbers(2, 3), w=spoilt(3, 4, of="w")),
        ],
        "sum_rows": [
            {"lengths": [3, 0, 2]}
            | _case(lambda x, y: backend.sum_rows(x, y, (3, 0, 2)), x=numbers(5, 2), y=numbers(5, 4, of="y"))
        ],
    }


def _norms() -> dict[str, Any]:
    backend, eps = Reference(), 1e-5
    x, g, weight, bias = numbers(2, 6), numbers(2, 6, of="g"), numbers(6, of="weight"), numbers(6, of="bias")
    given = {"eps": eps}
    return {
        "rms_norm": given | _case(lambda x, weight: backend.rms_norm(x, weight, eps), x=x, weight=weight),
        "rms_norm_back": given
        | _case(lambda g, x, weight: backend.rms_norm_back(g, x, weight, eps), g=g, x=x, weight=weight),
        "layer_norm": given
        | _case(lambda x, weight, bias: backend.layer_norm(x, weight, bias, eps), x=x, weight=weight, bias=bias),
        "centre": _case(backend.centre, x=x),
        "unit_length": _case(backend.unit_length, x=awkward(6, 5)),
        "pool_mean": {"lengths": [3, 2]} | _case(lambda x: backend.pool_mean(x, (3, 2)), x=numbers(5, 3)),
    }


def _rotary() -> dict[str, Any]:
    backend = Reference()
    cos, sin = (table[[0, 1, 2, 3, 500, 8191]] for table in rotary(10000.0, 8, 8192))
    x = numbers(6, 16)
    return {
        "theta": 10000.0,
        "head": 8,
        "F": [str(frequency(10000.0, 8, pair)) for pair in range(4)],
        "positions": [0, 1, 2, 3, 500, 8191],
        "cos": _array(cos),
        "sin": _array(sin),
        "rotate": _case(lambda x: backend.rotate(x, cos, sin), x=x),
        "back": _case(lambda x: backend.rotate(x, cos, sin, back=True), x=x),
    }


def _attention() -> list[dict[str, Any]]:
    backend = Reference()
    cases = []
    for shape in (
        AttentionShape((3, 2), (3, 4), 0.5),
        AttentionShape((4,), (4,), 0.5, causal=False, softcap=2.0),
        AttentionShape((4,), (5,), 0.5, window=2),
    ):
        rows, keys, heads, kv_heads, size = sum(shape.queries), sum(shape.keys), 2, 1, 4
        arrays = {"g": (rows, heads), "q": (rows, heads), "k": (keys, kv_heads), "v": (keys, kv_heads)}
        g, q, k, v = (numbers(n, count * size, of=name) for name, (n, count) in arrays.items())
        results = (
            backend.attention(q, k, v, heads, kv_heads, shape),
            *backend.attention_back(g, q, k, v, heads, kv_heads, shape),
        )
        cases.append(
            {"heads": heads, "key heads": kv_heads, "shape": _fields(shape)}
            | {"in": {name: _array(x) for name, x in zip("gqkv", (g, q, k, v), strict=True)}}
            | {"out": dict(zip(("out", "dq", "dk", "dv"), map(_array, results), strict=True))}
        )
    return cases


def _losses() -> list[dict[str, Any]]:
    backend = Reference()
    cases = []
    for shape, vocabulary in ((LossShape(), 7), (LossShape(multiplier=0.5, softcap=2.0), 7), (LossShape(), 300)):
        x, weight, targets = numbers(3, 4, bound=3.0), numbers(vocabulary, 4, of="w"), np.array([6, 0, 3])
        nll, dx = backend.losses_back(x, backend.freeze(weight, "exact"), targets, 1 / 3, shape)
        cases.append(
            {"shape": _fields(shape), "c": 1 / 3, "targets": targets.tolist()}
            | {"in": {"x": _array(x), "W": _array(weight)}, "out": {"nll": _array(nll), "dx": _array(dx)}}
        )
    return cases


def _adamw() -> dict[str, Any]:
    backend, step = (
        Reference(),
        AdamStep(0.9, 0.999, 1 - 0.9, 1 - 0.999, 1 - 0.999 * 0.999, 0.001 / (1 - 0.9 * 0.9), 1 - 0.001 * 0.01, 1e-8),
    )
    p, g, m = (numbers(6, of=name) for name in "pgm")
    v = numbers(6, of="v") ** 2
    state = backend.adamw(p, g, m, v, 0.5, step)
    return (
        {"factor": 0.5, "step": _fields(step)}
        | {"in": {name: _array(x) for name, x in zip("pgmv", (p, g, m, v), strict=True)}}
        | {"out": dict(zip("pmv", map(_array, state), strict=True))}
        | {"square sum of g": _array(np.array([backend.square_sum(g)], np.float32))}
    )


def _training(precision: str) -> list[dict[str, Any]]:
    """Three steps of `golden_training` on the tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        steps = list(golden_training.training(Reference(), write_tiny_model(Path(folder) / "model"), precision))
    return [{"losses": _array(step.losses), "norm": _array(step.norm), "state": step.digest} for step in steps]


def _model(name: str) -> dict[str, Any]:
    """A forward pass of `golden_models`."""
    with tempfile.TemporaryDirectory() as folder:
        hidden, *losses = golden_models.forward(Reference(), name, Path(folder))
    found = {"hidden": golden.digest([hidden]), "last row": _array(hidden[-1:])}
    return found | ({"losses": _array(losses[0])} if losses else {})


# -- JSON ----------------------------------------------------------------------------------------------------------


def _case(function: Any, **inputs: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {"in": {name: _array(x) for name, x in inputs.items()}, "out": _array(function(*inputs.values()))}


def _array(x: npt.NDArray[np.float32]) -> dict[str, Any]:
    assert x.dtype == np.float32
    bits = np.where(np.isnan(x), np.uint32(0x7FC00000), np.ascontiguousarray(x).view(np.uint32))
    return {"shape": list(x.shape), "bits": " ".join(f"{int(b):08x}" for b in bits.reshape(-1))}


def _fields(value: Any) -> dict[str, Any]:
    return {name: list(x) if isinstance(x, tuple) else x for name, x in vars(value).items()}


def _lines(value: Mapping[str, Any], depth: int = 0) -> str:
    """JSON in which whatever holds no other object than arrays' is one line."""
    pad = " " * (depth + 1)
    parts = []
    for name, item in value.items():
        deep = isinstance(item, dict) and any(isinstance(x, (dict, list)) for x in item.values()) and depth < 1
        text = _lines(item, depth + 1) if deep else _items(item, pad) if isinstance(item, list) else json.dumps(item)
        parts.append(f"{pad}{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n" + " " * depth + "}"


def _items(value: list[Any], pad: str) -> str:
    if not any(isinstance(item, dict) for item in value):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"{pad} {json.dumps(item)}" for item in value) + f"\n{pad}]"


if __name__ == "__main__":
    sys.exit(main())
