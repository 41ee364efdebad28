"""What this verifier's stake allows it to have open.

The contract takes a batch only while the budgets of all batches that this owner leads, from their commit until they are
final, are within its stake. So no more work is given out than could be committed at once beside what is open already,
and batches are formed within what is left, in their order; everything else waits and says so. What is open on chain is
told every so often (`Backed`); what was formed, committed or given out since is counted here.
"""

from dataclasses import dataclass, field

from proofyard.protocol.amounts import format_amount
from proofyard.protocol.types import JobId, TaskIndex, Wei
from proofyard.verifier.engine.events import Backed, Now
from proofyard.verifier.engine.rows import Batch, Job, Work, WorkState
from proofyard.verifier.engine.world import World

BPS = 10_000

WorkKey = tuple[JobId, TaskIndex, int]


@dataclass
class Memory:
    """Begins anew with a restart. Exposures in 1/10,000 of the network's `verifier_stake`, as the contract counts."""

    limit: int | None = None
    """None as long as nobody has told it, or where there is no bound."""
    stake: Wei = field(default_factory=lambda: Wei(0))
    exposed: int = 0
    block: int = -1
    """`exposed` is what the chain said after this block."""
    formed: dict[int, int] = field(default_factory=dict)
    """Batches, by their rows, that are not on chain."""
    later: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Batches that came on chain after `block`: their block and exposure."""
    promised: int = 0
    """Base units that a batch with all that was given out, or committed and not formed, would reserve."""
    counted: dict[WorkKey, int] = field(default_factory=dict)
    refused: int | None = None
    """The least budget that was refused since there was room for it, in base units."""
    prices: dict[JobId, int] = field(default_factory=dict)


# What was told, and what came since


def backed(world: World, event: Backed, now: Now) -> None:
    memory = world.memory(Memory)
    bound = world.rules.exposure_bps and world.rules.verifier_stake
    memory.limit = event.stake * world.rules.exposure_bps // world.rules.verifier_stake if bound else None
    memory.stake, memory.exposed, memory.block = event.stake, event.exposed, event.block
    memory.later = {row: held for row, held in memory.later.items() if held[0] > event.block}


def count(world: World, job: Job, work: Work, units: int) -> None:
    """Count a work as what it is now: given out or committed, and in no batch."""
    memory, key = world.memory(Memory), (work.job, work.task, work.attempt)
    open_ = work.state in (WorkState.GIVEN, WorkState.COMMITTED)
    before = memory.counted.pop(key, 0)
    after = budget(world, job, units) if open_ else 0
    if after:
        memory.counted[key] = after
    memory.promised += after - before


def forget(world: World, work: Work) -> None:
    """Its row leaves the memory."""
    memory = world.memory(Memory)
    memory.promised -= memory.counted.pop((work.job, work.task, work.attempt), 0)


def forget_job(world: World, job: JobId) -> None:
    """The number may be another job's."""
    world.memory(Memory).prices.pop(job, None)


def formed(world: World, batch: Batch) -> None:
    world.memory(Memory).formed[batch.id] = exposure(world, budget_of(world, batch.lines))


def not_formed(world: World, batch: Batch) -> None:
    """It is on chain, or comes to nothing."""
    world.memory(Memory).formed.pop(batch.id, None)


def committed(world: World, batch: Batch) -> None:
    """It is on chain: counted here until what the chain says is of its block or a later one."""
    memory = world.memory(Memory)
    held = memory.formed.pop(batch.id, None)
    if held is not None and batch.commit_block > memory.block:
        memory.later[batch.id] = (batch.commit_block, held)


# What there is room for


def budget(world: World, job: Job, units: int) -> int:
    """What a batch reserves for so many units of a job at most, in base units."""
    prices = world.memory(Memory).prices
    price = prices.get(job.id)
    if price is None:
        price = prices[job.id] = int(job.reward) + int(job.audit_fee) + int(job.verifier_fee)
    return -(-price * units // job.units)


def budget_of(world: World, lines: tuple[tuple[JobId, int], ...]) -> int:
    jobs = world.rows.jobs
    return sum(budget(world, jobs[job], units) for job, units in lines if job in jobs)


def exposure(world: World, amount: int) -> int:
    """What a batch with this budget holds open, as `Params.exposure`."""
    stake = world.rules.verifier_stake
    return -(-amount * BPS // stake) if stake else 0


def used(world: World) -> int:
    """What is open now."""
    memory = world.memory(Memory)
    return memory.exposed + sum(memory.formed.values()) + sum(held for _, held in memory.later.values())


def too_large(world: World, amount: int) -> str:
    """Why this stake never backs a batch with this budget, empty if it may."""
    memory = world.memory(Memory)
    if memory.limit is None or exposure(world, amount) <= memory.limit:
        return ""
    return f"its batch reserves {_credits(amount)}, more than this verifier's stake of {_credits(memory.stake)} backs"


def for_batch(world: World, amount: int) -> str:
    """Why no batch with this budget can be formed now, empty if it can."""
    memory = world.memory(Memory)
    return _told(world, amount, used(world) + exposure(world, amount), memory.limit)


def for_task(world: World, amount: int) -> str:
    """Why no task with this budget is given out now: beside what is open and what was promised, empty if it is."""
    memory = world.memory(Memory)
    if memory.limit is None:
        return ""
    why = _told(world, amount, used(world) + exposure(world, memory.promised + amount), memory.limit)
    if why and (memory.refused is None or amount < memory.refused):
        memory.refused = amount
    return why


def eased(world: World) -> bool:
    """Whether there is room for what was refused; said once."""
    memory = world.memory(Memory)
    if memory.refused is None or memory.limit is None:
        return False
    if used(world) + exposure(world, memory.promised + memory.refused) > memory.limit:
        return False
    memory.refused = None
    return True


def _told(world: World, amount: int, wanted: int, limit: int | None) -> str:
    if limit is None or wanted <= limit:
        return ""
    memory = world.memory(Memory)
    return (
        f"this verifier's stake of {_credits(memory.stake)} backs no {_credits(amount)} more until batches are final or"
        " more is staked"
    )


def _credits(amount: int) -> str:
    return format_amount(Wei(amount))
