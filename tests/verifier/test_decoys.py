"""Commitments that are false on purpose, as a verifier orders, judges and settles them."""

from collections.abc import Callable
from typing import Any

import pytest
from court import BATCH, RIGHT, Court, colluder, honest, moved, state
from sqlmodel import select

from proofyard.protocol.codec import decode
from proofyard.protocol.mark import UNOPENED, opening_of
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.record import BatchRecord
from proofyard.protocol.settlement import FaultReason
from proofyard.verifier import judging
from proofyard.verifier.batches import form_batches
from proofyard.verifier.database import Batch, Log, Task
from proofyard.verifier.membership import members_of
from proofyard.verifier.schedule import wants_decoy

FALSE = (moved(state(1), 1e-5),)


async def judged(here: Court) -> BatchRecord:
    """Task 0 is a decoy, the others are right."""
    here.decoys = {0}
    here.commit({0: (FALSE, True), 1: (RIGHT, True)})
    return await here.judge()


async def test_a_decoy_convicts_who_repeats_it_and_nobody_else(court: Callable[..., Court]) -> None:
    """The worker hands its false state to whoever asks; a copier seals it, and seats go on until others decide."""
    here = court(colluder, honest, honest, honest, honest)
    here.decoys = {0}
    here.commit({0: (FALSE, True)}, first=0)
    record = await here.judge()
    assert here.guilty(record) == ["colluder"]
    assert [fault.kind for fault in record.faults] == [FaultReason.FALSE_AUDIT]
    assert here.worker.address not in {payout.node for payout in record.payouts}
    assert here.states()[0] == "committed", "its own commitment has a batch to come"


async def test_who_executes_is_paid_for_a_decoy_and_its_worker_goes_on(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    record = await judged(here)
    assert not record.faults
    assert (here.states()[0], here.states()[1]) == ("committed", "valid")
    audit = next(audit for audit in record.audits if audit.task == 0)
    earned = {payout.node: int(payout.audits) for payout in record.payouts}
    assert all(earned[vote.auditor] > 0 for vote in audit.votes)
    with here.context.database.session() as session:
        task = session.get(Task, (1, 0))
        assert task is not None and decode(task.submission or b"", SubmitCommitment).decoy is None
        formed = form_batches(session, at=0.0, batch_tasks=32)
        later = session.get(Batch, formed[0])
        assert later is not None and [member.key for member in members_of(later)] == [(1, 0)]


async def test_nothing_in_the_log_of_a_batch_that_is_judged_says_what_is_a_decoy(court: Callable[..., Court]) -> None:
    """Anybody may ask how a job is doing."""
    here = court(honest, honest, honest, honest)
    await judged(here)
    with here.context.database.session() as session:
        lines = [line.kind for line in session.exec(select(Log)).all()]
    assert lines.index("decoy") > max(place for place, kind in enumerate(lines) if kind.startswith("audit"))


async def test_whoever_takes_a_batch_over_is_told_what_opens_its_marks(
    court: Callable[..., Court],
) -> None:
    here = court(honest, honest, honest, honest)
    here.told_no_salts = True
    here.decoys = {0}
    here.commit({0: (FALSE, True), 1: (RIGHT, True)})
    here.chain.batches[BATCH].attempt = 1
    record = await here.judge()
    assert record.decoys == {(1, 0)}
    assert not record.unopened and not record.faults


async def test_what_nobody_opens_is_not_paid_and_no_fault_unless_it_is_found_wrong(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    here.told_no_salts, here.shows_marks = True, False
    here.commit({0: (FALSE, True), 1: (RIGHT, True)})
    here.chain.batches[BATCH].attempt = 1
    record = await here.judge()
    assert record.salts == (UNOPENED, UNOPENED)
    assert [(fault.kind, fault.segment, fault.task) for fault in record.faults] == [(FaultReason.WITHHELD, None, 0)]
    assert not any(int(payout.work) for payout in record.payouts)


async def test_what_a_signer_can_open_is_opened(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    here.told_no_salts, here.shows_marks = True, False
    here.commit({0: (RIGHT, True)})
    here.chain.batches[BATCH].attempt = 1
    here.signer.context.store.put_bytes(opening_of(bytes(32), decoy=False))
    record = await here.judge()
    assert not record.unopened
    assert here.worker.address in {payout.node for payout in record.payouts if int(payout.work)}


def test_decoys_are_drawn_by_the_share_that_is_set() -> None:
    def drawn(share: int, *, exact: bool = True) -> int:
        workload = type("Of", (), {"exact": exact})
        settings = type("Set", (), {"decoys_bps": share})
        context: Any = type("Context", (), {"workload": lambda *_: workload, "settings": settings})()
        return sum(wants_decoy(context, Any) for _ in range(400))  # type: ignore[arg-type]

    assert (drawn(0), drawn(10_000), drawn(10_000, exact=False)) == (0, 400, 0)
    assert 100 < drawn(5000) < 300


async def test_what_a_signer_shows_to_be_a_decoy_is_judged_as_one(court: Callable[..., Court]) -> None:
    """Its auditors all repeated it, which decides on work; nobody contradicts them, so nothing is decided."""
    here = court(colluder, colluder, colluder)
    here.told_no_salts, here.shows_marks, here.decoys = True, False, {0}
    here.commit({0: (FALSE, True)})
    here.chain.batches[BATCH].attempt = 1
    here.signer.context.store.put_bytes(opening_of(bytes(32), decoy=True))
    record = await here.judge()
    assert [audit.verdict for audit in record.audits] == ["undecided"]
    assert record.decoys == {(1, 0)} and not record.faults


async def test_the_result_of_a_decoy_is_fetched_like_any_other_and_is_no_fault(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier that lacked just the results of decoys would tell auditors which they are."""
    asked: list[str] = []
    owed = judging.owed

    async def noted(*arguments: Any, **keywords: Any) -> int:
        asked.append(arguments[2])
        return await owed(*arguments, **keywords)

    monkeypatch.setattr(judging, "owed", noted)
    here = court(honest, honest, honest, honest)
    here.decoys = {0}
    here.commit({0: (FALSE, True)}, result=b"nothing that follows from any state")
    record = await here.judge()
    member = record.tasks[0]
    assert {member.commitment.result, member.trace[-1]} <= set(asked)
    assert not record.faults
