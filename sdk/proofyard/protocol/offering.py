"""Whether a task may be offered to a node: verifiers ask it before they offer, requesters before they pay."""

from proofyard.protocol.dial import WAD, audit_odds, can_back, stake_at_risk, suffices, tasks_alike
from proofyard.protocol.types import Wei


def objection(
    stake: Wei,
    task_reward: Wei,
    in_flight: Wei,
    *,
    segments: int,
    segments_per_audit: int,
    auditors_per_segment: int,
    others: int,
    collusion_bps: int,
    given_back_bps: int,
) -> str:
    """Why a node whose owner has this stake may not be offered a task, empty if it may; `others`: owners here that
    could audit it.

    What its owner would lose of its stake must back it beside the reward `in_flight`. And there must be owners enough
    to convict it, were it to cheat: k + 1 for each segment that is drawn, since nobody audits two. Where so much is in
    flight that more segments are drawn than the job asks for, twice k + 1 less one: colluders on the list must not be
    able to leave a faked segment undecided. An audit that can decide nothing deters nobody.
    """
    reward, risked = Wei(in_flight + task_reward), stake_at_risk(stake, given_back_bps)
    if not can_back(risked, reward, collusion_bps):
        return "no owner's stake backs it beside what it has in flight"
    k = auditors_per_segment
    fewest = min(segments_per_audit, segments)
    most = max(min(segments_per_audit, others // (k + 1)), others // (2 * k + 1))
    if fewest <= most and (
        segments <= most
        or suffices(most * WAD // segments, risked, tasks_alike(reward, task_reward), reward, collusion_bps)
    ):
        return ""
    if fewest > most:
        return f"{others} other owners are here to audit it, at least {fewest * (k + 1)} are needed"
    odds = audit_odds(
        *(0, risked, tasks_alike(reward, task_reward), reward, collusion_bps, segments, segments_per_audit)
    )
    needed = odds.segments * (2 * k + 1 if odds.segments > segments_per_audit else k + 1)
    return f"{others} other owners are here to audit it, {needed} are needed"
