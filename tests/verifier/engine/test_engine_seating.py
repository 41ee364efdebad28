"""Who is asked next at a segment, and when nothing further is waited for."""

from collections.abc import Collection

import pytest

from proofyard.protocol.audit import Verdict
from proofyard.protocol.types import Address, Digest
from proofyard.verifier.engine.rows import SeatState
from proofyard.verifier.engine.seating import (
    AWAY_AFTER,
    HOPELESS,
    MAX_BACKOFF_S,
    Chair,
    Patience,
    Step,
    backoff,
    next_step,
)

LIST = tuple(Address(name) for name in "ABCDEF")
CLAIMED, OTHER = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
K = 2


def look(
    chairs: dict[str, Chair] | None = None,
    *,
    there: Collection[str] = LIST,
    full: Collection[str] = (),
    patience: Patience = Patience.EARLY,
    listed: tuple[Address, ...] = LIST,
    at: float = 100.0,
) -> Step:
    return next_step(
        *(listed, {Address(name): chair for name, chair in (chairs or {}).items()}, CLAIMED, K),
        there=lambda auditor: auditor in there,
        has_room=lambda auditor: auditor not in full,
        at=at,
        patience=patience,
    )


def voted(answer: Digest = CLAIMED) -> Chair:
    return Chair(SeatState.OPENED, answer=answer)


WORKING = Chair(SeatState.WORKING)
SEALED = Chair(SeatState.SEALED)


def away(tries: int = 1, not_before: float = 0.0) -> Chair:
    return Chair(SeatState.AWAY, tries=tries, not_before=not_before)


def test_the_first_ones_of_the_plan_are_asked() -> None:
    assert look().seat == ("A", "B")
    assert look({"A": WORKING}).seat == ("B",)
    assert look({"A": WORKING, "B": WORKING}).seat == ()


def test_a_stand_in_takes_the_place_of_whoever_is_not_there() -> None:
    assert look(there="BCDEF").seat == ("B", "C")
    assert look(there="DEF").seat == (), "more would be passed over than votes can be had"
    assert look(there="CDEF").seat == ("C", "D")


def test_whoever_is_busy_is_waited_for_and_nobody_else_is_asked() -> None:
    assert look(full="A").seat == ("B",)
    assert look(full="AB").seat == ()
    assert look({"A": away(0, not_before=150.0)}).seat == ("B",)


def test_whoever_gave_no_answer_is_asked_again_and_passed_over_only_after_that() -> None:
    assert look({"A": away(1, not_before=150.0)}).seat == ("B",)
    assert look({"A": away(1, not_before=50.0)}).seat == ("A", "B")
    assert look({"A": away(AWAY_AFTER, not_before=150.0)}).seat == ("B", "C")
    assert look({"A": away(AWAY_AFTER), "B": SEALED, "C": voted()}).seat == ()


def test_seals_are_opened_together_and_not_before_there_are_enough() -> None:
    assert look({"A": SEALED, "B": WORKING}).open == ()
    assert look({"A": SEALED}, there="A").open == ()
    assert look({"A": SEALED, "B": SEALED}).open == ("A", "B")
    assert look({"A": SEALED}, there="A", patience=Patience.OVERDUE).open == ("A",)


def test_a_split_brings_in_more_one_after_the_other() -> None:
    chairs = {"A": voted(), "B": voted(OTHER)}
    assert look(chairs).seat == ("C",)
    assert look({**chairs, "C": voted()}).seat == ("D",)
    assert look({**chairs, "C": voted(), "D": voted()}).verdict == Verdict.VALID
    assert look({**chairs, "C": voted(OTHER), "D": voted(OTHER)}).verdict == Verdict.FAULT


def test_a_vote_that_was_copied_has_no_say_and_counts_as_given() -> None:
    assert look({"A": Chair(SeatState.OPENED), "B": voted()}).seat == ("C",)
    everybody = {name: Chair(SeatState.OPENED) for name in LIST}
    assert look(everybody).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("patience", list(Patience))
def test_undecided_is_only_what_everybody_has_voted_on_or_nobody_is_left_to_ask(patience: Patience) -> None:
    pair = LIST[:2]
    assert look({"A": voted(), "B": voted(OTHER)}, listed=pair, patience=patience).verdict == Verdict.UNDECIDED
    last = Verdict.UNDECIDED if patience == Patience.LAST else Verdict.PENDING
    for chairs in ({}, {"A": WORKING}, {"A": away(3)}, {"A": voted()}):
        assert look(chairs, patience=patience).verdict == last, "auditors are there"
    gone = Verdict.PENDING if patience == Patience.EARLY else Verdict.UNDECIDED
    assert look({"A": voted()}, there="", patience=patience).verdict == gone
    hopeless = {name: away(HOPELESS) for name in LIST}
    assert look(hopeless, patience=patience).verdict == gone


def test_no_verdict_is_given_that_a_record_may_not_say() -> None:
    """Answers of the last ones on the list may come through others; most of the first ones were not heard."""
    far = {"D": voted(), "E": voted()}
    assert look(far) == Step(seat=("A",))
    assert look({**far, "A": voted()}).verdict == Verdict.VALID, "two of five are absent"
    wrong = {"D": voted(OTHER), "E": voted(OTHER), "F": voted(OTHER)}
    assert look(wrong).verdict == Verdict.FAULT, "three of six"
    assert look({"C": voted(), "D": voted()}).verdict == Verdict.VALID, "two of four"
    assert look(far, there="").verdict == Verdict.PENDING
    assert look(far, there="", patience=Patience.OVERDUE).verdict == Verdict.UNDECIDED
    assert look(far, patience=Patience.OVERDUE).verdict == Verdict.PENDING, "somebody is there to be asked"
    assert look(far, patience=Patience.LAST).verdict == Verdict.UNDECIDED
    copied = {"A": Chair(SeatState.OPENED), "D": voted(), "E": voted()}
    assert look(copied).verdict == Verdict.VALID, "who copied was heard, and has no say"


def test_waiting_grows_to_a_limit() -> None:
    assert backoff(0) == backoff(1) < backoff(2) < backoff(3)
    assert backoff(10**6) == MAX_BACKOFF_S
