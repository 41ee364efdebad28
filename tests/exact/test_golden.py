"""The golden vectors are what the reference gives, and they notice a backend that differs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from proofyard.workloads.exact import golden, reference
from proofyard.workloads.exact.golden import check_backend, digest
from proofyard.workloads.exact.reference import Reference

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exact_vectors", ROOT / "scripts" / "exact_vectors.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_what_the_script_writes(script: ModuleType) -> None:
    for path, text in script.texts().items():
        assert path.read_text() == text, f"run scripts/exact_vectors.py: {path.name}"


def test_every_vector_can_be_read_back(script: ModuleType) -> None:
    """Shapes and bits of a case agree, and the reference gives the output from the input as it is written."""
    cases = json.loads(script.VECTORS.read_text())["products"]["product"]
    for case in cases:
        x, w = (_read(case["in"][name]) for name in "xw")
        with np.errstate(all="ignore"):
            assert digest([reference.product(x, w)]) == digest([_read(case["out"])])


def _read(array: dict[str, Any]) -> Any:
    bits = [int(word, 16) for word in array["bits"].split()]
    return np.array(bits, np.uint32).view(np.float32).reshape(array["shape"])


def test_the_reference_reproduces_its_vectors() -> None:
    assert check_backend(Reference()) == []
    assert set(golden.golden()) == set(golden.operations()) | set(golden.large())


def test_a_digest_is_of_bits_but_for_nans_and_signs_of_zeros() -> None:
    zero, nan = np.zeros(2, np.float32), np.array([0x7FC00000, 0xFFC00001], np.uint32).view(np.float32)
    assert digest([nan]) == digest([np.full(2, np.nan, np.float32)])
    assert digest([zero]) == digest([-zero])
    assert len({digest(x) for x in ([zero], [zero[None]], [zero.astype(int)], [zero, zero], [nan], [zero + 1])}) == 6


def _fused(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once (nearly: through binary64)."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def _fused_exp(x: Any) -> Any:
    t = np.clip(x * np.float32(1.4426950408889634), np.float32(-126), np.float32(126))
    k = np.rint(t)
    f = t - k
    p = np.full_like(f, np.array([reference._LN2_POWERS[6]], np.uint32).view(np.float32)[0])
    for bits in reference._LN2_POWERS[5::-1]:
        p = _fused(p, f, np.array([bits], np.uint32).view(np.float32)[0])
    return p * reference.pow2(np.nan_to_num(k).astype(np.int32))


def _in_order(x: Any) -> Any:
    total = np.zeros(x.shape[:-1], np.float32)
    for column in range(x.shape[-1]):
        total = total + x[..., column]
    return total


def _adamw(self: Any, p: Any, g: Any, m: Any, v: Any, factor: float, step: Any) -> Any:
    f = np.float32
    g = g * f(factor)
    m = _fused(m, f(step.beta1), g * f(step.rest1))
    v = v * f(step.beta2) + (g * f(step.rest2)) * g
    p = p * f(step.keep) - (m * f(step.rate)) / (np.sqrt(v / f(step.correction2)) + f(step.eps))
    return p + f(0), m + f(0), v + f(0)


def _rotate(self: Any, x: Any, cos: Any, sin: Any, *, back: bool = False) -> Any:
    half = cos.shape[1]
    heads = x.reshape(len(x), -1, 2 * half)
    a, b, c, s = heads[:, :, :half], heads[:, :, half:], cos[:, None], -sin[:, None] if back else sin[:, None]
    return np.concatenate([_fused(a, c, -(b * s)), _fused(b, c, a * s)], axis=2).reshape(x.shape)


def _last_bit(plain: Any) -> Any:
    """Wrong by one unit in the last place of one number in one row of a norm."""

    def rms_norm(self: Any, x: Any, weight: Any, eps: float) -> Any:
        y = plain(self, x, weight, eps)
        if y.shape == (5, 576):
            y[3, 100] = np.nextafter(y[3, 100], np.float32(9))
        return y

    return rms_norm


def _flushing(plain: Any) -> Any:
    def array(self: Any, values: Any) -> Any:
        x = plain(self, values)
        return np.where(np.abs(x) < np.finfo(np.float32).tiny, x * 0, x) if x.dtype == np.float32 else x

    return array


def _leaking(plain: Any) -> Any:
    """Pairs that are not visible are multiplied like others."""
    return lambda x, right, visible=None, block=512: plain(x, right, None, block)


def _blocks(plain: Any, size: int) -> Any:
    """Blocks of 512 columns have another size."""
    return lambda x, block=512: plain(x, size if block == 512 else block)


def _no_operation(plain: Any) -> Any:
    def layer_norm(self: Any, *given: Any) -> Any:
        raise NotImplementedError

    return layer_norm


MUTANTS: dict[str, tuple[Any, str, Any, str]] = {
    # What is replaced, by what, and a case that must notice.
    "last bit": (Reference, "rms_norm", _last_bit, "norms 576"),
    "flushed subnormals": (Reference, "array", _flushing, "norms awkward"),
    "fused exp": (reference, "exp", lambda plain: _fused_exp, "activation silu"),
    "fused optimiser": (Reference, "adamw", lambda plain: _adamw, "adamw later"),
    "fused rotation": (Reference, "rotate", lambda plain: _rotate, "rotary"),
    "sums in order": (reference, "tree", lambda plain: _in_order, "norms 63"),
    "shorter blocks": (reference, "slice_blocks", lambda plain: _blocks(plain, 256), "product 3 x 4097"),
    "longer blocks": (reference, "slice_blocks", lambda plain: _blocks(plain, 1024), "over rows 3 x 4097"),
    "longer blocks in the loss": (reference, "LOSS_BLOCK", lambda plain: 512, "loss 17"),
    "invisible pairs": (reference, "over_rows", _leaking, "attention nan v"),
    "a missing operation": (Reference, "layer_norm", _no_operation, "norms awkward"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_arithmetic_that_differs_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, replace, case = MUTANTS[mutant]
    monkeypatch.setattr(where, name, replace(getattr(where, name)))
    different = check_backend(Reference())
    assert case in different
    assert check_backend(Reference(), first=True) == different[:1]


def test_trying_a_backend_needs_no_torch() -> None:
    code = "import sys; import proofyard.workloads.exact.golden as g; g.operations(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
