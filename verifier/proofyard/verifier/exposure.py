"""What each owner has in flight, and whether its stake backs one task more.

One stake backs everything that an owner's nodes have unsettled, in all jobs and with all verifiers; it is lost once.
What is committed anywhere follows from public member lists; what this verifier has given out and nobody has committed
yet, only it knows. The plan of a batch rests on the former alone (`proofyard.protocol.plan`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from proofyard.chain import NodeRecord
from proofyard.protocol.dial import audit_odds, can_back, stake_at_risk, tasks_alike
from proofyard.protocol.members import Member
from proofyard.protocol.plan import task_reward
from proofyard.protocol.types import Address, JobId, Wei
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


def objection(
    node: NodeRecord,
    task_reward: Wei,
    in_flight: Wei,
    *,
    segments: int,
    segments_per_audit: int,
    auditors_per_segment: int,
    auditing_owners: set[Address],
    collusion_bps: int,
    given_back_bps: int,
) -> str:
    """Why a node may not be offered a task of `segments` segments, empty if it may.

    What its owner would lose of its stake must back it beside the reward `in_flight`. And there must be owners enough
    to convict it, were it to cheat: k + 1 for each segment that is drawn, since nobody audits two. Where so much is in
    flight that more segments are drawn than the job asks for, twice k + 1 less one: colluders on the list must not be
    able to leave a faked segment undecided. An audit that can decide nothing deters nobody.
    """
    reward, stake = Wei(in_flight + task_reward), stake_at_risk(node.stake, given_back_bps)
    if not can_back(stake, reward, collusion_bps):
        return "no owner's stake backs it beside what it has in flight"
    alike = tasks_alike(reward, task_reward)
    odds = audit_odds(node.consecutive_valid, stake, alike, reward, collusion_bps, segments, segments_per_audit)
    each = auditors_per_segment + 1 if odds.segments <= segments_per_audit else 2 * auditors_per_segment + 1
    needed, here = odds.segments * each, len(auditing_owners - {node.owner})
    return "" if needed <= here else f"{here} other owners are here to audit it, {needed} are needed"
