"""What an operator lets a job ask of this machine; see `proofyard.workloads.limits` for what a manifest asks."""

from proofyard.node.settings import NodeSettings
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import ProofyardError
from proofyard.workloads.limits import demands


class OfferRefused(ProofyardError):
    """An offer that this node does not take; `field` names what it is about."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(f"{field} {reason}")


class LeftForLater(ProofyardError):
    """An offer that this node would take at another hour; whoever hears it begin with "busy" may ask again."""


class DataLacking(ProofyardError):
    """Work on data that stays at home, and not here."""


def check_limits(settings: NodeSettings, manifest: Manifest, task: TaskSpec) -> None:
    """Raise `OfferRefused` for the first of a task's demands that is over the operator's limit.

    `manifest` has passed its workload's `check`.
    """
    if manifest.workload not in settings.workloads:
        offered = ", ".join(settings.workloads)
        raise OfferRefused("the manifest's workload", f"is {manifest.workload}; this node executes {offered}")
    for demand in demands(manifest, task):
        limit = getattr(settings, demand.limit)
        if demand.amount > limit:
            raise OfferRefused(demand.field, f"makes {demand.amount}, this node's {demand.limit} is {limit}")
