"""A machine to break out into: a node with a key in its files, environment, memory and descriptors, sockets that it
listens on, and another task's files. `python surroundings.py MODE GROUP...` tries from there and prints what was got
as JSON.

Started by root it all happens in namespaces of its own, mounts and processes among them: what gets out of the sandbox
under test does not get to the machine that tests it.
"""

import contextlib
import ctypes
import json
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import escapes

from proofyard.workloads.sandbox import Mechanisms, Policy, Sandbox, found_here

MEMORY = 1 << 30
FILE_BYTES = 16 << 20
NUMBERS = 64
"""Processes before the node, so that its number is none of the sandbox's own."""

NODE = """
import ctypes, os, socket, sys, json
folder, secret, name = sys.argv[1], os.environ["SECRET"], os.environ["NAME"]
os.chdir(folder)
keystore = open("keystore")
kept = ctypes.create_string_buffer(secret.encode())
tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
unix, abstract, other = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 1, 2))
unix.bind("socket"); os.chmod("socket", 0o777); unix.listen()
abstract.bind("\\0" + name); abstract.listen()
other.bind("\\0" + name + "-dgram")
facts = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "address": ctypes.addressof(kept),
         "keystore_fd": keystore.fileno()}
print(json.dumps(facts), flush=True)
sys.stdin.read()
"""


def modes() -> dict[str, Mechanisms]:
    """Ways to hold a process that this machine has."""
    here = found_here()
    found = {
        "all": here,
        "bubblewrap": replace(here, landlock=0),
        "landlock": replace(here, bubblewrap=""),
        "bubblewrap-alone": replace(here, landlock=0, seccomp=False),
        "landlock-alone": replace(here, bubblewrap="", seccomp=False),
        "seccomp-alone": replace(here, bubblewrap="", landlock=0),
    }
    if not here.bubblewrap:
        found = {name: each for name, each in found.items() if "bubblewrap" not in name}
    if not here.landlock:
        found = {name: each for name, each in found.items() if "landlock" not in name}
    return found


def handle_of(path: Path) -> str:
    """What `open_by_handle_at` takes for a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle, mount = ctypes.create_string_buffer(b"\x80\0\0\0" + bytes(132)), ctypes.c_int()
    libc.name_to_handle_at(-100, str(path).encode(), handle, ctypes.byref(mount), 0)
    return handle.raw.hex()


class _Pickled:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"echo x > {self._path}; touch {self._path}",)


@contextlib.contextmanager
def world() -> Iterator[dict[str, Any]]:
    """The facts of a machine, gone afterwards."""
    secret, name = secrets.token_hex(16), f"proofyard-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="proofyard-escape-") as place, contextlib.ExitStack() as stack:
        root = Path(place)
        for folder in ("node", "other", "outside", "model", "out", "checked"):
            (root / folder).mkdir()
        (root / "outside").chmod(0o777)
        root.chmod(0o711)
        (root / "node" / "keystore").write_text(secret)
        (root / "node" / "keystore").chmod(0o600)
        (root / "other" / "state").write_text(secret)
        (root / "model" / "config.json").write_text("{}")
        for open_one in ("open", "victim"):
            (root / "outside" / open_one).write_text("as it was")
            (root / "outside" / open_one).chmod(0o666)
        for slot in ("0", "1"):
            (root / "out" / slot).touch(0o600)
        for _ in range(NUMBERS):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        node = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", NODE, str(root / "node")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"SECRET": secret, "NAME": name},
            )
        )
        assert node.stdout is not None and node.stdin is not None
        pwned = root / "outside" / "pwned"
        mailbox = Path(tempfile.gettempdir()) / f"{name}-mail"
        yield json.loads(node.stdout.readline()) | {
            "node": node.pid,
            "secret": secret,
            "root": place,
            "keystore": str(root / "node" / "keystore"),
            "keystore_handle": handle_of(root / "node" / "keystore"),
            "home": str(root / "node"),
            "other": str(root / "other"),
            "outside": str(root / "outside"),
            "open_file": str(root / "outside" / "open"),
            "victim": str(root / "outside" / "victim"),
            "outbox": str(root / "out"),
            "model": str(root / "model"),
            "checked": str(root / "checked"),
            "unix": str(root / "node" / "socket"),
            "abstract": name,
            "memory": MEMORY,
            "file_bytes": FILE_BYTES,
            "pickle": pickle.dumps(_Pickled(str(pwned))).hex(),
            "pwned": str(pwned),
            "mailbox": str(mailbox),
        }
        mailbox.unlink(missing_ok=True)
        node.stdin.close()
        node.wait(60)


def tried(box: Sandbox, facts: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """What each attempt got, "" for nothing; the process is started anew for what one that ended left untried."""
    policy = Policy(
        read=(facts["model"], facts["checked"]),
        write=(facts["outbox"],),
        helper=True,
        memory_bytes=MEMORY,
        file_bytes=FILE_BYTES,
        tasks=200,
    )
    found: dict[str, str] = {}
    os.set_inheritable(os.open(facts["keystore"], os.O_RDONLY), True)
    while rest := [name for name in names if name not in found]:
        done = box.run(policy, "escapes", rest, data=json.dumps(facts).encode(), env=environment(), timeout_s=300)
        said = dict(map(json.loads, done.stdout.splitlines()))
        found |= said
        if len(said) < len(rest):
            cut_off = next(name for name in rest if name not in said)
            assert done.returncode in (-31, 159) or said, done.stderr.decode()
            found[cut_off] = ""
    seen_outside(facts, found)
    return found


def seen_outside(facts: dict[str, Any], found: dict[str, str]) -> None:
    """What an attempt takes for a success inside a space of its own is none: only what is seen out here counts."""
    if not Path(facts["mailbox"]).exists():
        name = "leave_a_message_in_the_shared_folder_for_temporary_files"
        found |= {name: ""} if name in found else {}


def environment() -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }


def let_others_reach(place: Path) -> None:
    """In this space of mounts alone, a folder that only root can get to, such as a Python in root's home."""
    hidden = next((each for each in reversed(place.parents) if not each.stat().st_mode & 0o001), None)
    if hidden is None:
        return
    with tempfile.TemporaryDirectory() as kept:
        subprocess.run(["mount", "--bind", place, kept], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", hidden], check=True)
        place.mkdir(parents=True)
        subprocess.run(["mount", "--move", kept, place], check=True)


APART = ("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
PLAIN_USER = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")
APART_SAID = "PROOFYARD_ESCAPES_APART"


def main() -> None:
    """As whoever starts it, or with `--plain-user` as somebody who is not root."""
    plain = "--plain-user" in sys.argv
    if os.getuid() == 0 and APART_SAID not in os.environ:
        os.environ[APART_SAID] = "1"
        os.execvp(APART[0], [*APART, "--propagation", "private", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False, capture_output=True)
    if os.getuid() == 0 and plain:
        let_others_reach(Path(sys.base_prefix))
        os.execvp(PLAIN_USER[0], [*PLAIN_USER, sys.executable, *sys.argv])
    mode, *groups = (word for word in sys.argv[1:] if word != "--plain-user")
    names = [name for group in groups or escapes.GROUPS for name in escapes.GROUPS[group]]
    with world() as facts:
        print(json.dumps(tried(Sandbox(modes()[mode]), facts, names)))


if __name__ == "__main__":
    main()
