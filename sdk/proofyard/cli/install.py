"""`proofyard node install`: have the operating system start the node, and start it again."""

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.limits import node_settings
from proofyard.cli.output import AsJson, emit, note
from proofyard.cli.service_files import LABEL, UNIT, Service, launchd_plist, systemd_unit
from proofyard.sdk.settings import default_toml

TOOL_S = 60.0
SYSTEM_UNITS = Path("/etc/systemd/system")


def install(
    context: typer.Context,
    system: Annotated[bool, typer.Option("--system", help="For the whole machine (systemd, as root).")] = False,
    user: Annotated[str, typer.Option(help="With --system: as whom it runs; who called sudo if empty.")] = "",
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Stop the service and take it away.")] = False,
    only_print: Annotated[bool, typer.Option("--print", help="Print its file; write nothing.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it now.")] = True,
    as_json: AsJson = False,
) -> None:
    """Have the operating system run the node as a service.

    By systemd on Linux, by launchd on macOS; docs/node.md says how on Windows.
    """
    mac = sys.platform == "darwin"
    if not mac and sys.platform != "linux":
        raise UsageError("there is no service to install here; docs/node.md says how a node runs as a task of Windows")
    if system and mac:
        raise UsageError("--system: a node on macOS is an agent of its user; leave it out")
    file = _file(mac=mac, system=system)
    if uninstall:
        _take_away(file, mac=mac, system=system, as_json=as_json)
        return
    service = _service(context, _user(user) if system else "")
    try:
        content = launchd_plist(service) if mac else systemd_unit(service).encode()
    except ValueError as error:
        raise UsageError(str(error)) from None
    if only_print:
        sys.stdout.write(content.decode())
        return
    checked = not mac and _verified(content, system=system)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(file)
    started = start and _run_all(_starting(file, mac=mac, system=system))
    emit(
        {"file": str(file), "verified": checked, "started": started},
        as_json=as_json,
        text=f"{file}" + (" (systemd-analyze finds no fault)" if checked else ""),
    )
    if not started:
        note("next:")
        for command in _starting(file, mac=mac, system=system):
            note("  " + " ".join(command))
    if not mac and not system:
        note(f"it runs while you are logged in; for always: loginctl enable-linger {getpass.getuser()}")


def _service(context: typer.Context, user: str) -> Service:
    """What is to run. Raises `UsageError` where it could not: a service has nobody to ask."""
    settings, file = node_settings(context), (config_of(context) or default_toml()).absolute()
    if not file.is_file() or not settings.wallet.is_file():
        raise UsageError(f"there is no node in {file}; make one with `proofyard node init`")
    if settings.password_file is None:
        raise UsageError(
            f"password_file: a service has nobody to ask; write the wallet's password into a file of mode 0600 and its "
            f"path under [node] in {file}"
        )
    secret = settings.password_file.absolute()
    if not secret.is_file():
        raise UsageError(f"password_file: there is no file {secret}")
    if secret.stat().st_mode & 0o077:
        raise UsageError(f"password_file: others may read {secret}; next: chmod 600 {quote(str(secret))}")
    command = (sys.executable, "-m", "proofyard.cli", "--config", str(file), "node", "run")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Service(command, settings.data_dir.absolute(), secret, settings.stop_s, user)


def _user(given: str) -> str:
    name = given or os.environ.get("SUDO_USER") or getpass.getuser()
    if not all(each.isalnum() or each in "-_." for each in name):
        raise UsageError(f"--user: {name!r} is no name of a user")
    return name


def _file(*, mac: bool, system: bool) -> Path:
    if mac:
        return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return (SYSTEM_UNITS if system else home / "systemd" / "user") / UNIT


def _verified(content: bytes, *, system: bool) -> bool:
    """Whether systemd finds no fault with a unit; false where it is not there to ask. Raises `UsageError` for one."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / UNIT
        unit.write_bytes(content)
        scope = [] if system else ["--user"]
        environment = {**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or folder}
        command = [program, *scope, "verify", "--man=no", str(unit)]
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TOOL_S, check=False, env=environment
        )
    faults = [line for line in done.stderr.splitlines() if UNIT in line]
    if done.returncode and faults:
        raise UsageError(f"systemd refuses the unit: {'; '.join(faults)[:500]}")
    return done.returncode == 0


def _starting(file: Path, *, mac: bool, system: bool) -> list[list[str]]:
    if mac:
        return [["launchctl", "bootstrap", f"gui/{os.getuid()}", str(file)]]
    scope = [] if system else ["--user"]
    return [["systemctl", *scope, "daemon-reload"], ["systemctl", *scope, "enable", "--now", UNIT]]


def _take_away(file: Path, *, mac: bool, system: bool, as_json: bool) -> None:
    if not file.exists():
        raise UsageError(f"there is no service {file}")
    scope = [] if system else ["--user"]
    stopping = (
        [["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"]]
        if mac
        else [["systemctl", *scope, "disable", "--now", UNIT]]
    )
    stopped = _run_all(stopping)
    file.unlink()
    if not mac:
        _run_all([["systemctl", *scope, "daemon-reload"]])
    emit({"file": str(file), "removed": True, "stopped": stopped}, as_json=as_json, text=f"{file} is gone")
    if not stopped:
        note("it could not be stopped by the system's own tool: see that no node runs, with proofyard node status")


def _run_all(commands: list[list[str]]) -> bool:
    """Whether all of these ended well; what one of them says otherwise is told."""
    for command in commands:
        if shutil.which(command[0]) is None:
            return False
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, check=False)  # noqa: S603
        if done.returncode:
            note(f"{' '.join(command)}: {' '.join(done.stderr.split())[:300] or done.returncode}")
            return False
    return True
