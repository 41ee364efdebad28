"""The sandbox's parts: numbers of calls, the filter as a machine of its own, command lines, what is handed over."""

import asyncio
import errno
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.checked import Checked
from proofyard.workloads.confined import Confined, Limit, erase
from proofyard.workloads.errors import ExecutorCrashed, OutOfDisk, TimeLimit, from_wire
from proofyard.workloads.executor import Executor
from proofyard.workloads.frames import InputPaths, ModelChecked, Ready, RunTask, StateFound, StateWritten, Step
from proofyard.workloads.sandbox import Mechanisms, Policy, Sandbox, SandboxRefused, found_here, seccomp
from proofyard.workloads.sandbox.boxes import Command
from proofyard.workloads.sandbox.policy import python_paths
from proofyard.workloads.sandbox.syscalls import AUDIT_ARCH, known
from proofyard.workloads.workload import Progress, load_workload

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
NAMES = {"newfstatat": "fstatat"}
"""In the generic header some have another name."""
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    if not HEADERS[machine].is_file():
        pytest.skip(f"{HEADERS[machine]} is not installed")
    text = HEADERS[machine].read_text()
    defined = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    for name, number in known(machine).items():
        spelt = name if machine == "x86_64" else NAMES.get(name, name)
        assert defined.get(spelt, number) == number, name


