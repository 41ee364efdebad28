"""What torch does to single numbers, and that kernels, threads, padding and block sizes change no bit of a result."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from proofyard.workloads.exact import golden, reference, torch_attention, torch_integers, torch_loss
from proofyard.workloads.exact.backend import AttentionShape, LossShape
from proofyard.workloads.exact.golden import digest, line, numbers, operations, spoilt
from proofyard.workloads.exact.torch_backend import TorchBackend
from proofyard.workloads.exact.torch_elementary import exp_, inverse_, log, sqrt, tree, tree_, tree_of_rows_
from proofyard.workloads.exact.torch_integers import Integers
from proofyard.workloads.exact.torch_loss import Sizes

F32 = npt.NDArray[np.float32]

CPU = torch.device("cpu")
UNITS = ("int8", "float32", "bf16")
UNEVEN = AttentionShape((30, 1, 17, 40, 31), (30, 9, 17, 40, 50), 0.25)


@pytest.fixture(params=UNITS)
def backend(request: pytest.FixtureRequest) -> TorchBackend:
    return TorchBackend("cpu", request.param)


def every_mantissa(*binades: int) -> F32:
    """All numbers of some binades, by their exponents' bits."""
    mantissas = np.arange(1 << 23, dtype=np.int32)
    return np.concatenate([(mantissas + (binade << 23)) for binade in binades]).view(np.float32)


# -- single numbers ------------------------------------------------------------------------------------------------


def test_roots_are_rounded_correctly_for_every_mantissa() -> None:
    x = every_mantissa(0, 127, 128)  # subnormal, [1, 2), [2, 4): a root's rounding repeats every two binades
    np.testing.assert_array_equal(sqrt(torch.from_numpy(x)).numpy(), np.sqrt(x))


def test_reciprocals_are_rounded_correctly_for_every_mantissa() -> None:
    x = every_mantissa(127, 253)
    np.testing.assert_array_equal(inverse_(torch.from_numpy(x.copy())).numpy(), np.float32(1) / x)


def test_functions_are_the_reference_ones() -> None:
    x = np.concatenate([line().reshape(-1), numbers(100_000, bound=130.0), every_mantissa(127)[::97]])
    with np.errstate(all="ignore"):
        expected = reference.exp(x), reference.log(np.abs(x[x != 0]) + np.float32(1e-30))
        found = exp_(torch.from_numpy(x.copy())), log(torch.from_numpy(np.abs(x[x != 0]) + np.float32(1e-30)))
    for one, other in zip(expected, found, strict=True):
        assert digest([one]) == digest([other.numpy()])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 576, 4097])
def test_trees_are_the_reference_ones(size: int) -> None:
    x = golden.awkward(15, size)
    with np.errstate(all="ignore"):
        expected = reference.tree(x)
    for found in (tree(torch.from_numpy(x)), tree_(torch.from_numpy(x.copy()))):
        assert digest([expected]) == digest([found.numpy()[:, 0]])
    assert digest([expected]) == digest([tree_of_rows_(torch.from_numpy(x.T.copy())).numpy()])


