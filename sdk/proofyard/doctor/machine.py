"""The machine itself: what is installed, what hardware there is, and how much of it is left."""

import asyncio
import ipaddress
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import psutil

from proofyard.chain.errors import ToolNotFound
from proofyard.chain.foundry import find_tool
from proofyard.doctor.checking import Check, Seen, Skipped, fault, fine, note
from proofyard.doctor.setup import Setup
from proofyard.workloads.sandbox import Mechanisms, found_here

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
"""Releases that it is tried with."""
OLDEST_ANVIL = (1, 4, 0)
"""The first with every option that a devnet starts it with."""
LEAST_MEMORY_BYTES = 2 << 30
"""Free: the executor with a small model takes about so much."""
LEAST_DESCRIPTORS, GOOD_DESCRIPTORS = 256, 1024
LEAST_TEMPORARY_BYTES = 256 << 20
TOOL_S = 10.0
PCI = Path("/sys/bus/pci/devices")
NVIDIA, AMD, DISPLAY = "0x10de", "0x1002", "0x03"
GIB = 1 << 30

Version = tuple[int, ...]


def checks(setup: Setup) -> list[Check]:
    threads = setup.node.threads if setup.node else 0
    limit = setup.node.memory_limit_bytes if setup.node else 0
    looks: dict[str, Callable[[], Seen]] = {
        "python": partial(python_release, sys.version_info[:2]),
        "packages": lambda: packages(requirements(), installed),
        "gpu": lambda: gpu(cards(PCI), nvidia_driver(), installed("torch"), cuda_of_torch()),
        "arithmetic": partial(arithmetic, threads, sys.executable),
        "sandbox": lambda: sandbox(found_here()),
        "compiler": lambda: compiler(next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)),
        "memory": lambda: memory(free_memory(), limit),
        "descriptors": lambda: descriptors(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        "temporary": lambda: temporary(Path(os.environ.get("TMPDIR") or tempfile.gettempdir())),
        "ipv6": lambda: ipv6(ipv6_addresses()),
        "anvil": anvil,
    }
    return [Check("machine", name, look) for name, look in looks.items()]


def python_release(version: Sequence[int]) -> Seen:
    shown, oldest, newest = (".".join(map(str, each)) for each in (version, OLDEST_PYTHON, NEWEST_PYTHON))
    if tuple(version) < OLDEST_PYTHON:
        return fault(sys.executable, f"Python {shown}", f"install Python {oldest} to {newest}")
    if tuple(version) > NEWEST_PYTHON:
        return note(
            sys.executable, f"Python {shown}, which nobody has tried yet", f"use {oldest} to {newest} if it fails"
        )
    return fine(sys.executable, f"Python {shown} on {platform.system()} {platform.machine()}")


# Packages


def requirements() -> dict[str, str]:
    """What this distribution asks of other packages: their names and bounds such as `<2.15,>=2.4`."""
    found = {}
    for line in metadata.requires("proofyard") or ():
        name, bounds = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*([^;]*)", line).groups()  # type: ignore[union-attr]
        found[name] = bounds.strip(" ()")
    return found


def installed(package: str) -> str | None:
    """Its version, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> Version:
    """`2.13.0+cpu` as (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version, maxsplit=1)[0]))


