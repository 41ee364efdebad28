"""Workloads whose rows do not depend on each other: each segment adds the outputs of its rows to the state.

A task takes `segments` times `segment_rows` lines of the data file. Its state is a table, one row a line so far, so
the last state is the task's result; the job's last task puts all tables together. What a segment changed is the
rows it added, and any row before them that it should have left alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import MAX_TASKS, Manifest, TaskSpec
from proofyard.protocol.types import TaskIndex
from proofyard.workloads.errors import InputRefused, ManifestRefused, StateRefused
from proofyard.workloads.params import check_common, convert_params
from proofyard.workloads.sketch import Change
from proofyard.workloads.state import Array, Schema, Tensors, TensorSpec, decode_state, encode_state, read_schema
from proofyard.workloads.text_data import read_lines
from proofyard.workloads.workload import Inputs, OnProgress, Progress, Resources, SegmentRunner

COMPUTE, GATHER = "compute", "gather"
KEPT = "kept"


class RowsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`rows` lines in the data file; `segments` segments of `segment_rows` lines a task."""

    rows: Annotated[int, Meta(ge=1, le=1 << 40)]
    segment_rows: Annotated[int, Meta(ge=1, le=1 << 20)]
    segments: Annotated[int, Meta(ge=1, le=4096)]

    @property
    def task_rows(self) -> int:
        return self.segments * self.segment_rows

    def task_range(self, task: TaskSpec) -> range:
        """The lines of a task."""
        start = task.index * self.task_rows
        return range(start, min(start + self.task_rows, self.rows))


def row_tasks(params: RowsParams) -> list[TaskSpec]:
    """The tasks over all rows and, last, the one that gathers their results. Raises `ManifestRefused` for too many."""
    count = -(-params.rows // params.task_rows)
    if count + 1 > MAX_TASKS:
        raise ManifestRefused(
            "params.segments", f"and segment_rows make {count} tasks, at most {MAX_TASKS} are allowed"
        )
    tasks = []
    for number in range(count):
        index = TaskIndex(number)
        rows = params.task_range(TaskSpec(index=index, kind=COMPUTE))
        segments = -(-len(rows) // params.segment_rows)
        label = f"rows {rows.start} to {rows.stop - 1}"
        tasks.append(TaskSpec(index=index, kind=COMPUTE, segments=segments, work_units=len(rows), label=label))
    deps = tuple(task.index for task in tasks)
    return [*tasks, TaskSpec(index=TaskIndex(count), kind=GATHER, deps=deps, label="gather the results")]


Compute = Callable[[Sequence[Any]], Tensors]


class RowsWorkload(ABC):
    """Base of such a workload; a subclass says what a row's outputs are and how to compute them."""

    name: str
    params_type: type[RowsParams]
    row_type: type[msgspec.Struct]
    needs_model: bool = True

    @abstractmethod
    def columns(self, params: Any) -> Schema:
        """The outputs of one row: name to type and shape. Only float types are compared by distance."""

    @abstractmethod
    def compute(self, manifest: Manifest, params: Any, inputs: Inputs, resources: Resources) -> Compute:
        """A function from lines to their outputs, stacked. Runs in the executor's child and may load a model."""

    @abstractmethod
    def package(self, manifest: Manifest, result: bytes, dest: Path) -> Path:
        """See `Workload.package`."""

    def finish(self, tensors: Mapping[str, Array]) -> Tensors:
        """What the last task makes of the whole table; exact arithmetic only."""
        return tensors

    def check(self, manifest: Manifest) -> None:
        check_common(manifest, model=self.needs_model)
        row_tasks(convert_params(manifest, self.params_type))

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        self.check(manifest)
        return row_tasks(convert_params(manifest, self.params_type))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        params = convert_params(manifest, self.params_type)
        if len(inputs.results) != len(task.deps):
            raise StateRefused(f"task {task.index} has {len(task.deps)} inputs, {len(inputs.results)} were given")
        if task.kind == COMPUTE:
            return encode_state({name: _empty(spec) for name, spec in self.columns(params).items()})
        tables = [self._read(params, result) for result in inputs.results]
        return encode_state({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})

    def result(self, manifest: Manifest, task: TaskSpec, last: bytes) -> bytes:
        if task.kind == COMPUTE:
            params = convert_params(manifest, self.params_type)
            self._read(params, last, len(params.task_range(task)))
        return last

    def change(self, manifest: Manifest, task: TaskSpec, before: bytes, after: bytes) -> Change:
        if task.kind == GATHER:
            return {name: array.reshape(-1) for name, array in decode_state(after).items()}
        params = convert_params(manifest, self.params_type)
        start, end = self._read(params, before), self._read(params, after)
        rows = _count(start)
        if _count(end) <= rows:
            raise StateRefused(f"it has {_count(end)} rows after a segment that began with {rows}")
        kept = [(end[name][:rows].astype(np.float64) - start[name]).reshape(-1) for name in sorted(end)]
        return {name: end[name][rows:].reshape(-1) for name in end} | {KEPT: np.concatenate(kept)}

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        params = convert_params(manifest, self.params_type)
        if task.kind == GATHER:
            return GatherRunner(self.finish)
        if inputs.data is None:
            raise InputRefused("the task", "was given no data file")
        lines = read_lines(inputs.data, self.row_type)
        if len(lines) != params.rows:
            raise InputRefused("data file", f"has {len(lines)} lines, the manifest's params.rows says {params.rows}")
        rows = params.task_range(task)
        compute = self.compute(manifest, params, inputs, resources)
        return RowsRunner(lines[rows.start : rows.stop], params.segment_rows, lambda s: self._read(params, s), compute)

    def _read(self, params: RowsParams, state: bytes, rows: int | None = None) -> dict[str, Array]:
        """A table, checked against its columns."""
        columns = self.columns(params)
        if rows is None:
            found = read_schema(state).get(next(iter(columns)))
            rows = found.shape[0] if found and found.shape else 0
        schema = {name: TensorSpec(spec.dtype, (rows, *spec.shape)) for name, spec in columns.items()}
        return decode_state(state, schema=schema)


class RowsRunner:
    """The segments of one task."""

    def __init__(
        self, lines: Sequence[Any], segment_rows: int, read: Callable[[bytes], dict[str, Array]], compute: Compute
    ) -> None:
        self._lines = lines
        self._segment_rows = segment_rows
        self._read = read
        self._compute = compute

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        table = self._read(before)
        start = index * self._segment_rows
        if _count(table) != start:
            raise StateRefused(f"it has {_count(table)} rows at segment {index}, expected {start}")
        added = self._compute(self._lines[start : start + self._segment_rows])
        steps = math.ceil(len(self._lines) / self._segment_rows)
        progress(Progress(segment=index, step=index + 1, steps=steps))
        return encode_state({name: np.concatenate([table[name], added[name]]) for name in table})


class GatherRunner:
    """The one segment of the last task."""

    def __init__(self, finish: Callable[[Mapping[str, Array]], Tensors]) -> None:
        self._finish = finish

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        state = encode_state(self._finish(decode_state(before)))
        progress(Progress(segment=index, step=1, steps=1))
        return state


def _count(table: Mapping[str, Array]) -> int:
    return int(next(iter(table.values())).shape[0])


def _empty(spec: TensorSpec) -> Array:
    return np.zeros((0, *spec.shape), spec.numpy_dtype)
