"""seccomp: a process gives up every system call but those that computing needs (`seccomp(2)`).

A call that is not listed does not exist (ENOSYS), so that libraries fall back; one that is listed and asks for more
than its rule allows is not permitted (EPERM). What no path can tell is told by a call's own arguments: no file is
made, no process, no memory that no limit counts.
"""

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from proofyard.workloads.sandbox.kernel import no_new_privileges, syscall
from proofyard.workloads.sandbox.syscalls import AUDIT_ARCH, known

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JEQ, _JGE, _JSET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_X32 = 0x40000000
_SET_MODE_FILTER, _FLAG_TSYNC, _FLAG_SPEC_ALLOW = 1, 1, 4

_O_CREAT, _O_TRUNC, _O_TMPFILE = 0o100, 0o1000, 0o20000000
_CLONE_THREAD, _NAMESPACES = 0x00010000, 0x7E020000
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = 0x01, 0x20, 0x100
_PLAIN_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)
"""Without locks by range, of which any number is kept; owners and signals of files, leases, and sizes of pipes."""
_PLAIN_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_TERMINAL_IOCTL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into a terminal."""
_PLAIN_PRCTL = (3, 15, 16, 21, 23, 39, 0x53564D41)
_SECURING_PRCTL = (1, 4, 24, 38, 47)


@dataclass(frozen=True)
class Rule:
    """A call is allowed where its argument `place` is one `of` these values, has all bits of `wants`, has none of
    `without`, and not all of `apart` together. Arguments are looked at as 32 bits, which is all that the kernel reads
    of those here."""

    place: int
    of: tuple[int, ...] = ()
    wants: int = 0
    without: int = 0
    apart: int = 0


_FREE = (
    *("read", "write", "close", "stat", "fstat", "lstat", "poll", "lseek", "mprotect", "munmap", "brk"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "pread64", "pwrite64", "readv", "writev", "access", "pipe"),
    *("select", "sched_yield", "mremap", "msync", "mincore", "madvise", "dup", "dup2", "nanosleep", "getitimer"),
    *("alarm", "setitimer", "getpid", "sendfile", "exit", "wait4", "uname", "flock", "fsync", "fdatasync"),
    *("ftruncate", "getdents", "getcwd", "chdir", "fchdir", "readlink", "umask", "gettimeofday", "getrlimit"),
    *("getrusage", "sysinfo", "times", "getuid", "getgid", "geteuid", "getegid", "getppid", "getpgrp", "getgroups"),
    *("getresuid", "getresgid", "getpgid", "getsid", "capget", "rt_sigpending", "rt_sigsuspend", "sigaltstack"),
    *("statfs", "fstatfs", "getpriority", "sched_getparam", "sched_getscheduler", "sched_get_priority_max"),
    *("sched_get_priority_min", "arch_prctl", "setrlimit", "gettid", "readahead", "time", "futex"),
    *("sched_getaffinity", "getdents64", "set_tid_address", "restart_syscall", "fadvise64", "clock_gettime"),
    *("clock_getres", "clock_nanosleep", "exit_group", "epoll_wait", "epoll_ctl", "mbind", "set_mempolicy"),
    *("get_mempolicy", "waitid", "newfstatat", "readlinkat", "faccessat", "pselect6", "ppoll", "set_robust_list"),
    *("sync_file_range", "epoll_pwait", "fallocate", "eventfd2", "epoll_create1", "dup3"),
    *("pipe2", "preadv", "pwritev", "getcpu", "getrandom", "membarrier", "copy_file_range", "preadv2", "pwritev2"),
    *("statx", "rseq", "close_range", "faccessat2", "futex_waitv"),
)
_BUILDING = (
    *("fork", "vfork", "execve", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink"),
    *("unlinkat", "chmod", "fchmodat", "mlock", "munlock"),
)


def rules(pid: int, *, builds: bool, gpu: bool, starts: bool) -> dict[str, tuple[Rule, ...]]:
    """The calls that process `pid` may make, each with what must hold of its arguments. `starts`: it starts processes
    that restrict themselves further, and may end those."""
    makes = 0 if builds else _O_CREAT | _O_TRUNC | _O_TMPFILE
    own = () if starts else (Rule(0, of=(pid,)),)
    forks = builds or starts
    restricting = ("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
    # The kernel looks at what is free once; calls with conditions go through the filter each time, so they come first.
    conditional: dict[str, tuple[Rule, ...]] = {
        "mmap": (Rule(3, without=_MAP_GROWSDOWN, apart=0 if gpu else _MAP_SHARED | _MAP_ANONYMOUS),),
        "open": (Rule(1, without=makes),),
        "openat": (Rule(2, without=makes),),
        "clone": (Rule(0, wants=0 if forks else _CLONE_THREAD, without=_NAMESPACES),),
        "fcntl": (Rule(1, of=_PLAIN_FCNTL),),
        "ioctl": () if gpu else (Rule(1, of=_PLAIN_IOCTL),),
        "prctl": (Rule(0, of=(*_PLAIN_PRCTL, *(_SECURING_PRCTL if starts else ()))),),
        "kill": own,
        "tgkill": own,
        "prlimit64": (Rule(0, of=(0, pid)),),
        "sched_setaffinity": (Rule(0, of=(0,)),),
    }
    more = (*(_BUILDING if builds else ()), *(restricting if starts else ()), *(("memfd_create",) if gpu else ()))
    free = (*_FREE, *more, *(("fork", "vfork") if starts else ()))
    return conditional | dict.fromkeys((name for name in free if name not in conditional), ())


def program(allowed: dict[str, tuple[Rule, ...]], machine: str | None = None) -> bytes:
    """The filter as classic BPF. Raises `KeyError` for a machine that `syscalls` does not know."""
    machine = machine or platform.machine()
    numbers = known(machine)
    code = [_step(_LOAD, 4), _step(_JEQ, AUDIT_ARCH[machine], 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    if machine == "x86_64":
        code += [_step(_JGE, _X32, 0, 1), _step(_RETURN, _KILL)]
    for name, conditions in allowed.items():
        if name not in numbers:
            continue
        block = b"".join(map(_check, conditions)) + _step(_RETURN, _ALLOW)
        code += [_step(_JEQ, numbers[name], 0, len(block) // 8), block]
    return b"".join(code) + _step(_RETURN, _ERRNO | errno.ENOSYS)


def restrict(allowed: dict[str, tuple[Rule, ...]]) -> None:
    """Leave this process, with all its threads, the calls of `allowed`. Raises `OSError`."""
    code = program(allowed)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    # What slows speculation down keeps parts of one process from each other, and all here is one job's (prctl(2)).
    flags = _FLAG_TSYNC | _FLAG_SPEC_ALLOW
    syscall(known()["seccomp"], _SET_MODE_FILTER, flags, ctypes.create_string_buffer(header, len(header)))


def is_there() -> bool:
    """Whether the kernel has filters, and this machine's numbers are known."""
    return bool(known()) and Path("/proc/sys/kernel/seccomp/actions_avail").exists()


def _check(rule: Rule) -> bytes:
    """Code that goes on behind itself where the rule holds, and otherwise returns EPERM."""
    denied = _step(_RETURN, _ERRNO | errno.EPERM)
    load = _step(_LOAD, 16 + 8 * rule.place)
    code = b""
    if rule.of:
        found = [_step(_JEQ, value, len(rule.of) - number, 0) for number, value in enumerate(rule.of)]
        code += load + b"".join(found) + denied
    if rule.without:
        code += load + _step(_JSET, rule.without, 0, 1) + denied
    for bits, refuse_equal in ((rule.wants, False), (rule.apart, True)):
        if bits:
            jumps = (0, 1) if refuse_equal else (1, 0)
            code += load + _step(_AND, bits) + _step(_JEQ, bits, *jumps) + denied
    return code


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
