"""What the most dangerous author of a job would try, as the code that has taken over the process in the sandbox.

Run inside: `escapes NAMES...` with the facts on stdin, as if the intruder knew everything. Prints as JSON, by name,
what was got hold of; "" where nothing was.
"""

import ctypes
import fcntl
import json
import mmap
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
Attempt = Callable[[Facts], object]
ATTEMPTS: dict[str, Attempt] = {}
GROUPS: dict[str, list[str]] = {}
X86 = platform.machine() == "x86_64"
LIBC = ctypes.CDLL(None, use_errno=True)
TRY_S = 20


def attempt(group: str) -> Callable[[Attempt], Attempt]:
    def note(work: Attempt) -> Attempt:
        ATTEMPTS[work.__name__] = work
        GROUPS.setdefault(group, []).append(work.__name__)
        return work

    return note


def call(x86: int, arm: int, *arguments: Any) -> int:
    """A system call; raises `OSError`."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = LIBC.syscall(ctypes.c_long(x86 if X86 else arm), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def holds(path: Path | str, secret: str) -> bool:
    return secret.encode() in Path(path).read_bytes()


# Files


@attempt("read")
def read_the_keystore(facts: Facts) -> object:
    return holds(facts["keystore"], facts["secret"])


@attempt("read")
def read_the_keystore_through_a_path_descriptor(facts: Facts) -> object:
    end = os.open(facts["keystore"], os.O_PATH)
    return holds(f"/proc/self/fd/{end}", facts["secret"])


@attempt("read")
def read_the_keystore_through_a_symbolic_link(facts: Facts) -> object:
    link = Path(facts["outbox"]) / "link"
    link.symlink_to(facts["keystore"])
    return True  # whoever takes it from here would read the key


@attempt("read")
def read_the_keystore_through_a_hard_link(facts: Facts) -> object:
    link = Path(facts["outbox"]) / "hard"
    os.link(facts["keystore"], link)
    return True


@attempt("read")
def read_the_keystore_through_the_node_s_root(facts: Facts) -> object:
    return holds(f"/proc/{facts['node']}/root{facts['keystore']}", facts["secret"])


@attempt("read")
def read_the_keystore_through_the_node_s_working_folder(facts: Facts) -> object:
    return holds(f"/proc/{facts['node']}/cwd/keystore", facts["secret"])


@attempt("read")
def read_the_keystore_through_the_node_s_descriptor(facts: Facts) -> object:
    return holds(f"/proc/{facts['node']}/fd/{facts['keystore_fd']}", facts["secret"])


@attempt("read")
def read_the_keystore_by_its_handle(facts: Facts) -> object:
    """Docker's old hole: a file is opened by number, whatever may be seen of its path."""
    handle = ctypes.create_string_buffer(bytes.fromhex(facts["keystore_handle"]))
    for place in (facts["model"], "/usr", "/", "/tmp"):
        with suppress(OSError):
            end = os.open(place, os.O_RDONLY)
            found = call(304, 265, end, handle, os.O_RDONLY)
            return facts["secret"].encode() in os.read(found, 1 << 16)
    return False


@attempt("read")
def read_the_keystore_by_another_program(facts: Facts) -> object:
    done = subprocess.run(["/bin/cat", facts["keystore"]], capture_output=True, check=False)
    return facts["secret"].encode() in done.stdout


@attempt("read")
def list_the_node_s_folder(facts: Facts) -> object:
    return os.listdir(Path(facts["keystore"]).parent)


@attempt("read")
def list_the_home_folder(facts: Facts) -> object:
    return "keystore" in os.listdir(facts["home"])


@attempt("read")
def read_the_passwords_of_the_machine(_: Facts) -> object:
    return Path("/etc/shadow").read_bytes()


@attempt("read")
def read_another_task_s_scratch(facts: Facts) -> object:
    return holds(facts["other"] + "/state", facts["secret"])


@attempt("read")
def read_what_was_left_open(facts: Facts) -> object:
    """Whoever started this process had the keystore open, for its children too."""
    for end in range(3, 1024):
        with suppress(OSError):
            if facts["secret"].encode() in os.pread(end, 4096, 0):
                return end
    return False


@attempt("read")
def read_secrets_that_lie_about(_: Facts) -> object:
    for path in (
        "/proc/kcore",
        "/proc/kmsg",
        "/etc/ssl/private",
        "/run/secrets",
        "/etc/ssh",
    ):
        with suppress(OSError):
            return (path, os.listdir(path) if os.path.isdir(path) else os.read(os.open(path, os.O_RDONLY), 16))
    return False


