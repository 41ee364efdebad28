"""The bit of each workload in an operator's bitmap on chain, which juries are drawn by."""

from collections.abc import Iterable

from proofyard.protocol.types import ProofyardError

WORKLOADS = ("lora", "embed", "evaluate", "sweep", "map")
"""A workload's place here is its bit; places are never given to another."""

FIRST_FREE_BIT = 32
"""Bits from here on are for workloads of third parties, by agreement within a network."""


class UnlistedWorkload(ProofyardError, ValueError):
    """A workload has no bit."""

    exit_code = 2


def workload_bits(names: Iterable[str]) -> int:
    """The bitmap of the workloads `names`. Raises `UnlistedWorkload`, which lists the known ones."""
    bits = 0
    for name in names:
        if name not in WORKLOADS:
            raise UnlistedWorkload(f"no bit is set aside for the workload {name!r}; known are {', '.join(WORKLOADS)}")
        bits |= 1 << WORKLOADS.index(name)
    return bits
