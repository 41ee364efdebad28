"""A node as a service: what is written holds no secret, paths stand for themselves, the system's own tools agree."""

import os
import plistlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proofyard.cli import main
from proofyard.cli.service_files import UNIT, Service, launchd_plist, systemd_unit

SERVICE = Service(("/usr/bin/python3", "-m", "x", "--config", "/a"), Path("/data"), Path("/secret"), 30)
ODD = ["plain", "with space", 'quo"te', "per%cent %n", "$HOME ${x}", "back\\slash", "ünï", "semi;colon #x", "'single'"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ODD)
def test_systemd_finds_the_program_and_no_fault_whatever_the_path_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    # systemd takes no quotes and no backslashes in a program's name, whoever writes the unit; elsewhere it does.
    program = (tmp_path if set(name) & set("\"'\\") else folder) / "run"
    program.symlink_to("/bin/true")

    def verify(command: str, user: str = "") -> str:
        unit = tmp_path / UNIT
        unit.write_text(systemd_unit(replace(SERVICE, command=(command, name), data_dir=folder, user=user)))
        scope = [] if user else ["--user"]
        done = subprocess.run(
            ["systemd-analyze", *scope, "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        return "\n".join(line for line in done.stderr.splitlines() if UNIT in line)

    assert verify(str(program)) == ""
    assert verify(str(program), user="root") == ""
    assert "not executable" in verify(str(program.with_name("away"))), "it does look"


def test_a_unit_lets_the_node_end_in_order_and_holds_no_secret() -> None:
    unit = systemd_unit(replace(SERVICE, user="somebody", password_file=Path("/my secrets/100%"), stop_s=90))
    lines = unit.splitlines()
    assert "LoadCredential=password:/my secrets/100%%" in lines
    assert "Environment=PROOFYARD_NODE_PASSWORD_FILE=%d/password" in lines
    assert {"TimeoutStopSec=120", "KillMode=mixed", "User=somebody", "WantedBy=multi-user.target"} <= set(lines)
    own = systemd_unit(SERVICE)
    assert "/secret" not in own and "User=" not in own and "WantedBy=default.target" in own
    for bad in ("a\nb", "a\0b"):
        with pytest.raises(ValueError, match="cannot"):
            systemd_unit(replace(SERVICE, command=(bad,)))


def test_a_property_list_is_one_and_says_the_same() -> None:
    command = ("/usr/bin/python3", 'we"ird <&> ü', "$HOME")
    found = plistlib.loads(launchd_plist(replace(SERVICE, command=command)))
    assert found["ProgramArguments"] == list(command) and found["ExitTimeOut"] == 60
    assert found["KeepAlive"] == {"SuccessfulExit": False} and "secret" not in str(found)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A node's files, and a systemctl that notes what it is told: there is no service manager where tests run."""
    tools = tmp_path / "bin"
    tools.mkdir()
    told = tmp_path / "told"
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", "linux")
    wallet, secret = tmp_path / "node.json", tmp_path / "my node.password"
    wallet.write_text("{}")
    secret.write_text("hush")
    secret.chmod(0o600)
    toml = tmp_path / "proofyard.toml"
    toml.write_text(f'[node]\nregistry = "0x"\nwallet = "{wallet}"\npassword_file = "{secret}"\ndata_dir = "data"\n')

    def run(*args: str, code: int = 0) -> list[str]:
        assert main(["--config", str(toml), "node", "install", *args]) == code
        return told.read_text().splitlines() if told.exists() else []

    return run


def test_a_service_is_installed_started_and_taken_away(machine: Callable[..., list[str]], tmp_path: Path) -> None:
    unit = tmp_path / "home" / "systemd" / "user" / UNIT
    assert machine() == ["--user daemon-reload", f"--user enable --now {UNIT}"]
    text = unit.read_text()
    assert str(tmp_path / "proofyard.toml") in text and sys.executable in text and "hush" not in text
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    machine()
    assert machine("--uninstall")[-2:] == [f"--user disable --now {UNIT}", "--user daemon-reload"]
    assert not unit.exists()
    machine("--uninstall", code=2)


def test_what_could_not_run_as_a_service_is_refused(
    machine: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my node.password").chmod(0o644)
    machine(code=2)
    assert f"chmod 600 '{tmp_path / 'my node.password'}'" in capsys.readouterr().err
    (tmp_path / "my node.password").unlink()
    machine(code=2)
    assert "there is no file" in capsys.readouterr().err
    toml = tmp_path / "proofyard.toml"
    toml.write_text(toml.read_text().replace("password_file", "#"))
    machine(code=2)
    assert "a service has nobody to ask" in capsys.readouterr().err
    (tmp_path / "node.json").unlink()
    machine(code=2)
    assert "proofyard node init" in capsys.readouterr().err
    assert not (tmp_path / "home").exists() and not (tmp_path / "told").exists()
