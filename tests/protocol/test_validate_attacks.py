"""What a lying leader may try with a record, by mechanism; each of these is refused by everybody who validates it."""

from dataclasses import replace

import msgspec
import pytest
from worlds import (
    BATCH,
    DRAWN_AT,
    LATE,
    TOKEN,
    Job,
    Node,
    Work,
    World,
    address,
    changed,
    network,
    sign,
    simple,
    step,
    with_audit,
)

from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.findings import keyed_checks
from proofyard.protocol.plan import exposure_of, plan_of
from proofyard.protocol.record import BatchRecord, RecordedFault
from proofyard.protocol.seal import keyed_digest, keyed_is_checked, seal_struct_hash
from proofyard.protocol.settlement import FaultReason, OperatorId
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei
from proofyard.protocol.validate import RecordInvalid

pytestmark = pytest.mark.usefixtures("known_signatures")


def refused(world: World, record: BatchRecord | None = None, *, field: str, now: int | None = LATE) -> str:
    """The reason for which a record is refused, with the payouts that would follow from it."""
    with pytest.raises(RecordInvalid) as error:
        world.check(record, now=now)
    assert error.value.field == field
    assert error.value.batch == BATCH
    return error.value.reason


def framed(world: World, record: BatchRecord, place: int, kind: FaultReason = FaultReason.MISMATCH) -> BatchRecord:
    """The record with its audit `place` called a fault of the worker."""
    audit = record.audits[place]
    worker = record.by_key[audit.task_key].commitment.node
    record = with_audit(record, place, verdict=Verdict.FAULT)
    fault = RecordedFault(audit.job, audit.task, worker, kind, "framed", audit.segment)
    return world.paying(changed(record, faults=tuple(sorted((*record.faults, fault), key=lambda f: f.place))))


# ------------------------------------------------------------------------------------------------- who and what


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("chain_id", 1),
        ("registry", address("registry")),
        ("batch", BatchId(11)),
        ("attempt", 1),
        ("leader", OperatorId(2)),
    ],
)
def test_a_record_of_another_verifier_batch_or_attempt(field: str, value: object) -> None:
    world = simple()
    refused(world, changed(world.record, **{field: value}), field=field)


def test_a_manifest_that_is_not_the_job_s() -> None:
    world = simple()
    other = changed(world.record.jobs[0], manifest=world.record.jobs[1].manifest)
    refused(world, changed(world.record, jobs=(other, world.record.jobs[1])), field="jobs")
    refused(world, changed(world.record, jobs=world.record.jobs[:1]), field="jobs")


def test_a_job_whose_juries_would_be_those_of_another_workload() -> None:
    world = simple()
    jobs = {job: replace(facts, workload=4) for job, facts in world.view.jobs.items()}
    with pytest.raises(RecordInvalid, match="bit"):
        world.check(view=replace(world.view, jobs=jobs))


def test_a_task_in_a_batch_twice() -> None:
    world = simple()
    world = replace(world, work=[*world.work, replace(world.work[0], node="n9")])
    assert "twice" in refused(world, field="tasks")


def test_more_work_units_than_the_line_holds() -> None:
    world = simple()
    lines = (replace(world.view.header.lines[0], units=29), *world.view.header.lines[1:])
    with pytest.raises(RecordInvalid, match="work units"):
        world.check(view=replace(world.view, header=replace(world.view.header, lines=lines)))


def test_a_commitment_that_no_node_signed() -> None:
    world = simple()
    stolen = msgspec.structs.replace(world.record.tasks[0], signature=world.record.tasks[1].signature)
    refused(world, changed(world.record, tasks=(stolen, *world.record.tasks[1:])), field="tasks")
    strangers = replace(world.view, owners={k: v for k, v in world.view.owners.items() if k != address("n0")})
    with pytest.raises(RecordInvalid, match="no node"):
        world.check(view=strangers)


# ---------------------------------------------------------------------------------------------- paid only once


REPEATS = [
    replace(simple(), others={9: [Work(1, 1, "n8")]}),
    replace(simple(), paid={(JobId(1), TaskIndex(1)): raw_cid(b"result")}),
]


@pytest.mark.parametrize("world", REPEATS, ids=["open", "settled"])
def test_a_task_that_an_earlier_batch_holds_or_was_paid_for(world: World) -> None:
    record = world.paying(changed(world.record, repeated=()))
    assert len(record.payouts) >= len(world.record.payouts)
    refused(world, record, field="repeated")


