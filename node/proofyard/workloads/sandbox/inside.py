"""The way into the sandbox: `python -P -m proofyard.workloads.sandbox.inside POLICY MODULE ARGUMENTS...`.

The process gives up what its policy does not name, for good, and then is MODULE. It happens before anything that a
stranger made is read, and while there is one thread. Nothing is started in between: it costs a few milliseconds.
"""

import builtins
import ctypes.util
import io
import os
import resource
import runpy
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.runtime.parent import end_with_parent
from proofyard.workloads.sandbox import helper, kernel, landlock, seccomp
from proofyard.workloads.sandbox.policy import DEVICES, OWN, PROC, Policy, gpu_devices

ADDRESS_BYTES = 512 << 30
"""Tables of pages are memory that no other limit counts: a 512th of the addresses that are used. Drivers of graphics
cards reserve more."""
FIRST_TO_GO = "500"
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2


def enter(policy: Policy, *, starts: bool = False) -> None:
    """Give up what `policy` does not name. `starts`: this process starts others, which give up more. Raises
    `OSError`."""
    os.umask(0o077)
    with suppress(OSError):  # where memory gets scarce the kernel ends this process, and not whoever started it
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    _limit(policy)
    _become(policy)
    kernel.keep_memory_private()
    if policy.parent:
        end_with_parent(policy.parent, signal.SIGKILL)
    if policy.landlock:
        for name in OWN:  # what a rule names is known while something holds it
            with suppress(OSError):
                os.open(f"/proc/self/{name}", os.O_PATH | os.O_CLOEXEC)
        landlock.restrict(_rules(policy))
    if policy.seccomp:
        seccomp.restrict(seccomp.rules(os.getpid(), builds=policy.builds, gpu=policy.gpu, starts=starts))


def _spare_libraries() -> None:
    """What libraries do when they are loaded, without what nothing here may do. Python opens `/dev/null` without asking
    that it be made, names a folder for temporary files without trying it, and asks no compiler where a library is;
    torch makes no folder for what it compiles."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/")
    ctypes.util.find_library = lambda name: None
    tempfile.tempdir = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 (a name; nothing is written there)
    plain, low = io.open, os.open

    def lowly(path: Any, flags: int, *more: Any, **named: Any) -> int:
        return low(path, flags & ~(os.O_CREAT | os.O_TRUNC) if path == os.devnull else flags, *more, **named)

    def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        if file == os.devnull and not more:
            named.setdefault("opener", lowly)
        return plain(file, mode, *more, **named)

    io.open, builtins.open, os.open = opened, opened, lowly


def _limit(policy: Policy) -> None:
    limits = {
        resource.RLIMIT_CORE: 1,  # with 0 the machine's program for cores is started all the same, see core(5)
        resource.RLIMIT_FSIZE: policy.file_bytes,
        resource.RLIMIT_NPROC: policy.tasks,
        resource.RLIMIT_NOFILE: min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if policy.memory_bytes is not None:
        limits[resource.RLIMIT_DATA] = policy.memory_bytes
    if not policy.gpu:
        limits[resource.RLIMIT_AS] = ADDRESS_BYTES
    if policy.cpu_s:
        limits[resource.RLIMIT_CPU] = policy.cpu_s
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _become(policy: Policy) -> None:
    """Become `policy.owner`, and keep of root's rights that of reading others' files, where rules say which."""
    if os.getuid() != 0 or not (policy.owner or policy.landlock or policy.seccomp):
        return
    held = kernel.capabilities()
    if not held:
        return
    kernel.drop_bounding()
    if not policy.owner:
        kernel.keep_capabilities(0)
        return
    reads = _DAC_READ_SEARCH if held & _DAC_READ_SEARCH else held & _DAC_OVERRIDE
    kernel.keep_through_change_of_user()
    os.setgroups([])
    os.setresgid(policy.owner, policy.owner, policy.owner)
    os.setresuid(policy.owner, policy.owner, policy.owner)
    kernel.keep_capabilities(reads)


def _rules(policy: Policy) -> list[tuple[str, int]]:
    reads = landlock.RUN if policy.builds else landlock.READ
    changes = landlock.MAKE if policy.builds else landlock.CHANGE
    devices = gpu_devices() if policy.gpu else ()
    return [
        *((path, reads) for path in policy.read),
        *((path, changes) for path in policy.write),
        *((path, landlock.READ) for path in DEVICES[1:]),
        *((path, landlock.DEVICE) for path in (DEVICES[0], *devices)),
        *((f"/proc/{name}", landlock.READ) for name in (*PROC, *(f"self/{own}" for own in OWN))),
        *((path, landlock.READ) for path in ("/sys", "/proc/driver") if policy.gpu),
    ]


def main() -> None:
    policy = msgspec.json.decode(sys.argv[1], type=prepared(Policy))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _spare_libraries()
    if policy.helper:
        helper.begin(policy, enter)
    enter(policy)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
