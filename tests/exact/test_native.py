"""The C backend beyond its results: what happens where there is no memory, and with another compiler."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.runtime import compiling
from proofyard.runtime.compiling import NoCompiler
from proofyard.workloads.errors import OutOfMemory
from proofyard.workloads.exact import native
from proofyard.workloads.exact.golden import check_backend
from proofyard.workloads.exact.native import NativeBackend
from proofyard.workloads.executor import OUT_OF_MEMORY_EXIT, Executor
from proofyard.workloads.workload import Inputs, load_workload

_NEEDS = {
    "freeze": "backend.freeze(x, 'exact')",
    "slice": "backend.slice(x)",
    "product": "backend.product(x, x[:1])",
    "attention": "backend.attention(q, q, q, 1, 1, AttentionShape((65536,), (65536,), 1.0))",
    "attention back": "backend.attention_back(q, q, q, q, 1, 1, AttentionShape((65536,), (65536,), 1.0))",
    "losses": "backend.losses(q, head, np.zeros(65536, int), LossShape())",
}
_SCRIPT = """
import resource, sys
import numpy as np
from proofyard.workloads.exact.backend import AttentionShape, LossShape
from proofyard.workloads.exact.native import NativeBackend
backend = NativeBackend("native", 2)
x, q = np.ones((4096, 4096), np.float32), np.ones((65536, 4), np.float32)
head = backend.freeze(np.ones((1 << 19, 4), np.float32), "exact")
used = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (12 << 20),) * 2)
{call}
print("went on")
"""


@pytest.fixture(autouse=True)
def _compiled() -> None:
    try:
        native.build("native")
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("call", _NEEDS)
def test_without_memory_the_process_ends_with_a_word_and_a_code_of_its_own(call: str) -> None:
    code = _SCRIPT.format(call=_NEEDS[call])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (OUT_OF_MEMORY_EXIT, ""), done.stderr
    assert done.stderr.endswith("exact execution: out of memory\n")


async def test_an_executor_that_ends_so_was_out_of_memory(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n[ $1 = -m ] && echo {{}} || exit {OUT_OF_MEMORY_EXIT}\n")
    fake.chmod(0o755)
    data = tmp_path / "data"
    data.write_text('{"text": "a"}\n')
    manifest = Manifest(workload="map", data=Cid("data"), params={"rows": 1, "segment_rows": 1, "segments": 1})
    async with Executor(tmp_path, python=str(fake)) as executor:
        with pytest.raises(OutOfMemory, match="memory limit"):
            await executor.run_task(manifest, load_workload("map").graph(manifest)[0], Inputs(data=data))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", sorted(native.MACHINES))
def test_every_compiler_makes_the_same_arithmetic(compiler: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    monkeypatch.setattr(compiling, "COMPILERS", (compiler,))
    try:
        backend = NativeBackend(name)
    except NoCompiler as error:  # clang without OpenMP's headers
        pytest.skip(str(error))
    assert check_backend(backend) == []


def test_a_matrix_that_is_not_aligned_is_copied() -> None:
    raw = np.frombuffer(b"\0" + np.ones(64, np.float32).tobytes(), np.float32, 64, 1).reshape(8, 8)
    frozen = NativeBackend("native").freeze(raw, "exact")
    assert (frozen.outputs, frozen.inputs) == (8, 8)