def test_a_task_that_is_said_to_be_paid_and_is_not() -> None:
    world = simple()
    refused(world, world.paying(changed(world.record, repeated=((JobId(1), TaskIndex(1)),))), field="repeated")


# -------------------------------------------------------------------------------------------- the audits drawn


def test_a_new_node_is_not_audited() -> None:
    world = simple()
    key = world.record.audits[0].task_key
    record = changed(world.record, audits=tuple(a for a in world.record.audits if a.task_key != key))
    refused(world, world.paying(record), field="audits")


def test_another_segment_than_the_one_drawn() -> None:
    world = simple()
    other = SegmentIndex((world.record.audits[0].segment + 1) % 4)
    refused(world, with_audit(world.record, 0, segment=other), field="audits")


def split(others: dict[int, list[Work]], nodes: int) -> World:
    """Proven workers of one owner, with tasks in this batch and in others."""
    job = Job(JobId(1), (4,) * 12, reward=Wei(60 * TOKEN))
    names = [Node(f"n{i}", "cheat", valid=10**6, stake=Wei(100 * TOKEN)) for i in range(nodes)]
    crowd = [Node(f"a{i}", f"owner-{i}") for i in range(9)]
    return World([job], [*names, *crowd], [Work(1, i, f"n{i % nodes}") for i in range(4)], others=others)


def test_an_owner_in_flight_is_counted_over_all_nodes_and_verifiers() -> None:
    elsewhere = {9: [Work(1, i, f"n{i % 2}") for i in range(4, 8)], 11: [Work(1, i, "n1") for i in range(8, 12)]}
    alone, spread = split({}, 2), split(elsewhere, 2)
    assert exposure_of(alone.view, alone.members) == {address("cheat"): 20 * TOKEN}
    assert exposure_of(spread.view, spread.members) == {address("cheat"): 60 * TOKEN}
    one = split({9: [Work(1, i, "n0") for i in range(4, 8)]}, 1)
    two = split({9: [Work(1, i, f"n{i % 2}") for i in range(4, 8)]}, 2)
    assert exposure_of(one.view, one.members) == exposure_of(two.view, two.members)


def test_a_commitment_that_its_worker_did_not_sign_or_that_is_there_twice_is_not_held_against_it() -> None:
    world = split({9: [Work(1, 5, "n0"), Work(1, 5, "n0"), Work(1, 6, "n0")]}, 1)
    forged = msgspec.structs.replace(world.members[BatchId(9)][2], signature=bytes(65))
    lists = {**world.members, BatchId(9): (*world.members[BatchId(9)][:2], forged)}
    assert exposure_of(world.view, lists) == {address("cheat"): 25 * TOKEN}


def test_a_batch_that_is_left_out_so_that_audits_are_rarer() -> None:
    """The drawn audits of the whole are another plan than those of this batch alone."""
    elsewhere = {9: [Work(1, i, "n0") for i in range(4, 12)]}
    world = next(
        w
        for tag in range(50)
        if plan_of((w := replace(split(elsewhere, 1), tag=tag)).view, w.members)
        != plan_of(w.view, {BATCH: w.members[BATCH]})
    )
    world.check()
    record = world.record
    kept = tuple(row for row in record.counted if row[0] == BATCH)
    refused(world, changed(record, counted=kept), field="counted")
    refused(world, changed(record, counted=kept, uncounted=(BatchId(9),)), field="audits")
    refused(world, changed(record, uncounted=(BatchId(9),)), field="counted")
    swapped = ((BatchId(9), record.counted[1][1]), record.counted[1])
    refused(world, changed(record, counted=swapped), field="counted")


# ------------------------------------------------------------------------------------------------ who may vote


def test_auditors_of_the_leader_s_choice() -> None:
    """Two friends far down the list, and two of those before them called absent."""
    world = simple()
    planned = plan_of(world.view, world.members).audits[0]
    states = [f"first {planned.job} {planned.task}".encode()]
    for _ in range(4):
        states.append(step(states[-1]) or b"")
    votes = tuple(world.vote(planned, auditor, states) for auditor in planned.auditors)
    chosen = with_audit(world.record, 0, votes=votes[3:5])
    refused(world, world.paying(chosen), field="audits")
    refused(world, world.paying(with_audit(chosen, 0, absent=planned.auditors[:2])), field="audits")
    assert "absent" in refused(world, world.paying(with_audit(chosen, 0, absent=planned.auditors[:3])), field="audits")
    backwards = with_audit(world.record, 0, votes=tuple(reversed(world.record.audits[0].votes)))
    refused(world, world.paying(backwards), field="audits")
    twice = with_audit(world.record, 0, votes=(votes[0], votes[0]))
    refused(world, world.paying(twice), field="audits")
    fair = with_audit(world.record, 0, votes=votes[1:4], absent=planned.auditors[:1])
    world.check(world.paying(fair))


