"""The workload `map`: clean a text set, line by line, then drop what occurs twice.

Each line is normalised (white space), filtered by length, and cut into chunks of at most `chunk_tokens` tokens at word
boundaries; the job's last task keeps the first of equal chunks. Every output is exact, so audits compare digests.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.errors import InputRefused, StateRefused
from proofyard.workloads.params import check_common, convert_params
from proofyard.workloads.rows import COMPUTE, RowsParams, row_tasks
from proofyard.workloads.sketch import Change
from proofyard.workloads.state import Array, decode_state, encode_state
from proofyard.workloads.text_data import Document, load_tokenizer, read_documents
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, SegmentRunner

TYPES = {"text": np.dtype("|u1"), "ends": np.dtype("<i8"), "rows": np.dtype("<i8")}


class MapParams(RowsParams, frozen=True, kw_only=True):
    """Lines of fewer than `min_characters` or more than `max_characters` after normalisation are dropped.
    `chunk_tokens` 0 leaves texts whole and needs no model."""

    min_characters: Annotated[int, Meta(ge=0)] = 1
    max_characters: Annotated[int, Meta(ge=1)] = 1 << 24
    chunk_tokens: Annotated[int, Meta(ge=0, le=131_072)] = 0


class MapWorkload:
    """A state is all records so far: their bytes end to end, where each ends, and how many lines were read."""

    name = "map"

    def check(self, manifest: Manifest) -> None:
        params = convert_params(manifest, MapParams)
        check_common(manifest, model=params.chunk_tokens > 0)
        row_tasks(params)

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        self.check(manifest)
        return row_tasks(convert_params(manifest, MapParams))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        if len(inputs.results) != len(task.deps):
            raise StateRefused(f"task {task.index} has {len(task.deps)} inputs, {len(inputs.results)} were given")
        parts = [_read(result) for result in inputs.results]
        return _write([record for records, _ in parts for record in records], sum(rows for _, rows in parts))

    def result(self, manifest: Manifest, task: TaskSpec, last: bytes) -> bytes:
        _, rows = _read(last)
        expected = len(convert_params(manifest, MapParams).task_range(task)) if task.kind == COMPUTE else rows
        if rows != expected:
            raise StateRefused(f"is {rows} in the last state, expected {expected}", "rows")
        return last

    def change(self, manifest: Manifest, task: TaskSpec, before: bytes, after: bytes) -> Change:
        """The digest of the state after, as numbers: any difference at all is a distance of about 1."""
        _read(after)
        return {"digest": np.frombuffer(hashlib.sha256(after).digest(), np.uint8).astype(np.float64) - 127.5}

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        if task.kind != COMPUTE:
            return DeduplicateRunner()
        params = convert_params(manifest, MapParams)
        if inputs.data is None:
            raise InputRefused("the task", "was given no data file")
        lines = read_documents(inputs.data)
        if len(lines) != params.rows:
            raise InputRefused("data file", f"has {len(lines)} lines, the manifest's params.rows says {params.rows}")
        rows = params.task_range(task)
        return MapRunner(params, lines[rows.start : rows.stop], _counter(params, inputs.model))

    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        """data.jsonl in the form that the other workloads take."""
        dest.mkdir(parents=True, exist_ok=True)
        records, _ = _read(result)
        (dest / "data.jsonl").write_bytes(b"".join(record + b"\n" for record in records))
        return dest


class MapRunner:
    def __init__(self, params: MapParams, lines: list[Document], count: Callable[[str], int]) -> None:
        self._params = params
        self._lines = lines
        self._count = count

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        records, rows = _read(before)
        start = index * self._params.segment_rows
        if rows != start:
            raise StateRefused(f"is {rows} at segment {index}, expected {start}", "rows")
        lines = self._lines[start : start + self._params.segment_rows]
        for line in lines:
            records += [_record(text, line.shard) for text in self._texts(line.text)]
        progress(Progress(segment=index, step=index + 1, steps=-(-len(self._lines) // self._params.segment_rows)))
        return _write(records, start + len(lines))

    def _texts(self, text: str) -> list[str]:
        words = text.split()
        length = len(" ".join(words))
        if not self._params.min_characters <= length <= self._params.max_characters:
            return []
        return [" ".join(chunk) for chunk in chunks(words, self._params.chunk_tokens, self._count)]


class DeduplicateRunner:
    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        records, rows = _read(before)
        first = {hashlib.sha256(json.loads(record)["text"].encode()).digest(): record for record in reversed(records)}
        kept = set(first.values())
        progress(Progress(segment=index, step=1, steps=1))
        return _write([record for record in dict.fromkeys(records) if record in kept], rows)


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


def _counter(params: MapParams, model: Path | None) -> Callable[[str], int]:
    if not params.chunk_tokens:
        return len
    if model is None:
        raise InputRefused("the task", "was given no model directory")
    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _record(text: str, shard: str) -> bytes:
    return json.dumps({"shard": shard, "text": text}, ensure_ascii=False, sort_keys=True).encode()


def _write(records: list[bytes], rows: int) -> bytes:
    data = np.frombuffer(b"".join(records), np.uint8)
    ends = np.cumsum([len(record) for record in records], dtype=np.int64)
    return encode_state({"text": data, "ends": ends, "rows": np.array(rows, np.int64)})


def _read(state: bytes) -> tuple[list[bytes], int]:
    tensors = decode_state(state)
    found = {name: array.dtype for name, array in tensors.items()}
    if found != TYPES:
        raise StateRefused(f"it holds {sorted(found)}, expected {sorted(TYPES)}")
    text, ends, rows = tensors["text"], tensors["ends"], tensors["rows"]
    starts: Array = np.concatenate([np.zeros(1, np.int64), ends])
    if text.ndim != 1 or ends.ndim != 1 or rows.shape != () or starts[-1] != text.size or (np.diff(starts) < 0).any():
        raise StateRefused("do not fit the text", "ends")
    data = text.tobytes()
    return [data[a:b] for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)], int(rows)


WORKLOAD = MapWorkload()