# -- integers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 35), (17, 1, 8), (3, 2, 5), (33, 64, 31), (5, 4096, 9), (2, 577, 1)]
)
def test_integer_products_are_exact(unit: Any, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.Generator(np.random.Philox(m * k * n))
    for bound in (1, 63):  # -63 * 63 everywhere is the largest sum there is
        a = rng.integers(-bound, bound + 1, (2, m, k)) if bound == 1 else np.full((2, m, k), -63)
        b = rng.integers(-64, 65, (2, k, n)) if bound == 1 else np.full((2, k, n), 63)
        expected = a @ b
        integers = Integers(unit, CPU)
        left, right = (torch.from_numpy(x).to(integers.dtype) for x in (a[0], b[0]))
        assert (integers.columns(left, right).numpy() == expected[0]).all()
        assert (integers.rows(left, right.t().contiguous()).numpy() == expected[0]).all()
        for dtype in {torch.float32, integers.batch_dtype(1000, k, 1000)}:
            left, right = (torch.from_numpy(x).to(dtype) for x in (a, b))
            assert (integers.batch(left, right).numpy() == expected).all()
            turned = left.transpose(1, 2).contiguous().transpose(1, 2)
            assert (integers.batch(turned, right).numpy() == expected).all()


def test_the_precision_of_other_products_is_left_alone() -> None:
    before = torch.get_float32_matmul_precision()
    x = numbers(33, 64)
    for unit in UNITS:
        backend = TorchBackend("cpu", unit)
        backend.product(backend.array(x), backend.array(x))
        assert torch.get_float32_matmul_precision() == before


def test_units_that_a_device_lacks_are_refused() -> None:
    for unit in ("tf32", "fp16", "int4"):
        with pytest.raises(ValueError, match=f"no unit '{unit}' on cpu"):
            TorchBackend("cpu", unit)


@pytest.mark.parametrize("unit", ["int8", "fp16", "tf32", "float32"])
def test_what_cuda_is_given_is_what_it_takes(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's way through the code, on a CPU whose products ask for what cuBLAS asks for."""
    int_mm, mm, bmm = torch._int_mm, torch.mm, torch.bmm

    def strict_int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.dtype == b.dtype == torch.int8
        assert a.shape[0] > 16 and a.shape[1] % 8 == 0 and b.shape[1] % 8 == 0 and a.shape[1] > 0
        assert a.is_contiguous() and b.stride(0) == 1 and b.stride(1) % 16 == 0 and b.data_ptr() % 16 == 0
        return int_mm(a, b)

    def of_halves(product: Any) -> Any:
        def call(a: torch.Tensor, b: torch.Tensor, *, out_dtype: torch.dtype | None = None) -> torch.Tensor:
            if out_dtype is None:
                assert a.dtype == b.dtype == torch.float32
            else:
                assert a.dtype == b.dtype == torch.float16 and out_dtype == torch.float32
            result: torch.Tensor = product(a.float(), b.float())
            return result

        return call

    backend = TorchBackend("cpu", "float32")
    with monkeypatch.context() as patch:
        patch.setitem(torch_integers.UNITS, "cpu", torch_integers.UNITS["cuda"])
        backend.unit = Integers(unit, CPU)  # type: ignore[arg-type]
    backend.unit.on_cuda = True
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    monkeypatch.setattr(torch, "mm", of_halves(mm))
    monkeypatch.setattr(torch, "bmm", of_halves(bmm))
    assert golden.check_backend(backend) == []


# -- what may not matter -------------------------------------------------------------------------------------------


def attention(backend: TorchBackend, shape: AttentionShape, make: Callable[..., F32] = numbers) -> str:
    """The digest of attention and its gradient with two heads a key head."""
    q, g = (backend.array(make(sum(shape.queries), 64, of=of)) for of in "qg")
    k, v = (backend.array(make(sum(shape.keys), 32, of=of)) for of in "kv")
    out = backend.attention(q, k, v, 4, 2, shape)
    return digest([backend.numpy(x) for x in (out, *backend.attention_back(g, q, k, v, 4, 2, shape))])


@pytest.mark.parametrize("make", [numbers, golden.awkward, spoilt])
@pytest.mark.parametrize("shape", [UNEVEN, replace(UNEVEN, causal=False), replace(UNEVEN, window=5, softcap=0.5)])
def test_padding_parts_and_masks_change_no_attention(
    backend: TorchBackend, shape: AttentionShape, make: Callable[..., F32], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attention(backend, shape, make)
    for name, value in (("PAIRS_AT_ONCE", {"cpu": 1}), ("_LIKE", 1), ("_LIKE", 1000)):
        with monkeypatch.context() as patch:
            patch.setattr(torch_attention, name, value)
            torch_attention.groups.cache_clear()
            assert attention(backend, shape, make) == expected
    with monkeypatch.context() as patch:
        patch.setattr(torch_attention.Hidden, "multiplied", lambda self: self)
        assert attention(backend, shape, make) == expected


@pytest.mark.parametrize("shape", [LossShape(), LossShape(multiplier=0.3, softcap=2.0)])
@pytest.mark.parametrize("vocabulary", [1, 255, 512, 700])
def test_block_sizes_change_no_loss(
    backend: TorchBackend, shape: LossShape, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = backend.freeze(numbers(vocabulary, 40, of="w"), "exact")
    x, targets = backend.array(numbers(23, 40, bound=5.0)), np.arange(23) * 37 % vocabulary

    def losses() -> str:
        nll, dx = backend.losses_back(x, head, targets, 1 / 23, shape)
        return digest([nll, backend.numpy(dx), backend.losses(x, head, targets, shape)])

    expected = losses()
    for sizes in (Sizes(1, 1, 1, 1), Sizes(7, 2 * vocabulary, 100, 10), Sizes(4, 9 * vocabulary, 4096, 5)):
        monkeypatch.setattr(torch_loss, "SIZES", {"cpu": sizes})
        assert losses() == expected


class Guarded:
    """A backend that checks of each call that it changed none of its arguments."""

    def __init__(self, backend: TorchBackend) -> None:
        self._backend, self.name = backend, backend.name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before = [arg.clone() for arg in args if isinstance(arg, torch.Tensor)]
            result = method(*args, **kwargs)
            for arg, old in zip((arg for arg in args if isinstance(arg, torch.Tensor)), before, strict=True):
                assert torch.equal(torch.nan_to_num(arg), torch.nan_to_num(old)), f"{name} changed an argument"
            return result

        return call


def test_operations_leave_their_arguments_alone(backend: TorchBackend) -> None:
    guarded: Any = Guarded(backend)
    with np.errstate(all="ignore"):
        for case in operations().values():
            case(guarded)


KERNELS = {
    "portable kernels, 1 thread": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, 1),
    "AVX2 without VNNI, 2 threads": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, 2),
    "AVX-512 without VNNI, 3 threads": ({"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, 3),
    "MKL's portable code path, 4 threads": ({"MKL_CBWR": "COMPATIBLE"}, 4),
}
_DIGESTS = """
import sys
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
from proofyard.workloads.exact.backend import AttentionShape, LossShape
from proofyard.workloads.exact.golden import check_backend, digest, numbers
from proofyard.workloads.exact.torch_backend import TorchBackend
for unit in ("int8", "float32", "bf16"):
    b = TorchBackend("cpu", unit)
    assert check_backend(b) == [], check_backend(b)
    x, w = b.array(numbers(200, 576)), b.freeze(numbers(1000, 576, of="w"), "exact")
    y = b.linear(b.slice(x), w)
    nll, dx = b.losses_back(x, w, np.arange(200), 1 / 200, LossShape())
    q, k = b.array(numbers(256, 256, of="q")), b.array(numbers(256, 128, of="k"))
    back = b.attention_back(q, q, k, k, 4, 2, AttentionShape((128, 128), (128, 128), 0.125))
    gated = b.gated_back(y, y, y, "silu")
    print(digest([b.numpy(a) for a in (y, b.linear_back(y, w), dx, *back, *gated)] + [nll]))
"""


@pytest.fixture(scope="module")
def here() -> set[str]:
    """The digest of some layers in this process: of all units the same."""
    return digests(dict(os.environ), 2)


def digests(variables: dict[str, str], threads: int) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", _DIGESTS, str(threads)],
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | variables,  # 4 threads on 2 cores would wait by spinning
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert len(found) == len(UNITS)
    return set(found)


def test_units_agree(here: set[str]) -> None:
    assert len(here) == 1


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_threads_change_no_bit(name: str, here: set[str]) -> None:
    assert digests(*KERNELS[name]) == here


# -- the check of a GPU --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_is_told_so(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    with pytest.raises(SystemExit, match="sees no CUDA device on this machine, so nothing was checked") as stopped:
        gpu_check.main()
    assert isinstance(stopped.value.code, str)  # which Python prints, and exits with 1


def run_gpu_check(module: ModuleType, out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "_quiet", lambda: None)
    arguments = ["--backends", "float32", "--models", str(out.parent), "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    module.main()


def test_the_check_compares_backends_with_the_cpu(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    run_gpu_check(gpu_check, out, monkeypatch)
    report = json.loads(out.read_text())
    assert report["verdict"] == "exact"
    (found,) = report["backends"]
    assert found["backend"] == "float32" and found["different"] == [] and found["digests"] == report["cpu"]["digests"]
    assert "a node here would compute with float32" in capsys.readouterr().out


def test_the_check_fails_where_a_backend_differs(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchBackend, "add", lambda self, x, y: (x + y) * 1.0000001)
    with pytest.raises(SystemExit, match="no backend reproduces the golden vectors"):
        run_gpu_check(gpu_check, tmp_path / "gpu.json", monkeypatch)
    assert json.loads((tmp_path / "gpu.json").read_text())["backends"][0]["different"]
