"""Exact execution: an arithmetic with the same bits on every machine (docs/exact.md), and backends that compute in it.

A node computes with the fastest backend that reproduces the golden vectors on its hardware; where none does, it does
not offer the workloads that need one. Importing this package loads neither torch nor a compiler.
"""

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from proofyard.workloads.errors import ExecutionError
from proofyard.workloads.exact.backend import Backend
from proofyard.workloads.exact.tampering import TamperedBackend, active, tampering
from proofyard.workloads.workload import Resources

__all__ = ["Backend", "backend_for", "backends", "choose_backend", "tampering"]

_log = logging.getLogger(__name__)

_ON_GPU = ("cuda-triton", "cuda-int8", "cuda-tf32", "cuda-fp16", "cuda-float32")
_ON_CPU = ("native", "int8", "float32")
_FOR_TESTS = ("native-avx2", "native-sse", "bf16", "reference")
_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What shows that importing torch to look for a GPU is worth it."""


def backends(threads: int = 1) -> dict[str, Callable[[], Backend]]:
    """Every backend of this package by name. Making one may fail where its compiler, library or device is not there."""
    return {name: partial(_make, name, threads) for name in (*_ON_GPU, *_ON_CPU, *_FOR_TESTS)}


def choose_backend(resources: Resources) -> str:
    """The name of the fastest backend that reproduces the golden vectors here, "" where none does."""
    try:
        return _chosen(resources).name
    except ExecutionError as error:
        _log.warning("%s", error)
        return ""


def backend_for(resources: Resources) -> Backend:
    """That backend, made once a process. Raises `ExecutionError` where there is none."""
    change = active()
    honest = _chosen(resources)
    tampered: Backend = TamperedBackend(honest, change) if change else honest
    return tampered


def _chosen(resources: Resources) -> Backend:
    return _first_that_works(_candidates(resources), resources.threads)


def _candidates(resources: Resources) -> tuple[str, ...]:
    if resources.backend:
        return (resources.backend,)
    if resources.device == "cpu" or not any(Path(device).exists() for device in _DEVICES):
        return _ON_CPU
    return (*_ON_GPU, *_ON_CPU) if resources.device == "auto" else _ON_GPU


@lru_cache(maxsize=4)
def _first_that_works(names: tuple[str, ...], threads: int) -> Backend:
    from proofyard.workloads.exact.golden import check_backend

    reasons = []
    for name in names:
        try:
            backend = _make(name, threads)
        except Exception as error:  # a library that does not load, a device that is not there: another backend may do
            reasons.append(f"{name}: {error}")
            continue
        different = check_backend(backend, first=True)
        if not different:
            return backend
        reasons.append(f"{name} computes {different[0]!r} differently")
    raise ExecutionError(f"no backend computes exactly on this machine ({'; '.join(reasons)}); run `make setup` again")


def _make(name: str, threads: int) -> Backend:
    if name == "reference":
        from proofyard.workloads.exact.reference import Reference

        return Reference()
    if name.startswith("native"):
        from proofyard.workloads.exact.native import NativeBackend

        return NativeBackend(name, threads)
    from proofyard.workloads.exact.torch_backend import TorchBackend

    if name in ("int8", "float32", "bf16"):
        return TorchBackend("cpu", name, threads)
    if name == "cuda-triton":
        from proofyard.workloads.exact.triton_backend import TritonBackend

        return TritonBackend()
    if name in _ON_GPU:
        return TorchBackend("cuda", name.removeprefix("cuda-"), threads)
    raise ExecutionError(f"there is no backend named {name!r}; known are {', '.join(backends())}")
