"""Rows of a Parquet file, read in the sandbox: `read_parquet` starts the process, which is `main`.

Parquet is compressed, nested and read by a large library in C++; whoever gives a file away may have made it for that
library's faults. The process hands over lines of JSON, which have a limit.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from proofyard.workloads.model_files import files_of
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.text_data import MAX_LINE_BYTES
from proofyard.workloads.warmup import environment

MEMORY_BYTES = 8 << 30
ROWS_AT_ONCE = 1024
_NAMES, _ROW, _ERROR = "names", "row", "error"
_KIND = "\0kind"
_MOST_BYTES = 8 * MAX_LINE_BYTES


class ParquetUnread(Exception):
    """The file cannot be read; the message says why."""


@contextlib.contextmanager
def read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[list[str], Iterator[dict[str, Any]]]]:
    """The names of a file's columns, and its rows with those that are among `columns`. Raises `ParquetUnread`."""
    policy = Policy(read=files_of(path), memory_bytes=MEMORY_BYTES)
    command = Sandbox().command(policy, __name__, [str(path.absolute()), *columns])
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(  # noqa: S603
            command.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words, env=environment(1)
        ) as process,
    ):
        assert process.stdout is not None
        lines = iter(lambda: process.stdout.readline(_MOST_BYTES), b"")  # type: ignore[union-attr]
        try:
            yield _said(next(lines, b""), _NAMES), (_said(line, _ROW) for line in lines)
            if process.wait() != 0:
                words.seek(0)
                raise ParquetUnread(f"the process that read it ended: {words.read()[-200:].decode(errors='replace')}")
        finally:
            process.kill()


def _said(line: bytes, kind: str) -> Any:
    """What a line of the process holds."""
    try:
        found, value = json.loads(line, object_hook=_unnamed)
    except (ValueError, TypeError, RecursionError):
        raise ParquetUnread("the process that read it ended early, or a row is too long") from None
    if found == _ERROR:
        raise ParquetUnread(str(value)[:500])
    if found != kind:
        raise ParquetUnread("the process that read it said something else than rows")
    return value


def _named(value: Any) -> Any:
    """What JSON has no form for: no text, and refused as such."""
    return {_KIND: type(value).__name__}


def _unnamed(value: dict[str, Any]) -> Any:
    """An object whose type has the name that was said, for whoever refuses it by that."""
    kind = value.get(_KIND)
    return type(kind[:64], (), {})() if isinstance(kind, str) and kind.isidentifier() else value


def main() -> None:
    """Print the names and the rows of the file FILE, of its columns COLUMNS."""
    from pyarrow import ArrowException, parquet

    def say(kind: str, value: Any) -> None:
        print(json.dumps([kind, value], default=_named))

    path, *columns = sys.argv[1:]
    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            names = file.schema_arrow.names
            say(_NAMES, names)
            wanted = [name for name in names if name in columns]
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    say(_ROW, row)
    except UnicodeDecodeError as error:  # other programs fill columns of texts with any bytes
        say(_ERROR, f"a text in it is no UTF-8: it has the byte 0x{error.object[error.start]:02x}")
    except (ArrowException, OSError) as error:
        say(_ERROR, " ".join(str(error).split()))


if __name__ == "__main__":
    main()
