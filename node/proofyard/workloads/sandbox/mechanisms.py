"""What this machine has to hold a process with, tried and not believed."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from proofyard.workloads.sandbox import kernel, landlock, seccomp

TRIAL_S = 10.0
_FIRST_OWNER = 1 << 30
_NOBODY = 65534
_CHANGING = 1 << 0 | 1 << 6 | 1 << 7
"""CAP_CHOWN, CAP_SETGID and CAP_SETUID."""


@dataclass(frozen=True)
class Mechanisms:
    """`bubblewrap`: the program's path, "" where it does not work here. `landlock`: the version of the kernel's
    interface, 0 for none. `seccomp`: whether system calls can be given up. `drops_user`: a process that root starts
    becomes another user. `lacking`: why what is not there is not, by name."""

    bubblewrap: str = ""
    landlock: int = 0
    seccomp: bool = False
    drops_user: bool = False
    lacking: tuple[tuple[str, str], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether strangers' work is held: system calls are, and files."""
        return self.seccomp and bool(self.bubblewrap or self.landlock)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is, for people."""
        named = {
            "bubblewrap": bool(self.bubblewrap),
            f"Landlock {self.landlock}": bool(self.landlock),
            "seccomp": self.seccomp,
            "a user of its own": self.drops_user,
        }
        return tuple(name for name, there in named.items() if there)


@lru_cache(maxsize=1)
def found_here() -> Mechanisms:
    """What this machine has; tried once a process."""
    if sys.platform != "linux":
        return Mechanisms(lacking=(("all", f"there are none for {sys.platform}"),))
    program, why = _bubblewrap()
    version, filters = landlock.version(), seccomp.is_there()
    drops = os.getuid() == 0 and owner(0) != 0
    lacking = {
        "bubblewrap": why,
        "Landlock": "" if version else "the kernel has none (Linux 5.13), or it is switched off (lsm=)",
        "seccomp": "" if filters else "the kernel or this processor has no filters that are known here",
    }
    return Mechanisms(program, version, filters, drops, tuple((name, why) for name, why in lacking.items() if why))


def owner(number: int) -> int:
    """A user that nothing else is, for process `number` of this one; nobody where such users do not exist here, 0 where
    none does, or this process may not have another become one."""
    if kernel.capabilities() & _CHANGING != _CHANGING:
        return 0
    wanted = _FIRST_OWNER + ((os.getpid() & 0x3FFFFF) << 8) + (number & 0xFF)
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
        ranges = [(int(first), int(count)) for first, _, count in map(str.split, lines)]
    except (OSError, ValueError):
        return 0
    return next((each for each in (wanted, _NOBODY) if any(f <= each < f + n for f, n in ranges)), 0)


def spaces() -> list[str]:
    """What bubblewrap is asked for: spaces of its own for everything, and of root's rights those to become another user
    and to read others' files. Process 1 is bubblewrap's own, no filter holds it, and who is the same user could write
    to its memory: its folder is covered."""
    found = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    found += ["--proc", "/proc", "--perms", "0000", "--size", "4096", "--tmpfs", "/proc/1"]
    if os.getuid() != 0:
        return [*found, "--unshare-user"]
    rights = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_READ_SEARCH")
    return found + [word for right in rights for word in ("--cap-add", right)]


def _bubblewrap() -> tuple[str, str]:
    """Where bubblewrap is, or why it is of no use."""
    program = shutil.which("bwrap")
    if program is None:
        return "", "not installed (apt install bubblewrap)"
    command = [program, "--ro-bind", "/", "/", *spaces(), "--die-with-parent", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TRIAL_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"does not start: {error}"
    words = done.stderr.strip().splitlines()
    return (program, "") if done.returncode == 0 else ("", words[-1] if words else f"exit code {done.returncode}")
