"""The workload `map`: clean a text set, line by line, then drop what occurs twice.

Each line is normalised (white space), filtered by length, and cut into chunks of at most `chunk_tokens` tokens at word
boundaries; the job's result keeps the first of equal chunks. A line gives none, one or more records, so a table is
ragged: the records' bytes end to end (`text`), where each ends (`ends`), and how many each line gave (`records`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused
from proofyard.workloads.params import convert_params
from proofyard.workloads.rows import Compute, RowsParams, RowsWorkload
from proofyard.workloads.state import MAX_STATE_BYTES, Array, Schema, Tensors, TensorSpec, decode_state
from proofyard.workloads.text_data import Document
from proofyard.workloads.tokenizer import Tokenizer
from proofyard.workloads.workload import Inputs, Resources, Results, require_model

TYPES = {"text": np.dtype("|u1"), "ends": np.dtype("<i8"), "records": np.dtype("<i8")}


class MapParams(RowsParams, frozen=True, kw_only=True):
    """Lines of fewer than `min_characters` or more than `max_characters` after normalisation are dropped.
    `chunk_tokens` 0 leaves texts whole and needs no model."""

    min_characters: Annotated[int, Meta(ge=0)] = 1
    max_characters: Annotated[int, Meta(ge=1)] = 1 << 24
    chunk_tokens: Annotated[int, Meta(ge=0, le=131_072)] = 0


class MapWorkload(RowsWorkload):
    """A record is a line of JSON, a document's text and label."""

    name = "map"
    params_type = MapParams
    row_type = Document

    def needs_model(self, params: MapParams) -> bool:
        return params.chunk_tokens > 0

    def columns(self, params: MapParams) -> Schema:
        """Of the ragged table only this one has the rows as its axis."""
        return {"records": TensorSpec("I64", ())}

    def empty_table(self, params: MapParams) -> dict[str, Array]:
        return _table([])

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        """What a line becomes may be any number of records."""
        return MAX_STATE_BYTES

    def read_table(self, params: MapParams, state: bytes, rows: int) -> dict[str, Array]:
        table = decode_state(state)
        found = {name: array.dtype for name, array in table.items()}
        if found != TYPES or any(array.ndim != 1 for array in table.values()):
            raise StateRefused(f"it holds {sorted(found)}, expected flat tensors {sorted(TYPES)}")
        if table["records"].size != rows:
            raise StateRefused(f"counts {table['records'].size} lines, expected {rows}", "records")
        self.check_rows(params, table)
        return table

    def check_rows(self, params: MapParams, table: Mapping[str, Array]) -> None:
        counts, ends = table["records"], table["ends"]
        if (counts < 0).any() or (counts > ends.size).any() or int(counts.sum()) != ends.size:
            raise StateRefused("do not fit the records", "records")
        if (np.diff(ends, prepend=0) <= 0).any() or (ends[-1] if ends.size else 0) != table["text"].size:
            raise StateRefused("do not fit the text", "ends")
        for number, record in enumerate(_records(table)):
            if not _is_record(record):
                raise StateRefused(f"holds a record, number {number}, that is no document in its plainest form", "text")

    def join_tables(self, tables: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        lines = [line for table in tables for line in _lines(table)]
        return _table(lines)

    def cut_table(self, table: Mapping[str, Array], rows: range) -> dict[str, Array]:
        return _table(_lines(table)[rows.start : rows.stop])

    def compute(self, manifest: Manifest, params: MapParams, inputs: Inputs, resources: Resources) -> Compute:
        count = _counter(params, inputs.model)

        def clean(lines: Sequence[Any]) -> Tensors:
            return _table([[_record(text, line.shard) for text in _texts(line.text, params, count)] for line in lines])

        return clean

    def check(self, manifest: Manifest) -> None:
        super().check(manifest)
        params = convert_params(manifest, MapParams)
        if params.min_characters > params.max_characters:
            raise ManifestRefused("params.min_characters", "is above max_characters, so that nothing would be left")

    def check_lines(self, params: MapParams, model: Path | None, lines: Iterable[tuple[int, Any]]) -> None:
        count = _counter(params, model)
        hard = params.chunk_tokens > 0 and not Tokenizer(require_model(model)).reads_everything
        left = False
        for _, line in lines:
            left = left or _is_kept(line.text.split(), params)
            if hard:
                _texts(line.text, params, count)
        if not left:
            most = f"{params.min_characters} to {params.max_characters} characters"
            raise InputRefused("data file", f"has no line of {most}, so that nothing would be left")

    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """data.jsonl in the form that the other workloads take, without the records whose text occurred before."""
        seen: set[bytes] = set()
        dest.mkdir(parents=True, exist_ok=True)
        with (dest / "data.jsonl").open("wb") as stream:
            for table in self.tables(manifest, results):
                for record in _records(table):
                    digest = hashlib.sha256(json.loads(record)["text"].encode()).digest()
                    if digest not in seen:
                        stream.write(record + b"\n")
                    seen.add(digest)
        return dest


def chunks(words: list[str], limit: int, count: Callable[[str], int]) -> list[list[str]]:
    """Words in runs of at most `limit` tokens each, counted word by word; 0 is one run. A longer word stands alone."""
    if not limit:
        return [words] if words else []
    runs: list[list[str]] = []
    used = limit
    for word in words:
        size = count(" " + word)
        if used + size > limit:
            runs.append([])
            used = 0
        runs[-1].append(word)
        used += size
    return runs


def _texts(text: str, params: MapParams, count: Callable[[str], int]) -> list[str]:
    words = text.split()
    if not _is_kept(words, params):
        return []
    return [" ".join(chunk) for chunk in chunks(words, params.chunk_tokens, count)]


def _is_kept(words: list[str], params: MapParams) -> bool:
    return params.min_characters <= len(" ".join(words)) <= params.max_characters and bool(words)


def _counter(params: MapParams, model: Path | None) -> Callable[[str], int]:
    if not params.chunk_tokens:
        return len
    tokenizer = Tokenizer(require_model(model))
    return lambda text: len(tokenizer.tokens(text))


def _record(text: str, shard: str) -> bytes:
    return json.dumps({"shard": shard, "text": text}, ensure_ascii=False, sort_keys=True).encode()


def _is_record(data: bytes) -> bool:
    """Whether `_record` made these bytes."""
    try:
        found = json.loads(data)
        text, shard = found["text"], found["shard"]
        return isinstance(text, str) and isinstance(shard, str) and _record(text, shard) == data
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _table(lines: Sequence[Sequence[bytes]]) -> dict[str, Array]:
    """The table of each line's records."""
    records = [record for line in lines for record in line]
    return {
        "text": np.frombuffer(b"".join(records), np.uint8),
        "ends": np.cumsum([len(record) for record in records], dtype=np.int64),
        "records": np.array([len(line) for line in lines], np.int64),
    }


def _records(table: Mapping[str, Array]) -> list[bytes]:
    data, ends = table["text"].tobytes(), table["ends"].tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _lines(table: Mapping[str, Array]) -> list[list[bytes]]:
    """Each line's records."""
    records, lasts = _records(table), np.cumsum(table["records"]).tolist()
    return [records[first:last] for first, last in zip([0, *lasts], lasts, strict=False)]


WORKLOAD = MapWorkload()
