"""What a verifier does beside its own batches: it carries what others leave, and says that it is there."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from court import BATCH, RIGHT, Court, honest, off_by_a_bit, state
from sqlmodel import select
from stage import FakeChain, make_verifier

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.record import decode_record
from proofyard.protocol.types import BatchId
from proofyard.verifier import following
from proofyard.verifier.batches import run_batch
from proofyard.verifier.chainsync import _reopen
from proofyard.verifier.database import Batch, BatchState, Job, JobState, Known, Signed, row_of
from proofyard.verifier.duties import DRAW_OTHERS_AFTER, HASHES, JUDGING_S, round_of_duties


def note(here: Court, leader: int = 0) -> None:
    for verifier in (here.leader, here.signer):
        with verifier.context.database.session() as session:
            session.merge(Known(batch=BATCH, leader=here.chain.seats[leader].id))


async def carry(verifier: Any, row: int = 1) -> None:
    async with asyncio.timeout(60):
        await run_batch(verifier.context, row)
    await verifier.context.close()


async def test_a_batch_that_its_leader_leaves_is_judged_and_settled_by_another_verifier(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(honest, honest, honest)
    here.commit({0: ((off_by_a_bit(state(1)),), True), 1: (RIGHT, True)})
    note(here)
    await round_of_duties(here.signer.context)
    assert ("take", BATCH) not in here.chain.sent, "its leader still has time"
    here.chain.batches[BATCH].leader_since -= 10_000
    await round_of_duties(here.signer.context)
    assert here.chain.batches[BATCH].verifier == here.chain.seats[1].id
    for auditor in here.auditors:
        auditor.verifier = here.signer
    await carry(here.signer)
    record = decode_record(here.signer.context.store.get_bytes(here.settlement.record))
    assert record.leader == here.chain.seats[1].id
    assert here.guilty(record) == ["worker"]

    view = here.context.chain.view(BATCH)
    event = SimpleNamespace(record=here.settlement.record)
    found = SimpleNamespace(event=event, view=view, record=record, check_record=lambda: None)

    async def load(*_: object) -> Any:
        return found

    monkeypatch.setattr(following, "load_settled", load)
    await carry(here.leader)
    assert here.states()[0] == here.states()[1] == "ready", "the verdicts of others count as one's own"
    with here.context.database.session() as session:
        assert session.exec(select(Batch.state)).one() == BatchState.SETTLED


async def test_whoever_signed_for_a_leader_that_never_settled_signs_for_its_successor(
    court: Callable[..., Court],
) -> None:
    """Who takes a batch over begins another attempt: a leader that keeps the signatures to itself binds nobody."""
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    kept: list[object] = []
    here.context.chain.settle_batch = lambda *call: kept.append(call) or stop()  # type: ignore[method-assign]

    def stop() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run_batch(here.context, 1)
    assert kept, "it has everybody's signature"
    here.chain.batches[BATCH].leader_since -= 1500
    await round_of_duties(here.signer.context)
    for auditor in here.auditors:
        auditor.verifier = here.signer
    await carry(here.signer)
    record = decode_record(here.signer.context.store.get_bytes(here.settlement.record))
    assert (record.attempt, record.leader) == (1, here.chain.seats[1].id)
    with here.context.database.session() as session:
        assert [row.attempt for row in session.exec(select(Signed).order_by(Signed.attempt))] == [0, 1]  # type: ignore[arg-type]


async def test_nobody_takes_over_what_cannot_be_judged_in_time(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    batch = here.chain.batches[BATCH]
    batch.leader_since -= here.chain.params_.settle_grace - JUDGING_S + 10
    batch.opened_at = batch.leader_since
    await round_of_duties(here.signer.context)
    assert here.chain.sent == [("attend", here.signer.wallet.address)]


async def test_a_list_that_nobody_shows_is_not_taken_over_blindly(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].leader_since -= 10_000
    here.signer.endpoint.peers.clear()
    await round_of_duties(here.signer.context)
    assert here.chain.sent == [("attend", here.signer.wallet.address)]


async def test_a_batch_of_junk_is_nobodys_to_take_over(court: Callable[..., Court]) -> None:
    """A commitment by a key that no node ever had: no record of it can hold, and whoever leads it then would pay."""
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.facts = [facts for facts in here.chain.facts if facts.node != here.worker.address]
    here.chain.batches[BATCH].leader_since -= 1500
    await round_of_duties(here.signer.context)
    assert ("take", BATCH) not in here.chain.sent


async def test_a_voided_settlement_is_made_again_by_software(court: Callable[..., Court]) -> None:
    """From the same evidence, for the new attempt; the old signature does not stand in its way."""
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    first = await here.judge()
    batch = here.chain.batches[BATCH]
    batch.settled_at, batch.voided, batch.settlement = 0, True, None
    batch.content = replace(batch.content, lines=tuple(replace(x, paid_units=0) for x in batch.content.lines))
    with here.context.database.session() as session:
        _reopen(session, BATCH, 0, led=True)
    await carry(here.leader)
    assert ("take", BATCH) in here.chain.sent
    second = decode_record(here.context.store.get_bytes(here.settlement.record))
    assert (first.attempt, second.attempt) == (0, 1)
    assert second.audits == first.audits


async def test_a_voided_batch_of_others_waits_for_its_turn(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].voided = True
    await round_of_duties(here.signer.context)
    assert ("take", BATCH) not in here.chain.sent
    here.chain.batches[BATCH].opened_at -= 200
    await round_of_duties(here.signer.context)
    assert ("take", BATCH) in here.chain.sent


async def test_a_batch_past_saving_is_dropped_and_its_work_done_again(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].opened_at -= 10_000
    await round_of_duties(here.signer.context)
    assert ("drop", BATCH) in here.chain.sent
    await carry(here.leader)
    assert here.states()[0] == "ready"
    with here.context.database.session() as session:
        row = row_of(session, BATCH)
        assert row is not None and row.state == BatchState.DROPPED
    await round_of_duties(here.signer.context)
    with here.signer.context.database.session() as session:
        assert session.exec(select(Known)).all() == []


async def test_a_batch_that_nobody_draws_is_drawn_before_its_block_hash_is_lost(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    note(here)
    await round_of_duties(here.signer.context)
    assert ("draw", BATCH) not in here.chain.sent
    here.chain.block += DRAW_OTHERS_AFTER + 10
    assert DRAW_OTHERS_AFTER < HASHES
    await round_of_duties(here.signer.context)
    assert here.chain.sent.count(("draw", BATCH)) == 1
    await round_of_duties(here.signer.context)
    assert here.chain.sent.count(("draw", BATCH)) == 1


async def test_each_verifier_attends_once_a_period(tmp_path: Any) -> None:
    chain = FakeChain()
    verifier = make_verifier(chain, tmp_path)
    for _ in range(3):
        await round_of_duties(verifier.context)
    assert chain.sent == [("attend", verifier.wallet.address)]
    verifier.context.saw_block(chain.clock + chain.params_.idle_period)
    await round_of_duties(verifier.context)
    assert len(chain.sent) == 2
    verifier.context.database.close()


async def test_a_settled_batch_is_finalized_when_its_window_is_over(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    await here.judge()
    note(here)
    batch = here.chain.batches[BATCH]
    batch.unfinal, batch.open_challenges = True, 1
    batch.claimable_at = 0
    await round_of_duties(here.context)
    assert ("finalize", BATCH) not in here.chain.sent
    batch.open_challenges = 0
    await round_of_duties(here.context)
    assert ("finalize", BATCH) in here.chain.sent


async def test_a_job_is_closed_once_all_its_units_are_paid(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    await here.judge()
    with here.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None
        job.state, job.result = JobState.DONE, raw_cid(b"package")
    await round_of_duties(here.context)
    assert here.chain.closed == set(), "units are left to pay"
    lines = here.chain.batches[BATCH].content.lines
    paid = tuple(replace(line, paid_units=here.facts.units) for line in lines)
    here.chain.batches[BATCH].content = replace(here.chain.batches[BATCH].content, lines=paid)
    await round_of_duties(here.context)
    assert here.chain.closed == {1}
    with here.context.database.session() as session:
        job = session.get(Job, 1)
        assert job is not None and job.closed


async def test_a_batch_whose_commit_went_with_a_block_is_sent_again(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    here.commit({0: (RIGHT, True)})
    lost = here.chain.batches.pop(BATCH)
    async with asyncio.timeout(60):
        while here.chain.batches.get(BATCH) is None:
            task = asyncio.create_task(run_batch(here.context, 1))
            await asyncio.sleep(0.3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert here.chain.batches[BatchId(1)].content.root == lost.content.root
    await here.context.close()