def test_nobody_who_is_connected_with_a_batch_audits_it() -> None:
    world = simple()
    extra = [Node("mine", "verifier-owner-1"), Node("bought", "requester-1"), Node("again", "owner-0")]
    world = replace(world, nodes=[*world.nodes, *extra])
    planned = plan_of(world.view, world.members).audits
    of_first = {world.node_names[a] for audit in planned if audit.job == 1 for a in audit.auditors}
    assert not of_first & {"mine", "bought"}
    assert {"n0", "again"}.isdisjoint(world.node_names[a] for a in planned[0].auditors)
    assert len(planned[0].auditors) == 9


def test_a_vote_that_its_auditor_did_not_seal() -> None:
    world = simple()
    first, *rest = world.record.audits[0].votes
    for forged in (
        changed(first, after=cid_digest(raw_cid(b"another"))),
        changed(first, keyed=keyed_digest(world.view.seed, first.auditor, b"another")),
        changed(first, signature=rest[0].signature),
        changed(first, salt=bytes([1]) * 32),
    ):
        refused(world, with_audit(world.record, 0, votes=(forged, *rest)), field="audits")


def test_a_vote_for_another_draw() -> None:
    """An honest auditor's answer to a draw that a reorganisation has undone would make it one who copied."""
    world = simple()
    first, *rest = world.record.audits[0].votes
    seal = seal_struct_hash(BATCH, *world.record.audits[0].key, Digest(bytes(32)), first.auditor, first.seal)
    forged = changed(first, signature=sign(world.node_names[first.auditor], world.view.domain.typed_digest(seal)))
    refused(world, with_audit(world.record, 0, votes=(forged, *rest)), field="audits")


# ------------------------------------------------------------------------------------------------ the verdicts


def test_a_mismatch_where_all_digests_are_equal() -> None:
    world = simple()
    refused(world, framed(world, world.record, 0), field="audits")


def test_k_equal_answers_accuse_nobody() -> None:
    """The mob of two: where k is 2, three owners are needed."""
    world = World([Job(JobId(1), (4,))], network(4), [Work(1, 0, "n0")], auditors={"n1": "mob", "n2": "mob"})
    assert world.record.audits[0].verdict == Verdict.UNDECIDED
    assert "say undecided" in refused(world, framed(world, world.record, 0), field="audits")
    honest = with_audit(world.record, 0, verdict=Verdict.VALID)
    refused(world, world.paying(honest), field="audits")


def test_a_vote_that_speaks_against_the_verdict_is_left_out() -> None:
    """Two friends and an honest auditor: the honest one may not be called absent without that the list goes on."""
    work = [Work(1, 0, "n0", fake=(0, 1, 2, 3))]
    world = World([Job(JobId(1), (4,))], network(4), work, {"n1": "friend", "n2": "friend"})
    tagged = (replace(world, tag=tag) for tag in range(50))
    world = next(w for w in tagged if w.record.audits[0].votes[0].auditor == address("n3"))
    audit = world.record.audits[0]
    assert (audit.verdict, len(audit.votes)) == (Verdict.UNDECIDED, 3)
    bought = with_audit(world.record, 0, votes=audit.votes[1:], verdict=Verdict.VALID)
    refused(world, world.paying(bought), field="audits")
    refused(world, world.paying(with_audit(world.record, 0, verdict=Verdict.VALID)), field="audits")


def test_audits_are_dropped_as_undecided() -> None:
    world = simple()
    audit = world.record.audits[0]
    listed = plan_of(world.view, world.members).audits[0].auditors
    refused(world, world.paying(with_audit(world.record, 0, verdict=Verdict.UNDECIDED)), field="audits")
    nobody = with_audit(world.record, 0, verdict=Verdict.UNDECIDED, votes=())
    refused(world, world.paying(nobody), field="audits")
    away = with_audit(nobody, 0, absent=listed)
    refused(world, world.paying(away), field="audits", now=DRAWN_AT + 600)
    world.check(world.paying(away), now=DRAWN_AT + 601)
    half = with_audit(away, 0, votes=audit.votes[:1], absent=listed[1:])
    refused(world, world.paying(half), field="audits", now=DRAWN_AT)


