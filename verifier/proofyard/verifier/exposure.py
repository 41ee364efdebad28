"""What each owner has in flight with this verifier, and whether its stake backs one task more.

One stake backs everything that an owner's nodes have unsettled, in all jobs; it is lost once.
"""

from collections import Counter

from sqlmodel import Session, and_, col, or_, select

from proofyard.chain import NodeRecord
from proofyard.protocol.dial import audit_odds, can_back, tasks_alike
from proofyard.protocol.types import Address, Wei
from proofyard.verifier.database import Batch, BatchState, Task, TaskState

COMMITTED = (TaskState.COMMITTED, TaskState.JUDGING)
BEGUN = (TaskState.ASSIGNED, *COMMITTED)


def rewards_in_flight(session: Session, states: tuple[TaskState, ...] = COMMITTED) -> Counter[str]:
    """The reward of each owner's tasks in `states` or found valid and not settled, in base units."""
    unsettled = select(Batch.id).where(Batch.state != BatchState.SETTLED)
    judged = and_(col(Task.state) == TaskState.VALID, col(Task.batch).in_(unsettled))
    rows = session.exec(
        select(Task.owner, Task.reward).where(or_(col(Task.state).in_(states), judged), col(Task.owner).is_not(None))
    )
    rewards: Counter[str] = Counter()
    for owner, reward in rows:
        rewards[owner or ""] += int(reward)
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
) -> str:
    """Why a node may not be offered a task of `segments` segments, empty if it may.

    Its owner's stake must back it beside the reward `in_flight`, and there must be owners enough to convict it, were it
    to cheat: k + 1 for each segment that is drawn, since nobody audits two. An audit that can decide nothing deters
    nobody.
    """
    reward = Wei(in_flight + task_reward)
    if not can_back(node.stake, reward, collusion_bps):
        return "no owner's stake backs it beside what it has in flight"
    alike = tasks_alike(reward, task_reward)
    odds = audit_odds(node.consecutive_valid, node.stake, alike, reward, collusion_bps, segments, segments_per_audit)
    needed, here = odds.segments * (auditors_per_segment + 1), len(auditing_owners - {node.owner})
    return "" if needed <= here else f"{here} other owners are here to audit it, {needed} are needed"