def fits(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as `<3,>=2.4`."""
    tests = {"<": lambda a, b: a < b, ">=": lambda a, b: a >= b, "==": lambda a, b: a[: len(b)] == b}
    return all(
        tests[operator](numbers(version), numbers(bound))
        for operator, bound in re.findall(r"(<|>=|==)([\w.]+)", bounds)
    )


def packages(wanted: Mapping[str, str], version_of: Callable[[str], str | None]) -> Seen:
    """Whether what is installed is of a release that this one was made for. What is not installed is not needed: a
    command that needs it says so."""
    have = {name: version for name in wanted if (version := version_of(name))}
    odd = [f"{name} {have[name]} (wanted {wanted[name]})" for name in have if not fits(have[name], wanted[name])]
    if odd:
        name = odd[0].split()[0]
        return fault(
            "installed packages", f"of another release: {', '.join(odd)}", f"pip install '{name}{wanted[name]}'"
        )
    missing = [name for name in ("torch", "fastapi") if name not in have]
    parts = {"torch": "node run", "fastapi": "verifier run"}
    if missing:
        lacking = " and ".join(parts[name] for name in missing)
        return note("installed packages", f"the parts for {lacking} are not installed", "see Install in README.md")
    return fine("installed packages", f"{len(have)} of the releases that are wanted, torch {have['torch']}")


# Hardware


def cards(pci: Path) -> list[str]:
    """The vendors of the graphics cards on the PCI bus."""
    found = []
    for device in sorted(pci.iterdir()) if pci.is_dir() else []:
        try:
            if (device / "class").read_text().startswith(DISPLAY):
                found.append((device / "vendor").read_text().strip())
        except OSError:
            continue
    return [vendor for vendor in found if vendor in (NVIDIA, AMD)]


def nvidia_driver() -> str | None:
    """What the driver says that there is; None where there is no driver that works."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def cuda_of_torch() -> str | None:
    """The CUDA that the installed torch was built with, None for none; torch is not loaded."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    found = re.search(r"^cuda[^=]*= '([\d.]+)'", file.read_text(), re.MULTILINE) if file and file.is_file() else None
    return found[1] if found else None


def gpu(vendors: Sequence[str], driver: str | None, torch: str | None, cuda: str | None) -> Seen:
    """Whether a card that is there can be computed with: card, driver and torch have to know each other."""
    where = "PCI bus, nvidia-smi, torch"
    if driver is None:
        if NVIDIA in vendors:
            return fault(where, "an NVIDIA card, and no driver that answers", "install NVIDIA's driver (nvidia-smi)")
        if AMD in vendors:
            return note(where, "an AMD card; there is no fast arithmetic for it yet", "the CPU is used")
        return note(where, "no graphics card; the CPU is used, which is slower")
    if torch is None:
        return note(where, f"{driver}, and no torch", "install the part for nodes, see Install in README.md")
    if cuda is None:
        return fault(where, f"{driver}, but torch {torch} is built without CUDA", "install torch's build for CUDA")
    return fine(where, f"{driver}, torch {torch} with CUDA {cuda}")


def arithmetic(threads: int, python: str) -> Seen:
    """Whether this machine computes the bits that everybody else does: an executor is started as a node starts it."""
    if find_spec("torch") is None:
        raise Skipped("torch is not installed, so nothing is executed here")
    backend = asyncio.run(_backend(threads, python))
    where = "golden vectors of exact execution"
    if not backend:
        todo = (
            "turn overclocking off, then report machine and torch: this node would be slashed, and offers no such work"
        )
        return fault(where, "this machine does not compute the bits that everybody else does", todo)
    return fine(where, f"the same bits as everybody's, by {backend}")


def sandbox(found: Mechanisms) -> Seen:
    """Whether strangers' work can be held here, and by what."""
    where = "bubblewrap, Landlock, seccomp"
    lacking = "; ".join(f"{name}: {why}" for name, why in found.lacking)
    if not found.holds:
        todo = "apt install bubblewrap, or a Linux kernel with Landlock; else no work is taken without `unsandboxed`"
        return fault(where, f"nothing holds strangers' work ({lacking})", todo)
    if lacking:
        return note(where, f"held by {', '.join(found.names)}; not by {lacking}", "apt install bubblewrap")
    return fine(where, f"held by {', '.join(found.names)}")


async def _backend(threads: int, python: str) -> str:
    from proofyard.workloads.executor import Executor
    from proofyard.workloads.workload import Resources

    resources = Resources(threads=threads or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="proofyard-doctor-") as folder:
        async with Executor(Path(folder), resources=resources, python=python) as executor:
            return executor.backend


def compiler(path: str | None) -> Seen:
    if path is None:
        return note("cc, gcc, clang", "no C compiler; nodes on a CPU are several times slower", "apt install gcc")
    return fine("cc, gcc, clang", path)


def free_memory() -> int:
    """Bytes that programs may still take: of the machine, or of the control group that this process is in."""
    available = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):
        return available


