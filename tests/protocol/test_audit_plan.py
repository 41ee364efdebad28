from collections import Counter
from dataclasses import replace

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.audit import LISTED, AuditPlan, BatchEntry, Operator, audit_plan, draw_segments, pool_of
from proofyard.protocol.dial import WAD, AuditOdds
from proofyard.protocol.types import Address, Digest, JobId, TaskIndex


def address(number: int) -> Address:
    return Address(to_checksum_address(keccak(number.to_bytes(4, "big"))[:20]))


def operators(owners: list[int]) -> list[Operator]:
    """One node for every entry; the entry is its owner."""
    return [Operator(address(i), address(1000 + owner)) for i, owner in enumerate(owners)]


def entry(task: int, worker: Operator, wad: int = WAD, segments: int = 8, drawn: int = 1, k: int = 2) -> BatchEntry:
    leaf = Digest(keccak(task.to_bytes(4, "big")))
    return BatchEntry(JobId(1), TaskIndex(task), segments, leaf, AuditOdds(wad, drawn), k, frozenset((worker.owner,)))


def planned(seed: Digest, batch: list[BatchEntry], nodes: list[Operator]) -> AuditPlan:
    return audit_plan(seed, batch, pool_of(nodes))


SEEDS = st.binary(min_size=32, max_size=32).map(Digest)


@given(SEEDS, st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=100)
def test_an_owner_sits_on_one_segment_of_a_task_at_most_and_never_on_its_own(
    seed: Digest, owners: list[int], drawn: int, k: int
) -> None:
    nodes = operators(owners)
    owner_of = {operator.node: operator.owner for operator in nodes}
    plan = planned(seed, [entry(7, nodes[0], drawn=drawn, k=k)], nodes)
    listed = [owner_of[node] for audit in plan.audits for node in audit.auditors]
    assert len(plan.audits) == drawn
    assert Counter(listed) == Counter(set(owner_of.values()) - {nodes[0].owner})


@given(SEEDS, st.integers(2, 40), st.sets(st.integers(0, 60), max_size=20), st.integers(1, 4))
@settings(max_examples=50)
def test_where_owners_are_named_nobody_else_is_listed(seed: Digest, owners: int, named: set[int], drawn: int) -> None:
    nodes = operators(list(range(owners)))
    one = replace(entry(7, nodes[0], drawn=drawn), named=frozenset(address(1000 + owner) for owner in named))
    plan = planned(seed, [one], nodes)
    listed = {node for audit in plan.audits for node in audit.auditors}
    assert listed == {nodes[owner].node for owner in named if 0 < owner < owners}
    assert len(plan.audits) == (drawn if named else 0)
    assert plan.skipped == (() if named else ((JobId(1), TaskIndex(7)),))


@given(SEEDS, st.integers(2, 40), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=100)
def test_seats_are_filled_segment_by_segment_and_stand_ins_shared_alike(
    seed: Digest, owners: int, drawn: int, k: int
) -> None:
    nodes = operators(list(range(owners)))
    plan = planned(seed, [entry(7, nodes[0], drawn=drawn, k=k)], nodes)
    sizes = sorted((len(audit.auditors) for audit in plan.audits), reverse=True)
    whole, rest = divmod(owners - 1, k)
    if whole < drawn:
        assert sizes == ([k] * whole + [rest] + [0] * drawn)[:drawn]
    else:
        assert sizes[-1] >= k
        assert sizes[0] - sizes[-1] <= 1


@given(SEEDS)
@settings(max_examples=30)
def test_a_worker_that_left_the_snapshot_audits_itself_with_no_other_node(seed: Digest) -> None:
    nodes = operators([0, 0, 1, 2, 3])
    plan = planned(seed, [entry(7, nodes[0], drawn=2)], nodes[1:])
    assert nodes[1].node not in {node for audit in plan.audits for node in audit.auditors}


def test_more_nodes_give_an_owner_no_more_seats() -> None:
    nodes = operators([0, *[1] * 50, *range(2, 12)])
    owner_of = {operator.node: operator.owner for operator in nodes}
    first = Counter(
        owner_of[audit.auditors[0]]
        for i in range(400)
        for audit in planned(Digest(keccak(i.to_bytes(4, "big"))), [entry(7, nodes[0], k=1)], nodes).audits
    )
    assert first[nodes[1].owner] < 80


