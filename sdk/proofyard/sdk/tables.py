"""Data in other forms than JSONL: CSV, TSV, Parquet, a Hugging Face `datasets` object, any rows with named columns.

Written as JSONL once, which is what nodes read: of each row `text`, and `shard`, `choices` and `answer` where they are.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from proofyard.sdk.errors import JobRefused

COLUMNS = ("text", "shard", "choices", "answer")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_FIELD = 16 << 20


def with_plain_data(spec: Any, folder: Path) -> Any:
    """A job spec whose data is a JSONL file: where it is something else that holds rows, they are written to a file in
    `folder`. Raises `JobRefused` that names row and column."""
    data = getattr(spec, "data", None)
    if not is_dataclass(spec) or isinstance(spec, type) or data is None:
        return spec
    rows = _rows(data)
    return spec if rows is None else replace(spec, data=_write(rows, folder))


def _rows(data: Any) -> Iterator[Mapping[str, Any]] | None:
    """The rows of a table, None for what is none."""
    if isinstance(data, str | Path):
        path = Path(data)
        kind = path.suffix.lower()
        if not path.is_file() or kind not in {*DELIMITERS, ".parquet"}:
            return None
        return _parquet(path) if kind == ".parquet" else _csv(path, DELIMITERS[kind])
    if isinstance(data, bytes) or not isinstance(data, Iterable):
        return None
    if isinstance(data, Mapping):
        named = ", ".join(map(str, data)) or "nothing"
        raise JobRefused(f"data: holds several tables ({named}); give one of them, such as dataset['train']")
    if hasattr(data, "to_dict") and hasattr(data, "iterrows"):  # pandas: iterating gives names of columns
        rows: list[Mapping[str, Any]] = data.to_dict("records")
        return iter(rows)
    return iter(data)


def _csv(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream, delimiter=delimiter, strict=True):
                if None in row:
                    raise JobRefused(f"data: {path.name} has a row with more fields than its header; quote the text")
                yield {name: value for name, value in row.items() if value}
    except UnicodeDecodeError as error:
        raise JobRefused(f"data: {path.name} is no UTF-8 ({error.reason}); save it as UTF-8") from None
    except csv.Error as error:
        raise JobRefused(f"data: {path.name} is no CSV ({error}); quote texts that hold commas or line ends") from None


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise JobRefused("data: Parquet is read with pyarrow; `pip install pyarrow`, or give JSONL or CSV") from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise JobRefused(f"data: {path.name} is no Parquet file that can be read ({error})") from None


def _write(rows: Iterator[Mapping[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished"
    digest = hashlib.sha256()
    with unfinished.open("wb") as stream:
        for number, row in enumerate(rows, 1):
            line = _line(number, row)
            digest.update(line)
            stream.write(line)
    return unfinished.replace(folder / f"{digest.hexdigest()[:32]}.jsonl")


def _line(number: int, row: Any) -> bytes:
    if not isinstance(row, Mapping):
        raise JobRefused(f"data: row {number} is {type(row).__name__}; give rows with named columns, text among them")
    found = {name: row[name] for name in COLUMNS if name in row and row[name] is not None}
    if not isinstance(found.get("text"), str):
        names = ", ".join(map(str, row)) or "none"
        raise JobRefused(f"data: row {number} has no text in the column text (columns: {names}); rename the column")
    try:
        if "shard" in found:
            found["shard"] = str(found["shard"])
        if isinstance(found.get("choices"), str):
            found["choices"] = json.loads(found["choices"])
        if "answer" in found:
            found["answer"] = int(found["answer"])
        return json.dumps(found, ensure_ascii=False, default=list).encode() + b"\n"
    except UnicodeEncodeError:
        raise JobRefused(f"data: row {number} holds half a character (a lone surrogate); remove it") from None
    except (ValueError, TypeError) as error:
        raise JobRefused(
            f"data: row {number} cannot be written as JSON ({error}); docs/workloads.md says what a row is"
        ) from None
