"""What one process may use, as data: the same policy is enforced by every mechanism that there is."""

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import msgspec

STATE_BYTES = 4 << 30
OPEN_FILES = 1024


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a process may use; whatever is not named here it may not.

    `read`: files and folders, these with all that is in them. `write`: folders whose files it may change; it may make
    new ones only where it `builds`, which also lets it start processes: compilers of GPU kernels need both. `helper`:
    one process beside it may be asked to run a module of `helper.MODULES`. `gpu`: the devices of graphics cards.

    `memory_bytes` that it allocates or maps for itself, None for no limit; `file_bytes` of one file; `tasks`: processes
    and threads, counted where the kernel counts them; `cpu_s`: seconds of all its threads together, 0 for no limit.
    `owner`: the user it becomes where it was started by root, 0 for none. `landlock`, `seccomp`: whether these are
    used; `parent`: the process that it does not outlive, 0 where bubblewrap or an engine sees to that.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    builds: bool = False
    helper: bool = False
    gpu: bool = False
    memory_bytes: int | None = None
    file_bytes: int = STATE_BYTES
    tasks: int = 512
    cpu_s: int = 0
    owner: int = 0
    landlock: bool = True
    seccomp: bool = True
    parent: int = 0


_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/localtime", "/etc/nsswitch.conf", "/etc/alternatives", "/nix/store", "/opt/rocm", "/opt/cuda"),
    *("/sys/devices/system", "/sys/fs/cgroup/memory.max"),
)
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
"""Not `/dev/zero`: whoever may write to it has memory that no limit counts."""
PROC = ("cpuinfo", "meminfo", "stat", "filesystems", "version", "sys/kernel/osrelease", "sys/vm/overcommit_memory")
"""Of `/proc`, the machine's."""
OWN = ("maps", "smaps_rollup", "stat", "statm", "status", "limits", "cgroup", "mountinfo", "auxv")
"""Of a process's own folder there: not `net`, which is the machine's network, nor `task`, which leads there."""


def system_paths() -> tuple[str, ...]:
    """What any program needs to read to start, as far as it is there."""
    return tuple(path for path in _SYSTEM if Path(path).exists())


def python_paths(python: str = sys.executable, hidden: Iterable[Path] = ()) -> tuple[str, ...]:
    """Where `python` and all that this process can import lie. A folder of the import path that one of `hidden` is in
    is left out: nobody reads a key because somebody imports from its folder."""
    secret = [path.resolve() for path in (*hidden, Path.home())]
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")}
    places = (Path(python).absolute(), Path(python).resolve())
    prefixes |= {str(place.parent.parent if place.parent.name == "bin" else place.parent) for place in places}
    # The working directory, which an empty entry stands for, is no place to import from here.
    entries = {entry for entry in sys.path if entry and Path(entry) != Path.cwd()}
    found = sorted(str(Path(entry).absolute()) for entry in prefixes | entries if Path(entry).exists())
    return tuple(path for path in found if not any(each.is_relative_to(Path(path).resolve()) for each in secret))


def gpu_devices() -> tuple[str, ...]:
    """The device files of graphics cards that are here: NVIDIA's, AMD's, and those of any under `/dev/dri`."""
    dev = Path("/dev")
    names = [*dev.glob("nvidia*"), *dev.glob("nvidia-caps/*"), *dev.glob("dri"), *dev.glob("kfd"), *dev.glob("dxg")]
    return tuple(sorted(map(str, names)))
