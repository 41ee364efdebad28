"""Libraries that are compiled on this machine and kept."""

import ctypes
from pathlib import Path

import pytest

from proofyard.runtime.compiling import NoCompiler, build


def _built(source: Path, folder: Path) -> Path:
    try:
        return build("one", source, ("-shared", "-fPIC"), folder=folder)
    except NoCompiler as error:
        pytest.skip(str(error))


def test_a_library_that_a_power_cut_has_emptied_is_compiled_again(tmp_path: Path) -> None:
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }\n")
    library = _built(source, tmp_path / "native")
    kept = library.stat().st_mtime_ns
    assert _built(source, tmp_path / "native").stat().st_mtime_ns == kept
    library.chmod(0o700)
    library.write_bytes(b"")
    library.chmod(0o500)
    assert ctypes.CDLL(str(_built(source, tmp_path / "native"))).one() == 1
