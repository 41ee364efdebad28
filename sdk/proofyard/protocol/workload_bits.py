"""The bit of each workload in an operator's bitmap on chain, which juries are drawn by.

Everybody must give a workload the same bit: nodes when they register, requesters when they open a job.
"""

from collections.abc import Iterable

from proofyard.protocol.keccak import keccak

WORKLOADS = ("lora", "embed", "evaluate", "sweep", "map")
"""A workload's place here is its bit; places are never given to another."""

FIRST_FREE_BIT, BITS = 32, 64
"""Workloads of third parties take the bits from here on, by the hash of their name. Two of them may share a bit (one
pair in 32): a jury for one can then name nodes that execute only the other, and is drawn again if they are silent."""


def workload_bit(name: str) -> int:
    """The number of a workload's bit, from 0."""
    if name in WORKLOADS:
        return WORKLOADS.index(name)
    return FIRST_FREE_BIT + int.from_bytes(keccak(name.encode()), "big") % (BITS - FIRST_FREE_BIT)


def workload_bits(names: Iterable[str]) -> int:
    """The bitmap of the workloads `names`."""
    bits = 0
    for name in names:
        bits |= 1 << workload_bit(name)
    return bits
