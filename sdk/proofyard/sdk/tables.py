"""Data in other forms than JSONL: compressed files, CSV, TSV, Parquet, a Hugging Face `datasets` object, any rows with
named columns.

Written as JSONL once, row by row, which is what nodes read: of each row `text`, and `shard`, `choices` and `answer`
where they are, or a conversation or a pair of answers, which is rendered then (`chats`).
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TextIO

from proofyard.sdk.bounds import Limits
from proofyard.sdk.chats import with_rendered_chats
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.packed import unpacked
from proofyard.workloads.chat import ANSWERS, PROMPT, is_conversation, is_pair
from proofyard.workloads.chat import COLUMNS as CHATS
from proofyard.workloads.parquet_child import ParquetUnread, read_parquet
from proofyard.workloads.text_data import MAX_LINE_BYTES

PAIRS = (PROMPT, *ANSWERS)
COLUMNS = ("text", "shard", "choices", "answer", *CHATS, "system", "tools", "functions")
LISTS = ("choices", *CHATS, "tools", "functions")
"""Columns of lists, which tables of texts hold as JSON."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")

Rows = Iterator[tuple[str, Any]]
"""Each row with where it stands, for people."""


def with_plain_data(spec: Any, folder: Path, limits: Limits = Limits()) -> Any:  # noqa: B008 (frozen)
    """A job spec whose data is a JSONL file of texts: where it is something else that holds rows, or conversations,
    they are written to a file in `folder`. Raises `JobRefused` that names row and column, or for more than `limits`
    allow: a generator may have no end."""
    data = getattr(spec, "data", None)
    if not is_dataclass(spec) or isinstance(spec, type) or data is None:
        return spec
    if isinstance(data, str | Path) and Path(data).is_file():
        data = unpacked(Path(data), folder, limits.data_bytes)
        spec = replace(spec, data=data)
    rows = _rows(data)
    return with_rendered_chats(spec if rows is None else replace(spec, data=_write(rows, folder, limits)), folder)


def _rows(data: Any) -> Rows | None:
    """The rows of a table, None for what is none."""
    if isinstance(data, str | Path):
        path = Path(data)
        kind = path.suffix.lower()
        if not path.is_file() or kind not in {*DELIMITERS, *PARQUET}:
            return None
        return _parquet(path) if kind in PARQUET else _csv(path, DELIMITERS[kind])
    if isinstance(data, Mapping):
        raise JobRefused(f"data: holds several tables ({_listed(data)}); give one of them, such as dataset['train']")
    rows = data if isinstance(data, bytes) else _records(data)
    return _numbered(rows) if isinstance(rows, Iterable) and not isinstance(rows, bytes) else None


def _records(data: Any) -> Any:
    """The rows of an object that holds some; iterating over a frame gives its columns."""
    if hasattr(data, "iterrows") and hasattr(data, "to_dict"):  # pandas
        return data.to_dict("records")
    if hasattr(data, "iter_rows"):  # polars
        return data.iter_rows(named=True)
    if hasattr(data, "to_batches"):  # pyarrow
        return _of_batches(data.to_batches(max_chunksize=1024))
    if hasattr(data, "with_format"):  # datasets, whatever its rows were to be made into
        return data.with_format(None)
    return data


def _numbered(rows: Iterable[Any]) -> Rows:
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _csv(path: Path, usual: str) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    begins = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            skipped, delimiter = _delimiter(stream, usual)
            stream.seek(0)
            lines = csv.reader(islice(stream, skipped, None), delimiter=delimiter, strict=True)
            begins = skipped + 1
            header = next(lines, [])
            _check_header(path, header)
            begins = skipped + lines.line_num + 1
            number = 0
            for row in lines:
                if row:
                    number += 1
                    where = f"row {number} (line {begins})"
                    if len(row) > len(header):
                        raise JobRefused(f"data: {path.name}: {where} has more fields than its header; quote the text")
                    yield (
                        where,
                        {name: value for name, value in zip(header, row, strict=False) if value or name == "text"},
                    )
                begins = skipped + lines.line_num + 1
    except UnicodeDecodeError:
        raise JobRefused(f"data: {path.name} is no UTF-8: {_foreign_byte(path)}; save it as UTF-8") from None
    except csv.Error as error:
        advice = "quote texts that hold commas, quotes or line ends, and split what is longer"
        raise JobRefused(
            f"data: {path.name} is no CSV: the row that begins in line {begins}: {error}; {advice}"
        ) from None


def _foreign_byte(path: Path) -> str:
    """Where a file that is no UTF-8 is none, for people."""
    with path.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode()) + 1
                return f"line {number}, column {column}: the byte 0x{line[error.start]:02x}"
    return "a character is cut off"


