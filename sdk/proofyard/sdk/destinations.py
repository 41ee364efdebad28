"""Where what people fetch is written: a new place, unless they say that files may be replaced."""

import os
from pathlib import Path

from proofyard.sdk.errors import DestinationTaken


def require_new(dest: Path, *, force: bool) -> None:
    """Raise `DestinationTaken` unless `dest` is new, an empty directory, or what is there may be written over
    (`force`), which no device or pipe ever is (`artifacts.files`)."""
    if not force and os.path.lexists(dest):
        if not dest.is_dir():
            raise DestinationTaken(dest, "is there already")
        _require_empty(dest)


def require_free(dest: Path, *, force: bool) -> None:
    """The same for what is a directory, which can be written over no file."""
    if os.path.lexists(dest) and not dest.is_dir():
        raise DestinationTaken(dest, "is a file; name a folder")
    require_new(dest, force=force)


def _require_empty(dest: Path) -> None:
    try:
        held = sorted(entry.name for entry in dest.iterdir())
    except OSError as error:
        raise DestinationTaken(dest, f"cannot be looked into ({error.strerror})") from None
    if held:
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise DestinationTaken(dest, f"is not empty: it holds {', '.join(held[:3])}{more}")
