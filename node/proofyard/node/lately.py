"""What a network paid for work lately: from settled batches on its chain, and from nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass

from proofyard.chain import BatchSettled, ChainClient, JobRecord
from proofyard.chain.events import topic_of
from proofyard.protocol.types import JobId, Wei
from proofyard.protocol.workload_bits import WORKLOADS

MOST_JOBS = 200
"""Whose terms are looked up: each is a request to the chain."""
LOW_SHARE = 4
"""A price below which one in so many units of work was paid less."""


@dataclass(frozen=True)
class Paid:
    """Settled work of one job: `units` of them, each for `price` base units of CREDIT."""

    job: JobId
    workload: str
    units: int
    price: int

    @property
    def amount(self) -> int:
        return self.units * self.price


@dataclass(frozen=True)
class Lately:
    """Settled work of the last `seconds` on the chain, and how many nodes there are to share it now."""

    paid: tuple[Paid, ...]
    seconds: float
    nodes: int

    @property
    def jobs(self) -> int:
        return len({each.job for each in self.paid})

    def low_prices(self) -> dict[str, int]:
        """A low price of each workload that was paid, weighed by units."""
        return {name: _at_share(works, LOW_SHARE) for name in WORKLOADS if (works := self.of(name))}

    def usual_price(self, workload: str) -> int | None:
        """The price in the middle, weighed by units; None where there is no history."""
        works = self.of(workload)
        return _at_share(works, 2) if works else None

    def of(self, workload: str) -> list[Paid]:
        return [each for each in self.paid if each.workload == workload]

    def total(self) -> Wei:
        """What was paid for all of it, audits and fees aside."""
        return Wei(sum(each.amount for each in self.paid))


def _at_share(works: Iterable[Paid], share: int) -> int:
    """The price at which one in `share` of all units is reached, from the lowest on."""
    ordered = sorted(works, key=lambda each: each.price)
    left = sum(each.units for each in ordered) / share
    for each in ordered:
        left -= each.units
        if left <= 0:
            return each.price
    return ordered[-1].price


def read_lately(chain: ChainClient) -> Lately:
    """What was settled within the blocks that one look at the chain covers."""
    events = [event for event in chain.recent_events([topic_of(BatchSettled)]) if isinstance(event, BatchSettled)]
    units: dict[JobId, int] = {}
    for event in reversed(events):
        for line in event.lines:
            if line.paid_units and (line.job in units or len(units) < MOST_JOBS):
                units[line.job] = units.get(line.job, 0) + line.paid_units
    nodes = len(chain.active_nodes())
    if not units:
        return Lately((), 0.0, nodes)
    paid = [found for job, count in units.items() if (found := _paid(chain.job(job), count)) is not None]
    first = chain.block_time(events[0].position.block)
    return Lately(tuple(paid), max(1.0, float(chain.now() - first)), nodes)


def _paid(job: JobRecord, units: int) -> Paid | None:
    if not job.units or job.workload >= len(WORKLOADS):
        return None
    return Paid(job.id, WORKLOADS[job.workload], units, job.reward // job.units)