def _delimiter(stream: TextIO, usual: str) -> tuple[int, str]:
    """How many lines stand before the header, and what separates the columns: the usual sign, unless the header has a
    column `text` by another one alone, as spreadsheets of many countries write it, or the file names it (`sep=;`)."""
    skipped, header = 0, stream.readline(MAX_LINE_BYTES)
    while header and not header.strip():
        skipped, header = skipped + 1, stream.readline(MAX_LINE_BYTES)
    if header.startswith("sep=") and len(header.rstrip("\r\n")) == len("sep=") + 1:
        return skipped + 1, header[len("sep=")]
    signs = (usual, ";", "\t", ",", "|")
    return skipped, next((sign for sign in signs if "text" in next(csv.reader([header], delimiter=sign), [])), usual)


def _check_header(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise JobRefused(f"data: {path.name} has two columns {twice[0]!r}; rename or remove one")
    if not {"text", *CHATS, *ANSWERS} & set(names):
        raise JobRefused(
            f"data: {path.name} has no column text or messages (columns: {_listed(names)}); rename the column"
        )


def _parquet(path: Path) -> Rows:
    """The rows of a Parquet file, which a process in the sandbox reads: the file may be a stranger's."""
    if find_spec("pyarrow") is None:
        raise JobRefused("data: Parquet is read with pyarrow; `pip install pyarrow`, or give JSONL or CSV")
    try:
        with read_parquet(path, (*COLUMNS, *PAIRS)) as (names, rows):
            _check_header(path, names)
            yield from _numbered(rows)
    except ParquetUnread as error:
        raise JobRefused(f"data: {path.name} is no Parquet file that can be read ({error})") from None


def _of_batches(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of Arrow's batches, whose texts other programs may have filled with any bytes."""
    first = 1
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            last = first + batch.num_rows - 1
            raise JobRefused(
                f"data: a text in rows {first} to {last} is no UTF-8 (byte 0x{error.object[error.start]:02x}); write "
                "the table anew from texts in UTF-8"
            ) from None
        first += batch.num_rows
        yield from rows


def _write(rows: Rows, folder: Path, limits: Limits) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digest, found, size = hashlib.sha256(), 0, 0
    with NamedTemporaryFile(dir=folder, prefix="unfinished-", delete=False) as stream:
        unfinished = Path(stream.name)
        try:
            for where, row in rows:
                line = _line(where, row)
                digest.update(line)
                stream.write(line)
                found, size = found + 1, size + len(line)
                if found > limits.rows or size > limits.data_bytes:
                    raise JobRefused(
                        f"data: holds more than {limits.rows} rows or {limits.data_bytes} bytes (the client's Limits); "
                        "end the generator, or raise rows and data_bytes"
                    )
            if not found:
                raise JobRefused("data: holds no row; give at least one with a text")
        except BaseException:
            unfinished.unlink()
            raise
    return unfinished.replace(folder / f"{digest.hexdigest()[:32]}.jsonl")


def _line(where: str, row: Any) -> bytes:
    if not isinstance(row, Mapping):
        raise JobRefused(f"data: {where} is {type(row).__name__}; give rows with named columns, text among them")
    names = (*COLUMNS, *PAIRS) if is_pair(row) and _is_missing(row.get("text")) else COLUMNS
    found = {name: row[name] for name in names if name in row and not _is_missing(row[name])}
    for name in LISTS:
        if isinstance(found.get(name), str):
            found[name] = _list(where, name, found[name])
    if not isinstance(found.get("text"), str) and not is_conversation(found) and not is_pair(found):
        if "text" in found:
            raise JobRefused(f"data: {where}: column text holds {type(found['text']).__name__}; give texts")
        columns = f"columns: {_listed(row)}"
        raise JobRefused(
            f"data: {where} has no text in the column text ({columns}); rename the column, or remove the row"
        )
    try:
        if "shard" in found:
            found["shard"] = str(found["shard"])
        if "answer" in found:
            found["answer"] = _place(found["answer"])
        line = json.dumps(found, ensure_ascii=False, allow_nan=False, default=list).encode() + b"\n"
    except UnicodeEncodeError:
        raise JobRefused(f"data: {where} holds half a character (a lone surrogate); remove it") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise JobRefused(
            f"data: {where} cannot be written as JSON ({error}); docs/workloads.md says what a row is"
        ) from None
    if len(line) > MAX_LINE_BYTES:
        raise JobRefused(f"data: {where} has more than {MAX_LINE_BYTES} bytes; make several rows of long texts")
    return line


def _list(where: str, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JobRefused(f"data: {where}: column {name} holds no list as JSON ({error}); write one") from None


def _is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, and what frames write instead (NaN, NaT, NA)."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _place(value: Any) -> int:
    """An answer, the place of a choice: a whole number however it is written."""
    if isinstance(value, str):
        return int(value)
    if int(value) != value:
        raise ValueError(f"answer {value!r} is no whole number")
    return int(value)


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))[:200] or "none"
