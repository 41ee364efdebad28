"""Who earns what: line by line, within the budget, by units and by the fee."""

from dataclasses import replace

import pytest
from worlds import TOKEN, Job, Node, Work, World, address, changed, network, simple

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.earnings import REPUTATION_PRICE, earnings, verifier_fee
from proofyard.protocol.record import RecordedPayout
from proofyard.protocol.settlement import Share
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import JobId, TaskIndex, Wei

pytestmark = pytest.mark.usefixtures("known_signatures")


def paid(world: World) -> dict[str, RecordedPayout]:
    world.check()
    return {world.node_names[payout.node]: payout for payout in world.record.payouts}


def work_of(world: World) -> dict[str, int]:
    return {name: int(payout.work) for name, payout in paid(world).items() if payout.work != "0"}


def test_a_task_is_paid_its_part_of_the_reward_whatever_its_worker_s_reputation() -> None:
    nodes = [Node("n0", "a", valid=0), Node("n1", "b", valid=100), Node("n2", "c", valid=5000), *network(8)[3:]]
    job = Job(JobId(1), (4, 4, 4), (10, 20, 30), reward=Wei(60 * TOKEN))
    world = World([job], nodes, [Work(1, i, f"n{i}") for i in range(3)])
    assert work_of(world) == {
        "n0": 10 * TOKEN,
        "n1": 20 * TOKEN,
        "n2": 30 * TOKEN,
    }


def test_a_faulty_task_pays_its_auditors_nothing_but_the_slash_pool() -> None:
    work = [Work(1, 0, "n0", fake=(0, 1, 2, 3)), Work(1, 1, "n1")]
    world = World([Job(JobId(1), (4, 4))], network(9), work)
    faulty = {world.node_names[vote.auditor] for vote in world.record.audits[0].votes}
    right = {world.node_names[vote.auditor] for vote in world.record.audits[1].votes}
    pay = paid(world)
    assert {name for name, payout in pay.items() if payout.segments} == faulty
    assert {name for name, payout in pay.items() if payout.audits != "0"} == right - {"n0"}
    assert "n0" not in pay


def test_audits_are_paid_by_the_units_of_their_task() -> None:
    work = [Work(1, 0, "n0"), Work(1, 1, "n1")]
    world = World([Job(JobId(1), (4, 4), (10, 30), audit_fee=Wei(40 * TOKEN))], network(9), work)
    assert sum(int(payout.audits) for payout in paid(world).values()) == 40 * TOKEN
    seats = {audit.task: [world.node_names[vote.auditor] for vote in audit.votes] for audit in world.record.audits}
    only = {task: next(n for n in names if n not in seats[TaskIndex(1 - task)]) for task, names in seats.items()}
    assert [int(paid(world)[only[TaskIndex(task)]].audits) for task in (0, 1)] == [5 * TOKEN, 15 * TOKEN]


def test_more_votes_than_were_asked_for_share_what_the_line_has() -> None:
    world = World([Job(JobId(1), (4,))], network(6), [Work(1, 0, "n0")], {"n1": "liar", "n2": "liar"})
    shares = settlement_of(world.record, world.view, raw_cid(b"r")).shares
    assert int(work_of(world)["n0"]) == 100 * TOKEN
    assert shares[0].amount - 100 * TOKEN <= 10 * TOKEN


@pytest.mark.parametrize(
    "budget", [0, 1, 7, TOKEN, 50 * TOKEN, 104 * TOKEN, 105 * TOKEN - 31, 105 * TOKEN - 30, 105 * TOKEN, 106 * TOKEN]
)
def test_a_budget_that_does_not_suffice_pays_the_same_part_of_all_work_and_then_audits(budget: int) -> None:
    world = replace(simple(), scarce=Wei(budget))
    world.check()
    for line, share in zip(
        world.view.header.lines, settlement_of(world.record, world.view, raw_cid(b"r")).shares, strict=True
    ):
        job = world.view.jobs[line.job]
        assert share.amount + verifier_fee(job, share.paid_units) <= budget
        assert share.paid_units == min(30, 30 * (budget + 30) // (105 * TOKEN)), "rounding costs nobody a unit"
    audits = sum(int(payout.audits) for payout in world.record.payouts)
    assert audits == max(0, 2 * (budget - 105 * TOKEN))


def test_work_that_has_to_be_done_again_keeps_its_reward() -> None:
    """The auditors of an undecided task are paid, but not from what its next worker will be."""
    world = World([Job(JobId(1), (4,))], network(4), [Work(1, 0, "n0")], {"n1": "liar", "n2": "liar"})
    full = settlement_of(world.record, world.view, raw_cid(b"r")).shares
    assert full == (Share(0, Wei(10 * TOKEN)),)
    scarce = replace(world, scarce=Wei(105 * TOKEN))
    assert settlement_of(scarce.record, scarce.view, raw_cid(b"r")).shares == (Share(0, Wei(0)),)


def test_an_owner_at_fault_anywhere_in_the_batch_is_paid_nowhere_in_it() -> None:
    nodes = [*network(9), Node("n20", "owner-0")]
    work = [Work(1, 0, "n0", fake=(0, 1, 2, 3)), Work(1, 1, "n20"), Work(2, 0, "n20"), Work(2, 1, "n3")]
    world = World([Job(JobId(1), (4, 4)), Job(JobId(2), (4, 4))], nodes, work)
    assert work_of(world) == {"n3": 50 * TOKEN}
    assert address("owner-0") not in {payout.owner for payout in world.record.payouts}


@pytest.mark.parametrize(("fee", "valid"), [(0, 0), (1, 0), (3, 1), (7, 2), (9, 3), (1000, 3)])
def test_reputation_grows_by_what_auditors_were_paid(fee: int, valid: int) -> None:
    """Three tasks of one worker; the fee is a third of the price for each unit of it."""
    job = Job(JobId(1), (4, 4, 4), audit_fee=Wei(fee * REPUTATION_PRICE // 3 + 6))
    world = World([job], network(9), [Work(1, i, "n0") for i in range(3)])
    assert paid(world)["n0"].valid == valid


def test_payouts_in_a_record_have_no_say_in_what_follows_from_it() -> None:
    world = simple()
    assert earnings(world.view, changed(world.record, payouts=())) == earnings(world.view, world.record)
