"""The audit dial: how likely a task is audited and on how many segments, from the worker's record and its stake.

`max(p_floor, p_trust)`. The floor is the condition of proof of sampling (arXiv 2405.00295) for everything that an
owner has in flight at once, and reckons with a cheat that needs only one faked segment of a task; the trust part is
BOINC's adaptive replication. Everything is integers in units of 1e-18, the same to the unit in `Dial.sol`;
docs/verification.md derives the formulas.
"""

import functools
from dataclasses import dataclass

from proofyard.protocol.types import Wei

WAD = 10**18
"""Probabilities are integers in units of 1e-18."""

TRUST_FROM = 10
"""A node with fewer consecutive valid audits is always audited."""

MAX_REWARD = Wei(2**96 - 1)
"""The largest supply of tokens that a Registry takes, hence the largest reward."""

_FINE = 10**36
"""Powers are taken in units of 1e-36, as `Dial.sol` can in 256 bits."""

_BPS = 10_000


@dataclass(frozen=True)
class AuditOdds:
    """What the audit plan needs to know of one task. `wad`: the probability that it is audited, in units of 1e-18;
    `segments`: how many of its segments are drawn then."""

    wad: int
    segments: int


def p_trust(consecutive_valid: int) -> int:
    """1 for a node with fewer than `TRUST_FROM` consecutive valid audits, then 1 / `consecutive_valid`; in 1e-18."""
    return WAD if consecutive_valid < TRUST_FROM else WAD // consecutive_valid


def stake_at_risk(stake: Wei, given_back_bps: int) -> Wei:
    """The part of a stake that a fault is sure to take: the rest, in 1/10,000, goes to the requester and the auditors
    of the batch, who may be friends. Wherever this module says stake, it means this part."""
    return Wei(stake * (_BPS - given_back_bps) // _BPS)


def affordable_reward(stake: Wei, collusion_bps: int) -> Wei:
    """The most unsettled reward that a stake can back: (1 - 2r) S / 2r, r being the share of auditors that may collude.

    From (1 - r) S / r on q is 1, and not even auditing every segment would make cheating lose. Already beyond what is
    returned -log(1 - q) is convex: what was drawn while little was in flight would then be seen too rarely for what is
    added later. Up to it, batches drawn one after the other are as safe as all of them drawn at once.
    """
    if stake <= 0:
        return Wei(0)
    if collusion_bps == 0:
        return MAX_REWARD
    return min(MAX_REWARD, Wei(max(0, (_BPS - 2 * collusion_bps) * stake // (2 * collusion_bps))))


def can_back(stake: Wei, reward_in_flight: Wei, collusion_bps: int) -> bool:
    """Whether an owner with `stake` may have so much unsettled reward, a task that it is to be offered included."""
    return reward_in_flight <= affordable_reward(stake, collusion_bps)


def tasks_alike(reward_in_flight: Wei, task_reward: Wei) -> int:
    """T for the odds of a task with `task_reward`: how many like it would be worth what its owner has in flight.

    Not the number of tasks in flight: many small ones would then make a large one next to safe to fake. With shares
    s_i of the reward and T_i <= 1 / s_i, faking tasks worth s of the reward is seen with probability 1 - (1 - q)^s at
    least, which is no less than s q.
    """
    return max(1, reward_in_flight // max(1, task_reward))


@functools.lru_cache(maxsize=1 << 12)
def per_task(stake: Wei, tasks: int, reward_in_flight: Wei, collusion_bps: int) -> int:
    """The probability, in 1e-18, with which a fake in a task must be seen, so that one in each of `tasks` loses.

    A hit costs the stake and all unsettled pay, so with r = `collusion_bps`, the share of auditors assumed to collude,
    at least one must hit with probability q = R / ((1 - r)(S + R)): x = 1 - (1 - q)^(1/T). Returned is the least x in
    whole units for which (1 - x)^T, rounded up at every multiplication, is below 1 - q. 1 where q reaches 1 (the
    stake cannot back the work), 0 where nothing is in flight.
    """
    if reward_in_flight <= 0:
        return 0
    q = _divide_up(reward_in_flight * _BPS * _FINE, (_BPS - collusion_bps) * (stake + reward_in_flight))
    if q >= _FINE:
        return WAD
    below, enough = 0, WAD
    while enough - below > 1:
        middle = (below + enough) // 2
        if _power((WAD - middle) * (_FINE // WAD), tasks) < _FINE - q:
            enough = middle
        else:
            below = middle
    return enough


def suffices(x: int, stake: Wei, tasks: int, reward_in_flight: Wei, collusion_bps: int) -> bool:
    """Whether `x`, in 1e-18, is at least what `per_task` gives: one power instead of the sixty of its search."""
    if x >= WAD or reward_in_flight <= 0:
        return x >= 0
    q = _divide_up(reward_in_flight * _BPS * _FINE, (_BPS - collusion_bps) * (stake + reward_in_flight))
    return x > 0 and _power((WAD - x) * (_FINE // WAD), tasks) < _FINE - q


def audit_odds(
    consecutive_valid: int,
    stake: Wei,
    tasks: int,
    reward_in_flight: Wei,
    collusion_bps: int,
    segments: int,
    segments_per_audit: int,
) -> AuditOdds:
    """The odds of a task of `segments` segments (N), at least one, whose job asks for `segments_per_audit` (m) of them.

    The floor is x N / m with x of `per_task`: an audited task shows a single faked segment with m/N. Where that exceeds
    1, every task is audited on ceil(x N) segments. `tasks` is that of `tasks_alike`.
    """
    if segments < 1 or segments_per_audit < 1:
        raise ValueError(f"{segments_per_audit} of {segments} segments cannot be drawn")
    needed = per_task(stake, tasks, reward_in_flight, collusion_bps) * segments
    drawn = min(segments_per_audit, segments)
    floor = min(WAD, _divide_up(needed, drawn))
    return AuditOdds(max(floor, p_trust(consecutive_valid)), max(drawn, _divide_up(needed, WAD)))


def _power(base: int, exponent: int) -> int:
    """base^exponent (for 0 as for 1) in units of 1e-36, rounded up at every multiplication; `base` is at most 1."""
    if exponent < 2:
        return base
    result = _FINE
    while exponent > 0:
        if exponent & 1:
            result = _divide_up(result * base, _FINE)
        base = _divide_up(base * base, _FINE)
        exponent >>= 1
    return result


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)
