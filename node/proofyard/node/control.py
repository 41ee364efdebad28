"""How an operator's commands reach a running node, and what it tells of itself: files in its folder, which only their
owner may write.

`limits.json` holds what `node limits`, `pause` and `resume` said, in place of the settings' values. `status.json` is
what the node was about when it last looked. Both are put in place whole. `limits.bell` is a FIFO, where there are such,
that wakes the node; what comes by it says nothing else.
"""

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import msgspec

from proofyard.node.gate import Limits, SetLimits
from proofyard.node.settings import NodeSettings
from proofyard.protocol.codec import CodecError, decode_json, prepared
from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.runtime.folder import runs_as

LIMITS, STATUS, BELL = "limits.json", "status.json", "limits.bell"
MAX_BYTES = 64 << 10
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
STALE_S = 150.0
"""A status that was not written for so long is that of a node which has ended without a word."""


class ControlUnfit(ProofyardError):
    """A file of commands that is not to be obeyed: somebody else could have written it, or it says nothing that can be
    understood."""

    exit_code = ExitCode.USAGE

    def __init__(self, file: Path, reason: str) -> None:
        self.file, self.reason = file, reason
        super().__init__(f"{file} {reason}; delete it, or write it again with `proofyard node limits --reset`")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What was commanded: the limits that were given, by name, and whether a pause gives back what is under way."""

    limits: dict[str, Any] = {}
    hand_back: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a node was about at `at` (Unix seconds). `reason`: why it takes no work, "" where it does; `works`: what it
    holds, what is under way first; `sandbox`: what holds it; `blind`: limits that nothing measures here; `sample`: what
    was measured, by an idle node every minute; `page`: where its page is, "" where there is none; `left`: how a
    node that has stopped left its work, or a running one its last; `claims`: what it says its machine can do, and what
    verifiers that checked it said; `reached`: how others reach it; `knows`: the peers that it has found beside its
    verifiers; `sent`: bytes of artifacts since it started, to verifiers and to others."""

    pid: int
    at: float
    address: str = ""
    running: bool = True
    reason: str = ""
    works: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    limits: Limits = Limits()
    sandbox: str = ""
    blind: tuple[str, ...] = ()
    sample: dict[str, Any] = {}
    page: str = ""
    left: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    reached: str = ""
    knows: str = ""
    sent: dict[str, int] = {}


def limits_of(settings: NodeSettings) -> Limits:
    """The limits that the settings set."""
    return Limits(**{name: getattr(settings, name) for name in SetLimits.__struct_fields__})


def read_orders(folder: Path) -> Orders:
    """What was commanded; nothing where nothing was. Raises `ControlUnfit`."""
    data = read_own(folder / LIMITS)
    if data is None:
        return Orders()
    try:
        orders = decode_json(data, Orders)
        apply(Limits(), orders)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ControlUnfit(folder / LIMITS, f"cannot be understood ({error})") from None
    return orders


def apply(limits: Limits, orders: Orders) -> Limits:
    """Limits with what was commanded in their place. Raises `msgspec.ValidationError` and `ValueError`."""
    known = {name: value for name, value in orders.limits.items() if name in Limits.__struct_fields__}
    return msgspec.convert({**msgspec.structs.asdict(limits), **known}, prepared(Limits))


def write_orders(folder: Path, orders: Orders) -> None:
    """Raises `ValueError` for limits that are none, and `OSError`."""
    apply(Limits(), orders)
    write_own(folder / LIMITS, msgspec.json.encode(orders))
    _ring(folder)


def hang_bell(folder: Path) -> int | None:
    """A file descriptor that is readable once something was commanded; None where this system has no FIFOs, or the
    folder takes none."""
    if not hasattr(os, "mkfifo"):
        return None
    bell = folder / BELL
    try:
        bell.unlink(missing_ok=True)
        os.mkfifo(bell, 0o600)
        if os.geteuid() == 0:
            owner = folder.stat()
            os.chown(bell, owner.st_uid, owner.st_gid, follow_symlinks=False)
        # Its own writer, so that it is never at its end.
        return os.open(bell, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None


def _ring(folder: Path) -> None:
    """Wake the node, if one listens."""
    with contextlib.suppress(OSError):
        bell = os.open(folder / BELL, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(bell, "wb", buffering=0) as opened:
            if stat.S_ISFIFO(os.fstat(bell).st_mode):
                opened.write(b"\n")


def change(folder: Path, changes: dict[str, Any], *, hand_back: bool = False) -> Orders:
    """Command some limits, and leave the others as they were commanded."""
    before = read_orders(folder)
    orders = Orders(limits={**before.limits, **changes}, hand_back=hand_back)
    write_orders(folder, orders)
    return orders


def read_status(folder: Path) -> Status | None:
    """What the node in a folder says of itself, and that it does not run where nothing keeps the folder any more; None
    where none has run there. Raises `ControlUnfit`."""
    data = read_own(folder / STATUS)
    if data is None:
        return None
    try:
        status = decode_json(data, Status)
    except CodecError as error:
        raise ControlUnfit(folder / STATUS, f"cannot be understood ({error})") from None
    return msgspec.structs.replace(status, running=False) if runs_as(folder) == "" else status


def is_alive(status: Status, now: float | None = None) -> bool:
    """Whether the node that wrote it still runs, as far as that shows."""
    return status.running and abs((time.time() if now is None else now) - status.at) < STALE_S


def later(minutes: float) -> float:
    """The time in so many minutes, in Unix seconds: what a pause is commanded until."""
    return time.time() + 60 * minutes


def write_status(folder: Path, status: Status) -> None:
    write_own(folder / STATUS, msgspec.json.encode(status))


def read_own(file: Path) -> bytes | None:
    """A file that nobody but the folder's owner may write, and root, who may anything."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ControlUnfit(file, f"cannot be read ({error.strerror})") from None
    with os.fdopen(handle, "rb") as opened:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ControlUnfit(file, "is no regular file")
        if found.st_uid not in (os.geteuid(), 0, file.parent.stat().st_uid) or found.st_mode & _OTHERS_WRITE:
            raise ControlUnfit(file, "may be written by others than the folder's owner")
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ControlUnfit(file, f"is larger than {MAX_BYTES} bytes")
    return data


def write_own(file: Path, data: bytes) -> None:
    """Put a file in place whole, which its owner alone may read: whoever owns the folder."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as opened:
            if os.geteuid() == 0:  # who runs the node may be somebody else
                folder = file.parent.stat()
                os.fchown(handle, folder.st_uid, folder.st_gid)
            opened.write(data)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