def test_a_pending_segment() -> None:
    world = simple()
    refused(world, with_audit(world.record, 0, verdict=Verdict.PENDING), field="audits")
    early = with_audit(world.record, 0, verdict=Verdict.PENDING, votes=world.record.audits[0].votes[:1])
    refused(world, world.paying(early), field="audits", now=DRAWN_AT)


def test_a_decided_segment_is_undecided_where_most_of_those_asked_are_absent_and_only_once_it_is_late() -> None:
    """Whoever hears few of the first ones decides nothing; and does not make undecided what was decided."""
    world = simple()
    planned = plan_of(world.view, world.members).audits[0]
    states = [f"first {planned.job} {planned.task}".encode()]
    for _ in range(4):
        states.append(step(states[-1]) or b"")
    listed, late = planned.auditors, DRAWN_AT + 601

    def record(voters: range, verdict: Verdict) -> BatchRecord:
        votes = tuple(world.vote(planned, listed[number], states) for number in voters)
        absent = tuple(auditor for number, auditor in enumerate(listed) if number not in voters)
        return world.paying(with_audit(world.record, 0, votes=votes, absent=absent, verdict=verdict))

    few = record(range(3, 5), Verdict.UNDECIDED)
    refused(world, few, field="audits", now=DRAWN_AT + 600)
    world.check(few, now=late)
    refused(world, record(range(3, 5), Verdict.VALID), field="audits", now=late)
    for voters in (range(2), range(1, 3), range(2, 4)):
        assert "say valid" in refused(world, record(voters, Verdict.UNDECIDED), field="audits", now=late)


# -------------------------------------------------------------------------------------------------- the faults


def test_faults_that_no_audit_carries() -> None:
    world = simple()
    audit, task = world.record.audits[0], world.record.tasks[0]
    worker, voter = task.commitment.node, audit.votes[0].auditor
    made_up = [
        RecordedFault(*task.key, worker, FaultReason.MISMATCH, "", audit.segment),
        RecordedFault(*task.key, worker, FaultReason.WITHHELD, "", audit.segment),
        RecordedFault(*task.key, worker, FaultReason.WITHHELD, "", SegmentIndex(99)),
        RecordedFault(*task.key, worker, FaultReason.LATE, "", None),
        RecordedFault(*task.key, worker, FaultReason.DISAGREED, "", None),
        RecordedFault(*task.key, world.record.tasks[1].commitment.node, FaultReason.WITHHELD, "", None),
        RecordedFault(JobId(1), TaskIndex(77), worker, FaultReason.WITHHELD, "", None),
        RecordedFault(*task.key, voter, FaultReason.FALSE_AUDIT, "", audit.segment),
        RecordedFault(*task.key, address("n9"), FaultReason.FALSE_AUDIT, "", audit.segment),
    ]
    for fault in made_up:
        refused(world, changed(world.record, faults=(fault,)), field="faults")


def test_a_fault_or_a_liar_is_kept_quiet() -> None:
    fake = simple()
    fake = replace(fake, work=[replace(fake.work[0], fake=(0, 1, 2, 3)), *fake.work[1:]])
    refused(fake, fake.paying(changed(fake.record, faults=())), field="faults")
    liars = replace(simple(), auditors={"n8": "liar", "n9": "liar"})
    assert {fault.kind for fault in liars.record.faults} == {FaultReason.FALSE_AUDIT}
    refused(liars, liars.paying(changed(liars.record, faults=liars.record.faults[1:])), field="faults")


def test_a_workload_that_is_not_exact_costs_no_stake() -> None:
    job = Job(JobId(1), (4,), exact=False)
    world = World([job], network(8), [Work(1, 0, "n0", fake=(0, 1, 2, 3))], {"n1": "liar"})
    world.check()
    assert [fault.kind for fault in world.record.faults] == [FaultReason.DISAGREED]
    stolen = (changed(world.record.faults[0], kind=FaultReason.MISMATCH),)
    refused(world, changed(world.record, faults=stolen), field="faults")


