"""What is found out before any stranger's work is there: the arithmetic that is exact on this machine, with what it is
made of compiled.

`python -m proofyard.workloads.warmup RESOURCES` reads nothing that a stranger made and runs outside of the sandbox: it
calls compilers and fills this user's caches, which sandboxed processes only read.
"""

import compileall
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import msgspec

from proofyard.protocol.codec import CodecError, decode_json, prepared
from proofyard.workloads.errors import ExecutorCrashed
from proofyard.workloads.workload import Resources

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT")
_KEPT_PREFIXES = ("CUDA_", "HIP_", "ROCR_", "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OPENBLAS_")
TIMEOUT_S = 600.0


class Warm(msgspec.Struct, frozen=True):
    """`backend`: the arithmetic, "" where none is exact on this machine. `library`: the file that it is compiled to, ""
    for none."""

    backend: str = ""
    library: str = ""

    def used(self, resources: Resources) -> Resources:
        """Resources that name this arithmetic; in this process it is not compiled or looked for any more."""
        if not self.backend:
            return resources
        if self.library:
            from proofyard.workloads.exact.native import use_built

            use_built(self.backend, Path(self.library))
        return replace(resources, backend=self.backend)


def warm_up(resources: Resources, python: str = sys.executable) -> Warm:
    """What a process of `python` finds; looked for once. Raises `ExecutorCrashed` where it finds nothing."""
    variables = tuple(sorted(environment(resources.threads).items()))
    return _found(msgspec.json.encode(resources).decode(), python, variables)


@lru_cache(maxsize=8)
def _found(resources: str, python: str, variables: tuple[tuple[str, str], ...]) -> Warm:
    command = [python, "-m", __name__, resources]
    words: object = ""
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, env=dict(variables), timeout=TIMEOUT_S
        )
        words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return decode_json(done.stdout, Warm)
    except (OSError, subprocess.TimeoutExpired, CodecError) as error:
        raise ExecutorCrashed(f"the arithmetic of this machine cannot be tried: {words or error}") from None


def environment(threads: int) -> dict[str, str]:
    """What the child gets to see: no secrets of the node, no network for libraries that would look for a hub."""
    kept = {n: v for n, v in os.environ.items() if n in _KEPT_VARIABLES or n.startswith(_KEPT_PREFIXES)}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait take the core from those that compute
        "TOKENIZERS_PARALLELISM": "false",
        # What torch might compile for transformers goes nowhere: the sandbox makes no folders, this one is there.
        "TORCHINDUCTOR_CACHE_DIR": "/tmp",  # noqa: S108 (inside)
    }


def main() -> None:
    """Print what was found as JSON."""
    from proofyard.workloads.exact import choose_backend
    from proofyard.workloads.exact.native import MACHINES, build

    resources = msgspec.json.decode(sys.argv[1], type=prepared(Resources))
    compileall.compile_dir(Path(__file__).parent, quiet=2)
    backend = choose_backend(resources)
    library = str(build(MACHINES[backend])) if backend in MACHINES else ""
    sys.stdout.buffer.write(msgspec.json.encode(Warm(backend, library)))


if __name__ == "__main__":
    main()
