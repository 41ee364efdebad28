"""A batch judged from end to end inside one process: real records and seals, auditors of every character."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from court import (
    RIGHT,
    Answer,
    Court,
    K,
    Roughly,
    accuser,
    colluder,
    failing,
    honest,
    lazy,
    moved,
    off_by_a_bit,
    rounding,
    silent,
    state,
    trap,
)
from stage import join, leave

from proofyard.chain import Wallet
from proofyard.disputes import refusals
from proofyard.protocol.settlement import FaultReason
from proofyard.verifier.engine.rows import Fault, Job, JobState, Log, Task
from proofyard.verifier.engine.tasks import MAX_UNDECIDED
from proofyard.verifier.engine.world import Step
from proofyard.workloads.workload import Workload


@pytest.mark.parametrize("liar", [accuser, lazy, failing, colluder])
async def test_whoever_lies_in_an_audit_is_outvoted_and_slashed(court: Callable[..., Court], liar: Answer) -> None:
    """Every task that the liar has a seat at; the worker is honest unless the liar would cover for it."""
    cheating = liar is colluder
    here = court(liar, honest, honest, honest)
    await here.commit(dict.fromkeys(range(3), ((moved(state(1), 1e-5),) if cheating else RIGHT, True)))
    record = await here.judge()
    voted = any(vote.auditor == here.auditors[0].peer for audit in record.audits for vote in audit.votes)
    assert here.guilty(record) == sorted((["worker"] if cheating else []) + ([liar.__name__] if voted else []))
    worker, auditor = here.operator(here.worker), here.operator(here.auditors[0].wallet)
    assert {fault.operator: fault.reason for fault in here.settlement.faults} == {
        **({worker: FaultReason.MISMATCH} if cheating else {}),
        **({auditor: FaultReason.FALSE_AUDIT} if voted else {}),
    }
    assert all(len(fault.accusers) > K for fault in here.settlement.faults)
    paid = {payout.node for payout in record.payouts}
    assert here.auditors[0].peer not in paid
    assert (here.worker.address in paid) == (not cheating)
    assert set(here.states().values()) == {"ready" if cheating else "accepted"}


async def test_two_auditors_whose_answers_differ_in_one_bit_do_not_agree(court: Callable[..., Court]) -> None:
    """Two more decide, and whoever was off by a bit has not executed."""
    here = court(accuser, honest, honest, honest)
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    assert len(record.audits[0].votes) == 4
    assert here.guilty(record) == ["accuser"]
    assert here.states()[0] == "accepted"


async def test_auditors_that_make_up_answers_by_themselves_convict_nobody(court: Callable[..., Court]) -> None:
    """As many as there are seats, on an honest worker: they contradict each other as well."""
    here = court(lazy, accuser, honest, honest, honest)
    await here.commit(dict.fromkeys(range(3), (RIGHT, True)))
    record = await here.judge()
    assert "worker" not in here.guilty(record)
    assert {audit.verdict for audit in record.audits} == {"valid"}


async def test_whoever_copies_an_answer_has_no_say_and_pays_where_everybody_looks(court: Callable[..., Court]) -> None:
    """The right answer with another's keyed digest: somebody told it, and its owner did not execute."""
    here = court(honest, honest, honest, honest, copies=0)
    await here.commit({0: (RIGHT, True)}, first=0, keyed=True)
    record = await here.judge()
    assert record.audits[0].copied == (here.auditors[0].peer,)
    assert [(fault.node, fault.kind) for fault in record.faults] == [(here.auditors[0].peer, FaultReason.FALSE_AUDIT)]
    assert here.settlement.faults[0].accusers == ()
    assert here.states()[0] == "accepted"


async def test_whoever_claims_a_state_for_a_segment_that_cannot_be_executed_is_convicted(
    court: Callable[..., Court],
) -> None:
    here = court(failing, failing, failing, failing)
    await here.commit({0: (RIGHT, True)})
    record = await here.judge()
    assert here.guilty(record) == ["worker"]
    assert record.faults[0].kind == FaultReason.MISMATCH
    assert "cannot be executed" in record.faults[0].reason and "a trap" in record.faults[0].reason