@attempt("read")
def read_where_the_node_s_links_lead(facts: Facts) -> object:
    return [os.readlink(f"/proc/{facts['node']}/{name}") for name in ("cwd", "exe", "root")]


@attempt("read")
def read_how_the_node_is_doing(facts: Facts) -> object:
    return Path(f"/proc/{facts['node']}/status").read_text()


@attempt("read")
def open_a_device(_: Facts) -> object:
    """Disks, memory, machines, and what makes them."""
    names = (
        "mem",
        "kmem",
        "port",
        "kmsg",
        "fuse",
        "kvm",
        "loop-control",
        "net/tun",
        "uinput",
        "userfaultfd",
        "vda",
        "sda",
    )
    for name in (*names, "vhost-net", "vsock", "vfio/vfio", "tty", "console", "ptmx", "input/event0", "snd/timer"):
        with suppress(OSError):
            return os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK)
    return False


@attempt("read")
def move_the_keystore_here(facts: Facts) -> object:
    os.rename(facts["keystore"], facts["outbox"] + "/moved")
    os.rename(facts["outbox"] + "/moved", facts["keystore"])
    return True


# Writing


@attempt("write")
def make_a_file_outside(facts: Facts) -> object:
    path = Path(facts["outside"]) / "made"
    path.write_text("here")
    return path.exists()


@attempt("write")
def change_a_file_outside(facts: Facts) -> object:
    end = os.open(facts["open_file"], os.O_WRONLY)
    return os.write(end, b"here")


@attempt("write")
def empty_a_file_outside(facts: Facts) -> object:
    os.truncate(facts["open_file"], 0)
    return True


@attempt("write")
def empty_a_file_while_it_is_opened_for_reading(facts: Facts) -> object:
    os.open(facts["open_file"], os.O_RDONLY | os.O_TRUNC)
    return True


@attempt("write")
def remove_a_file_outside(facts: Facts) -> object:
    os.unlink(facts["victim"])
    return True


@attempt("write")
def make_a_folder_outside(facts: Facts) -> object:
    os.mkdir(facts["outside"] + "/folder")
    return True


@attempt("write")
def make_a_device(facts: Facts) -> object:
    os.mknod(facts["outbox"] + "/disk", 0o060666, os.makedev(8, 0))
    return True


@attempt("write")
def make_a_pipe_in_the_outbox(facts: Facts) -> object:
    os.mkfifo(facts["outbox"] + "/pipe")
    return True


@attempt("write")
def exchange_a_slot_for_a_link(facts: Facts) -> object:
    slot = Path(facts["outbox"]) / "0"
    slot.unlink()
    slot.symlink_to(facts["keystore"])
    return True


@attempt("write")
def change_the_model(facts: Facts) -> object:
    end = os.open(facts["model"] + "/config.json", os.O_RDWR)
    return os.write(end, b"x")


@attempt("write")
def open_the_model_again_for_writing(facts: Facts) -> object:
    end = os.open(facts["model"] + "/config.json", os.O_RDONLY)
    return os.open(f"/proc/self/fd/{end}", os.O_RDWR)


