"""Commitments that are false on purpose: what comes of them, and what a leader or a worker may not make of them."""

from dataclasses import replace

import pytest
from worlds import TOKEN, World, address, changed, network, simple, with_audit

from proofyard.protocol.audit import Verdict
from proofyard.protocol.earnings import accepted
from proofyard.protocol.findings import withheld_by
from proofyard.protocol.mark import UNOPENED, mark_cid, mark_of, opens
from proofyard.protocol.record import RecordedFault
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import Cid, JobId, SegmentIndex, TaskIndex
from proofyard.protocol.validate import RecordInvalid

pytestmark = pytest.mark.usefixtures("known_signatures")

EVERY = tuple(range(4))
DECOY, RECORD = (JobId(1), TaskIndex(0)), Cid("")


def with_first(world: World, **changes: object) -> World:
    """The world with its first task done otherwise."""
    first, *rest = world.work
    return replace(world, work=[replace(first, **changes), *rest])  # type: ignore[arg-type]


def decoyed(**changes: object) -> World:
    """A decoy among honest work. Every task is audited; `friend`s answer what they are handed."""
    world = with_first(simple(nodes=network(16)), decoy=True, fake=EVERY)
    return replace(world, **changes)  # type: ignore[arg-type]


def voters(world: World) -> list[str]:
    return [world.node_names[vote.auditor] for vote in world.record.audits[0].votes]


def refusal(world: World, record: object) -> RecordInvalid:
    with pytest.raises(RecordInvalid) as error:
        world.check(record)  # type: ignore[arg-type]
    return error.value


def test_a_decoy_is_nobody_s_work_and_no_fault_and_pays_its_auditors() -> None:
    world = decoyed()
    world.check()
    record, view = world.record, world.view
    assert record.decoys == {DECOY}
    assert record.audits[0].verdict == Verdict.FAULT
    assert not record.faults
    assert accepted(view, record).keys() == {task.key for task in record.tasks} - {DECOY}
    assert not any(int(paid.work) or paid.valid for paid in record.payouts if paid.node == address("n0"))
    fees = {paid.node: int(paid.audits) for paid in record.payouts}
    assert all(fees[vote.auditor] > 0 for vote in record.audits[0].votes)
    settlement = settlement_of(record, view, RECORD)
    assert settlement.shares[0].paid_units == view.header.lines[0].units - record.tasks[0].commitment.work_units


def test_whoever_answers_what_it_is_handed_is_at_fault_and_loses_to_k_and_one_others() -> None:
    """Those who hold the first seats confirm it, as many as would decide on work, and seats go on."""
    plain = decoyed()
    copiers = voters(plain)[:2]
    world = decoyed(auditors=dict.fromkeys(copiers, "friend"))
    world.check()
    audit = world.record.audits[0]
    assert (audit.verdict, len(audit.votes)) == (Verdict.FAULT, 5)
    faults = [fault for fault in world.record.faults if (fault.job, fault.task) == DECOY]
    assert {(fault.node, fault.kind) for fault in faults} == {(address(n), FaultReason.FALSE_AUDIT) for n in copiers}
    on_chain = settlement_of(world.record, world.view, RECORD).faults
    assert all(len(fault.accusers) == 3 for fault in on_chain if fault.segment == audit.segment)
    assert all(int(paid.audits) == 0 for paid in world.record.payouts if paid.node in map(address, copiers))


def test_copiers_in_the_majority_lose_as_well() -> None:
    honest = voters(decoyed())
    everybody = [node.name for node in network(16)]
    three = honest[:3]
    world = decoyed(auditors={name: "friend" for name in everybody if name not in three})
    world.check()
    audit = world.record.audits[0]
    assert audit.verdict == Verdict.FAULT
    false = [f for f in world.record.faults if f.kind == FaultReason.FALSE_AUDIT and (f.job, f.task) == DECOY]
    assert len(false) == len(audit.votes) - 3


def test_where_nobody_contradicts_a_decoy_nothing_is_decided_and_nobody_is_accused() -> None:
    """What is marked as a decoy and is true costs honest auditors nothing, whoever marked it."""
    world = with_first(decoyed(), fake=())
    world.check()
    assert world.record.audits[0].verdict == Verdict.UNDECIDED
    assert not world.record.faults
    assert DECOY not in accepted(world.view, world.record)


