"""One folder, one process: the second says who has it."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proofyard.runtime import folder
from proofyard.runtime.folder import (
    BELONGS,
    LOCK,
    FolderOfAnother,
    FolderTaken,
    FolderUnfit,
    keep_for,
    own_folder,
    session_of,
)


def test_the_second_process_in_a_folder_says_where_the_first_runs(tmp_path: Path) -> None:
    with own_folder(tmp_path / "data"):
        with pytest.raises(FolderTaken, match=f"process {os.getpid()}"), own_folder(tmp_path / "data"):
            pass
        with own_folder(tmp_path / "other"):
            pass
    with own_folder(tmp_path / "data"):
        pass


@pytest.mark.parametrize("left", ["", "999999999", "1", "not a number", "\udcff", "x" * 100_000])
def test_what_a_killed_process_left_in_the_lock_is_no_obstacle(tmp_path: Path, left: str) -> None:
    """A number in it may be anybody's by now, and of another machine or container: the kernel's lock alone counts."""
    (tmp_path / LOCK).write_text(left, errors="surrogateescape")
    with own_folder(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_killed_process_frees_its_folder(tmp_path: Path) -> None:
    program = f"from proofyard.runtime.folder import own_folder\nfrom pathlib import Path\n\
with own_folder(Path({str(tmp_path)!r})):\n    print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(FolderTaken, match=f"process {holder.pid}"), own_folder(tmp_path):
            pass
        holder.kill()
    with own_folder(tmp_path):
        pass


def test_a_folder_has_one_session_and_its_copy_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    assert session_of(tmp_path) == session_of(tmp_path) != session_of(tmp_path / "other")
    shutil.copytree(tmp_path / "other", tmp_path / "copy")
    assert session_of(tmp_path / "copy") != session_of(tmp_path / "other")
    before = session_of(tmp_path)
    (tmp_path / "boot").write_text("that of the clone")
    monkeypatch.setattr(folder, "BOOT", tmp_path / "boot")
    assert session_of(tmp_path) != before, "the same disk, in another machine"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 1000])
def test_a_session_that_was_spoilt_is_one_all_the_same(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "session").write_bytes(content)
    assert len(session_of(tmp_path)) == 64
    assert session_of(tmp_path) == session_of(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_named(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FolderUnfit, match=r"data_dir: .* cannot be locked"), own_folder(tmp_path):
        pass


WHOSE = {"service": "node", "wallet": "0xA", "chain": "31337", "registry": "0xR", "genesis": "aa"}


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"wallet": 3}', b'{"other": "x"}'])
def test_a_folder_is_kept_for_whoever_comes_first(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / BELONGS).write_bytes(content)
    keep_for(tmp_path, WHOSE | {"genesis": ""})
    keep_for(tmp_path, WHOSE)
    keep_for(tmp_path, WHOSE | {"genesis": ""})
    keep_for(tmp_path, WHOSE)


@pytest.mark.parametrize("field", WHOSE)
def test_the_work_of_one_is_not_taken_for_that_of_another(tmp_path: Path, field: str) -> None:
    """Another wallet, a verifier where a node was, another network, a test chain that began anew."""
    keep_for(tmp_path, WHOSE)
    with pytest.raises(
        FolderOfAnother, match=rf"another {field} \({WHOSE[field]}, not other\); give another --data-dir"
    ):
        keep_for(tmp_path, WHOSE | {field: "other"})
    keep_for(tmp_path, WHOSE)
    (tmp_path / BELONGS).unlink()
    keep_for(tmp_path, WHOSE | {field: "other"})