@given(SEEDS, st.permutations(range(6)))
@settings(max_examples=30)
def test_the_plan_depends_on_nothing_but_its_inputs(seed: Digest, order: list[int]) -> None:
    nodes = operators([0, 1, 2, 3, 4, 5])
    batch = [entry(task, nodes[task], WAD // 2, drawn=2) for task in range(6)]
    one = planned(seed, batch, nodes)
    two = planned(seed, [batch[i] for i in order], [nodes[i] for i in order])
    assert sorted(one.audits, key=lambda a: (a.task, a.segment)) == sorted(
        two.audits, key=lambda a: (a.task, a.segment)
    )
    assert set(one.skipped) == set(two.skipped)


def test_tasks_are_drawn_as_often_as_their_probability_says() -> None:
    nodes = operators([0, 1, 2])
    batch = [entry(task, nodes[0], WAD // 4) for task in range(4000)]
    plan = planned(Digest(bytes(32)), batch, nodes)
    assert 900 < len(plan.audits) < 1100
    counted = Counter(audit.segment for audit in plan.audits)
    assert set(counted) == set(range(8))
    assert max(counted.values()) < 2 * min(counted.values())


def test_certain_and_impossible_draws() -> None:
    nodes = operators([0, 1, 2])
    batch = [entry(0, nodes[0], WAD), entry(1, nodes[0], 0)]
    plan = planned(Digest(b"s" * 32), batch, nodes)
    assert [audit.task for audit in plan.audits] == [0]
    assert plan.skipped == ((1, 1),)


def test_each_task_is_audited_on_as_many_segments_as_its_odds_say() -> None:
    nodes = operators(list(range(9)))
    batch = [entry(task, nodes[0], drawn=drawn) for task, drawn in enumerate((1, 3, 8, 20))]
    plan = planned(Digest(bytes(32)), batch, nodes)
    assert Counter(audit.task for audit in plan.audits) == {0: 1, 1: 3, 2: 8, 3: 8}
    assert [(a.task, a.segment) for a in plan.audits] == sorted((a.task, a.segment) for a in plan.audits)


@given(SEEDS, st.integers(1, 20), st.integers(1, 30))
def test_segments_are_drawn_without_replacement(seed: Digest, segments: int, count: int) -> None:
    drawn = draw_segments(seed, seed, segments, count)
    assert len(set(drawn)) == len(drawn) == min(segments, count)
    assert all(0 <= segment < segments for segment in drawn)


def test_lists_are_bounded_and_dealt_by_index_however_many_nodes_there_are() -> None:
    nodes = [Operator(Address(f"0x{i:040x}"), Address(f"0x{2**64 + i:040x}")) for i in range(20_000)]
    pool = pool_of(nodes)
    plans = [audit_plan(Digest(bytes([i]) * 32), [entry(7, nodes[0], drawn=2)], pool) for i in range(100)]
    lists = [audit.auditors for plan in plans for audit in plan.audits]
    assert {len(auditors) for auditors in lists} == {LISTED}
    seats = Counter(auditor for auditors in lists for auditor in auditors)
    assert len(seats) > 5000
    halves = Counter(int(auditor, 16) < 10_000 for auditors in lists for auditor in auditors)
    assert abs(halves[True] - halves[False]) < 600


def test_each_owner_is_dealt_each_place_equally_often() -> None:
    nodes = operators(list(range(6)))
    places = Counter(
        (place, auditor)
        for i in range(3000)
        for audit in planned(Digest(keccak(i.to_bytes(4, "big"))), [entry(7, nodes[0])], nodes).audits
        for place, auditor in enumerate(audit.auditors)
    )
    assert len(places) == 25
    assert max(places.values()) - min(places.values()) < 200


def test_excluded_owners_audit_nothing() -> None:
    nodes = operators([0, 1, 2, 2, 3])
    pool = pool_of(nodes, {nodes[2].owner})
    plan = audit_plan(Digest(bytes(32)), [entry(7, nodes[0])], pool)
    assert {node for audit in plan.audits for node in audit.auditors} == {nodes[1].node, nodes[4].node}