def test_a_state_of_a_decoy_that_its_worker_lost_is_no_fault() -> None:
    world = with_first(decoyed(), withheld=True)
    world.check()
    assert not world.record.faults
    fault = RecordedFault(*DECOY, address("n0"), FaultReason.WITHHELD, "gone", world.record.audits[0].segment)
    assert refusal(world, world.paying(changed(world.record, faults=(fault,)))).field == "faults"


def test_every_mark_is_opened_by_the_leader_that_was_given_the_salts() -> None:
    world = decoyed()
    first, *rest = world.record.salts
    for salts in ((), rest, (UNOPENED, *rest), (bytes(32), *rest), (*world.record.salts, first), (first[:31], *rest)):
        assert refusal(world, world.paying(changed(world.record, salts=tuple(salts)))).field == "salts"


def test_a_decoy_is_not_made_of_work_nor_work_of_a_decoy() -> None:
    """The mark is signed: a salt opens it in one way."""
    salt = b"s" * 32
    mark = mark_of(salt, decoy=True)
    assert opens(mark, salt, decoy=True)
    assert not opens(mark, salt, decoy=False)
    assert not opens(mark, salt + b"\x01", decoy=True)
    assert not opens(mark, UNOPENED, decoy=True)


def test_k_confirmations_do_not_settle_a_decoy() -> None:
    world = decoyed(auditors=dict.fromkeys(voters(decoyed())[:2], "friend"))
    early = with_audit(world.record, 0, votes=world.record.audits[0].votes[:2], verdict=Verdict.VALID)
    assert refusal(world, world.paying(changed(early, faults=()))).field == "audits"
    early = with_audit(world.record, 0, votes=world.record.audits[0].votes[:2], verdict=Verdict.UNDECIDED)
    assert refusal(world, world.paying(changed(early, faults=()))).field == "audits"


def test_a_decoy_s_worker_is_never_charged() -> None:
    world = decoyed()
    for segment, kind in ((world.record.audits[0].segment, FaultReason.MISMATCH), (None, FaultReason.WITHHELD)):
        fault = RecordedFault(*DECOY, address("n0"), kind, "framed", segment)
        assert refusal(world, world.paying(changed(world.record, faults=(fault,)))).field == "faults"


def test_a_fake_that_is_called_a_decoy_earns_nothing_even_where_it_is_not_audited() -> None:
    trusted = [replace(node, valid=10**6) for node in network(16)]
    world = with_first(decoyed(nodes=trusted), decoy=True, fake=EVERY)
    world.check()
    assert DECOY not in {audit.task_key for audit in world.record.audits}
    assert DECOY not in accepted(world.view, world.record)


def test_a_later_leader_opens_what_it_is_given_and_what_it_is_not_is_not_paid() -> None:
    world = with_first(simple(attempt=1), unopened=True)
    world.check()
    assert not world.record.faults
    assert DECOY not in accepted(world.view, world.record)
    assert all(int(paid.work) == 0 for paid in world.record.payouts if paid.node == address("n0"))


def test_whoever_is_found_faulty_and_opens_its_mark_to_nobody_withholds_it() -> None:
    world = with_first(simple(attempt=1), unopened=True, fake=EVERY)
    world.check()
    fault = next(f for f in world.record.faults if f.kind == FaultReason.WITHHELD)
    assert (fault.segment, fault.node) == (None, address("n0"))
    assert withheld_by(world.record, fault) == (mark_cid(world.record.tasks[0].commitment.mark),)
    wrong = changed(fault, kind=FaultReason.MISMATCH, segment=SegmentIndex(world.record.audits[0].segment))
    others = tuple(other for other in world.record.faults if other != fault)
    assert refusal(world, world.paying(changed(world.record, faults=(wrong, *others)))).field == "faults"


def test_a_budget_pays_decoys_auditors_without_touching_what_work_may_cost() -> None:
    world = decoyed(scarce=TOKEN)
    world.check()
    shares = settlement_of(world.record, world.view, RECORD).shares
    for line, share in zip(world.view.header.lines, shares, strict=True):
        assert share.amount <= line.budget
