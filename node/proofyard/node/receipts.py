"""Receipts that verifiers signed: a promise that a commitment is in a batch in time, and stake if it is broken.

The journal has them all; the node's own defence looks through those that fell due. What is found broken becomes a file
as well, for `proofyard verifier dispute open --receipt FILE`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from proofyard.protocol.commitment import Commitment, Domain, receipt_struct_hash
from proofyard.protocol.messages import Receipt
from proofyard.protocol.signature import require_signer
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError, Signature, TaskIndex
from proofyard.workloads.state_store import write_durably

KEPT_S = 30 * 24 * 3600
"""After its deadline; the Court takes no receipt that is older than the challenge window."""


class ReceiptInvalid(ProofyardError):
    """What a verifier gave as a receipt promises something else, or nothing."""


@dataclass(frozen=True)
class KeptReceipt:
    """A receipt with whom it is from and what for. `deadline` in Unix seconds."""

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


def write_receipt(folder: Path, receipt: KeptReceipt) -> Path:
    """A receipt as a file of its own, for people and the command line; written anew only where it is not there."""
    path = folder / f"job-{receipt.job}-task-{receipt.task}-{receipt.deadline}-{receipt.leaf.hex()[:8]}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "verifier": receipt.verifier,
            "job": str(receipt.job),
            "task": str(receipt.task),
            "leaf": "0x" + receipt.leaf.hex(),
            "deadline": receipt.deadline,
            "signature": "0x" + receipt.signature.hex(),
        }
        write_durably(path, (json.dumps(facts, indent=2) + "\n").encode())
    return path
