"""Ways to compute the same honestly: backends, instruction sets, threads, micro-batches, another release of torch."""

import shlex
import site
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_exact_setup import CACHE, ROOT, Bench, say
from proofyard.workloads.executor import Executor
from proofyard.workloads.sandbox import Mechanisms, Sandbox
from proofyard.workloads.workload import Resources

SLOW = ("reference",)
"""Variants of which only the least number of segments is asked."""


@dataclass(frozen=True)
class Variant:
    """One way. `variables` are read by the libraries when their process starts."""

    name: str
    resources: Resources
    variables: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def uses_torch(self) -> bool:
        return self.resources.backend in ("int8", "float32", "bf16")

    def executor(self, folder: Path) -> Executor:
        """A process of its own for this variant; it is started again with the same variables where it ends."""
        sandbox = Sandbox(mechanisms=Mechanisms())  # another build of torch, on jobs of our own
        return Executor(folder, resources=self.resources, python=str(self._launcher(folder)), sandbox=sandbox)

    def libraries(self, folder: Path) -> str:
        """The release of torch and the kernels that it says it uses."""
        if not self.uses_torch:
            return ""
        program = "import torch; print(torch.__version__, torch.backends.cpu.get_cpu_capability())"
        return subprocess.run(
            [str(self._launcher(folder)), "-c", program], check=True, capture_output=True, text=True
        ).stdout.strip()

    def _launcher(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "python"
        if not path.exists():
            # Threads that spin while they wait would take the core of the variant beside this one.
            settings = [f"{name}={value}" for name, value in {"OMP_WAIT_POLICY": "PASSIVE", **self.variables}.items()]
            path.write_text(f'#!/bin/sh\nexec env {shlex.join([*settings, self.python])} "$@"\n')
            path.chmod(0o700)
        return path


def _native(name: str, **resources: Any) -> Variant:
    return Variant(name, Resources(backend=name.partition(",")[0], **resources))


def _torch(unit: str, what: str, variables: dict[str, str], **resources: Any) -> Variant:
    return Variant(f"{unit}, {what}", Resources(backend=unit, **resources), variables)


SSE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AVX2_VNNI = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}
AVX512 = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
AVX512_VNNI = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
PORTABLE = {"MKL_CBWR": "COMPATIBLE"}

OURS = (
    _native("native, 2 threads", threads=2),
    _native("native, 3 threads, micro-batches of 2", threads=3, micro_batch=2),
    _native("native, 4 threads, micro-batches of 3", threads=4, micro_batch=3),
    _native("native, micro-batches of 1", micro_batch=1),
    _native("native-avx2"),
    _native("native-sse"),
    _torch("int8", "AVX-512 with VNNI", AVX512_VNNI),
    _torch("int8", "AVX-512 without VNNI", AVX512),
    _torch("int8", "AVX2 with VNNI", AVX2_VNNI),
    _torch("int8", "AVX2 without VNNI", AVX2),
    _torch("int8", "SSE", SSE),
    _torch("int8", "MKL portable", PORTABLE),
    _torch("int8", "2 threads, micro-batches of 3", {}, threads=2, micro_batch=3),
    _torch("float32", "AVX-512", AVX512),
    _torch("float32", "AVX2", AVX2),
    _torch("float32", "SSE, MKL portable", SSE | PORTABLE),
    _torch("float32", "4 threads, micro-batches of 2", {}, threads=4, micro_batch=2),
    _torch("bf16", "best kernels", {}),
    _torch("bf16", "AVX2, 3 threads, micro-batches of 1", AVX2, threads=3, micro_batch=1),
    Variant("reference", Resources(backend="reference")),
)


def all_variants(bench: Bench) -> list[Variant]:
    """Ours, and those on another release of torch where there is one."""
    return [*OURS, *(other_variants(bench.other_torch) if bench.other_torch else [])]


def installed_torch() -> str:
    """Another release of torch that an earlier run has installed, or ""."""
    found = sorted(path.parent.name.removeprefix("torch-") for path in CACHE.glob("torch-*/ready"))
    return found[-1] if found else ""


def other_variants(release: str) -> list[Variant]:
    """The same code on another release of torch, which is installed once in `.cache/` (a CUDA build: 5 GB)."""
    home = CACHE / f"torch-{release}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        say(f"installing torch {release} in {home}; with its CUDA libraries that is about 5 GB")
        venv.create(home, with_pip=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "install", f"torch=={release}"]
        subprocess.run(pip, check=True)
        packages = next(home.glob("lib/python*/site-packages"))
        (packages / "proofyard-bench.pth").write_text("\n".join(site.getsitepackages()))
        (home / "ready").touch()
    variables = {"PYTHONPATH": ":".join(str(ROOT / tree) for tree in ("sdk", "node", "verifier"))}
    return [
        Variant(f"{unit}, torch {release}", Resources(backend=unit), variables, str(python))
        for unit in ("int8", "float32")
    ]
