"""What an audit moves beside the state before, and what a single lie gains: no execution is needed for either."""

import secrets
from typing import Any

import msgspec

from bench_exact_jobs import demo_job
from bench_exact_setup import Bench
from proofyard.artifacts.builder import cid_of_bytes
from proofyard.protocol import deterrence
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Ack, AuditOffer, AuditProgress, OpenSeal, SealOpened, SubmitSeal
from proofyard.protocol.seal import CANNOT_EXECUTE, MAX_REASON
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, Signature
from proofyard.transport.connection import tag_of
from proofyard.transport.frames import VERSION, ReplyHeader, RequestHeader, frame
from proofyard.workloads.lora import TRAIN

NUMBER = 1 << 20
"""Of a batch and of a job; the Registry counts both from 1."""


async def measure(bench: Bench) -> dict[str, Any]:
    """The keys `audit_bytes` and `one_lie_expected_gain`."""
    job = demo_job(bench)
    audits = {task.label: audit_messages(task, "x" * MAX_REASON) for task in job.workload.graph(job.manifest)}
    sizes = {label: sum(map(encoded, messages)) for label, messages in audits.items()}
    largest = max(sizes, key=lambda label: sizes[label])
    usual = next(task for task in job.workload.graph(job.manifest) if task.kind == TRAIN)
    rows = deterrence.table()
    worst = max(rows, key=lambda row: row.gain)
    return {
        "audit_bytes": sizes[largest],
        "audit_bytes_details": {
            "task": largest,
            "messages": {type(message).__name__: encoded(message) for message in audits[largest]},
            "usual": sum(map(encoded, audit_messages(usual, ""))),
            "largest_with_frames_and_replies": sum(map(framed, audits[largest])) + 2 * framed(Ack()),
            "each_sign_of_life": framed(
                AuditProgress(BatchId(NUMBER), JobId(NUMBER), usual.index, SegmentIndex(0), Digest(bytes(32)))
            )
            + framed(Ack()),
        },
        "one_lie_expected_gain": float(worst.gain),
        "one_lie_details": {
            "rows": len(rows),
            "worst": {
                "stake": str(worst.stake),
                "consecutive_valid": worst.consecutive_valid,
                "tasks": worst.tasks,
                "task_reward": str(worst.task_reward),
            },
        },
    }


def audit_messages(task: TaskSpec, reason: str) -> list[Any]:
    """What one seat at an audit of `task` is sent and sends. A `reason` makes the answer that it cannot be executed."""
    batch, job, segment = BatchId(NUMBER), JobId(NUMBER), SegmentIndex(task.segments - 1)
    cid = cid_of_bytes(b"state")
    offer = AuditOffer(
        batch=batch,
        seed=Digest(secrets.token_bytes(32)),
        job=job,
        manifest=cid,
        task=task,
        segment=segment,
        before=cid,
        providers=(),
        lease_s=15.0,
    )
    seal = SubmitSeal(
        batch, job, task.index, segment, offer.seed, Digest(bytes(32)), Signature(secrets.token_bytes(65))
    )
    opened = SealOpened(CANNOT_EXECUTE, Digest(secrets.token_bytes(32)), reason, secrets.token_bytes(32))
    return [offer, seal, OpenSeal(batch, job, task.index, segment), opened]


def encoded(message: Any) -> int:
    """Bytes of a message as it is encoded, tag included."""
    return len(encode(message))


def framed(message: Any) -> int:
    """Bytes of a message in its frame, with the header of a request or of a reply."""
    payload = msgspec.Raw(encode(message))
    if isinstance(message, Ack | SealOpened):
        return len(frame(ReplyHeader(VERSION, 0, payload)))
    return len(frame(RequestHeader(VERSION, tag_of(type(message)), 30_000, 0, payload)))