async def test_a_state_that_breaks_a_law_is_a_fault_before_anybody_is_seated(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    await here.commit({0: ((trap(state(1)), state(2)), True)})
    record = await here.judge()
    refused = next(audit for audit in record.audits if audit.segment == 1)
    assert (refused.votes, refused.absent, refused.verdict) == ((), (), "fault")
    assert "negative" in refused.reason
    assert here.guilty(record) == ["worker"]
    assert here.settlement.faults[0].reason == FaultReason.MISMATCH


@pytest.mark.parametrize("auditors", [(), (honest,), (failing,), (honest, accuser), (honest, accuser, accuser)])
async def test_too_few_auditors_never_decide(court: Callable[..., Court], auditors: tuple[Answer, ...]) -> None:
    """Nobody is left who could settle a split, or be the second one: the task is done again, whoever voted is paid, and
    whoever was contradicted or contradicts does not get it again."""
    here = court(*auditors)
    split = accuser in auditors or failing in auditors
    await here.commit({0: (RIGHT, True)}, drawn_ago=1000)
    record = await here.judge()
    assert {audit.verdict for audit in record.audits} == {"undecided"}
    assert (record.faults, here.states()[0]) == ((), "ready")
    assert {payout.node for payout in record.payouts} == {auditor.peer for auditor in here.auditors}
    task = here.tasks()[0]
    others = {a.peer for a in here.auditors if a.answer is not honest}
    assert set(task.barred) == ({here.worker.address, *others} if split else set())
    assert task.undecided == 1


async def test_a_task_that_comes_out_undecided_again_and_again_ends_its_job(court: Callable[..., Court]) -> None:
    here = court(honest, accuser)
    await here.commit({0: (RIGHT, True)})
    task: Task = here.tasks()[0]
    task.undecided = MAX_UNDECIDED - 1
    await here.context.database.write(Step((task,), (), ()))
    await here.judge()
    (job,) = here.leader.stored(Job)
    assert job.state == JobState.FAILED
    assert "task 0 came out undecided 3 times" in job.reason


async def test_nobody_audits_what_it_does_not_offer(court: Callable[..., Court]) -> None:
    here = court(accuser, honest, honest)
    await here.commit({0: (RIGHT, True)}, first=0)
    member = here.context.members[here.auditors[0].peer]
    announce = msgspec.structs.replace(member.announce, workloads=("map",))
    join(here.leader, here.auditors[0], member.record, announce)
    record = await here.judge()
    assert {vote.auditor for vote in record.audits[0].votes} == {auditor.peer for auditor in here.auditors[1:]}
    assert here.auditors[0].peer in record.audits[0].absent
    assert (record.faults, here.states()[0]) == ((), "accepted")


async def test_an_auditor_that_is_silent_costs_nobody_anything(court: Callable[..., Court]) -> None:
    here = court(silent, honest, honest, lease_s=1.0)
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    assert record.faults == ()
    assert record.audits[0].absent == (here.auditors[0].peer,)
    assert here.states()[0] == "accepted"


async def test_an_audit_that_too_few_answer_is_left_undecided_late_and_names_everybody(
    court: Callable[..., Court],
) -> None:
    """Those who are gone are named, the one who answered is paid, and nobody is barred: the worker did nothing."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)}, drawn_ago=1000)
    for verifier in (here.leader, here.signer):
        for auditor in here.auditors[1:]:
            leave(verifier, auditor.peer)
    record = await here.judge()
    audit = record.audits[0]
    assert audit.verdict == "undecided"
    assert [vote.auditor for vote in audit.votes] == [here.auditors[0].peer]
    assert set(audit.absent) == {auditor.peer for auditor in here.auditors[1:]}
    assert [payout.node for payout in record.payouts] == [here.auditors[0].peer]
    assert (here.tasks()[0].barred, here.states()[0]) == ((), "ready")


async def test_a_worker_that_retired_or_rotated_its_key_is_judged_all_the_same(court: Callable[..., Court]) -> None:
    """Operators are found by any key that they ever had; one that left is audited for certain."""
    here = court(honest, honest, honest, honest)
    await here.commit({0: ((off_by_a_bit(state(1)),), True)})
    old = here.worker_facts
    here.chain.retired_keys[old.node] = (old.id, old.owner)
    here.chain.facts = [
        replace(facts, node=Wallet.generate().address, listed=False, active=False) if facts.id == old.id else facts
        for facts in here.chain.facts
    ]
    record = await here.judge()
    assert [(fault.node, fault.kind) for fault in record.faults] == [(old.node, FaultReason.MISMATCH)]
    assert [fault.operator for fault in here.settlement.faults] == [old.id]


async def test_a_worker_that_withholds_its_states_is_judged_as_if_they_were_wrong(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True), 1: (RIGHT, True)}, withheld=True)
    record = await here.judge()
    assert here.guilty(record) == ["worker"]
    assert "was not delivered within" in record.faults[0].reason
    assert record.faults[0].kind == FaultReason.WITHHELD
    assert here.states()[0] == "ready"


async def test_nothing_of_a_caught_owner_is_taken_on_trust(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: ((off_by_a_bit(state(1)),), True), 1: (RIGHT, False), 2: (RIGHT, False)})
    record = await here.judge()
    assert [(fault.task, fault.node) for fault in record.faults] == [(0, here.worker.address)]
    assert here.states() == {0: "ready", 1: "ready", 2: "ready"}
    assert here.worker.address not in {payout.node for payout in record.payouts}
    assert all(here.worker.address in task.barred for task in here.tasks()[:3])
    assert [line.task for line in here.leader.stored(Log) if line.kind == "caught"] == [1, 2]
    assert set(here.leader.rows.guilty) == {here.worker_facts.owner}


async def test_a_result_that_its_last_state_does_not_give_is_a_fault_even_undrawn(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, False)}, result=b"anything")
    record = await here.judge()
    assert [(fault.kind, fault.segment) for fault in record.faults] == [(FaultReason.MISMATCH, None)]
    assert "the result" in record.faults[0].reason


@pytest.fixture
def inexact(monkeypatch: pytest.MonkeyPatch) -> Workload:
    workload = Roughly()
    monkeypatch.setattr(refusals, "workload_of", lambda _: workload)
    return workload


async def test_where_a_workload_is_not_exact_its_metric_says_who_agrees_and_nobody_loses_stake(
    court: Callable[..., Court], inexact: Workload
) -> None:
    here = court(rounding, honest, rounding, workload=inexact)
    await here.commit({0: ((moved(state(1), 2e-6),), True)})
    record = await here.judge()
    assert record.audits[0].verdict == "valid"
    assert record.audits[0].alike and record.faults == ()


async def test_who_disagrees_where_a_workload_is_not_exact_loses_its_pay_and_no_stake(
    court: Callable[..., Court], inexact: Workload
) -> None:
    here = court(rounding, honest, rounding, colluder, workload=inexact)
    await here.commit({0: ((moved(state(1), 5e-4),), True), 1: (RIGHT, False)})
    record = await here.judge()
    assert (record.audits[0].verdict, here.states()[0]) == ("fault", "ready")
    assert [(fault.node, fault.kind) for fault in record.faults] == [(here.worker.address, FaultReason.DISAGREED)]
    assert [fault.reason for fault in here.settlement.faults] == [FaultReason.DISAGREED]
    assert here.worker.address not in {payout.node for payout in record.payouts}
    assert set(here.leader.rows.guilty) == set()
    assert [fault.owner for fault in here.leader.stored(Fault)] == [here.worker_facts.owner]
