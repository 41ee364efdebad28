"""Data files that are compressed: unpacked once beside the job's other inputs, since nodes read plain lines. What they
unfold to is bounded while it is written, and not by what they say of themselves."""

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from proofyard.sdk.errors import JobRefused

OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
UNPACKERS = {".zst": "zstd -d", ".zip": "unzip", ".tgz": "tar -xzf", ".7z": "7z x", ".lz4": "lz4 -d"}
"""What is not read here, and the command that unpacks it."""
CHUNK = 1 << 20
FREE_BYTES, RATIO = 64 << 20, 200
"""What unfolds to more than the first may have so many times its size: texts have 3 to 20."""


def unpacked(path: Path, folder: Path, max_bytes: int) -> Path:
    """The path of what a data file holds: of itself where its name does not say that it is compressed. Raises
    `JobRefused`."""
    kind = path.suffix.lower()
    if kind in UNPACKERS:
        raise JobRefused(f"data: {path.name} is packed; unpack it with `{UNPACKERS[kind]} {path.name}`, or give .gz")
    if kind not in OPENERS:
        return path
    if Path(path.stem).suffix.lower() == ".tar":
        raise JobRefused(
            f"data: {path.name} is an archive; unpack it with `tar -xf {path.name}` and give one file of it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix="unfinished-", delete=False) as stream:
        unfinished = Path(stream.name)
        try:
            with OPENERS[kind](path) as source:
                digest = _copy(path, source, stream, max_bytes)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            unfinished.unlink()
            why = " ".join(str(error).split()) or type(error).__name__
            raise JobRefused(
                f"data: {path.name} cannot be unpacked ({why}); it may be cut off: copy it again"
            ) from None
        except BaseException:
            unfinished.unlink()
            raise
    place = folder / digest
    place.mkdir(exist_ok=True)
    return unfinished.replace(place / path.stem)


def _copy(path: Path, source: IO[bytes], stream: IO[bytes], max_bytes: int) -> str:
    most = min(max_bytes, max(FREE_BYTES, RATIO * path.stat().st_size))
    digest, size = hashlib.sha256(), 0
    while data := source.read(CHUNK):
        size += len(data)
        if size > most:
            raise JobRefused(
                f"data: {path.name} unfolds to more than {most} bytes (the client's data_bytes, and {RATIO} times its "
                "size, are allowed); unpack it and look at it"
            )
        digest.update(data)
        stream.write(data)
    return digest.hexdigest()[:32]
