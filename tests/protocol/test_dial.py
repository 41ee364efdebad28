from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.dial import (
    MAX_REWARD,
    WAD,
    AuditOdds,
    affordable_reward,
    audit_odds,
    can_back,
    p_trust,
    per_task,
    stake_at_risk,
    tasks_alike,
)
from proofyard.protocol.types import Wei

TOKEN = 10**18
EXACT = Context(prec=80)

stakes = st.one_of(st.just(0), st.integers(1, 10**28)).map(Wei)
rewards = st.integers(1, 10**28).map(Wei)
collusion = st.integers(0, 5000)
counts = st.one_of(st.integers(1, 10), st.integers(1, 10**6))


def reference(stake: int, tasks: int, reward: int, bps: int) -> Decimal:
    """1 - (1 - q)^(1/T), in 80 decimal digits."""
    q = EXACT.divide(Decimal(reward * 10_000), Decimal((10_000 - bps) * (stake + reward)))
    if q >= 1:
        return Decimal(1)
    return 1 - EXACT.exp(EXACT.divide(EXACT.ln(EXACT.subtract(Decimal(1), q)), Decimal(tasks)))


def test_a_new_node_is_always_audited_and_a_proven_one_rarely() -> None:
    assert [p_trust(n) for n in (0, 9, 10, 50)] == [WAD, WAD, WAD // 10, WAD // 50]


def test_one_task_gives_the_condition_of_proof_of_sampling() -> None:
    assert per_task(Wei(99), 1, Wei(1), 0) == WAD // 100 + 1
    assert per_task(Wei(100), 1, Wei(1), 1000) == WAD * 10 // (9 * 101) + 1


def test_work_in_flight_is_collateral() -> None:
    needed = [per_task(Wei(10**20), tasks, Wei(tasks * TOKEN), 0) for tasks in (1, 100, 1000)]
    assert [round(100 * x / WAD, 1) for x in needed] == [1.0, 0.7, 0.2]


def test_nothing_in_flight_needs_no_audit_and_too_much_needs_every_segment() -> None:
    assert per_task(Wei(1), 0, Wei(0), 0) == 0
    assert audit_odds(1000, Wei(0), 0, Wei(0), 1000, 64, 2) == AuditOdds(WAD // 1000, 2)
    assert audit_odds(1000, Wei(0), 5, Wei(10), 1000, 64, 2) == AuditOdds(WAD, 64)


def test_the_floor_counts_the_chance_of_seeing_one_segment() -> None:
    """100 staked, one task of 1 in flight: x is 1/101, times 64/2 segments."""
    odds = audit_odds(10**6, Wei(100 * TOKEN), 1, Wei(TOKEN), 0, 64, 2)
    assert odds.segments == 2
    assert odds.wad / WAD == pytest.approx(32 / 101)
    assert audit_odds(10**6, Wei(100 * TOKEN), 1, Wei(4 * TOKEN), 0, 64, 2) == AuditOdds(WAD, 3)


def test_a_task_of_fewer_segments_than_are_asked_for_is_audited_whole() -> None:
    assert audit_odds(0, Wei(100), 1, Wei(1), 0, 3, 8).segments == 3
    one = audit_odds(10**6, Wei(99), 1, Wei(1), 0, 1, 8)
    assert one == AuditOdds(WAD // 100 + 1, 1)


@pytest.mark.parametrize(("segments", "asked"), [(0, 1), (1, 0)])
def test_no_segments_are_refused(segments: int, asked: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        audit_odds(0, Wei(1), 1, Wei(1), 0, segments, asked)


@given(stakes, counts, rewards, collusion)
def test_what_is_needed_is_within_a_billionth_of_the_reference_and_never_too_little(
    stake: Wei, tasks: int, reward: Wei, bps: int
) -> None:
    needed, exact = per_task(stake, tasks, reward, bps), reference(stake, tasks, reward, bps)
    assert 0 < needed <= WAD
    assert exact <= Decimal(needed) / WAD <= exact + Decimal("1e-9")


@given(st.integers(0, 60), counts, rewards)
def test_what_is_needed_is_right_next_to_what_cannot_be_backed(step: int, tasks: int, reward: Wei) -> None:
    """A stake just above r R / (1 - r): 1 - q goes down to 1e-28."""
    stake = Wei(reward // 9 + 1 + 2**step)
    needed, exact = per_task(stake, tasks, reward, 1000), reference(stake, tasks, reward, 1000)
    assert exact <= Decimal(needed) / WAD <= exact + Decimal("1e-9")


@given(stakes, st.integers(0, 10**30), rewards, collusion)
def test_more_tasks_in_flight_never_need_more_of_each(stake: Wei, tasks: int, reward: Wei, bps: int) -> None:
    assert per_task(stake, tasks + 1, reward, bps) <= per_task(stake, tasks, reward, bps)


@given(st.integers(0, 10**6), stakes, counts, rewards, collusion, st.integers(1, 512), st.integers(1, 255))
def test_one_faked_segment_is_seen_as_often_as_needed(
    valid: int, stake: Wei, tasks: int, reward: Wei, bps: int, segments: int, asked: int
) -> None:
    odds = audit_odds(valid, stake, tasks, reward, bps, segments, asked)
    assert min(asked, segments) <= odds.segments <= segments
    assert p_trust(valid) <= odds.wad <= WAD
    assert odds.wad * odds.segments >= per_task(stake, tasks, reward, bps) * segments
    if odds.segments > min(asked, segments):
        assert odds.wad == WAD
        assert WAD * (odds.segments - 1) < per_task(stake, tasks, reward, bps) * segments


@given(st.integers(0, 10**6), stakes, counts, rewards, collusion, st.integers(1, 512), st.integers(1, 255))
def test_audits_cost_the_same_share_of_the_work_however_many_segments_a_task_has(
    valid: int, stake: Wei, tasks: int, reward: Wei, bps: int, segments: int, asked: int
) -> None:
    """The share that each of k auditors executes: x, or what the job and the reputation ask for, up to one segment."""
    odds = audit_odds(valid, stake, tasks, reward, bps, segments, asked)
    needed = per_task(stake, tasks, reward, bps)
    expected = odds.wad * odds.segments / segments
    least = p_trust(valid) * min(asked, segments) / segments
    assert max(needed, least) * (1 - 1e-12) <= expected <= max(needed + WAD / segments, least) * (1 + 1e-12)
    if odds.segments == min(asked, segments):
        assert expected <= (max(needed, least) + 1) * (1 + 1e-12)


@given(stakes, rewards, collusion)
def test_what_a_stake_backs_is_far_from_certainty(stake: Wei, reward: Wei, bps: int) -> None:
    most = affordable_reward(stake, bps)
    assert can_back(stake, most, bps)
    assert most == MAX_REWARD or not can_back(stake, Wei(most + 1), bps)
    if can_back(stake, reward, bps):
        # Where nobody colludes a stake of next to nothing backs any reward: its audits are certain, once rounded up.
        assert per_task(stake, 1, reward, bps) <= WAD - min(bps, 1)


def test_without_collusion_any_stake_backs_any_work_and_none_backs_nothing() -> None:
    assert affordable_reward(Wei(1), 0) == MAX_REWARD
    assert affordable_reward(Wei(0), 0) == affordable_reward(Wei(0), 1000) == 0
    assert affordable_reward(Wei(100 * TOKEN), 1000) == 400 * TOKEN
    assert affordable_reward(Wei(100 * TOKEN), 5000) == affordable_reward(Wei(100 * TOKEN), 9999) == 0


@given(
    st.lists(st.integers(1, 10**24), min_size=1, max_size=6), st.integers(1, 10**24), st.integers(1, 4999), st.data()
)
def test_batches_drawn_one_after_the_other_are_as_safe_as_one(
    batches: list[int], more: int, bps: int, data: st.DataObject
) -> None:
    """Each task is drawn by what is in flight then; what comes later makes neither it nor itself worth faking."""
    stake = Wei(more + 1 + sum(batches) * 2 * bps // (10_000 - 2 * bps))
    in_flight, gained, escape = 0, 0, Decimal(1)
    for reward in batches:
        in_flight += reward
        if data.draw(st.booleans()):
            needed = per_task(stake, tasks_alike(Wei(in_flight), Wei(reward)), Wei(in_flight), bps)
            escape = EXACT.multiply(escape, Decimal(WAD - needed) / WAD)
            gained += reward
    assert can_back(stake, Wei(in_flight), bps)
    lost = EXACT.multiply(Decimal(10_000 - bps) / 10_000 * (1 - escape), Decimal(stake + in_flight))
    assert gained < lost or gained == 0


def test_work_beyond_what_is_backed_could_be_faked_in_two_batches() -> None:
    """Why a stake backs less than what makes q 1: 6.25 S drawn first, then 1.75 S, and a lie in both would pay."""
    stake, first, second = (Wei(int(x * TOKEN)) for x in (100, 625, 175))
    both = Wei(first + second)
    assert not can_back(stake, both, 1000)
    escape = (1 - Decimal(per_task(stake, 1, first, 1000)) / WAD) * (1 - reference(stake, 1, both, 1000)) ** (
        Decimal(175) / 800
    )
    assert both > Decimal("0.9") * (1 - Decimal(escape)) * (stake + both)


@given(st.lists(st.integers(1, 10**24), min_size=1, max_size=12), st.data(), st.integers(1, 10**24).map(Wei))
def test_no_choice_of_tasks_of_any_sizes_pays(sizes: list[int], data: st.DataObject, stake: Wei) -> None:
    """One large task among many small ones is what a plain count of tasks would let through."""
    reward = Wei(sum(sizes))
    if not can_back(stake, reward, 1000):
        return
    faked = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, unique=True))
    escape = Decimal(1)
    for i in faked:
        needed = per_task(stake, tasks_alike(reward, Wei(sizes[i])), reward, 1000)
        escape = EXACT.multiply(escape, EXACT.divide(Decimal(WAD - needed), Decimal(WAD)))
    gained = Decimal(sum(sizes[i] for i in faked))
    lost = EXACT.multiply(Decimal("0.9") * (1 - escape), Decimal(stake + reward))
    assert gained < lost


def test_tasks_alike_of_equal_tasks_is_their_number() -> None:
    assert tasks_alike(Wei(12), Wei(4)) == 3
    assert tasks_alike(Wei(13), Wei(4)) == 3
    assert tasks_alike(Wei(0), Wei(0)) == tasks_alike(Wei(3), Wei(4)) == 1


def test_what_comes_back_to_friends_is_not_at_risk() -> None:
    assert stake_at_risk(Wei(100 * TOKEN), 1500) == 85 * TOKEN
    assert stake_at_risk(Wei(3), 1500) == 2
    assert stake_at_risk(Wei(3), 0) == 3
    assert stake_at_risk(Wei(3), 10_000) == 0
