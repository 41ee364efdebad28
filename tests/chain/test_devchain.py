"""What a chain of one's own leaves behind."""

from pathlib import Path

import pytest

from proofyard.chain import Anvil, devchain


def test_what_anvil_keeps_on_disk_is_bounded_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(devchain, "STATES_ON_DISK", 20)
    with Anvil() as anvil:
        anvil.mine(1500)
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert 0 < len(kept) <= 25, "a state for each block beyond those in memory, the newest of them"
    assert not list(tmp_path.iterdir())
