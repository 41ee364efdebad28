"""C sources of this package, compiled for this machine when they are first needed and kept in this user's cache.

A C compiler is not a dependency: whoever builds something here does the same work slower where there is none.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import platformdirs

COMPILERS = ("cc", "gcc", "clang")
COMPILE_TIMEOUT_S = 120.0


class NoCompiler(RuntimeError):
    """There is no C compiler here, or it failed; the message says which."""


def build(name: str, source: Path, flags: Sequence[str], libraries: Sequence[str] = (), *, folder: Path | None) -> Path:
    """The shared library `name` of one C file, in the cache or in a `folder` of the caller's. One that was compiled by
    another compiler, with other flags or for another processor is not used. Raises `NoCompiler`."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoCompiler(f"none of {', '.join(COMPILERS)} is installed")
    command = [compiler, *flags]
    folder = folder or Path(platformdirs.user_cache_dir("proofyard")) / "native"
    key = hashlib.sha256(source.read_bytes() + repr((command, _identity(compiler), _processor())).encode()).hexdigest()
    library = folder / f"{name}-{key[:24]}.so"
    if not _ours(library):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as target:
            made = Path(target.name)
        try:
            _run([*command, "-o", str(made), str(source), *libraries])
            made.chmod(0o500)
            made.replace(library)
        finally:
            made.unlink(missing_ok=True)
    return library


def _ours(library: Path) -> bool:
    """Whether the file is there and nobody else could have written it. An empty one is what a power cut leaves."""
    try:
        file, folder = library.stat(), library.parent.stat()
    except OSError:
        return False
    written = file.st_size > 0 and not (file.st_mode | folder.st_mode) & 0o022
    return written and file.st_uid == folder.st_uid == os.getuid()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_TIMEOUT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompiler(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        raise NoCompiler(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


@lru_cache
def _identity(compiler: str) -> str:
    return _run([compiler, "--version"])


@lru_cache
def _processor() -> str:
    """What `-march=native` stands for changes with the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))
