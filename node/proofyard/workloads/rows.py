"""Workloads whose rows do not depend on each other: each segment computes the outputs of its own lines.

A task takes `segments` times `segment_rows` lines of the data file. State 0 is an empty table, state i the rows of
segment i - 1 and no others, so that nobody who audits a segment is handed another segment's answer. A task's result is
the table of all its rows; it can be cut into the states again, which is how it is checked against the trace. The job's
result is made of all tables, one after the other (`package`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from proofyard.protocol.manifest import MAX_TASKS, Manifest, TaskSpec
from proofyard.protocol.types import Cid, TaskIndex
from proofyard.workloads.errors import InputRefused, ManifestRefused, SegmentFailed, StateRefused
from proofyard.workloads.params import PRECISIONS, check_common, convert_params
from proofyard.workloads.state import (
    Array,
    Schema,
    Tensors,
    TensorSpec,
    check_number,
    decode_state,
    encode_state,
    most_bytes,
)
from proofyard.workloads.text_data import numbered_lines
from proofyard.workloads.workload import (
    Inputs,
    OnProgress,
    Progress,
    Resources,
    Results,
    SegmentRunner,
    States,
    require_inputs,
)

COMPUTE = "compute"


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

    def segment_range(self, task: TaskSpec, segment: int) -> range:
        """The lines of a segment, counted within its task."""
        start = segment * self.segment_rows
        return range(start, min(start + self.segment_rows, len(self.task_range(task))))


def row_tasks(params: RowsParams) -> list[TaskSpec]:
    """The tasks over all rows. Raises `ManifestRefused` for too many."""
    count = task_count(params)
    if count > MAX_TASKS:
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
    return tasks


def task_count(params: RowsParams) -> int:
    return -(-params.rows // params.task_rows)


Compute = Callable[[Sequence[Any]], Tensors]


class RowsWorkload(ABC):
    """Base of such a workload; a subclass says what a row's outputs are and how to compute them.

    A table is tensors whose first axis is the rows (`columns`). One with another layout overrides `read_table`,
    `join_tables` and `cut_table`.
    """

    name: str
    exact: bool = True
    arithmetic: bool = False
    params_type: type[RowsParams]
    row_type: type[msgspec.Struct]

    @abstractmethod
    def columns(self, params: Any) -> Schema:
        """The outputs of one row: name to type and shape."""

    @abstractmethod
    def compute(self, manifest: Manifest, params: Any, inputs: Inputs, resources: Resources) -> Compute:
        """A function from lines to their outputs, stacked. Runs in the executor's child and may load a model."""

    @abstractmethod
    def package(self, manifest: Manifest, results: Results, dest: Path) -> Path:
        """See `Workload.package`; `tables` reads the results one by one."""

    def needs_model(self, params: Any) -> bool:
        """Whether the manifest must name a model."""
        return True

    def needs_adapter(self, params: Any) -> bool:
        """Whether the manifest must name an adapter; else it must not."""
        return False

    def check_rows(self, params: Any, table: Mapping[str, Array]) -> None:
        """Raise `StateRefused` for rows that no computation gives. Exact and cheap; by default any will do."""
        return

    def tables(self, manifest: Manifest, results: Results) -> Iterator[dict[str, Array]]:
        """The tables of all tasks in the order of the rows, checked. Raises `StateRefused`."""
        params = convert_params(manifest, self.params_type)
        for task in self.finals(manifest):
            rows = params.task_range(TaskSpec(index=task, kind=COMPUTE))
            yield self.read_table(params, results(task), len(rows))

    def read_table(self, params: Any, state: bytes, rows: int) -> dict[str, Array]:
        """A table of `rows` rows, checked. Raises `StateRefused`."""
        columns = self.columns(params)
        table = decode_state(state, schema={name: _stacked(spec, rows) for name, spec in columns.items()})
        self.check_rows(params, table)
        return table

    def empty_table(self, params: Any) -> dict[str, Array]:
        return {name: np.zeros((0, *spec.shape), spec.numpy_dtype) for name, spec in self.columns(params).items()}

    def join_tables(self, tables: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One table of all rows in order."""
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def cut_table(self, table: Mapping[str, Array], rows: range) -> dict[str, Array]:
        """Some rows of a table."""
        return {name: array[rows.start : rows.stop] for name, array in table.items()}

    def check(self, manifest: Manifest) -> None:
        params = convert_params(manifest, self.params_type)
        model, adapter = self.needs_model(params), self.needs_adapter(params)
        precisions = PRECISIONS if self.arithmetic else PRECISIONS[:1]
        check_common(manifest, model=model, precisions=precisions, adapter=adapter)
        row_tasks(params)

    def graph(self, manifest: Manifest) -> list[TaskSpec]:
        self.check(manifest)
        return row_tasks(convert_params(manifest, self.params_type))

    def finals(self, manifest: Manifest) -> tuple[TaskIndex, ...]:
        """All tasks."""
        return tuple(map(TaskIndex, range(task_count(convert_params(manifest, self.params_type)))))

    def initial_state(self, manifest: Manifest, task: TaskSpec, inputs: Inputs) -> bytes:
        require_inputs(task, inputs)
        return encode_state(self.empty_table(convert_params(manifest, self.params_type)))

    def check_state(self, manifest: Manifest, task: TaskSpec, number: int, state: bytes) -> None:
        """The schema with the exact number of rows, finite numbers, and `check_rows`."""
        params = convert_params(manifest, self.params_type)
        check_number(task, number)
        self.read_table(params, state, len(params.segment_range(task, number - 1)) if number else 0)

    def max_bytes(self, manifest: Manifest, task: TaskSpec) -> int:
        """A table of all rows. A workload with another layout overrides it."""
        params = convert_params(manifest, self.params_type)
        rows = len(params.task_range(task))
        return most_bytes({name: _stacked(spec, rows) for name, spec in self.columns(params).items()})

    def result(self, manifest: Manifest, task: TaskSpec, states: States) -> bytes:
        """The table of all rows of the task."""
        params = convert_params(manifest, self.params_type)
        tables = [
            self.read_table(params, states(segment + 1), len(params.segment_range(task, segment)))
            for segment in range(task.segments)
        ]
        return encode_state(self.join_tables(tables))

    def check_result(
        self, manifest: Manifest, task: TaskSpec, result: bytes, last: bytes, trace: Sequence[Cid]
    ) -> None:
        """Cut the table into the task's states: they have the CIDs of the trace or it is refused."""
        self.check_state(manifest, task, task.segments, last)
        from proofyard.artifacts.builder import cid_of_bytes  # not for the process that computes: it loads QUIC

        params = convert_params(manifest, self.params_type)
        table = self.read_table(params, result, len(params.task_range(task)))
        if len(trace) != task.segments + 1:
            raise StateRefused(f"a trace of {len(trace)} states is not that of {task.segments} segments")
        for segment in range(task.segments):
            state = encode_state(self.cut_table(table, params.segment_range(task, segment)))
            if cid_of_bytes(state) != trace[segment + 1]:
                raise StateRefused(f"the result's rows of segment {segment} are not those of state {segment + 1}")

    def check_lines(self, params: Any, model: Path | None, lines: Iterable[tuple[int, Any]]) -> None:
        """Raise `InputRefused` where some lines cannot be computed with this model; see `Workload.check_inputs`.
        `lines` come with their numbers, and all of them have to be gone through."""
        for _ in lines:
            continue

    def check_inputs(self, manifest: Manifest, inputs: Inputs) -> None:
        """Raise `InputRefused` where no node could compute; see `Workload.check_inputs`."""
        params = convert_params(manifest, self.params_type)
        self.check_lines(params, inputs.model, self._lines(params, inputs))

    def load_model(self, manifest: Manifest, model: Path, resources: Resources) -> None:
        self.compute(manifest, convert_params(manifest, self.params_type), Inputs(model=model), resources)

    def runner(self, manifest: Manifest, task: TaskSpec, inputs: Inputs, resources: Resources) -> SegmentRunner:
        params = convert_params(manifest, self.params_type)
        own = params.task_range(task)
        lines = [row for place, (_, row) in enumerate(self._lines(params, inputs)) if place in own]
        compute = self.compute(manifest, params, inputs, resources)
        return RowsRunner(self, params, task, lines, compute)

    def _lines(self, params: Any, inputs: Inputs) -> Iterator[tuple[int, Any]]:
        """The file's lines with their numbers. Raises `InputRefused` after the last one where they are not as many as
        the manifest says."""
        if inputs.data is None:
            raise InputRefused("the task", "was given no data file")
        count = 0
        for line in numbered_lines(inputs.data, self.row_type):
            count += 1
            yield line
        if count != params.rows:
            raise InputRefused("data file", f"has {count} lines, the manifest's params.rows says {params.rows}")


class RowsRunner:
    """The segments of one task, over its `lines`. What a segment computes depends on its own ones alone."""

    def __init__(
        self, workload: RowsWorkload, params: RowsParams, task: TaskSpec, lines: Sequence[Any], compute: Compute
    ) -> None:
        self.workload = workload
        self.params = params
        self.task = task
        self.lines = lines
        self.compute = compute

    def run(self, index: int, before: bytes, progress: OnProgress) -> bytes:
        rows = self.params.segment_range(self.task, index)
        read = self.workload.read_table
        read(self.params, before, len(self.params.segment_range(self.task, index - 1)) if index else 0)
        try:
            after = encode_state(self.compute(self.lines[rows.start : rows.stop]))
            read(self.params, after, len(rows))
        except SegmentFailed as error:
            raise SegmentFailed(index, error.reason) from None
        except StateRefused as error:
            raise SegmentFailed(index, f"what it computes is no result: {error}") from None
        steps = math.ceil(len(self.lines) / self.params.segment_rows)
        progress(Progress(segment=index, step=index + 1, steps=steps))
        return after


def _stacked(spec: TensorSpec, rows: int) -> TensorSpec:
    return TensorSpec(spec.dtype, (rows, *spec.shape))
