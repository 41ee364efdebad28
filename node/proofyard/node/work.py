"""What a node has accepted to do, on its way through the node."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from proofyard.node.journal import HeldTask
from proofyard.protocol.messages import AuditOffer, TaskOffer
from proofyard.protocol.types import Address, Cid
from proofyard.workloads.workload import Progress


@dataclass(frozen=True)
class Owed:
    """State `number` of a held task that is not here, because it was not kept or was damaged. The number after the last
    state's stands for the task's result."""

    held: HeldTask
    number: int

    @property
    def is_result(self) -> bool:
        return self.number == len(self.held.submission.trace)

    @property
    def cid(self) -> Cid:
        submission = self.held.submission
        return submission.commitment.result if self.is_result else submission.trace[self.number]


@dataclass
class Work:
    """An accepted offer, or a state to make again. `verifier` is whom it is owed to; `ready` once its inputs are here;
    `again` where it was interrupted; `finished` once nothing more will be done about it here. `lasting`: states of it
    that are on the disk itself. `leftovers` deletes what the executor has left of it, once that is not needed any
    more. `number` counts what was accepted, and an audit's answer is wanted at `wanted_at`, in the event loop's time.
    `begun` once it was executed, if only in part; `states`: the last of its states that is on this disk. `moved` where
    a step was not reported yet, `telling` while steps are. `waits`, while it is not executed for its verifier: this
    node does it as a voter, and a round is to take it; `alone` where that came to nothing."""

    verifier: Address
    offer: TaskOffer | AuditOffer | Owed
    ready: bool = False
    progress: Progress | None = None
    cancelled: bool = False
    again: bool = False
    begun: bool = False
    states: int = 0
    moved: bool = False
    telling: bool = False
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    lasting: frozenset[Cid] = frozenset()
    leftovers: Callable[[], None] | None = None
    number: int = 0
    wanted_at: float = 0.0
    waits: asyncio.Task[None] | None = None
    alone: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        if isinstance(self.offer, AuditOffer):
            return (self.verifier, "audit", self.offer.batch, self.offer.job, self.offer.task.index, self.offer.segment)
        if isinstance(self.offer, Owed):
            return (self.verifier, "state", self.offer.cid)
        return (self.verifier, "task", self.offer.job, self.offer.task.index)

    @property
    def lane(self) -> tuple[Address, str]:
        """Work of one lane waits for each other's inputs; that of others does not."""
        return self.verifier, type(self.offer).__name__

    @property
    def name(self) -> str:
        if isinstance(self.offer, AuditOffer):
            place = f"job {self.offer.job} task {self.offer.task.index} segment {self.offer.segment}"
            return f"audit of {place} in batch {self.offer.batch}"
        if isinstance(self.offer, Owed):
            task = self.offer.held.offer
            what = "result" if self.offer.is_result else f"state {self.offer.number}"
            return f"{what} of job {task.job} task {task.task.index}"
        return f"job {self.offer.job} task {self.offer.task.index} ({self.offer.task.label})"
