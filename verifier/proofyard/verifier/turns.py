"""Whose turn something is that any verifier may do."""

import hashlib
from collections.abc import Iterable

from proofyard.protocol.types import Address, BatchId


def in_turn(batch: BatchId, verifiers: Iterable[Address]) -> list[Address]:
    """The verifiers in a batch's order: the same for everybody, and another one for each batch."""
    return sorted(verifiers, key=lambda node: hashlib.sha256(f"{batch} {node}".encode()).digest())
