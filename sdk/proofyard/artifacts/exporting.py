"""Entries of an artifact as files and folders on disk. They come from strangers: nothing is written outside the folder
that was named, nor through a link that lies there."""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from proofyard.artifacts.dag import Entry, EntryKind
from proofyard.artifacts.errors import UnsupportedArtifact
from proofyard.artifacts.files import write_link, write_whole
from proofyard.protocol.types import Cid

UNNAMEABLE = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""What file systems say to names and paths that they do not take."""

Read = Callable[[Cid, int, int], Iterator[bytes]]
"""A file's bytes, from a start, so many."""


def write_out(entries: Iterable[Entry], root: Path, read: Read, *, outside_links: bool) -> dict[tuple[str, ...], str]:
    """Write entries, parents first, and return the paths of those that were left out, each with the reason.

    Raises `OSError`, what `read` raises, and `UnsupportedArtifact` where the root itself cannot be written.
    """
    left_out: dict[tuple[str, ...], str] = {}
    for entry in entries:
        if any(entry.path[:depth] in left_out for depth in range(1, len(entry.path))):
            continue
        try:
            _write(entry, root.joinpath(*entry.path), read, outside_links)
        except UnsupportedArtifact as error:
            if not entry.path:
                raise
            left_out[entry.path] = error.reason
        except OSError as error:
            if error.errno not in UNNAMEABLE or not entry.path:
                raise
            left_out[entry.path] = f"this system does not take its path: {(error.strerror or '').lower()}"
    return left_out


def _write(entry: Entry, target: Path, read: Read, outside_links: bool) -> None:
    match entry.kind:
        case EntryKind.UNSUPPORTED:
            raise UnsupportedArtifact(entry.cid, entry.why)
        case EntryKind.DIRECTORY:
            if entry.path and target.is_symlink():
                raise UnsupportedArtifact(entry.cid, f"{target} is a symbolic link, and nothing is written through it")
            target.mkdir(parents=True, exist_ok=True)
        case EntryKind.SYMLINK:
            if not outside_links and leads_out(entry.path, entry.target):
                why = f"a symbolic link out of the artifact, to {entry.target!r}; --outside-links writes those too"
                raise UnsupportedArtifact(entry.cid, why)
            write_link(target, entry.target)
        case EntryKind.FILE:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, read(entry.cid, 0, entry.size), executable=entry.executable)


def leads_out(path: Sequence[str], target: str) -> bool:
    """Whether a symbolic link at `path` inside an artifact could lead out of it. A step up after a step down counts as
    such: the step down may be another link's."""
    steps = [step for step in target.split("/") if step not in ("", ".")]
    up = next((count for count, step in enumerate(steps) if step != ".."), len(steps))
    return target.startswith("/") or up > len(path) - 1 or ".." in steps[up:]
