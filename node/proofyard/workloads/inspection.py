"""A job's model, data and adapter looked at before anybody pays, in the sandbox: a tokenizer is a stranger's file as
much as a model is, and whoever submits a job holds a key. Each function starts the process, which is `main`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from proofyard.protocol.codec import CodecError, decode_json, prepared
from proofyard.protocol.manifest import Manifest, decode_manifest, encode_manifest
from proofyard.workloads.errors import ExecutorCrashed, WorkloadError, from_wire, to_wire
from proofyard.workloads.local_data import Schema
from proofyard.workloads.local_sets import described
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.model_files import files_of, published_files
from proofyard.workloads.rehearsal import TrainingRows, count_training_rows
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.warmup import environment
from proofyard.workloads.workload import Inputs, load_workload

MEMORY_BYTES = 8 << 30


class _Order(msgspec.Struct, frozen=True):
    """What is looked at. With `params` the rows of that training are counted, else `manifest` is checked; without
    either, `data` is described."""

    model: str | None
    data: str | None
    adapter: str | None
    manifest: bytes = b""
    params: LoraParams | None = None


class _Found(msgspec.Struct, frozen=True):
    """What the process says: an error, or what it counted."""

    error: tuple[str, dict[str, Any]] | None = None
    rows: TrainingRows | None = None
    lines: tuple[Schema, int] | None = None


def check_inputs(manifest: Manifest, inputs: Inputs) -> None:
    """`Workload.check_inputs`. Raises `InputRefused`, and `ExecutorCrashed` where the process ended."""
    _look(inputs, manifest=encode_manifest(manifest))


def training_rows(model: Path, data: Path, params: LoraParams) -> TrainingRows:
    """`rehearsal.count_training_rows`. Raises as `check_inputs` does."""
    rows = _look(Inputs(model, data), params=params).rows
    if rows is None:
        raise ExecutorCrashed("the process that counts a job's rows said something else")
    return rows


def lines_of(data: Path) -> tuple[Schema, int]:
    """`local_sets.described`. Raises as `check_inputs` does."""
    lines = _look(Inputs(data=data)).lines
    if lines is None:
        raise ExecutorCrashed("the process that reads a data set said something else")
    return lines


def _look(inputs: Inputs, manifest: bytes = b"", params: LoraParams | None = None) -> _Found:
    order = _Order(_at(inputs.model), _at(inputs.data), _at(inputs.adapter), manifest, params)
    files = [path for path in (inputs.data, inputs.adapter) if path is not None and path.is_file()]
    if inputs.model is not None:  # what nodes get, and nothing beside it
        files += [inputs.model / name for name in published_files(inputs.model)[0]]
    policy = Policy(read=tuple(place for file in files for place in files_of(file)), memory_bytes=MEMORY_BYTES)
    env = environment(os.cpu_count() or 1) | {"TOKENIZERS_PARALLELISM": "true"}
    done = Sandbox().run(policy, __name__, data=msgspec.msgpack.encode(order), env=env)
    try:
        found = decode_json(done.stdout, _Found)
    except CodecError:
        words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][-200:]
        raise ExecutorCrashed(
            f"the job's model and data cannot be looked at: the process that reads them ended with code "
            f"{done.returncode}; its last words: {words or 'none'}"
        ) from None
    if found.error is not None:
        raise from_wire(*found.error)
    return found


def _at(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _path(at: str | None) -> Path | None:
    return None if at is None else Path(at)


def main() -> None:
    """Look at what the order on stdin names, and print what was found as JSON."""
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=prepared(_Order))
    inputs = Inputs(_path(order.model), _path(order.data), adapter=_path(order.adapter))
    error, rows, lines = None, None, None
    try:
        if order.params is not None:
            assert inputs.model is not None and inputs.data is not None
            rows = count_training_rows(inputs.model, inputs.data, order.params)
        elif not order.manifest:
            assert inputs.data is not None
            lines = described(inputs.data)
        else:
            manifest = decode_manifest(order.manifest)
            load_workload(manifest.workload).check_inputs(manifest, inputs)
    except WorkloadError as refusal:
        error = to_wire(refusal)
    sys.stdout.buffer.write(msgspec.json.encode(_Found(error, rows, lines)))


if __name__ == "__main__":
    main()
