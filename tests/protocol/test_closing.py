"""Which deltas a round takes that does not wait for everybody."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.certificate import Delta
from proofyard.protocol.closing import (
    ClosedRound,
    Closing,
    ClosingRefused,
    Commit,
    Rounds,
    Taken,
    check_closing,
    close_rounds,
    taken_rounds,
    terms_of,
)
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.types import Cid, TaskIndex

WORKERS, ROUNDS, OPENED, EVER = 4, 4, 1000, 1 << 40
RULES = Closing(quorum=3, timeout_s=100)


def commits(*pairs: tuple[int, int]) -> list[Commit]:
    return [(at, TaskIndex(task)) for at, task in pairs]


def taken(closed: ClosedRound) -> list[tuple[int, int]]:
    return [(each.task, each.late) for each in closed.taken]


def test_a_round_that_is_whole_closes_with_its_last_delta() -> None:
    (first,) = close_rounds(RULES, WORKERS, ROUNDS, OPENED, commits((1010, 0), (1020, 1), (1020, 3), (1030, 2)), EVER)
    assert first == ClosedRound(0, 1030, tuple(Taken(TaskIndex(task), 0) for task in range(4)), ())


def test_after_its_time_a_quorum_is_enough_and_what_comes_later_is_late_for_the_next_one() -> None:
    said = commits((1010, 0), (1020, 1), (1090, 3), (1101, 2), (1150, 4), (1160, 5), (1170, 6), (1180, 7))
    first, second = close_rounds(RULES, WORKERS, ROUNDS, OPENED, said, EVER)
    assert (first.closed_at, taken(first)) == (1100, [(0, 0), (1, 0), (3, 0)])
    assert (second.closed_at, taken(second)) == (1180, [(2, 1), (4, 0), (5, 0), (6, 0), (7, 0)])


def test_without_a_quorum_a_round_waits_whatever_its_time() -> None:
    said = commits((1010, 0), (1020, 1))
    assert close_rounds(RULES, WORKERS, ROUNDS, OPENED, said, EVER) == ()
    (first,) = close_rounds(RULES, WORKERS, ROUNDS, OPENED, [*said, *commits((5000, 2))], EVER)
    assert (first.closed_at, taken(first)) == (5000, [(0, 0), (1, 0), (2, 0)])


def test_what_is_too_late_for_every_round_is_dropped() -> None:
    said = commits(*((1000 + 10 * task, task) for task in range(1, 12)))
    rounds = close_rounds(Closing(quorum=3, timeout_s=30), WORKERS, ROUNDS, OPENED, said, EVER)
    assert [each.number for each in rounds] == [0, 1, 2]
    assert [each.dropped for each in rounds] == [(), (0,), ()]
    last = close_rounds(Closing(quorum=3, timeout_s=30), WORKERS, 1, OPENED, said, EVER)
    assert last[0].dropped == (0,), "after the last round nothing is late for another one"


def test_a_commitment_before_its_round_opened_is_none() -> None:
    said = commits((1005, 4), (1010, 0), (1020, 1), (1030, 2), (1040, 3))
    more = commits((1050, 5), (1060, 6), (1070, 7), (1200, 4))
    rounds = close_rounds(RULES, WORKERS, ROUNDS, OPENED, [*said, *more], EVER)
    assert rounds[1].closed_at == 1140 and taken(rounds[1]) == [(5, 0), (6, 0), (7, 0)]


def test_a_round_is_not_closed_for_good_in_the_second_in_which_it_closes() -> None:
    """Another block may still come with the same time."""
    said = commits((1010, 0), (1020, 1), (1030, 2))
    assert not close_rounds(RULES, WORKERS, ROUNDS, OPENED, said, 1100)
    assert close_rounds(RULES, WORKERS, ROUNDS, OPENED, said, 1101)
    assert taken(close_rounds(RULES, WORKERS, ROUNDS, OPENED, [*said, *commits((1100, 3))], 1101)[0])[-1] == (3, 0)


rules = st.builds(
    Closing,
    quorum=st.integers(1, WORKERS),
    timeout_s=st.integers(1, 60),
    late_rounds=st.integers(0, 3),
    discount_bps=st.integers(0, 10_000),
)
drawn = st.lists(
    st.tuples(st.integers(OPENED - 5, OPENED + 300), st.integers(0, WORKERS * ROUNDS - 1).map(TaskIndex)), max_size=60
)


@settings(deadline=None)
@given(rules, drawn, drawn, st.integers(OPENED, OPENED + 300), st.randoms(use_true_random=False))
def test_what_is_closed_stays_as_it_is(
    closing: Closing, said: list[Commit], later: list[Commit], now: int, rng: object
) -> None:
    before = close_rounds(closing, WORKERS, ROUNDS, OPENED, [each for each in said if each[0] < now], now)
    known = [*(each for each in said if each[0] < now), *((at + 305, task) for at, task in later)]
    rng.shuffle(known)  # type: ignore[attr-defined]
    assert close_rounds(closing, WORKERS, ROUNDS, OPENED, known, now) == before
    assert close_rounds(closing, WORKERS, ROUNDS, OPENED, known, EVER)[: len(before)] == before


@settings(deadline=None)
@given(rules, drawn)
def test_every_set_keeps_the_rules(closing: Closing, said: list[Commit]) -> None:
    closed = close_rounds(closing, WORKERS, ROUNDS, OPENED, said, EVER)
    gone: list[int] = []
    opened_at = OPENED
    for number, each in enumerate(closed):
        own = [entry for entry in each.taken if entry.late == 0]
        assert each.number == number and each.closed_at > opened_at
        assert all(
            entry.task // WORKERS == number - entry.late and entry.late <= closing.late_rounds for entry in each.taken
        )
        assert len(own) == WORKERS or (len(own) >= closing.quorum and each.closed_at >= opened_at + closing.timeout_s)
        gone += [*(entry.task for entry in each.taken), *each.dropped]
        opened_at = each.closed_at
    assert len(set(gone)) == len(gone), "a task is taken once, or dropped"
    if len(closed) == ROUNDS:
        assert sorted(gone) == list(range(WORKERS * ROUNDS))


@settings(deadline=None)
@given(rules, drawn)
def test_terms_among_nodes_allow_what_the_chain_would_take(closing: Closing, said: list[Commit]) -> None:
    sets: list[tuple[Delta, ...]] = []
    closed = close_rounds(closing, WORKERS, ROUNDS, OPENED, said, EVER)
    for each in closed:
        deltas = tuple(
            Delta(entry.task, Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"))
            for entry in each.taken
        )
        assert not terms_of(closing, WORKERS, sets).objection(deltas)
        if sets and sets[-1]:
            assert terms_of(closing, WORKERS, sets).objection((sets[-1][0], *deltas)), (
                "what was taken is not taken again"
            )
        sets.append(deltas)
    same = tuple(dataclasses.replace(each, closed_at=0) for each in closed)
    assert taken_rounds(Rounds(closing, WORKERS, ROUNDS), sets) == same, "a set is one however it was agreed on"


def test_a_discount_is_correctly_rounded() -> None:
    assert [RULES.scale(late) for late in range(3)] == [1.0, 0.5, 0.25]
    assert Closing(quorum=1, timeout_s=1, discount_bps=3333).scale(2) == 0.11108889
    assert Closing(quorum=1, timeout_s=1, discount_bps=0).scale(0) == 1.0


@pytest.mark.parametrize(
    ("closing", "workers", "match"),
    [(Closing(quorum=5, timeout_s=1), 4, "quorum"), (Closing(quorum=5, timeout_s=1, late_rounds=3), 65, "260 deltas")],
)
def test_rules_by_which_no_round_could_close_are_refused(closing: Closing, workers: int, match: str) -> None:
    with pytest.raises(ClosingRefused, match=match):
        check_closing(closing, workers)


@pytest.mark.parametrize("field", ["quorum", "timeout_s", "late_rounds", "discount_bps"])
def test_rules_out_of_bounds_are_refused(field: str) -> None:
    check_closing(RULES, WORKERS)
    said = {"quorum": 3, "timeout_s": 100, "late_rounds": 1, "discount_bps": 5000} | {field: -1}
    with pytest.raises(CodecError, match=field):
        decode(encode(said), Closing)
