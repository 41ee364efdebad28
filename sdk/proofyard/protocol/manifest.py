"""What a job is: the manifest that its opener signs for with the escrow, and the task graph that follows from it."""

from typing import Any

import msgspec

from proofyard.protocol.codec import decode, encode
from proofyard.protocol.types import Cid, TaskIndex

MAX_MANIFEST_BYTES = 256 * 1024
"""A manifest is one raw block, so its CID follows from the 32-byte digest that the chain stores."""

MAX_TASKS = 100_000

MAX_DEPS = 256
"""So many results a task may rest on: they travel in one offer, and its worker reads them all."""

VERSION = 4


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A job, complete: the same manifest and the same artifacts give the same tasks everywhere.

    `params` belong to the workload and are validated by it (`Workload.check`). `model` is the CID of a Hugging Face
    model directory, `data` the CID of the workload's data file, `adapter` that of a LoRA adapter on the model, for
    workloads that take one. `precision` of the frozen weights: "exact" (two 7-bit
    slices of each), "exact8" (one slice) or "exact4" (nf4, QLoRA); all of them give the same bits everywhere.
    `look_ahead`: a task may start on results that are committed, while no more than so many of them that rest on one
    another wait for their verdicts (`proofyard.protocol.lookahead`); 0 waits for all verdicts. `nonce`: a text of the
    requester's, by which a job is told from another one of the same work; it changes nothing about the work.
    """

    version: int = VERSION
    workload: str
    params: dict[str, Any]
    model: Cid | None = None
    data: Cid | None = None
    seed: int = 0
    precision: str = "exact"
    look_ahead: int = 0
    nonce: str = ""
    adapter: Cid | None = None

    @property
    def inputs(self) -> tuple[Cid, ...]:
        """The artifacts that it names."""
        return tuple(cid for cid in (self.model, self.data, self.adapter) if cid is not None)


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a job's graph.

    `deps` are the tasks whose results are its inputs, in order, at most `MAX_DEPS` and all of a lower index; `segments`
    the number of audited steps in its chain; `work_units` what it weighs in the payout; `kind` and `label` are the
    workload's own name for it and a text for people.
    """

    index: TaskIndex
    kind: str
    deps: tuple[TaskIndex, ...] = ()
    segments: int = msgspec.field(default=1)
    work_units: int = 1
    label: str = ""


def encode_manifest(manifest: Manifest) -> bytes:
    data = encode(manifest)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(
            f"the manifest has {len(data)} bytes, at most {MAX_MANIFEST_BYTES} fit; move data into artifacts"
        )
    return data


def decode_manifest(data: bytes) -> Manifest:
    return decode(data, Manifest, max_bytes=MAX_MANIFEST_BYTES)
