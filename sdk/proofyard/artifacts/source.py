"""Files and folders on disk as they would become an artifact, looked at before anything is read.

Like `ipfs add`, hidden files are left out and symbolic links are stored as links, unless they are to be followed. What
could not be written out again (a path too deep, too many entries) or has no content (a pipe, a device) is refused here,
with its path.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proofyard.artifacts.dag import MAX_DEPTH, MAX_ENTRIES
from proofyard.artifacts.errors import SourceUnusable
from proofyard.artifacts.unixfs import MAX_TARGET_BYTES, Kind, name_bytes, why_unusable


@dataclass(frozen=True)
class Source:
    """A file, folder or symbolic link. `size` is a file's in bytes, `mode` its permissions, `target` a link's."""

    path: Path
    kind: Kind
    size: int = 0
    mode: int = 0
    target: str = ""
    children: tuple["Source", ...] = ()

    def everything(self) -> Iterator["Source"]:
        """This and all below it, in the order of a directory's DAG."""
        yield self
        for child in self.children:
            yield from child.everything()

    def files(self) -> list["Source"]:
        return [each for each in self.everything() if each.kind is Kind.FILE]

    def shape(self) -> bytes:
        """A digest of all names, kinds and targets, but not of the content: what a folder has to have to be unchanged
        while its files are."""
        digest = hashlib.sha256()
        for each in self.everything():
            for part in (name_bytes(str(each.path)), each.kind.name.encode(), name_bytes(each.target)):
                digest.update(part + b"\0")
        return digest.digest()


def scan(path: Path, *, follow: bool = False) -> Source:
    """`path` with everything below it. The path itself may be a symbolic link to what is meant; those below it are kept
    as links, or with `follow` stand for what they point to.

    Raises `SourceUnusable` with the path that cannot be used and why.
    """
    return _scan(path, follow, (), _Counted(path))


@dataclass
class _Counted:
    root: Path
    entries: int = 0

    def one_more(self) -> None:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise SourceUnusable(self.root, f"has more than {MAX_ENTRIES} files and folders; pack them, or put parts")


def _scan(path: Path, follow: bool, above: tuple[tuple[int, int], ...], counted: _Counted) -> Source:
    counted.one_more()
    try:
        if above and not follow and path.is_symlink():
            return _symlink(path)
        state = path.stat()
        if stat.S_ISREG(state.st_mode):
            return Source(path, Kind.FILE, state.st_size, state.st_mode & 0o777)
        if not stat.S_ISDIR(state.st_mode):
            raise SourceUnusable(path, "is neither a file, a folder nor a symbolic link; leave it out")
        here = (state.st_dev, state.st_ino)
        if here in above:
            raise SourceUnusable(path, "leads back to a folder that it is in; remove the link, or keep links as links")
        if len(above) > MAX_DEPTH:
            raise SourceUnusable(path, f"is more than {MAX_DEPTH} folders deep; move it up")
        visible = sorted((child for child in path.iterdir() if not child.name.startswith(".")), key=_by_name)
    except OSError as error:
        raise SourceUnusable(path, _reason(path, error)) from None
    if len(above) == MAX_DEPTH and visible:
        raise SourceUnusable(visible[0], f"is more than {MAX_DEPTH} folders deep; move it up")
    for child in visible:
        if why := why_unusable(child.name):
            raise SourceUnusable(child, f"cannot be stored: {why}; rename it")
    children = tuple(_scan(child, follow, (*above, here), counted) for child in visible)
    return Source(path, Kind.DIRECTORY, children=children)


def _by_name(path: Path) -> bytes:
    return name_bytes(path.name)


def _symlink(path: Path) -> Source:
    target = str(path.readlink()) if os.name == "posix" else path.readlink().as_posix()
    if len(name_bytes(target)) > MAX_TARGET_BYTES:
        raise SourceUnusable(path, f"points to a path of more than {MAX_TARGET_BYTES} bytes")
    return Source(path, Kind.SYMLINK, target=target)


def _reason(path: Path, error: OSError) -> str:
    if path.is_symlink() and not path.exists():
        return f"is a symbolic link to {str(path.readlink())!r}, which leads to nothing; correct or remove it"
    return f"cannot be read: {error.strerror or error}"
