"""Whether this verifier works for a job at all: its fee must pay for its gas, and it must not be too large.

Looked at once, when its manifest was read and before it is taken on chain. Every reason names the field that is in the
way, what it is and what it would have to be; amounts are those of the chain's present gas price.
"""

from collections.abc import Sequence

from proofyard.protocol.amounts import format_amount
from proofyard.protocol.fees import least_verifier_fee
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.opened import objection_to_job
from proofyard.protocol.types import ProofyardError, Wei
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Job, JobState
from proofyard.verifier.settings import VerifierSettings

LIVE = frozenset((JobState.TAKING, JobState.RUNNING, JobState.PACKING))


class TooMuchToDo(ProofyardError):
    """The jobs that run have so many tasks that another one waits for its turn."""

    def __init__(self, tasks: int, running: int, most: int) -> None:
        super().__init__(
            f"it waits for its turn: its {tasks} tasks and the {running} of running jobs are more than the {most} that "
            "this verifier has at a time (all_tasks)"
        )


async def refusal(context: Context, job: Job, manifest: Manifest, graph: Sequence[TaskSpec]) -> str:
    """Why nothing will ever be done for a job with this manifest, empty if something is. Raises as `objection`."""
    return objection_to_job(job.workload, job.units, manifest, graph) or await objection(context, job, len(graph))


async def objection(context: Context, job: Job, tasks: int) -> str:
    """Why this verifier never takes a job of so many tasks on these terms, empty if it does. Raises `TooMuchToDo` where
    it takes it later. What it has taken on chain it carries out; what was only opened for it it need not."""
    if job.taken_block and not job.is_asked:
        return ""
    settings = context.settings
    price = await context.on_chain(context.chain.gas_price) if settings.least_fee_bps else 0
    found = too_large(settings, tasks) or too_cheap(settings, Wei(int(job.verifier_fee)), tasks, price)
    if not found:
        running = sum(row.tasks for row in context.rows.jobs.values() if row.state in LIVE and row is not job)
        if running and running + tasks > settings.all_tasks:
            raise TooMuchToDo(tasks, running, settings.all_tasks)
    return found


def too_large(settings: VerifierSettings, tasks: int) -> str:
    if tasks <= settings.job_tasks:
        return ""
    return f"params: make {tasks} tasks; this verifier takes {settings.job_tasks} of a job at most (job_tasks)"


def too_cheap(settings: VerifierSettings, fee: Wei, tasks: int, gas_price: int) -> str:
    """`gas_price` in wei."""
    least = least_verifier_fee(tasks, gas_price, settings.token_per_ether, settings.least_fee_bps)
    if fee >= least:
        return ""
    return (
        f"verifier_fee: is {format_amount(fee)}; for the gas of {tasks} tasks at the present price this verifier takes "
        f"{format_amount(least)} at least (least_fee_bps)"
    )
