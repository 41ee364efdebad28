"""One folder, one process: the second says who has it."""

import os
from pathlib import Path

import pytest

from proofyard.runtime.folder import FolderTaken, own_folder, session_of


def test_the_second_process_in_a_folder_says_where_the_first_runs(tmp_path: Path) -> None:
    with own_folder(tmp_path / "data"):
        with pytest.raises(FolderTaken, match=f"process {os.getpid()}"), own_folder(tmp_path / "data"):
            pass
        with own_folder(tmp_path / "other"):
            pass
    with own_folder(tmp_path / "data"):
        pass


def test_a_folder_has_one_session_for_good(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert session_of(tmp_path) == session_of(tmp_path) != session_of(tmp_path / "other")
    (tmp_path / "session").write_text("")
    assert session_of(tmp_path)
