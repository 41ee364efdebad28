from collections import Counter

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.audit import WAD, WORKERS, BatchEntry, Operator, Verdict, audit_plan, draw_segments, tally
from proofyard.protocol.types import Address, Digest, TaskIndex


def address(number: int) -> Address:
    return Address(to_checksum_address(keccak(number.to_bytes(4, "big"))[:20]))


def operators(owners: list[int]) -> list[Operator]:
    """One node for every entry; the entry is its owner."""
    return [Operator(address(i), address(1000 + owner)) for i, owner in enumerate(owners)]


def entry(task: int, node: Address, wad: int = WAD, segments: int = 8) -> BatchEntry:
    return BatchEntry(TaskIndex(task), node, segments, Digest(keccak(task.to_bytes(4, "big"))), wad)


SEEDS = st.binary(min_size=32, max_size=32).map(Digest)


@given(SEEDS, st.lists(st.integers(0, 6), min_size=3, max_size=12))
@settings(max_examples=50)
def test_auditors_never_share_an_owner_with_the_worker_or_each_other(seed: Digest, owners: list[int]) -> None:
    nodes = operators(owners)
    owner_of = {operator.node: operator.owner for operator in nodes}
    plan = audit_plan(seed, [entry(7, nodes[0].node)], nodes, auditors_per_segment=2, segments_per_audit=3)
    for audit in plan.audits:
        seated = [owner_of[node] for node in audit.auditors]
        assert len(set(seated)) == len(seated)
        assert nodes[0].owner not in seated


@given(SEEDS)
@settings(max_examples=50)
def test_neighbouring_segments_go_to_different_owners(seed: Digest) -> None:
    nodes = operators(list(range(8)))
    plan = audit_plan(seed, [entry(1, nodes[0].node)], nodes, auditors_per_segment=2, segments_per_audit=8)
    seats = {audit.segment: set(audit.auditors[:2]) for audit in plan.audits}
    for segment, auditors in seats.items():
        assert not auditors & seats.get(segment - 1, set())  # type: ignore[call-overload]


@given(SEEDS, st.permutations(range(6)))
@settings(max_examples=30)
def test_the_plan_depends_on_nothing_but_its_inputs(seed: Digest, order: list[int]) -> None:
    nodes = operators([0, 1, 2, 3, 4, 5])
    batch = [entry(task, nodes[task].node, WAD // 2) for task in range(6)]
    kinds = {"auditors_per_segment": 2, "segments_per_audit": 1}
    one = audit_plan(seed, batch, nodes, **kinds)
    two = audit_plan(seed, [batch[i] for i in order], [nodes[i] for i in order], **kinds)
    assert sorted(one.audits, key=lambda a: a.task) == sorted(two.audits, key=lambda a: a.task)
    assert set(one.skipped) == set(two.skipped)


def test_tasks_are_drawn_as_often_as_their_probability_says() -> None:
    nodes = operators([0, 1, 2])
    batch = [entry(task, nodes[0].node, WAD // 4) for task in range(4000)]
    plan = audit_plan(Digest(bytes(32)), batch, nodes, auditors_per_segment=1, segments_per_audit=1)
    assert 900 < len(plan.audits) < 1100
    counted = Counter(audit.segment for audit in plan.audits)
    assert set(counted) == set(range(8))
    assert max(counted.values()) < 2 * min(counted.values())


def test_certain_and_impossible_draws() -> None:
    nodes = operators([0, 1, 2])
    plan = audit_plan(
        Digest(b"s" * 32),
        [entry(0, nodes[0].node, WAD), entry(1, nodes[0].node, 0)],
        nodes,
        auditors_per_segment=2,
        segments_per_audit=1,
    )
    assert [audit.task for audit in plan.audits] == [0]
    assert plan.skipped == (1,)


@given(SEEDS, st.integers(1, 20), st.integers(1, 30))
def test_segments_are_drawn_without_replacement(seed: Digest, segments: int, count: int) -> None:
    drawn = draw_segments(seed, seed, segments, count)
    assert len(set(drawn)) == len(drawn) == min(segments, count)
    assert all(0 <= segment < segments for segment in drawn)


def votes(match: int, *others: int) -> dict[Address, int]:
    """`match` auditors with the worker's answer, and so many with each other answer."""
    answers = [WORKERS] * match + [number for number, count in enumerate(others, 1) for _ in range(count)]
    return {address(i): answer for i, answer in enumerate(answers)}


def test_k_equal_votes_decide() -> None:
    assert tally(votes(2, 0), 2, exhausted=False) is Verdict.VALID
    assert tally(votes(0, 2), 2, exhausted=False) is Verdict.FAULT
    assert tally(votes(1, 0), 2, exhausted=False) is Verdict.PENDING


def test_a_split_accuses_nobody_until_one_side_has_one_vote_more() -> None:
    assert tally(votes(1, 1), 2, exhausted=False) is Verdict.PENDING
    assert tally(votes(1, 2), 2, exhausted=False) is Verdict.PENDING
    assert tally(votes(1, 3), 2, exhausted=False) is Verdict.FAULT
    assert tally(votes(3, 1), 2, exhausted=False) is Verdict.VALID


def test_accusers_who_contradict_each_other_convict_nobody() -> None:
    assert tally(votes(0, 1, 1), 2, exhausted=False) is Verdict.PENDING
    assert tally(votes(2, 1, 1), 2, exhausted=False) is Verdict.PENDING
    assert tally(votes(3, 1, 1), 2, exhausted=False) is Verdict.VALID
    assert tally(votes(0, 1, 2), 2, exhausted=False) is Verdict.PENDING
    assert tally(votes(0, 1, 3), 2, exhausted=False) is Verdict.FAULT
    assert tally(votes(0, 1, 1, 1), 2, exhausted=True) is Verdict.UNDECIDED


def test_one_accuser_alone_never_makes_a_fault() -> None:
    assert tally(votes(0, 1), 2, exhausted=True) is Verdict.UNDECIDED
    assert tally(votes(1, 1), 2, exhausted=True) is Verdict.UNDECIDED
    assert tally({}, 2, exhausted=True) is Verdict.UNDECIDED
    assert tally(votes(1, 2), 2, exhausted=True) is Verdict.FAULT
