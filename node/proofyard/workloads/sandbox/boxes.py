"""The command line that starts a module in the sandbox, by whichever mechanism there is."""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from proofyard.protocol.types import ProofyardError
from proofyard.workloads.sandbox.mechanisms import Mechanisms, found_here, owner, spaces
from proofyard.workloads.sandbox.policy import DEVICES, Policy, gpu_devices, python_paths, system_paths

logger = logging.getLogger(__name__)

Engine = Literal["", "docker", "podman"]
TEMPORARY_BYTES = 16 << 20
INSIDE = "proofyard.workloads.sandbox.inside"
_numbers = itertools.count()


class SandboxRefused(ProofyardError):
    """Nothing on this machine holds strangers' work, or the setting that says how is not one."""

    exit_code = 2


@dataclass(frozen=True)
class Command:
    """What to run. `owner`: who the process is, 0 for whoever starts it; `end`: what also has to be run to end it."""

    argv: tuple[str, ...]
    owner: int = 0
    end: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sandbox:
    """How processes are held here. `mechanisms` that are used: all that there are, for tests fewer. `engine` and
    `image`, which is named by its digest: a container instead of bubblewrap. `hidden`: files and folders that nobody is
    let near to. `required`: raise `SandboxRefused` where nothing holds; else work goes on and a warning says so."""

    mechanisms: Mechanisms = field(default_factory=found_here)
    engine: Engine = ""
    image: str = ""
    hidden: tuple[Path, ...] = ()
    required: bool = False

    @property
    def holds(self) -> bool:
        return self.mechanisms.holds or bool(self.engine)

    def described(self) -> str:
        """What holds work here, for people."""
        if self.engine:
            return f"a container by {self.engine}"
        return ", ".join(self.mechanisms.names) if self.holds else "nothing"

    def check(self) -> None:
        """Raise `SandboxRefused` where nothing holds and something has to, and where the settings are none."""
        if self.engine and "@sha256:" not in self.image:
            raise SandboxRefused(
                f"sandbox_image is {self.image!r}; name the image by its digest, such as NAME@sha256:..., so that "
                "nobody can put another one in its place"
            )
        if self.required and not self.holds:
            lacking = "; ".join(f"{name}: {why}" for name, why in self.mechanisms.lacking)
            raise SandboxRefused(
                f"nothing on this machine holds strangers' work ({lacking}); install bubblewrap, or set unsandboxed = "
                "true to run it all the same"
            )

    def command(
        self, policy: Policy, module: str, arguments: Sequence[str] = (), *, python: str = sys.executable
    ) -> Command:
        """How to start `module` so that it may use what `policy` names and nothing else. Raises `SandboxRefused`."""
        self.check()
        if not self.holds:
            logger.warning("%s runs without a sandbox: nothing here holds it", module)
        # Another user can read this one's files only by a right that is harmless where something else holds files.
        who = owner(next(_numbers)) if os.getuid() == 0 and self.holds else 0
        policy = msgspec.structs.replace(
            policy,
            owner=who,
            landlock=bool(self.mechanisms.landlock),
            seccomp=self.mechanisms.seccomp,
            parent=0 if self.engine or self.mechanisms.bubblewrap else os.getpid(),
            tasks=policy.tasks if who or self.engine else policy.tasks + _tasks_of_this_user(),
        )
        if not self.engine:
            code = (*python_paths(python, self.hidden), *system_paths())
            policy = msgspec.structs.replace(policy, read=(*policy.read, *code))
        rest = ("-P", "-m", INSIDE, msgspec.json.encode(policy).decode(), module, *arguments)
        if self.engine:
            return _container(self.engine, self.image, policy, rest)
        if self.mechanisms.bubblewrap:
            return Command((*_bubblewrap(self.mechanisms.bubblewrap, policy), python, *rest), who)
        return Command((python, *rest), who)

    def run(
        self,
        policy: Policy,
        module: str,
        arguments: Sequence[str] = (),
        *,
        data: bytes = b"",
        env: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a module to its end on `data`, with `env` and nothing of this process's environment; a signal that ended
        it is a negative exit code. Raises `SandboxRefused` and `TimeoutExpired`."""
        command = self.command(policy, module, arguments)
        with owned_by(policy.write, command.owner):
            try:
                done = subprocess.run(  # noqa: S603
                    command.argv, input=data, capture_output=True, check=False, env=env, timeout=timeout_s
                )
                # bubblewrap says as a shell does which signal ended its process.
                done.returncode = 128 - done.returncode if done.returncode > 128 else done.returncode
                return done
            finally:
                if command.end:
                    subprocess.run(command.end, capture_output=True, check=False)  # noqa: S603


class owned_by:
    """Files in folders belong to `owner` meanwhile, so that it may change them, and to this process's user before and
    after; 0 changes nothing. The folders themselves stay this user's: nothing is made or moved in them."""

    def __init__(self, folders: Sequence[str], owner: int) -> None:
        self._folders = [Path(folder) for folder in folders] if owner else []
        self._owner = owner

    def __enter__(self) -> None:
        self._give(self._owner)

    def __exit__(self, *_: object) -> None:
        self._give(os.getuid())

    def _give(self, to: int) -> None:
        for folder in self._folders:
            for file in folder.iterdir():
                with suppress(FileNotFoundError):
                    os.chown(file, to, -1, follow_symlinks=False)


def _tasks_of_this_user() -> int:
    """Where the kernel counts what this user runs anyhow, that is not the sandboxed process's."""
    own, found = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == own:
                found += sum(1 for _ in (folder / "task").iterdir())
    return found


def _bubblewrap(program: str, policy: Policy) -> list[str]:
    """Namespaces of its own for everything, and a file system of what the policy names."""
    devices = (*DEVICES, *(gpu_devices() if policy.gpu else ()))
    reads = (*policy.read, *(("/sys",) if policy.gpu else ()))
    return [
        program,
        *spaces(),
        *("--die-with-parent", "--new-session"),
        *(word for path in devices for word in ("--dev-bind", path, path)),
        *("--perms", "1777", "--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp"),  # noqa: S108 (inside)
        *(word for path in reads for word in ("--ro-bind-try", path, path)),
        *(word for path in policy.write for word in ("--bind", path, path)),
        *("--remount-ro", "/", "--chdir", "/"),
    ]


def _container(engine: str, image: str, policy: Policy, rest: Sequence[str]) -> Command:
    """A container of `image`, which has Proofyard installed. Without an engine here this is tested as text alone."""
    name = f"proofyard-{os.getpid()}-{next(_numbers)}"
    who = policy.owner or os.getuid()
    memory = ("--memory", str(policy.memory_bytes), "--memory-swap", str(policy.memory_bytes))
    devices = ("--gpus", "all") if engine == "docker" else ("--device", "nvidia.com/gpu=all")
    argv = (
        *(engine, "run", "--rm", "--interactive", "--name", name, "--pull", "never"),
        *("--network", "none", "--ipc", "none", "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--user", f"{who}:{who}", "--pids-limit", str(policy.tasks)),
        *("--tmpfs", f"/tmp:rw,noexec,nosuid,nodev,size={TEMPORARY_BYTES}"),  # noqa: S108 (inside)
        *(memory if policy.memory_bytes else ()),
        *(devices if policy.gpu else ()),
        *(word for path in policy.read for word in ("--volume", f"{path}:{path}:ro")),
        *(word for path in policy.write for word in ("--volume", f"{path}:{path}:rw")),
        *("--entrypoint", "python", image, *rest),
    )
    return Command(argv, policy.owner, (engine, "kill", name))
