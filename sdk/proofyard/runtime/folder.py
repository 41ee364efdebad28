"""The folder of a service: made where it is missing, and never used by two at a time."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from proofyard.protocol.codec import CodecError, decode_json
from proofyard.protocol.types import ExitCode, ProofyardError

LOCK = ".lock"
SESSION = "session"
BELONGS = "belongs.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")


class FolderTaken(ProofyardError):
    """Another running service keeps its files there."""

    exit_code = ExitCode.USAGE

    def __init__(self, folder: Path, process: str = "") -> None:
        self.folder, self.process = folder, process
        who = f" as process {process}" if process else ""
        super().__init__(
            f"data_dir: {folder} belongs to a node or verifier that is running{who}; stop it, or give another wallet "
            "and --data-dir"
        )


class FolderUnfit(ProofyardError):
    """Nothing can be locked there, as on some network disks."""

    exit_code = ExitCode.USAGE

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        super().__init__(f"data_dir: {folder} cannot be locked ({reason}); give a folder on a disk of this machine")


class FolderOfAnother(ProofyardError):
    """It holds the work of another wallet, of another network, or of a service of another kind."""

    exit_code = ExitCode.USAGE

    def __init__(self, folder: Path, field: str, known: str, given: str) -> None:
        self.folder, self.field = folder, field
        super().__init__(
            f"data_dir: {folder} holds the work of another {field} ({known}, not {given}); give another --data-dir, or "
            f"delete what is in it; where a key was rotated delete {BELONGS} in it alone"
        )


def keep_for(folder: Path, whose: Mapping[str, str]) -> None:
    """Note whose work a folder holds, by name; what is empty is not known. Raises `FolderOfAnother`."""
    file = folder / BELONGS
    known: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError, CodecError):  # or cut off while written
        known = decode_json(file.read_bytes(), dict[str, str])
    for field, value in whose.items():
        if known.get(field) and value and known[field] != value:
            raise FolderOfAnother(folder, field, known[field], value)
    if known != whose:
        temporary = file.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode({**known, **{name: value for name, value in whose.items() if value}}))
        temporary.replace(file)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keep `folder` for this process until it ends, however it ends. Raises `FolderTaken`, `FolderUnfit`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise FolderTaken(folder, lock.read(20).strip()) from None
        except OSError as error:
            raise FolderUnfit(folder, error.strerror or str(error)) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def runs_as(folder: Path) -> str | None:
    """The process that keeps a folder for itself now; "" where one did and has ended, however it did, None where that
    cannot be told."""
    try:
        with (folder / LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(20).decode(errors="replace").strip() or "?"
            fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError:
        return None
    return ""


def session_of(folder: Path) -> str:
    """What tells whoever runs from this folder from whoever runs from another, a copy of it or the same in a clone of
    the machine: random and kept in it, with the file that it is in and this start of the machine."""
    file = folder / SESSION
    known = file.read_text(errors="replace").strip()[:64] if file.is_file() else ""
    if not known:
        known = secrets.token_hex(16)
        file.write_text(known)
    boot = BOOT.read_text() if BOOT.is_file() else ""
    return sha256(f"{known} {file.stat().st_ino} {boot}".encode()).hexdigest()