def memory(free: int, limit: int) -> Seen:
    """`limit`: what the node lets its executor take, 0 for all."""
    if limit > free:
        found = f"{free / GIB:.1f} GiB free, memory_limit_bytes is {limit / GIB:.1f} GiB"
        return fault("free memory", found, "close other programs, or set a smaller memory_limit_bytes")
    if free < LEAST_MEMORY_BYTES:
        return fault(
            "free memory",
            f"{free / GIB:.1f} GiB free, at least {LEAST_MEMORY_BYTES / GIB:.0f} are needed",
            "close other programs, or add memory or swap",
        )
    return fine("free memory", f"{free / GIB:.1f} GiB")


def descriptors(soft: int, hard: int) -> Seen:
    found = f"{soft} open files are allowed ({hard} at most)"
    if soft < LEAST_DESCRIPTORS:
        return fault("ulimit -n", found, f"ulimit -n {GOOD_DESCRIPTORS}, in a service LimitNOFILE=65536")
    if soft < GOOD_DESCRIPTORS:
        return note("ulimit -n", found, f"a verifier wants {GOOD_DESCRIPTORS}: ulimit -n, or LimitNOFILE")
    return fine("ulimit -n", found)


def temporary(folder: Path) -> Seen:
    """Whether something can be written where temporary files are to go: Python and others use another folder where
    TMPDIR cannot be written, without a word."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        todo = "make room there, or point TMPDIR at another folder"
        return fault(str(folder), f"nothing can be written ({error.strerror})", todo)
    free = shutil.disk_usage(folder).free
    if free < LEAST_TEMPORARY_BYTES:
        return fault(str(folder), f"{free >> 20} MiB are free", "make room there, or point TMPDIR at another folder")
    return fine(str(folder), f"{free / GIB:.1f} GiB free")


def ipv6_addresses() -> list[str]:
    """This machine's own IPv6 addresses that others could dial."""
    found = [each for of_one in psutil.net_if_addrs().values() for each in of_one if each.family == socket.AF_INET6]
    addresses = [ipaddress.IPv6Address(each.address.partition("%")[0]) for each in found]
    return [str(each) for each in addresses if not (each.is_loopback or each.is_link_local)]


def ipv6(addresses: Sequence[str]) -> Seen:
    if not addresses:
        return note("IPv6", "this machine has no address of it; others are reached by IPv4 alone")
    return fine("IPv6", ", ".join(addresses))


def anvil() -> Seen:
    """The local chain: only a devnet needs it."""
    try:
        tool = find_tool("anvil")
    except ToolNotFound:
        return note(
            "PATH, node_modules", "no anvil; only `proofyard devnet` needs it", "make setup, or install Foundry"
        )
    try:
        done = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=TOOL_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return fault(str(tool), f"anvil does not start ({error})", "install Foundry again")
    return anvil_release(str(tool), done.stdout or done.stderr)


def anvil_release(tool: str, said: str) -> Seen:
    found = re.search(r"(?:Version: |anvil )v?(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        return fault(tool, "it does not say which anvil it is", "install Foundry again")
    version = tuple(map(int, found.groups()))
    if version < OLDEST_ANVIL:
        oldest = ".".join(map(str, OLDEST_ANVIL))
        return fault(tool, f"anvil {'.'.join(found.groups())} is too old for a devnet", f"install {oldest} or newer")
    return fine(tool, f"anvil {'.'.join(found.groups())}")
