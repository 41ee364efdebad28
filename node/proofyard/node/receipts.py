"""Receipts that verifiers signed: a promise that a commitment is in a batch in time, and stake if it is broken.

Each is a file of its own, for `proofyard verifier dispute open --receipt FILE`: a node that is not paid looks here.
"""

import json
from pathlib import Path

from proofyard.protocol.commitment import Commitment
from proofyard.protocol.messages import Receipt
from proofyard.protocol.types import Address

KEPT_S = 30 * 24 * 3600
"""After its deadline; the Registry takes no receipt that is older than the challenge window."""


def keep_receipt(folder: Path, verifier: Address, commitment: Commitment, receipt: Receipt, now: float) -> Path:
    """Write a receipt to `folder`, and delete those that are of no use any more."""
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
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path
