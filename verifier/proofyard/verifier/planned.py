"""The plans that were drawn, kept until their records are checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from proofyard.protocol.audit import AuditPlan
from proofyard.protocol.types import BatchId, Cid
from proofyard.protocol.view import BatchView


@dataclass(frozen=True)
class Planned:
    """A plan, and what it was computed from: what the chain said, and the member lists, by their CIDs."""

    plan: AuditPlan
    view: BatchView
    lists: Mapping[BatchId, Cid]

    def fits(self, view: BatchView, lists: Mapping[BatchId, Cid]) -> bool:
        """Whether these give the same plan."""
        return self.view == view and self.lists == lists
