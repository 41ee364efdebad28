"""How much of a round one owner, and one part of the network, may do: docs/federated.md.

A rule that outvotes hostile results counts results. Who does many of a round's tasks is as many voters to it; so a job
may say how many of them are one owner's at most, and one subnet's.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

MOST = 10_000
Most = Annotated[int, Meta(ge=0, le=MOST)]


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a round's tasks one owner's nodes do `owner` at most, nodes of one subnet `subnet`; 0: as many as there are.

    A node's owner is what the Registry says, and a settled record names it, so whoever reads the record can count. Its
    subnet is what a verifier sees of its address, and nobody else can tell; one that has none to it ("") gets nothing
    where subnets count."""

    owner: Most = 0
    subnet: Most = 0

    def objection(self, of_owner: int, subnet: str, of_subnet: int, tasks: int = 1) -> str:
        """Why a node may not have so many more tasks of a round; empty if it may. `of_owner`, `of_subnet`: how many
        are its owner's, and its subnet's."""
        if self.owner and of_owner + tasks > self.owner:
            return f"one owner may have {self.owner} of a round's tasks (caps), and a free node's owner has as many"
        if self.subnet and not subnet:
            return "the job limits what one subnet does (caps), and a free node has not shown yet where it is"
        if self.subnet and of_subnet + tasks > self.subnet:
            return f"one subnet may have {self.subnet} of a round's tasks (caps), and a free node's has as many"
        return ""

    def owners_needed(self, tasks: int) -> int:
        """So many owners a round of `tasks` takes at least."""
        return -(-tasks // self.owner) if self.owner else 1
