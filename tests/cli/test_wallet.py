import json
import os
import stat
from pathlib import Path

import pytest

from proofyard.cli import main
from proofyard.protocol.types import ExitCode


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    return str(file)


def new(directory: Path, password: str, name: str) -> int:
    return main(["wallet", "new", name, "--keystore-dir", str(directory), "--password-file", password, "--json"])


def test_a_new_wallet_is_encrypted_listed_and_readable_by_its_owner_only(
    tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "wallets"
    assert new(directory, password, "home") == 0
    made = json.loads(capsys.readouterr().out)
    file = Path(made["file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "crypto" in json.loads(file.read_text())
    assert main(["wallet", "list", "--keystore-dir", str(directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "home", "address": made["address"]}]
    assert main(["wallet", "show", "home", "--keystore-dir", str(directory)]) == 0
    assert capsys.readouterr().out.splitlines() == [made["address"], str(file)]


def test_no_key_is_ever_overwritten(tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert new(tmp_path, password, "home") == 0
    before = (tmp_path / "home.json").read_bytes()
    assert new(tmp_path, password, "home") == 2
    assert "choose another name" in capsys.readouterr().err
    assert (tmp_path / "home.json").read_bytes() == before


@pytest.mark.parametrize("name", ["../home", "a/b", ".hidden", " ", "x" * 300, "0x12", "a" * 40])
def test_a_name_that_would_leave_the_directory_is_refused(
    name: str, tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path / "wallets", password, name) == 2
    assert "cannot be a wallet's name" in capsys.readouterr().err
    assert not (tmp_path / "wallets").exists()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b" \n", "is empty"), (b"caf\xe9", "byte 4 is no UTF-8")]
)
def test_a_password_that_protects_nothing_is_refused(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_bytes(content)
    assert new(tmp_path / "wallets", str(tmp_path / "password"), "home") == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "wallets").exists()


def test_a_wallet_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert new(tmp_path / "wallets", password, "home") == 1
    assert capsys.readouterr().err.startswith("error: No space left on device")
    assert list((tmp_path / "wallets").iterdir()) == []
    assert new(tmp_path / "wallets", password, "home") == 0


def test_an_unknown_wallet_is_refused_with_the_known_ones(
    tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path, password, "home") == 0
    assert main(["wallet", "show", "hmoe", "--keystore-dir", str(tmp_path)]) == ExitCode.UNKNOWN_WALLET
    assert "known are home" in capsys.readouterr().err


def test_without_a_terminal_a_password_needs_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wallet", "new", "home", "--keystore-dir", str(tmp_path)]) == 2
    assert "give --password-file" in capsys.readouterr().err


@pytest.mark.parametrize("url", [" ", "127.0.0.1:8545", "ws://x", "http://", "http://[", "http://127.0.0.1:99999"])
def test_what_is_no_address_of_a_chain_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = "0x" + "1" * 40
    assert main(["wallet", "balance", registry, "--rpc-url", url, "--registry", registry]) == 2
    said = capsys.readouterr().err
    assert "error: rpc_url: " in said
    assert "is no address of a chain" in said


def test_a_chain_that_does_not_answer_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = "0x" + "1" * 40
    call = ["wallet", "balance", registry, "--rpc-url", "http://127.0.0.1:1", "--registry", registry]
    assert main(call) == ExitCode.UNREACHABLE
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