@attempt("write")
def set_what_the_kernel_does(_: Facts) -> object:
    """What it starts as root, what it writes, and what it frees."""
    names = ("kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "vm/drop_caches", "fs/suid_dumpable")
    places = ("/proc/sysrq-trigger", "/sys/power/state", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs")
    for path in (*(f"/proc/sys/{name}" for name in names), *places):
        with suppress(OSError):
            return os.open(path, os.O_WRONLY)
    return False


@attempt("write")
def be_the_last_to_be_killed(_: Facts) -> object:
    end = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    return os.write(end, b"-1000")


@attempt("write")
def give_a_slot_a_second_name(facts: Facts) -> object:
    end = os.open(facts["outbox"] + "/0", os.O_RDWR)
    with suppress(OSError):
        os.link(f"/proc/self/fd/{end}", facts["outbox"] + "/second", follow_symlinks=True)
        return True
    return call(265, 37, end, b"", -100, facts["outbox"].encode() + b"/second", 0x1000) == 0  # AT_EMPTY_PATH


@attempt("write")
def exchange_two_slots(facts: Facts) -> object:
    one, other = (facts["outbox"].encode() + name for name in (b"/0", b"/1"))
    return call(316, 276, -100, one, -100, other, 2) == 0  # RENAME_EXCHANGE


@attempt("write")
def seal_a_slot_against_its_taker(facts: Facts) -> object:
    """A lease, or an attribute, with which the file cannot be opened, moved or removed."""
    end = os.open(facts["outbox"] + "/1", os.O_RDWR)
    with suppress(OSError):
        fcntl.fcntl(end, 1024, fcntl.F_WRLCK)  # F_SETLEASE
        return True
    fcntl.ioctl(end, 0x40086602, struct.pack("l", 0x10))  # FS_IOC_SETFLAGS, immutable
    return True


@attempt("write")
def change_the_model_s_times(facts: Facts) -> object:
    os.utime(facts["model"] + "/config.json", (0, 0))
    return True


@attempt("write")
def change_who_may_read_the_keystore(facts: Facts) -> object:
    os.chmod(facts["keystore"], 0o644)
    return True


@attempt("write")
def change_whose_the_keystore_is(facts: Facts) -> object:
    os.chown(facts["keystore"], os.getuid(), -1)
    return True


@attempt("write")
def hang_an_attribute_on_the_model(facts: Facts) -> object:
    os.setxattr(facts["model"] + "/config.json", "user.x", b"1")
    return True


@attempt("write")
def change_the_code_that_runs_next(_: Facts) -> object:
    import proofyard.workloads.child as target

    os.close(os.open(str(target.__file__), os.O_RDWR))
    return True


@attempt("write")
def leave_a_message_in_the_shared_folder_for_temporary_files(facts: Facts) -> object:
    Path(facts["mailbox"]).write_text("to the next job")
    return Path(facts["mailbox"]).exists()


@attempt("write")
def leave_a_message_in_another_task_s_scratch(facts: Facts) -> object:
    (Path(facts["other"]) / "message").write_text("x")
    return True


@attempt("write")
def mark_another_model_as_checked(facts: Facts) -> object:
    (Path(facts["checked"]) / ("0" * 32)).write_text("0\n")
    return True


# The node and other processes


@attempt("node")
def read_the_node_s_environment(facts: Facts) -> object:
    return holds(f"/proc/{facts['node']}/environ", facts["secret"])


@attempt("node")
def read_the_node_s_maps(facts: Facts) -> object:
    return Path(f"/proc/{facts['node']}/maps").read_text()


@attempt("node")
def read_the_node_s_memory(facts: Facts) -> object:
    end = os.open(f"/proc/{facts['node']}/mem", os.O_RDONLY)
    return os.pread(end, 16, facts["address"])


@attempt("node")
def read_the_node_s_memory_by_a_call(facts: Facts) -> object:
    into = ctypes.create_string_buffer(64)
    local = struct.pack("QQ", ctypes.addressof(into), 64)
    remote = struct.pack("QQ", facts["address"], 64)
    call(310, 270, facts["node"], ctypes.create_string_buffer(local), 1, ctypes.create_string_buffer(remote), 1, 0)
    return True


@attempt("node")
def write_to_the_node_s_memory_by_a_call(facts: Facts) -> object:
    ours = ctypes.create_string_buffer(b"x" * 16)
    local, remote = (struct.pack("QQ", place, 16) for place in (ctypes.addressof(ours), facts["address"]))
    given = [ctypes.create_string_buffer(each) for each in (local, remote)]
    return call(311, 271, facts["node"], given[0], 1, given[1], 1, 0) > 0


@attempt("node")
def write_to_the_memory_of_any_other_process(_: Facts) -> object:
    """Of the one that holds this sandbox together, of the one that starts others for this one."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with suppress(OSError):
                found.append((name, os.open(f"/proc/{name}/mem", os.O_RDWR)))
    return found


@attempt("node")
def write_to_the_memory_of_whoever_is_near(_: Facts) -> object:
    """Where no list can be had, numbers can be tried."""
    found = []
    for pid in {1, 2, 3, 4, os.getppid(), *range(os.getpid() - 3, os.getpid() + 4)} - {os.getpid(), 0}:
        with suppress(OSError):
            found.append((pid, os.open(f"/proc/{pid}/mem", os.O_RDWR)))
        with suppress(OSError):
            found.append((pid, os.open(f"/proc/{pid}/task/{pid}/mem", os.O_RDWR)))
    return found


@attempt("node")
def trace_whoever_is_near(_: Facts) -> object:
    for pid in (1, os.getppid(), os.getpid() + 1):
        with suppress(OSError):
            call(101, 117, 0x4206, pid, 0, 0)
            return pid
    return False


@attempt("node")
def move_the_node_s_memory(facts: Facts) -> object:
    mask = ctypes.create_string_buffer(struct.pack("Q", 1))
    with suppress(OSError):
        return call(256, 238, facts["node"], 64, mask, mask) >= 0
    return call(279, 239, facts["node"], 0, None, None, None, 0) >= 0


@attempt("node")
def put_the_node_s_disk_last(facts: Facts) -> object:
    return call(251, 30, 1, facts["node"], 3 << 13) >= 0


@attempt("node")
def find_the_node_s_locks(facts: Facts) -> object:
    head, size = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    return call(274, 100, facts["node"], head, size) >= 0


@attempt("node")
def share_a_core_s_secrets_with_the_node(facts: Facts) -> object:
    """Core scheduling: who shares a cookie may run beside it."""
    return call(157, 167, 62, 3, facts["node"], 0, 0) >= 0


@attempt("node")
def read_the_node_s_command_line(facts: Facts) -> object:
    return Path(f"/proc/{facts['node']}/cmdline").read_bytes()


@attempt("node")
def trace_the_node(facts: Facts) -> object:
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        with suppress(OSError):
            call(101, 117, request, facts["node"], 0, 0)
            return True
    return False


@attempt("node")
def signal_the_node(facts: Facts) -> object:
    os.kill(facts["node"], 0)
    return True


@attempt("node")
def signal_everybody(_: Facts) -> object:
    os.kill(-1, 0)
    return True


@attempt("node")
def signal_a_thread_of_the_node(facts: Facts) -> object:
    return call(234, 131, facts["node"], facts["node"], 0) == 0


@attempt("node")
def queue_a_signal_to_the_node(facts: Facts) -> object:
    info = struct.pack("iii", 0, 0, -1) + bytes(116)
    return call(129, 138, facts["node"], 0, ctypes.create_string_buffer(info)) == 0


@attempt("node")
def take_a_descriptor_of_the_node(facts: Facts) -> object:
    return call(438, 438, call(434, 434, facts["node"], 0), facts["keystore_fd"], 0)


@attempt("node")
def signal_the_node_through_a_process_descriptor(facts: Facts) -> object:
    return call(424, 424, call(434, 434, facts["node"], 0), 0, None, 0) == 0


@attempt("node")
def have_a_pipe_signal_the_node(facts: Facts) -> object:
    read, _ = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, facts["node"])
    return True


@attempt("node")
def change_the_node_s_limits(facts: Facts) -> object:
    import resource

    return resource.prlimit(facts["node"], resource.RLIMIT_NOFILE)


@attempt("node")
def bind_the_node_to_one_core(facts: Facts) -> object:
    os.sched_setaffinity(facts["node"], {0})
    return True


@attempt("node")
def slow_the_node_down(facts: Facts) -> object:
    os.setpriority(os.PRIO_PROCESS, facts["node"], 19)
    return True


@attempt("node")
def have_the_node_killed_first(facts: Facts) -> object:
    os.close(os.open(f"/proc/{facts['node']}/oom_score_adj", os.O_WRONLY))
    return True


@attempt("node")
def compare_the_node_s_descriptors(facts: Facts) -> object:
    return call(312, 272, facts["node"], os.getpid(), 0, 0, 0) >= 0


# Sockets


def connects(family: int, kind: int, address: Any) -> bool:
    with socket.socket(family, kind) as end:
        end.settimeout(2)
        end.connect(address)
        end.send(b"secret")
        return True


@attempt("sockets")
def call_the_node_over_tcp(facts: Facts) -> object:
    return connects(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", facts["tcp"]))


@attempt("sockets")
def call_the_node_over_udp(facts: Facts) -> object:
    return connects(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", facts["udp"]))


@attempt("sockets")
def call_the_node_over_ipv6(_: Facts) -> object:
    return connects(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", 9))


@attempt("sockets")
def wait_for_callers(_: Facts) -> object:
    with socket.socket() as end:
        end.bind(("0.0.0.0", 0))
        end.listen()
        return end.getsockname()


@attempt("sockets")
def call_a_socket_in_the_file_system(facts: Facts) -> object:
    return connects(socket.AF_UNIX, socket.SOCK_STREAM, facts["unix"])


@attempt("sockets")
def call_an_abstract_socket(facts: Facts) -> object:
    return connects(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + facts["abstract"])


@attempt("sockets")
def send_to_an_abstract_socket(facts: Facts) -> object:
    return connects(socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + facts["abstract"] + "-dgram")


@attempt("sockets")
def ask_the_kernel_about_the_network(_: Facts) -> object:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as end:
        end.bind((0, 0))
        end.sendall(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
        return b"eth" in end.recv(65536) or b"\x01" in end.recv(65536)


@attempt("sockets")
def listen_to_the_wire(_: Facts) -> object:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).fileno()


@attempt("sockets")
def send_raw_packets(_: Facts) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno()


@attempt("sockets")
def open_a_socket_of_any_family(_: Facts) -> object:
    """That reaches beyond the process: all but IP in a network of its own."""
    found = []
    for family in range(1, 46):
        for kind in (1, 2, 3, 5):
            with suppress(OSError):
                found.append((family, socket.socket(family, kind).fileno()))
    return found


@attempt("sockets")
def talk_through_the_crypto_sockets(_: Facts) -> object:
    end = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    end.bind(("hash", "sha256"))
    return True


@attempt("sockets")
def name_the_network_s_state(_: Facts) -> object:
    return len(Path("/proc/net/tcp").read_text().splitlines()) > 1


# The kernel


@attempt("kernel")
def load_a_bpf_program(_: Facts) -> object:
    return call(321, 280, 0, ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 1, 0) + bytes(100)), 72) >= 0


@attempt("kernel")
def set_up_io_uring(_: Facts) -> object:
    return call(425, 425, 4, ctypes.create_string_buffer(120)) >= 0


@attempt("kernel")
def count_events_of_the_processor(_: Facts) -> object:
    event = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    return call(298, 241, ctypes.create_string_buffer(event), 0, -1, -1, 0) >= 0


@attempt("kernel")
def handle_page_faults(_: Facts) -> object:
    return call(323, 282, 1) >= 0


@attempt("kernel")
def keep_something_in_a_keyring(_: Facts) -> object:
    data = ctypes.create_string_buffer(b"x")
    return call(248, 217, b"user", b"proofyard-escape", data, 1, -4) > 0


@attempt("kernel")
def join_the_session_s_keyring(_: Facts) -> object:
    return call(250, 219, 1, None) > 0


@attempt("kernel")
def look_for_a_key(_: Facts) -> object:
    return call(249, 218, b"user", b"proofyard", None, -3) > 0


@attempt("kernel")
def mount_something(_: Facts) -> object:
    return call(165, 40, b"none", b"/tmp", b"tmpfs", 0, None) == 0


@attempt("kernel")
def open_a_file_system_by_the_new_calls(_: Facts) -> object:
    return call(430, 430, b"tmpfs", 0) >= 0


@attempt("kernel")
def clone_a_mount(_: Facts) -> object:
    return call(428, 428, -100, b"/", 1) >= 0


@attempt("kernel")
def make_namespaces(_: Facts) -> object:
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x02000000, 0x80):
        with suppress(OSError):
            call(272, 97, flag)
            return hex(flag)
    return False


@attempt("kernel")
def make_a_process_in_a_namespace(_: Facts) -> object:
    child = call(56, 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return child


@attempt("kernel")
def enter_the_node_s_namespace(facts: Facts) -> object:
    return call(308, 268, os.open(f"/proc/{facts['node']}/ns/net", os.O_RDONLY), 0) == 0


@attempt("kernel")
def change_the_root(_: Facts) -> object:
    os.chroot("/usr")
    return True


@attempt("kernel")
def become_root(_: Facts) -> object:
    os.setuid(0)
    return os.getuid() == 0


@attempt("kernel")
def become_root_by_a_program(_: Facts) -> object:
    for program in ("/usr/bin/su", "/usr/bin/sudo", "/usr/bin/passwd", "/usr/bin/newgrp"):
        with suppress(OSError):
            return subprocess.run([program, "--help"], capture_output=True, check=False).returncode >= 0
    return False


@attempt("kernel")
def take_capabilities_back(_: Facts) -> object:
    data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    return call(126, 91, (ctypes.c_uint32 * 2)(0x20080522, 0), data) == 0


@attempt("kernel")
def load_a_module(_: Facts) -> object:
    end = os.open("/usr/bin/env", os.O_RDONLY)
    call(313, 273, end, b"", 0)
    return True


@attempt("kernel")
def watch_the_file_system(_: Facts) -> object:
    return call(254, 26) >= 0 if X86 else call(294, 26, 0) >= 0


@attempt("kernel")
def send_through_message_queues(_: Facts) -> object:
    return call(240, 180, b"escape", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0


@attempt("kernel")
def share_memory_by_system_v(_: Facts) -> object:
    return call(29, 194, 4711, 4096, 0o1600) >= 0


@attempt("kernel")
def share_a_semaphore_by_system_v(_: Facts) -> object:
    return call(64, 190, 4711, 1, 0o1600) >= 0


@attempt("kernel")
def read_the_kernel_s_log(_: Facts) -> object:
    into = ctypes.create_string_buffer(4096)
    return call(103, 116, 3, into, 4096) > 0


@attempt("kernel")
def name_the_machine(_: Facts) -> object:
    return call(170, 161, b"escaped", 7) == 0


@attempt("kernel")
def send_through_queues_by_system_v(_: Facts) -> object:
    return call(68, 186, 4711, 0o1600) >= 0


@attempt("kernel")
def type_into_the_terminal(_: Facts) -> object:
    """TIOCSTI and TIOCLINUX: what is typed runs in the shell that started the node."""
    ends = [0, 1, 2]
    with suppress(OSError):
        ends.append(os.open("/dev/tty", os.O_RDWR))
    for end in ends:
        for request, what in ((0x5412, b"x"), (0x541C, b"\x03x")):
            with suppress(OSError):
                fcntl.ioctl(end, request, what)
                return end
    return False


@attempt("kernel")
def take_the_terminal(_: Facts) -> object:
    with suppress(OSError):
        os.setsid()
        return True
    fcntl.ioctl(0, 0x540E, 1)  # TIOCSCTTY
    return True


@attempt("kernel")
def run_a_program_from_memory(_: Facts) -> object:
    end = call(319, 279, b"program", 0)
    os.write(end, Path("/bin/true").read_bytes())
    call(322, 281, end, b"", None, None, 0x1000)  # it does not come back where it works
    return True


@attempt("kernel")
def run_a_program_from_a_slot(facts: Facts) -> object:
    slot = os.open(facts["outbox"] + "/0", os.O_WRONLY)
    os.write(slot, b"#!/bin/sh\n")
    os.ftruncate(slot, 0)
    os.execv(facts["outbox"] + "/0", ["x"])
    return True


@attempt("kernel")
def be_handed_to_the_program_for_cores(_: Facts) -> object:
    """A core is read by a program of the machine, often as root."""
    return call(157, 167, 3, 0, 0, 0, 0) != 0  # PR_GET_DUMPABLE


@attempt("kernel")
def let_everybody_trace_this(_: Facts) -> object:
    for option, value in ((4, 1), (0x59616D61, -1)):  # PR_SET_DUMPABLE, PR_SET_PTRACER
        with suppress(OSError):
            call(157, 167, option, value, 0, 0, 0)
            return option
    return False


@attempt("kernel")
def listen_to_the_system_calls_of_others(_: Facts) -> object:
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    header = struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
    return call(317, 277, 1, 8, ctypes.create_string_buffer(header)) >= 0  # SECCOMP_FILTER_FLAG_NEW_LISTENER


@attempt("kernel")
def watch_everything_in_the_file_system(_: Facts) -> object:
    return call(300, 262, 0, 0) >= 0


@attempt("kernel")
def take_a_mount_away(_: Facts) -> object:
    for path in (b"/proc/1", b"/tmp", b"/proc", b"/"):
        with suppress(OSError):
            call(166, 39, path, 2)
            return path
    return False


@attempt("kernel")
def make_a_mount_writable(_: Facts) -> object:
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 0, 1, 0, 0))  # without MOUNT_ATTR_RDONLY
    with suppress(OSError):
        return call(442, 442, -100, b"/usr", 0, attributes, 32) == 0
    return call(165, 40, None, b"/usr", None, 0x1020, None) == 0


@attempt("kernel")
def exchange_the_root(_: Facts) -> object:
    return call(155, 41, b"/usr", b"/usr") == 0


@attempt("kernel")
def set_the_clock(_: Facts) -> object:
    return call(227, 112, 0, ctypes.create_string_buffer(struct.pack("qq", 1, 0))) == 0


@attempt("kernel")
def start_another_kernel(_: Facts) -> object:
    with suppress(OSError):
        return call(246, 104, 0, 0, None, 0) == 0
    return call(169, 142, 0xFEE1DEAD, 672274793, 0, None) == 0  # reboot, with ctrl-alt-del switched off


@attempt("kernel")
def reach_the_ports_of_the_machine(_: Facts) -> object:
    return X86 and call(172, 0, 3) == 0  # iopl


@attempt("kernel")
def make_segments_of_one_s_own(_: Facts) -> object:
    return X86 and call(154, 0, 1, ctypes.create_string_buffer(16), 16) == 0  # modify_ldt


@attempt("kernel")
def open_by_the_newer_call(facts: Facts) -> object:
    how = ctypes.create_string_buffer(struct.pack("QQQ", os.O_RDWR | os.O_CREAT, 0o600, 0))
    return call(437, 437, -100, facts["outbox"].encode() + b"/made", how, 24) >= 0


@attempt("kernel")
def make_a_process_by_the_newer_call(_: Facts) -> object:
    arguments = ctypes.create_string_buffer(
        struct.pack("Q", 0) + bytes(24) + struct.pack("Q", signal.SIGCHLD) + bytes(24)
    )
    child = call(435, 435, arguments, 64)
    if child == 0:
        os._exit(0)
    return child


@attempt("kernel")
def switch_randomisation_off(_: Facts) -> object:
    return call(135, 92, 0x0040000) >= 0


# Resources


@attempt("resources")
def bomb_with_forks(_: Facts) -> object:
    children = []
    try:
        for _number in range(2000):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children) if len(children) > 100 else ""


@attempt("resources")
def bomb_with_threads(_: Facts) -> object:
    stop = threading.Event()
    begun = []
    threading.stack_size(64 << 10)
    try:
        for _number in range(3000):
            thread = threading.Thread(target=stop.wait, daemon=True)
            thread.start()
            begun.append(thread)
    except RuntimeError:
        pass
    finally:
        stop.set()
        for thread in begun:
            thread.join()
        threading.stack_size(0)
    return len(begun) if len(begun) > 1500 else ""


def fills(flags: int, facts: Facts, end: int = -1) -> object:
    """Whether more memory than the limit is to be had; it is not touched, the kernel has promised it."""
    LIBC.mmap.restype = ctypes.c_void_p
    size, got = 64 << 20, []
    for _number in range(2 * facts["memory"] // size):
        place = LIBC.mmap(None, ctypes.c_size_t(size), 3, flags, end, ctypes.c_long(0))
        if place in (None, ctypes.c_void_p(-1).value):
            break
        got.append(place)
    for place in got:
        LIBC.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))
    return len(got) * size if len(got) * size > facts["memory"] else ""


@attempt("resources")
def take_more_memory_than_allowed(facts: Facts) -> object:
    return fills(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, facts)


@attempt("resources")
def take_shared_memory(facts: Facts) -> object:
    return fills(mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, facts)


@attempt("resources")
def take_memory_that_grows_downwards(facts: Facts) -> object:
    return fills(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100, facts)


@attempt("resources")
def take_shared_memory_from_a_device(facts: Facts) -> object:
    return fills(mmap.MAP_SHARED, facts, os.open("/dev/zero", os.O_RDWR))


@attempt("resources")
def take_memory_that_may_be_written_later(facts: Facts) -> object:
    LIBC.mmap.restype = ctypes.c_void_p
    size = 2 * facts["memory"]
    place = LIBC.mmap(None, ctypes.c_size_t(size), 0, 0x22, -1, ctypes.c_long(0))
    return LIBC.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(size), 3) == 0


@attempt("resources")
def take_memory_as_tables_of_pages(_: Facts) -> object:
    """A page that is only read costs nothing but its entry in a table, which no limit on memory counts."""
    LIBC.mmap.restype = ctypes.c_void_p
    size, got = 1 << 40, []
    for _number in range(32):
        place = LIBC.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))
        if place in (None, ctypes.c_void_p(-1).value):
            break
        got.append(place)
    for place in got:
        LIBC.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))
    return len(got)


@attempt("resources")
def take_memory_that_even_the_kernel_cannot_read(_: Facts) -> object:
    return call(447, 447, 0) >= 0  # memfd_secret


@attempt("resources")
def keep_memory_from_being_swapped(_: Facts) -> object:
    return call(151, 230, 1) == 0  # mlockall


@attempt("resources")
def take_timers_without_end(_: Facts) -> object:
    made = ctypes.create_string_buffer(8)
    return call(222, 107, 1, None, made) == 0


@attempt("resources")
def take_memory_as_a_file(facts: Facts) -> object:
    end = call(319, 279, b"x", 0)
    os.ftruncate(end, 1 << 20)
    return True


@attempt("resources")
def fill_the_shared_memory_of_the_machine(_: Facts) -> object:
    path = Path("/dev/shm/escape")
    path.write_bytes(bytes(1 << 20))
    path.unlink()
    return True


@attempt("resources")
def fill_the_disk_through_a_slot(facts: Facts) -> object:
    end = os.open(facts["outbox"] + "/0", os.O_WRONLY)
    size = facts["file_bytes"]
    with suppress(OSError):
        os.pwrite(end, b"x", size)
    with suppress(OSError):
        os.ftruncate(end, size + 1)
    with suppress(OSError):
        os.posix_fallocate(end, 0, size + 1)
    found = os.fstat(end).st_size
    os.ftruncate(end, 0)
    return found if found > size else ""


@attempt("resources")
def fill_the_disk_with_files(facts: Facts) -> object:
    """And the inodes with their names."""
    made = 0
    for folder in (facts["outbox"], facts["outside"], "/tmp", "/var/tmp", "/dev/shm", "/run", "/"):
        with suppress(OSError):
            for number in range(300):
                os.close(os.open(f"{folder}/inode-{number}", os.O_CREAT | os.O_WRONLY, 0o600))
                made += 1
    return made


@attempt("resources")
def fill_the_disk_with_a_file_without_a_name(facts: Facts) -> object:
    for folder in (facts["outbox"], "/tmp", "/dev/shm"):
        with suppress(OSError):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    return False


@attempt("resources")
def open_more_files_than_allowed(_: Facts) -> object:
    ends = []
    with suppress(OSError):
        for _number in range(4000):
            ends.append(os.dup(2))
    for end in ends:
        os.close(end)
    return len(ends) if len(ends) > 1100 else ""


@attempt("resources")
def raise_the_limits(_: Facts) -> object:
    import resource

    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return True
    return False


@attempt("resources")
def keep_large_pipes(_: Facts) -> object:
    read, _ = os.pipe()
    return fcntl.fcntl(read, 1031, 1 << 20)


@attempt("resources")
def keep_any_number_of_locks(facts: Facts) -> object:
    end = os.open(facts["outbox"] + "/1", os.O_RDWR)
    fcntl.lockf(end, fcntl.LOCK_EX, 1, 7)
    return True


@attempt("resources")
def run_ahead_of_others(_: Facts) -> object:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return True


# A model that has taken the parser over


@attempt("model")
def run_a_program_from_a_pickled_model(facts: Facts) -> object:
    """What loading pickled weights would do: the sandbox is what is left then."""
    import pickle

    pickle.loads(bytes.fromhex(facts["pickle"]))
    return Path(facts["pwned"]).exists()


@attempt("model")
def have_the_helper_run_something_else(_: Facts) -> object:
    """What is asked to run known modules is asked for another."""
    from proofyard.workloads.sandbox import helper

    assert helper._ends, "there is one"
    return helper.run("this", [], 10.0).stdout


@attempt("model")
def run_machine_code_that_calls_the_kernel_of_32_bits(_: Facts) -> object:
    """The other numbers of the same kernel, which filters have been passed by: `int 0x80` as code of one's own. It ends
    the process where filters know of it, so it goes last."""
    if not X86:
        return False
    code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    code.write(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))  # getpid by its number of 32 bits
    place = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(place)() > 0


def main() -> None:
    facts = json.loads(sys.stdin.buffer.read())
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    for name in sys.argv[1:]:
        got: object = ""
        signal.alarm(TRY_S)
        try:
            got = ATTEMPTS[name](facts)
        except (OSError, MemoryError, subprocess.SubprocessError, EOFError):
            got = ""
        finally:
            signal.alarm(0)
        print(json.dumps([name, str(got)[:80] if got else ""]), flush=True)


if __name__ == "__main__":
    main()
