"""A service that could not run is refused before it joins anything, by the setting's name."""

import re
from pathlib import Path

import pytest

from proofyard.cli import main
from proofyard.runtime.folder import own_folder
from proofyard.workloads.tiny import write_tiny_model

NODE = "0x" + "1" * 40


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    (tmp_path / "password").write_text("pw\n")
    (tmp_path / "empty").mkdir()
    where = ["--registry", NODE, "--rpc-url", "http://127.0.0.1:1", "--data-dir", str(tmp_path / "data")]
    return ["--wallet", str(tmp_path / "no.json"), "--password-file", str(tmp_path / "password"), *where]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--model-dir", "{}/none"], "--model-dir: .* is no directory"),
        (["--model-dir", "{}/empty"], "--model-dir: .* has no readable config.json"),
        (["--ready-file", "{}/none/ready"], "--ready-file: there is no folder"),
    ],
)
@pytest.mark.parametrize("service", ["node", "verifier"])
def test_places_that_are_none_are_refused(
    service: str, flags: list[str], reason: str, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([service, "run", *keys, *(flag.format(tmp_path) for flag in flags)]) == 2
    refused(capsys, reason, tmp_path)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--port", "65536"], "port from --port does not fit"),
        (["--memory-limit-bytes", "1000"], "memory_limit_bytes: 1000 bytes are too few"),
        (["--second-holder", "home"], "second_holder: 'home' is neither"),
        (["--second-holder", f"{NODE}@home"], "second_holder: 'home' is not HOST:PORT"),
        (["--second-holder", "0x12@home:4433"], "second_holder: '0x12' is no address"),
        (["--hold-for", "home"], "hold_for: 'home' is no address"),
    ],
)
def test_values_that_mean_nothing_are_refused(
    flags: list[str], reason: str, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["node", "run", *keys, *flags]) == 2
    refused(capsys, reason, tmp_path)


def test_what_can_be_used_comes_to_the_wallet(
    keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_model(tmp_path / "model")
    flags = ["--model-dir", str(model), "--second-holder", f"{NODE}@home:4433", "--hold-for", NODE]
    assert main(["node", "run", *keys, *flags, "--ready-file", str(tmp_path / "ready")]) == 6
    assert "no wallet 'no'" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["node", "verifier"])
def test_two_services_never_share_a_folder(
    service: str, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_folder(tmp_path / "data"):
        assert main([service, "run", *keys]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: data_dir: {tmp_path / 'data'} belongs to a node or verifier that is running")
    assert main([service, "run", *keys]) == 6, "it is free again"


def refused(capsys: pytest.CaptureFixture[str], reason: str, folder: Path) -> None:
    said = capsys.readouterr().err
    assert re.match(f"error: {reason}", said), said
    assert said.count("\n") == 1
    assert not (folder / "data").exists()
