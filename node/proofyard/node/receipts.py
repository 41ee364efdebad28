"""Receipts that verifiers signed: a promise that a commitment is in a batch in time, and stake if it is broken.

Each is a file of its own, for `proofyard verifier dispute open --receipt FILE`, and what the node's own defence looks
through: a node that is not paid looks here.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.messages import Receipt
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError, Signature, TaskIndex
from proofyard.workloads.state_store import write_durably

logger = logging.getLogger("proofyard.node")

KEPT_S = 30 * 24 * 3600
"""After its deadline; the Court takes no receipt that is older than the challenge window."""


class ReceiptInvalid(ProofyardError):
    """What a verifier gave as a receipt promises something else, or nothing."""


@dataclass(frozen=True)
class KeptReceipt:
    """A receipt with whom it is from and what for. `deadline` in Unix seconds."""

    path: Path
    verifier: Address
    job: JobId
    task: TaskIndex
    leaf: Digest
    deadline: int
    signature: Signature


def check_receipt(domain: Domain, verifier: Address, commitment: Commitment, receipt: Receipt) -> None:
    """Raise `ReceiptInvalid` or `SignatureInvalid` unless `verifier` promises this commitment: one that is worth
    nothing in court is none."""
    if (receipt.leaf, receipt.job) != (commitment.struct_hash(), commitment.job):
        raise ReceiptInvalid(f"the receipt of {verifier} is for another commitment than task {commitment.task}")
    digest = domain.typed_digest(receipt_struct_hash(receipt.leaf, receipt.job, receipt.deadline))
    require_signer(digest, receipt.signature, verifier, "the receipt")


def keep_receipt(folder: Path, verifier: Address, commitment: Commitment, receipt: Receipt, now: float) -> Path:
    """Write a receipt to `folder` durably, and delete those that are of no use any more."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        if old.stat().st_mtime < now - KEPT_S:
            old.unlink()
    path = folder / f"job-{commitment.job}-task-{commitment.task}-{receipt.deadline}.json"
    facts = {
        "verifier": verifier,
        "job": str(commitment.job),
        "task": str(commitment.task),
        "leaf": "0x" + receipt.leaf.hex(),
        "deadline": receipt.deadline,
        "signature": "0x" + receipt.signature.hex(),
    }
    return write_durably(path, (json.dumps(facts, indent=2) + "\n").encode())


def kept_receipts(folder: Path) -> Iterator[KeptReceipt]:
    """All receipts of a folder that can be read."""
    for path in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(path.read_bytes())
            yield KeptReceipt(
                path,
                Address(facts["verifier"]),
                JobId(int(facts["job"])),
                TaskIndex(int(facts["task"])),
                Digest(bytes.fromhex(facts["leaf"][2:])),
                int(facts["deadline"]),
                Signature(bytes.fromhex(facts["signature"][2:])),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the receipt %s cannot be read: %s", path, error)
