"""What makes a node a service of the operating system: a systemd unit, or a launchd property list. Pure.

Neither holds a secret: the password stays in its file, which systemd hands to the system's service as a credential
(systemd.exec(5), CREDENTIALS). Paths may hold anything but a line break.
"""

import plistlib
from dataclasses import dataclass
from pathlib import Path

UNIT = "proofyard-node.service"
LABEL = "org.proofyard.node"
GRACE_S = 30
"""Beyond `stop_s`, for what else a node does before it ends."""
RESTART_S = 10
CREDENTIAL = "password"


@dataclass(frozen=True)
class Service:
    """What is to run: `command` from the interpreter on, in absolute paths. `user`: of a service of the system, "" for
    one of whoever installs it."""

    command: tuple[str, ...]
    data_dir: Path
    password_file: Path
    stop_s: int
    user: str = ""


def systemd_unit(service: Service) -> str:
    """The unit file, of the system where the service has a user, else of the user."""
    program, *arguments = service.command
    lines = [
        "[Unit]",
        "Description=Proofyard node",
        "Documentation=man:systemd.service(5)",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join([_quoted(program, dollars=False), *map(_quoted, arguments)])}",
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        "# Settings or a wallet that are wrong do not become right by trying again.",
        "RestartPreventExitStatus=2",
        "KillMode=mixed",
        f"TimeoutStopSec={service.stop_s + GRACE_S}",
        "NoNewPrivileges=yes",
        "UMask=0077",
    ]
    if service.user:
        lines += [
            f"User={service.user}",
            f"LoadCredential={CREDENTIAL}:{_plain(str(service.password_file))}",
            f"Environment=PROOFYARD_NODE_PASSWORD_FILE=%d/{CREDENTIAL}",
            "ProtectSystem=strict",
            f"ReadWritePaths={_quoted(str(service.data_dir), dollars=False)}",
            "PrivateTmp=yes",
        ]
    target = "multi-user.target" if service.user else "default.target"
    return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def launchd_plist(service: Service) -> bytes:
    """The property list of a launch agent (launchd.plist(5))."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(service.command),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_S,
            "ExitTimeOut": service.stop_s + GRACE_S,
            "StandardOutPath": str(service.data_dir / "node.log"),
            "StandardErrorPath": str(service.data_dir / "node.log"),
            "ProcessType": "Background",
        }
    )


def _quoted(text: str, *, dollars: bool = True) -> str:
    """A word of a unit file (systemd.syntax(7), QUOTING): `%` stands for itself, and in arguments, where variables
    are looked for, `$` as well."""
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped.replace("$", "$$") if dollars else escaped}"'


def _plain(text: str) -> str:
    """What is taken as it stands, to the end of the line, but for `%`."""
    if any(not each.isprintable() for each in text):
        raise ValueError(f"{text!r} holds what a unit file cannot; give it another name")
    return text.replace("%", "%%")
