"""How answers become a verdict."""

import hashlib

from proofyard.protocol.audit import Verdict, carried, tally
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Digest

CLAIMED = Digest(hashlib.sha256(b"the worker's state").digest())


def other(number: int) -> Digest:
    """An answer that differs from the worker's in one bit."""
    return Digest((int.from_bytes(CLAIMED) ^ 1 << number).to_bytes(32))


def votes(match: int, *others: int) -> list[Digest]:
    """`match` auditors with the worker's answer, and so many with each other answer."""
    return [CLAIMED] * match + [other(number) for number, count in enumerate(others) for _ in range(count)]


def judged(answers: list[Digest], k: int = 2, *, exhausted: bool = False) -> Verdict:
    return tally(answers, CLAIMED, k, exhausted=exhausted)


def test_k_answers_that_are_the_workers_find_it_right() -> None:
    assert judged(votes(2)) is Verdict.VALID
    assert judged(votes(1)) is Verdict.PENDING


def test_an_accusation_needs_one_owner_more() -> None:
    assert judged(votes(0, 2)) is Verdict.PENDING
    assert judged(votes(0, 3)) is Verdict.FAULT
    assert judged(votes(0, 3), 3) is Verdict.PENDING
    assert judged(votes(0, 4), 3) is Verdict.FAULT


def test_two_auditors_decide_where_a_job_asks_for_one() -> None:
    assert judged(votes(1), 1) is Verdict.PENDING
    assert judged(votes(2), 1) is Verdict.VALID
    assert judged(votes(0, 2), 1) is Verdict.PENDING
    assert judged(votes(0, 3), 1) is Verdict.FAULT


def test_two_answers_with_as_many_owners_decide_nothing() -> None:
    assert judged(votes(3, 3), exhausted=True) is Verdict.UNDECIDED
    assert judged(votes(4, 3)) is Verdict.VALID
    assert judged(votes(3, 4)) is Verdict.FAULT
    assert judged(votes(0, 3, 3)) is Verdict.FAULT


def test_one_bit_makes_another_answer_and_a_split_accuses_nobody_until_one_side_has_k_and_one_more() -> None:
    assert judged(votes(0, 1, 1)) is Verdict.PENDING
    assert judged(votes(1, 1)) is Verdict.PENDING
    assert judged(votes(2, 1)) is Verdict.PENDING
    assert judged(votes(1, 2)) is Verdict.PENDING
    assert judged(votes(1, 3)) is Verdict.FAULT
    assert judged(votes(3, 1)) is Verdict.VALID


def test_accusers_who_contradict_each_other_convict_nobody() -> None:
    assert judged(votes(2, 1, 1)) is Verdict.PENDING
    assert judged(votes(3, 1, 1)) is Verdict.VALID
    assert judged(votes(0, 1, 2)) is Verdict.PENDING
    assert judged(votes(0, 1, 3)) is Verdict.FAULT
    assert judged(votes(0, 1, 1, 1), exhausted=True) is Verdict.UNDECIDED


def test_too_few_auditors_never_decide() -> None:
    for few in (votes(0), votes(1), votes(0, 1), votes(0, 2), votes(1, 1), votes(2, 1), votes(1, 2)):
        assert judged(few, exhausted=True) is Verdict.UNDECIDED


def test_that_it_cannot_be_executed_is_an_answer_and_convicts() -> None:
    failed = [CANNOT_EXECUTE] * 3
    assert judged(failed) is Verdict.FAULT
    assert carried(failed, CLAIMED, Verdict.FAULT) == CANNOT_EXECUTE


def test_a_worker_cannot_claim_the_answer_that_it_cannot_be_executed() -> None:
    failed = [CANNOT_EXECUTE] * 3
    assert tally(failed, CANNOT_EXECUTE, 2, exhausted=False) is Verdict.FAULT
    assert carried(failed, CANNOT_EXECUTE, Verdict.FAULT) == CANNOT_EXECUTE


def test_a_verdict_rests_on_one_answer_or_on_none() -> None:
    assert carried(votes(3, 1), CLAIMED, Verdict.VALID) == CLAIMED
    assert carried(votes(1, 1, 3), CLAIMED, Verdict.FAULT) == other(1)
    assert carried(votes(1, 1), CLAIMED, Verdict.UNDECIDED) is None
