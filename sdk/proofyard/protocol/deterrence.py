"""Why one lie does not pay: what a cheat expects to gain that fakes one segment in each of its tasks.

A state from which nothing can be executed, an adapter that stays as it is, or moments so large that gradients do not
matter: one faked segment of N can save all the others. So a faked task saves as much as its whole reward here, an
audited one shows the fake with m/N, and one hit costs all unsettled pay and the stake, but for what of it may come back
through a requester, auditors or workers that are friends. docs/verification.md derives it.
"""

from dataclasses import dataclass
from decimal import Context, Decimal
from itertools import product

from proofyard.protocol.dial import WAD, AuditOdds, affordable_reward, audit_odds, can_back, stake_at_risk
from proofyard.protocol.types import Wei

_CONTEXT = Context(prec=80)
_TOKEN = 10**18

COLLUSION_BPS = 3000
GIVEN_BACK_BPS = 3000
"""Of a Registry with default parameters: auditors that collude, and what of a slashed stake the requester, the
batch's auditors and who did work for nothing get."""

SEGMENTS, SEGMENTS_PER_AUDIT = 64, 1
STAKES = tuple(Wei(tokens * _TOKEN) for tokens in (100, 1_000, 10_000))
REPUTATIONS = (0, 10, 100, 10_000)
WORK = tuple(
    (tasks, Wei(_TOKEN * cents // 100))
    for tasks, cents in ((1, 1), (1, 1_000), (1, 5_000), (8, 100), (8, 10_000), (100, 100), (100, 1_000), (10_000, 10))
)
"""Tasks an owner would have in flight, and the reward of each."""


@dataclass(frozen=True)
class Row:
    """What a stake and a reputation (consecutive valid audits) mean for work in flight. `tasks`: as many of those asked
    for as the stake backs, 0 where it backs none; `gain`: what a lie in each of them gains, of their reward."""

    stake: Wei
    consecutive_valid: int
    asked: int
    tasks: int
    task_reward: Wei
    odds: AuditOdds
    gain: Decimal


def expected_gain(
    *,
    stake: Wei,
    consecutive_valid: int,
    tasks: int,
    task_reward: Wei,
    segments: int,
    segments_per_audit: int,
    collusion_bps: int,
    given_back_bps: int = GIVEN_BACK_BPS,
    faked: int | None = None,
) -> Decimal:
    """What an owner gains on average, in wei, that fakes one segment in each of `faked` of its `tasks` equal tasks (in
    all, if not given) instead of doing the work: what it saves, less (1 - r) P (S + R), where P is the probability that
    an audit hits, r that the auditors collude, and S the stake at risk. Negative for every `faked` above 0 where that
    backs the work (`can_back`)."""
    reward, at_risk = Wei(tasks * task_reward), stake_at_risk(stake, given_back_bps)
    odds = audit_odds(consecutive_valid, at_risk, tasks, reward, collusion_bps, segments, segments_per_audit)
    fakes = tasks if faked is None else faked
    seen = _CONTEXT.divide(Decimal(odds.wad * odds.segments), Decimal(WAD * segments))
    hit = _CONTEXT.subtract(Decimal(1), _CONTEXT.power(_CONTEXT.subtract(Decimal(1), seen), fakes))
    honest = Decimal(10_000 - collusion_bps).scaleb(-4)
    lost = _CONTEXT.multiply(_CONTEXT.multiply(honest, hit), Decimal(at_risk + reward))
    return _CONTEXT.subtract(Decimal(fakes * task_reward), lost)


def table(
    segments: int = SEGMENTS,
    segments_per_audit: int = SEGMENTS_PER_AUDIT,
    collusion_bps: int = COLLUSION_BPS,
    given_back_bps: int = GIVEN_BACK_BPS,
) -> list[Row]:
    """Every stake, reputation and work of this module that a stake backs at least a task of."""
    rows = []
    for stake, valid, (asked, task_reward) in product(STAKES, REPUTATIONS, WORK):
        at_risk = stake_at_risk(stake, given_back_bps)
        tasks = min(asked, affordable_reward(at_risk, collusion_bps) // task_reward)
        if tasks == 0:
            continue
        reward = Wei(tasks * task_reward)
        assert can_back(at_risk, reward, collusion_bps)
        odds = audit_odds(valid, at_risk, tasks, reward, collusion_bps, segments, segments_per_audit)
        gain = expected_gain(
            stake=stake,
            consecutive_valid=valid,
            tasks=tasks,
            task_reward=task_reward,
            segments=segments,
            segments_per_audit=segments_per_audit,
            collusion_bps=collusion_bps,
            given_back_bps=given_back_bps,
        )
        rows.append(Row(stake, valid, asked, tasks, task_reward, odds, _CONTEXT.divide(gain, Decimal(reward))))
    return rows
