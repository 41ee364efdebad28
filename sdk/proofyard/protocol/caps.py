"""How much of a round one owner, and one part of the network, may do: docs/federated.md.

A rule that outvotes hostile results counts results. Who does many of a round's tasks is as many voters to it; so a job
may say how many of them are one owner's at most, and one subnet's.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.types import Address

MOST = 10_000
Most = Annotated[int, Meta(ge=0, le=MOST)]


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a round's tasks one owner's nodes do `owner` at most, nodes of one subnet `subnet`; 0: as many as there are.

    A node's owner is what the Registry says, and a settled record names it, so whoever reads the record can count. Its
    subnet is what a verifier sees of its address, and nobody else can tell; one that has none to it ("") gets nothing
    where subnets count."""

    owner: Most = 0
    subnet: Most = 0

    def objection(self, owner: Address, subnet: str, others: Iterable[tuple[Address, str]]) -> str:
        """Why a node of this owner and subnet may not have another task of a round; empty if it may. `others`: owner
        and subnet of whoever has one."""
        having = list(others)
        if self.owner and sum(each == owner for each, _ in having) >= self.owner:
            return f"its owner has {self.owner} of the round's tasks, and the job lets one owner have no more (caps)"
        if self.subnet and not subnet:
            return "where it is has not been shown yet, and the job limits what one subnet does (caps)"
        if self.subnet and sum(each == subnet for _, each in having) >= self.subnet:
            return f"its subnet has {self.subnet} of the round's tasks, and the job lets one have no more (caps)"
        return ""

    def owners_needed(self, tasks: int) -> int:
        """So many owners a round of `tasks` takes at least."""
        return -(-tasks // self.owner) if self.owner else 1