def test_where_data_stays_at_home_only_owners_that_were_given_it_audit() -> None:
    given = frozenset({"owner-2", "owner-3", "owner-5"})
    job = Job(JobId(1), (4,), exact=False, named=given)
    world = World([job], network(8), [Work(1, 0, "n0")])
    world.check()
    assert {vote.auditor for audit in world.record.audits for vote in audit.votes} <= {
        address(name) for name in ("n2", "n3", "n5")
    }
    assert not any(payout.valid for payout in world.record.payouts), "one's own auditors make no reputation"
    assert any(payout.valid for payout in replace(world, jobs=[replace(job, named=None)]).record.payouts)
    with pytest.raises(RecordInvalid, match="audits"):
        world.check(named={})
    cheat = World([job], network(8), [Work(1, 0, "n0", fake=(0, 1, 2, 3))])
    cheat.check()
    assert [fault.kind for fault in cheat.record.faults] == [FaultReason.DISAGREED]
    alone = World([replace(job, named=frozenset({"owner-0"}))], network(8), [Work(1, 0, "n0")])
    assert [audit.auditors for audit in plan_of(alone.view, alone.members, alone.named).audits] == [()]


def test_what_nobody_was_given_is_audited_by_nobody_and_paid() -> None:
    world = World([Job(JobId(1), (4,), exact=False, named=frozenset())], network(8), [Work(1, 0, "n0")])
    world.check()
    assert world.record.audits == ()
    assert world.record.payouts
    with pytest.raises(RecordInvalid, match="audits"):
        world.check(named={})


def test_an_answer_counts_as_another() -> None:
    world = World([Job(JobId(1), (4,))], network(8), [Work(1, 0, "n0", fake=(0, 1, 2, 3))])
    audit = world.record.audits[0]
    claimed = cid_digest(world.record.tasks[0].trace[audit.segment + 1])
    record = with_audit(world.record, 0, alike=((audit.votes[0].after, claimed),), verdict=Verdict.VALID)
    refused(world, world.paying(changed(record, faults=())), field="audits")


# ------------------------------------------------------------------------------------------------ copied seals


def lazy(*, checked: bool) -> World:
    """Where a friend that copies is seated on the first audit, and its keyed digest is looked at or not."""

    def fits(world: World) -> bool:
        first, leaf = plan_of(world.view, world.members).audits[0], world.members[BATCH][0].commitment.struct_hash()
        looked_at = keyed_is_checked(world.view.seed, leaf, first.segment)
        return address("n9") in first.auditors[:2] and looked_at == checked

    return next(w for tag in range(300) if fits(w := replace(simple(), auditors={"n9": "friend"}, tag=tag)))


def test_whoever_copies_has_no_say_and_pays_where_keyed_digests_are_checked() -> None:
    world = lazy(checked=True)
    world.check()
    fault = next(fault for fault in world.record.faults if fault.task_key == world.record.audits[0].task_key)
    assert (fault.node, fault.kind) == (address("n9"), FaultReason.FALSE_AUDIT)
    assert len(world.record.audits[0].votes) > len(world.record.audits[0].copied) + 1
    check = next(c for c in keyed_checks(world.view, world.record, world.exact) if c.job == 1 and c.task == 0)
    states = {raw_cid(state): state for state in _states(world, check.segment)}
    assert check.wrong(world.view.seed, states[check.state]) == ()
    quiet = changed(with_audit(world.record, 0, copied=()), faults=())
    check = next(c for c in keyed_checks(world.view, quiet, world.exact) if c.job == 1 and c.task == 0)
    assert check.wrong(world.view.seed, states[check.state]) == (address("n9"),)


def test_nobody_is_called_a_copier_where_nobody_looks() -> None:
    world = lazy(checked=False)
    record = with_audit(world.record, 0, copied=(address("n9"),))
    record = changed(record, faults=world.faults_of(record))
    assert "keyed" in refused(world, world.paying(record), field="audits")


def _states(world: World, segment: int) -> list[bytes]:
    states = [b"first 1 0"]
    for _ in range(segment + 1):
        states.append(step(states[-1]) or b"")
    return states


# --------------------------------------------------------------------------------------------------- the money


def test_audit_pay_is_cut_or_somebody_is_paid_more() -> None:
    world = simple()
    first, *rest = world.record.payouts
    for payout in (
        changed(first, audits="0"),
        changed(first, work=str(int(first.work) + 1)),
        changed(first, valid=2),
        changed(first, segments=1),
        changed(first, operator=OperatorId(109)),
    ):
        refused(world, changed(world.record, payouts=(payout, *rest)), field="payouts")
    refused(world, changed(world.record, payouts=()), field="payouts")