def decided(code: bytes, machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What a filter decides, by a machine for classic BPF written from its definition."""
    words = list(arguments) + [0] * (6 - len(arguments))
    data = struct.pack("=IIQ6Q", number, arch or AUDIT_ARCH[machine], 0, *(word & (1 << 64) - 1 for word in words))
    steps = list(struct.iter_unpack("=HBBI", code))
    at = held = 0
    while True:
        kind, yes, no, value = steps[at]
        at += 1
        match kind:
            case 0x20:
                held = int(struct.unpack_from("=I", data, value)[0])
            case 0x15:
                at += yes if held == value else no
            case 0x35:
                at += yes if held >= value else no
            case 0x45:
                at += yes if held & value else no
            case 0x54:
                held &= value
            case 0x06:
                return int(value)


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_the_filter_decides_as_its_rules_say(machine: str) -> None:
    numbers = known(machine)
    code = seccomp.program(seccomp.rules(77, builds=False, gpu=False, starts=False), machine)
    assert len(code) // 8 < 4096

    def asked(name: str, *arguments: int, **more: int) -> int:
        return decided(code, machine, numbers[name], *arguments, **more)

    assert asked("read") == ALLOW
    assert decided(code, machine, 9999) == ENOSYS
    assert asked("read", arch=0x40000003) == KILL
    assert asked("openat", 0, 0, os.O_WRONLY) == ALLOW
    assert {asked("openat", 0, 0, flag) for flag in (0o100, 0o1000, 0o20000000)} == {EPERM}
    assert asked("mmap", 0, 0, 3, 0x22) == asked("mmap", 0, 0, 3, 0x1) == ALLOW
    assert {asked("mmap", 0, 0, 3, flags) for flags in (0x21, 0x23, 0x122)} == {EPERM}
    assert asked("clone", 0x00010F00) == ALLOW
    assert {asked("clone", flags) for flags in (17, 0x10010000, 0x40010000)} == {EPERM}
    assert asked("tgkill", 77) == ALLOW and asked("tgkill", 78) == asked("kill", -1) == EPERM
    assert asked("fcntl", 3, 4) == ALLOW and asked("fcntl", 3, 8) == EPERM
    assert asked("ioctl", 3, 0x5401) == ALLOW and asked("ioctl", 3, 0x5412) == EPERM
    assert asked("execve") == ENOSYS if "execve" not in seccomp._FREE else False
    builds = seccomp.program(seccomp.rules(77, builds=True, gpu=True, starts=False), machine)
    assert decided(builds, machine, numbers["execve"]) == decided(builds, machine, numbers["clone"], 17) == ALLOW
    assert decided(builds, machine, numbers["clone"], 0x10000011) == EPERM


def test_a_number_of_the_other_calling_convention_ends_the_process() -> None:
    code = seccomp.program(seccomp.rules(1, builds=False, gpu=False, starts=False), "x86_64")
    assert decided(code, "x86_64", 0x40000000) == KILL


def test_a_folder_of_imports_that_holds_a_key_is_not_given() -> None:
    paths = python_paths()
    site = next(path for path in paths if path.endswith("site-packages"))
    assert site not in python_paths(hidden=[Path(site) / "keystore"])


def test_nothing_that_holds_is_refused_unless_it_is_said() -> None:
    nothing = Mechanisms(lacking=(("bubblewrap", "not installed"),))
    with pytest.raises(SandboxRefused, match=r"bubblewrap: not installed.*unsandboxed"):
        Sandbox(mechanisms=nothing, required=True).check()
    assert Sandbox(mechanisms=nothing).described() == "nothing"


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_container_is_named_by_its_digest_and_has_nothing(engine: Any) -> None:
    with pytest.raises(SandboxRefused, match="digest"):
        Sandbox(engine=engine, image="proofyard:latest").check()
    box = Sandbox(engine=engine, image="proofyard@sha256:" + "0" * 64)
    policy = Policy(read=("/models/a",), write=("/scratch",), memory_bytes=1 << 30, tasks=80, gpu=True)
    command = box.command(policy, "proofyard.workloads.child", ["{}"])
    line = " ".join(command.argv)
    for said in (
        *("--network none", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--pids-limit 80"),
        *("--memory 1073741824", "--volume /models/a:/models/a:ro", "--volume /scratch:/scratch:rw", "--ipc none"),
        *("--pull never", "proofyard@sha256:" + "0" * 64),
    ):
        assert said in line
    assert command.end[:2] == (engine, "kill") and command.end[2] in command.argv


def test_bubblewrap_is_given_the_policy_alone() -> None:
    box = Sandbox(mechanisms=replace(found_here(), bubblewrap="/usr/bin/bwrap", seccomp=True))
    argv = box.command(Policy(read=("/models/a",), write=("/scratch",)), "x").argv
    bound = {argv[at + 1] for at, word in enumerate(argv) if word in ("--bind", "--ro-bind-try", "--dev-bind")}
    assert {"/models/a", "/scratch"} <= bound and not {"/", "/home", "/proc", "/dev", str(Path.home())} & bound


@pytest.fixture
def confined(tmp_path: Path) -> Confined:
    """One whose process does not matter."""
    found = object.__new__(Confined)
    found.folder, found._command = tmp_path, Command(())
    (tmp_path / "out").mkdir()
    (tmp_path / "kept").mkdir()
    for slot in ("0", "1", "2"):
        (tmp_path / "out" / slot).touch()
    found.assign(Manifest(workload="map", data=Cid("data"), params={}), (), 100)
    return found


def test_what_is_handed_over_is_moved_and_its_place_is_free_again(confined: Confined, tmp_path: Path) -> None:
    (tmp_path / "out" / "1").write_bytes(b"state")
    confined.take("1", tmp_path / "kept" / "state")
    assert (tmp_path / "kept" / "state").read_bytes() == b"state"
    assert (tmp_path / "out" / "1").read_bytes() == b""


@pytest.mark.parametrize("trick", ["link", "hard link", "pipe", "folder", "large", "gone", "path"])
def test_what_is_no_plain_file_is_not_taken(trick: str, confined: Confined, tmp_path: Path) -> None:
    """Whoever takes it would read the key for the intruder, or wait for ever."""
    key, slot, kept = tmp_path / "key", tmp_path / "out" / "0", tmp_path / "kept" / "state"
    key.write_text("secret")
    slot.unlink()
    match trick:
        case "link":
            slot.symlink_to(key)
        case "hard link":
            os.link(key, slot)
        case "pipe":
            os.mkfifo(slot)
        case "folder":
            slot.mkdir()
        case "large":
            slot.write_bytes(bytes(101))
    with pytest.raises(ExecutorCrashed):
        confined.take("../key" if trick == "path" else "0", kept)
    assert not kept.exists() and key.read_text() == "secret"


def test_a_folder_of_any_depth_is_removed_and_no_link_followed(tmp_path: Path) -> None:
    deep = tmp_path / "box"
    deep.mkdir()
    (tmp_path / "key").write_text("secret")
    at = os.open(deep, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.symlink(tmp_path / "key", "link", dir_fd=at)
    os.close(at)
    erase(deep)
    assert not deep.exists() and (tmp_path / "key").read_text() == "secret"


def test_the_kernel_is_asked_once() -> None:
    assert found_here() is found_here()


@pytest.mark.parametrize(
    "report",
    [
        StateWritten(2, "0", "0" * 32),
        StateWritten(-1, "0", "0" * 32),
        StateWritten(0, "0", "../" * 10 + "ab"),
        StateFound(0, "0" * 32),
        Ready(),
    ],
)
async def test_a_process_that_says_what_is_not_so_is_ended(report: Any, confined: Confined, tmp_path: Path) -> None:
    """States come once each and in order, or whoever keeps them would be filled up; no name leads anywhere."""
    manifest = Manifest(workload="map", data=Cid("data"), params={"rows": 2, "segment_rows": 1, "segments": 2})
    order = RunTask(manifest, load_workload("map").graph(manifest)[0], InputPaths(None, None, ()), str(tmp_path))
    confined.states = confined.checks = 0
    with pytest.raises(ExecutorCrashed):
        await Executor(tmp_path)._heed(confined, report, order, None, None, tmp_path / "kept")


async def test_only_so_many_comparisons_are_noted(
    confined: Confined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = Manifest(workload="map", data=Cid("data"), params={"rows": 2, "segment_rows": 1, "segments": 2})
    order = RunTask(manifest, load_workload("map").graph(manifest)[0], InputPaths(None, None, ()), str(tmp_path))
    confined.checks = 0
    executor = Executor(tmp_path)
    with pytest.raises(ExecutorCrashed, match="more than 16"):
        for number in range(100):
            await executor._heed(confined, ModelChecked(f"{number:032x}", 0.0), order, None, None, tmp_path)
    assert len(list((tmp_path / "cache" / "proofyard" / "checked").iterdir())) == 16


async def test_an_error_that_does_not_exist_is_none() -> None:
    for name, operands in (("SystemExit", {}), ("InputRefused", {"what": 1}), ("OutOfMemory", {"nothing": 1})):
        assert isinstance(from_wire(name, operands), ExecutorCrashed)


async def test_a_job_that_keeps_more_cores_busy_than_its_threads_is_ended(
    confined: Confined, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter(range(0, 1000, 10))
    monkeypatch.setattr("proofyard.workloads.confined.LOOK_S", 0.01)
    monkeypatch.setattr("proofyard.workloads.confined._seconds", lambda _: float(next(used)))
    ended = confined_process(confined, threads=2)
    with pytest.raises(TimeLimit, match=r"cores busy, this node's threads are 2"):
        await broken(confined)
    assert ended


async def test_a_job_that_fills_its_scratch_folder_is_ended(
    confined: Confined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proofyard.workloads.confined.LOOK_S", 0.01)
    monkeypatch.setattr("proofyard.workloads.confined.SCRATCH_ENTRIES", 10)
    ended = confined_process(confined, threads=None)
    (tmp_path / "scratch").mkdir()
    for number in range(11):
        (tmp_path / "scratch" / str(number)).touch()
    with pytest.raises(OutOfDisk, match="beside its states"):
        await broken(confined)
    assert ended


async def test_a_process_that_said_more_than_was_read_is_ended(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("yes", stdin=pipe, stdout=pipe, stderr=pipe)
    confined = Confined(process, Command(()), tmp_path / "box", Limit())
    assert await confined.stdout.readexactly(2) == b"y\n"
    await asyncio.sleep(0.2)
    async with asyncio.timeout(60):
        await confined.close()
    assert process.returncode == -9 and not (tmp_path / "box").exists()


def confined_process(confined: Confined, threads: int | None) -> list[bool]:
    """Give it a process that does nothing; what is returned is filled once that is ended."""
    ended: list[bool] = []
    process: Any = SimpleNamespace(pid=os.getpid(), kill=lambda: ended.append(True))
    confined.process, confined._limit, confined.broken, confined._watch = process, Limit(threads), None, None
    return ended


async def broken(confined: Confined) -> None:
    """Raise what it was ended for."""
    confined.watch()
    async with asyncio.timeout(60):
        while confined.broken is None:
            await asyncio.sleep(0.01)
    confined.rest()
    raise confined.broken


@pytest.mark.parametrize(
    "progress",
    [
        Progress(segment=-1, step=1, steps=1),
        Progress(segment=2, step=1, steps=1),
        Progress(segment=0, step=1 << 63, steps=1),
        Progress(segment=0, step=1, steps=1, rss_bytes=-1),
    ],
)
async def test_no_step_is_told_that_the_task_does_not_have(
    progress: Progress, confined: Confined, tmp_path: Path
) -> None:
    """A verifier would take the node for one that sends what cannot be."""
    manifest = Manifest(workload="map", data=Cid("data"), params={"rows": 2, "segment_rows": 1, "segments": 2})
    order = RunTask(manifest, load_workload("map").graph(manifest)[0], InputPaths(None, None, ()), str(tmp_path))
    told: list[Progress] = []
    with pytest.raises(ExecutorCrashed, match="a step that its task does not have"):
        await Executor(tmp_path)._heed(confined, Step(progress), order, told.append, None, tmp_path)
    assert not told


def test_whoever_keeps_a_model_s_lock_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read a file may lock it."""
    monkeypatch.setattr("proofyard.workloads.checked.TURN_S", 0.2)
    (tmp_path / "config.json").write_text("{}")
    with Checked(tmp_path).turn(tmp_path), Checked(tmp_path).turn(tmp_path):
        pass
