"""What each owner has in flight with other verifiers.

One stake backs everything that an owner's nodes have unsettled, in all jobs and with all verifiers; it is lost once.
What is committed anywhere follows from public member lists; what this verifier has given out and nobody has committed
yet, only it knows. The plan of a batch rests on the former alone (`proofyard.protocol.plan`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from proofyard.protocol.members import Member
from proofyard.protocol.plan import task_reward
from proofyard.protocol.types import Address, JobId
from proofyard.protocol.view import JobFacts


def elsewhere(
    lists: Iterable[Sequence[Member]], jobs: Mapping[JobId, JobFacts], owners: Mapping[Address, Address]
) -> Counter[str]:
    """The reward of each owner's tasks in the open batches of other verifiers, by their member lists."""
    rewards: Counter[str] = Counter()
    for members in lists:
        for member in members:
            job, owner = jobs.get(member.commitment.job), owners.get(member.commitment.node)
            if job is not None and owner is not None:
                rewards[owner] += task_reward(job, min(member.commitment.work_units, job.units))
    return rewards
