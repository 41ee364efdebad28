"""What an executor and its child process say to each other: typed msgpack structs, each behind a 4-byte length."""

import struct
from typing import Any, BinaryIO

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.workloads.workload import Progress

LENGTH = struct.Struct(">I")


class InputPaths(msgspec.Struct, frozen=True):
    """`workload.Inputs` on the wire."""

    model: str | None
    data: str | None
    results: tuple[bytes, ...]
    adapter: str | None = None
    carried: tuple[bytes, ...] = ()


class RunTask(msgspec.Struct, frozen=True, tag=True):
    """`folder` holds the states that are kept of it."""

    manifest: Manifest
    task: TaskSpec
    inputs: InputPaths
    folder: str


class RunSegment(msgspec.Struct, frozen=True, tag=True):
    """Segment `index` from the state in the file `before`."""

    manifest: Manifest
    task: TaskSpec
    inputs: InputPaths
    index: int
    before: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the request in progress at the next safe point."""


class Taken(msgspec.Struct, frozen=True, tag=True):
    """What was written to `slot` is kept elsewhere; it may be written to again."""

    slot: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The child is up, in its sandbox."""


class ModelChecked(msgspec.Struct, frozen=True, tag=True):
    """The comparison `key` of the job's model passed, `apart` from each other; see `checked`."""

    key: str
    apart: float


class Step(msgspec.Struct, frozen=True, tag=True):
    progress: Progress


class StateWritten(msgspec.Struct, frozen=True, tag=True):
    """State `number` is in `slot`. `digest`: how its file is called, see `state_store`."""

    number: int
    slot: str
    digest: str


class StateFound(msgspec.Struct, frozen=True, tag=True):
    """State `number` was there from an earlier run."""

    number: int
    digest: str


class TaskDone(msgspec.Struct, frozen=True, tag=True):
    """The result is in `slot`. `cpu_s`: seconds of CPU, of all threads."""

    slot: str
    resumed: int
    cpu_s: float


class SegmentDone(msgspec.Struct, frozen=True, tag=True):
    """The state after the segment is in `slot`."""

    slot: str
    cpu_s: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`errors.to_wire` of what went wrong."""

    name: str
    operands: dict[str, Any]


Order = RunTask | RunSegment
ToChild = Order | Stop | Taken
FromChild = Ready | ModelChecked | Step | StateWritten | StateFound | TaskDone | SegmentDone | Failed

MAX_REPORT_BYTES = 1 << 20
"""The longest message of a child: states come in files."""

_encoder = msgspec.msgpack.Encoder()
_to_child = msgspec.msgpack.Decoder(prepared(ToChild))
_from_child = msgspec.msgpack.Decoder(prepared(FromChild))


def frame(message: ToChild | FromChild) -> bytes:
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def read_order(stream: BinaryIO) -> ToChild | None:
    """The next message to the child; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = stream.read(size)
    return _to_child.decode(body) if len(body) == size else None


def decode_report(body: bytes) -> FromChild:
    report: FromChild = _from_child.decode(body)
    return report
