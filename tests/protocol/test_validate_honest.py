from dataclasses import replace

import msgspec
from drawn import worlds
from hypothesis import HealthCheck, given, settings
from worlds import DRAWN_AT, Job, Node, Work, World, network, simple

from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.earnings import accepted, verifier_fee
from proofyard.protocol.record import decode_record, encode_record
from proofyard.protocol.settlement import MAX_ACCUSERS, MAX_FAULTS, FaultReason
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import BatchId, JobId, TaskIndex, Wei


@given(worlds())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_an_honest_leader_records_holds_and_pays_within_every_budget(world: World) -> None:
    world.check()
    record, view = decode_record(encode_record(world.record)), world.view
    assert record == world.record
    settlement = settlement_of(record, view, raw_cid(b"record"))
    assert settlement.total == sum(share.amount for share in settlement.shares)
    for line, share in zip(view.header.lines, settlement.shares, strict=True):
        assert share.paid_units <= line.units
        assert share.amount + verifier_fee(view.jobs[line.job], share.paid_units) <= line.budget
    guilty = {fault.operator for fault in settlement.faults}
    assert len(guilty) == len(settlement.faults) <= MAX_FAULTS
    assert not guilty & {payout.operator for payout in settlement.payouts}
    for fault in settlement.faults:
        assert len(fault.accusers) <= MAX_ACCUSERS
        owners = {view.by_id[accuser].owner for accuser in fault.accusers}
        assert len(owners) == len(fault.accusers) != 1
        if fault.accusers:
            assert len(owners) > view.jobs[fault.job].auditors_per_segment


def test_new_workers_of_several_jobs_are_paid_in_one_batch() -> None:
    world = simple()
    world.check()
    assert accepted(world.view, world.record).keys() == {(JobId(1 + i // 3), i % 3) for i in range(6)}
    assert {payout.valid for payout in world.record.payouts if payout.work != "0"} == {1}


def test_a_fake_costs_its_worker_and_nobody_else() -> None:
    world = simple()
    world = replace(world, work=[replace(world.work[0], fake=(0, 1, 2, 3)), *world.work[1:]])
    world.check()
    (fault,) = settlement_of(world.record, world.view, raw_cid(b"record")).faults
    assert (fault.operator, fault.reason, len(fault.accusers)) == (100, FaultReason.MISMATCH, 3)
    assert len(accepted(world.view, world.record)) == 5
    finders = {payout.operator: payout.segments for payout in world.record.payouts if payout.segments}
    assert finders == dict.fromkeys(fault.accusers, 1)


def test_a_state_that_cannot_be_executed_convicts_whoever_committed_to_it() -> None:
    world = simple()
    world = replace(world, work=[replace(world.work[0], hollow=(1, 2, 3)), *world.work[1:]])
    tags = (replace(world, tag=tag) for tag in range(100))
    world = next(w for w in tags if w.record.audits[0].segment > 0)
    world.check()
    assert [fault.kind for fault in world.record.faults] == [FaultReason.MISMATCH]


def test_rotated_retired_and_unbacked_workers_do_not_stop_a_batch() -> None:
    nodes = network(10)
    nodes[0:3] = [
        Node("n0", "owner-0", old_key=True, valid=10**6),
        Node("n1", "owner-1", active=False, valid=10**6),
        Node("n2", "owner-2", stake=Wei(0), valid=10**6),
    ]
    work = [Work(1, task, f"n{task}", fake=(0, 1, 2, 3) if task < 2 else ()) for task in range(3)]
    world = replace(simple(), nodes=nodes, work=work)
    world.check()
    assert {audit.task_key for audit in world.record.audits} == {(1, 0), (1, 1), (1, 2)}
    assert [fault.operator for fault in settlement_of(world.record, world.view, raw_cid(b"record")).faults] == [
        100,
        101,
    ]


def test_a_task_that_stays_undecided_pays_its_auditors_and_nobody_is_accused() -> None:
    world = World([Job(JobId(1), (4,))], network(4), [Work(1, 0, "n0")], auditors={"n1": "liar", "n2": "liar"})
    world.check(now=DRAWN_AT)
    assert [audit.verdict for audit in world.record.audits] == [Verdict.UNDECIDED]
    assert world.record.faults == ()
    assert {(p.node != world.view.operators[0].node, p.work, p.valid) for p in world.record.payouts} == {(True, "0", 0)}
    assert len(world.record.payouts) == 3


def test_a_task_that_an_earlier_batch_holds_is_not_paid_again() -> None:
    world = replace(
        simple(),
        others={9: [Work(1, 1, "n8")], 11: [Work(1, 2, "n8")]},
        paid={(JobId(2), TaskIndex(0)): raw_cid(b"result")},
    )
    world.check()
    assert world.record.repeated == ((1, 1), (2, 0))
    assert accepted(world.view, world.record).keys() == {(1, 0), (1, 2), (2, 1), (2, 2)}


def test_a_claim_that_nobody_signed_takes_nothing_from_a_task() -> None:
    world = replace(simple(), others={9: [Work(1, 1, "n8")]})
    (member,) = world.members[BatchId(9)]
    world.members[BatchId(9)] = (msgspec.structs.replace(member, signature=bytes(65)),)
    assert world.record.repeated == ()
