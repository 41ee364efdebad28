"""What a verifier does beside its own batches: it carries what others leave, and says that it is there."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from court import BATCH, RIGHT, Court, honest, off_by_a_bit, state
from sqlmodel import select
from stage import FakeChain, make_verifier

from proofyard.chain import Rollback
from proofyard.chain.events import BatchVoided
from proofyard.protocol.record import decode_record
from proofyard.verifier import leading
from proofyard.verifier.duties import DRAW_OTHERS_AFTER, HASHES, JUDGING_S, round_of_duties
from proofyard.verifier.engine.effects import Settle
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.store.tables import Known, Signed


def note(here: Court, leader: int = 0) -> None:
    for verifier in (here.leader, here.signer):
        with verifier.context.database.session() as session:
            session.merge(Known(batch=BATCH, leader=here.chain.seats[leader].id))


def settles(here: Court) -> Callable[[], bool]:
    return lambda: here.chain.batches[BATCH].settlement is not None


async def test_a_batch_that_its_leader_leaves_is_judged_and_settled_by_another_verifier(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: ((off_by_a_bit(state(1)),), True), 1: (RIGHT, True)})
    note(here)
    for auditor in here.auditors:
        auditor.verifier = here.signer
    async with here.signer.running(close=False):
        await round_of_duties(here.signer.context)
        assert ("take", BATCH) not in here.chain.sent, "its leader still has time"
        here.chain.batches[BATCH].leader_since -= 10_000
        await round_of_duties(here.signer.context)
        assert here.chain.batches[BATCH].verifier == here.chain.seats[1].id
        await here.signer.until(settles(here))
    record = decode_record(here.signer.context.store.get_bytes(here.settlement.record))
    assert record.leader == here.chain.seats[1].id
    assert here.guilty(record) == ["worker"]

    view = here.context.chain.view(BATCH)
    event = SimpleNamespace(record=here.settlement.record)
    found = SimpleNamespace(event=event, view=view, record=record, check_record=lambda: None)

    async def load(*_: object) -> Any:
        return found

    monkeypatch.setattr(leading, "load_settled", load)
    async with here.leader.running():
        await here.leader.until(here.is_read)
        await here.leader.runner.tell_all([])
    assert here.states()[0] == here.states()[1] == "ready", "the verdicts of others count as one's own"
    assert here.leader.rows.batches[1].state == BatchState.SETTLED


async def test_a_batch_that_was_taken_over_before_a_crash_is_not_left_alone(court: Callable[..., Court]) -> None:
    """The transaction was mined, and the process died before it knew: who leads a batch when it is dropped pays."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    for auditor in here.auditors:
        auditor.verifier = here.signer
    here.signer.context.chain.take_batch(BATCH)
    async with here.signer.running(close=False):
        await round_of_duties(here.signer.context)
        await here.signer.until(settles(here))
        await round_of_duties(here.signer.context)
        assert len(here.signer.rows.batches) == 1
    assert here.chain.sent.count(("take", BATCH)) == 1
    assert decode_record(here.signer.context.store.get_bytes(here.settlement.record)).attempt == 1


async def test_whoever_signed_for_a_leader_that_never_settled_signs_for_its_successor(
    court: Callable[..., Court],
) -> None:
    """Who takes a batch over begins another attempt: a leader that keeps the signatures to itself binds nobody."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    kept = await keep_signatures(here)
    assert kept, "it has everybody's signature"
    here.chain.batches[BATCH].leader_since -= 1500
    for auditor in here.auditors:
        auditor.verifier = here.signer
    async with here.signer.running(close=False):
        await round_of_duties(here.signer.context)
        await here.signer.until(settles(here))
    record = decode_record(here.signer.context.store.get_bytes(here.settlement.record))
    assert (record.attempt, record.leader) == (1, here.chain.seats[1].id)
    with here.context.database.session() as session:
        assert sorted(row.attempt for row in session.exec(select(Signed)) if row.batch == BATCH) == [0, 1]


async def keep_signatures(here: Court) -> list[object]:
    """The leader gathers all signatures, and its settlement reaches nobody."""
    kept: list[object] = []
    here.context.chain.settle_batch = lambda *call: kept.append(call)  # type: ignore[method-assign]
    async with here.leader.running(close=False):
        await here.leader.until(lambda: kept)
    return kept


async def test_who_is_bound_by_its_signature_settles_just_that_after_a_restart(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    ((_, settlement, *_),) = await keep_signatures(here)  # type: ignore[misc]
    del here.context.chain.settle_batch
    here.auditors.clear()
    here.leader.renew()
    await here.judge()
    assert here.settlement == settlement


async def test_nobody_takes_over_what_cannot_be_judged_in_time(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    batch = here.chain.batches[BATCH]
    batch.leader_since -= here.chain.params_.settle_grace - JUDGING_S + 10
    batch.opened_at = batch.leader_since
    await round_of_duties(here.signer.context)
    assert here.chain.sent == [("attend", here.signer.wallet.address)]


async def test_a_list_that_nobody_shows_is_not_taken_over_blindly(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].leader_since -= 10_000
    here.signer.endpoint.peers.clear()
    await round_of_duties(here.signer.context)
    assert here.chain.sent == [("attend", here.signer.wallet.address)]


async def test_a_batch_of_junk_is_nobodys_to_take_over(court: Callable[..., Court]) -> None:
    """A commitment by a key that no node ever had: no record of it can hold, and whoever leads it then would pay."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.facts = [facts for facts in here.chain.facts if facts.node != here.worker.address]
    here.chain.batches[BATCH].leader_since -= 1500
    await round_of_duties(here.signer.context)
    assert ("take", BATCH) not in here.chain.sent


async def test_a_voided_settlement_is_made_again_by_software(court: Callable[..., Court]) -> None:
    """From the same evidence, for the new attempt; the old signature does not stand in its way."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    batch = here.chain.batches[BATCH]
    async with here.leader.running(close=False):
        await here.leader.until(here.is_read)
        first = decode_record(here.context.store.get_bytes(here.settlement.record))
        batch.settled_at, batch.voided, batch.settlement = 0, True, None
        batch.content = replace(batch.content, lines=tuple(replace(x, paid_units=0) for x in batch.content.lines))
        here.chain.tell(BatchVoided, batch=BATCH, attempt=0)
        await here.leader.until(lambda: settles(here)() and here.is_read())
    assert ("take", BATCH) in here.chain.sent
    second = decode_record(here.context.store.get_bytes(here.settlement.record))
    assert (first.attempt, second.attempt) == (0, 1)
    assert second.audits == first.audits


async def test_a_voided_batch_of_others_waits_for_its_turn(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].voided = True
    async with here.signer.running(close=False):
        await round_of_duties(here.signer.context)
        assert ("take", BATCH) not in here.chain.sent
        here.chain.batches[BATCH].opened_at -= 200
        await round_of_duties(here.signer.context)
        assert ("take", BATCH) in here.chain.sent


async def test_a_batch_past_saving_is_dropped_and_its_work_done_again(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    note(here)
    here.chain.batches[BATCH].opened_at -= 10_000
    async with here.leader.without(Settle):
        await round_of_duties(here.signer.context)
        assert ("drop", BATCH) in here.chain.sent
        await here.leader.until(lambda: here.leader.rows.batches[1].state == BatchState.DROPPED)
        await here.leader.runner.tell_all([])
    assert here.states()[0] == "ready"
    await round_of_duties(here.signer.context)
    with here.signer.context.database.session() as session:
        assert session.get(Known, BATCH) is None


async def test_a_batch_that_nobody_draws_is_drawn_before_its_block_hash_is_lost(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
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
    verifier.context.saw_block(chain.block, chain.clock + chain.params_.idle_period)
    await round_of_duties(verifier.context)
    assert len(chain.sent) == 2
    verifier.context.database.close()


async def test_a_settled_batch_is_finalized_when_its_window_is_over(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    async with here.leader.running(close=False):
        await here.leader.until(here.is_read)
    note(here)
    batch = here.chain.batches[BATCH]
    batch.unfinal, batch.open_challenges = True, 1
    batch.claimable_at = 0
    await round_of_duties(here.context)
    assert ("finalize", BATCH) not in here.chain.sent
    batch.open_challenges = 0
    await round_of_duties(here.context)
    assert ("finalize", BATCH) in here.chain.sent


async def test_a_batch_whose_commit_went_with_a_block_is_sent_again(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    lost = here.chain.batches.pop(BATCH)
    here.chain.jobs[1] = here.facts
    async with here.leader.running():
        here.chain.log.append(Rollback(lost.commit_block - 1))
        await here.leader.until(lambda: BATCH in here.chain.batches)
        assert here.chain.batches[BATCH].content.root == lost.content.root
        await here.leader.until(here.is_read)
    assert here.states()[0] == "accepted"


async def test_a_batch_that_was_posted_before_a_crash_is_not_posted_twice(court: Callable[..., Court]) -> None:
    """The verifier died between sending and hearing of it."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    batch = here.leader.stored(Batch)[0]
    batch.state, batch.chain_id, batch.commit_block = BatchState.FORMED, None, 0
    told, here.chain.log = here.chain.log, []
    await here.leader.put(batch)
    async with here.leader.running(close=False):
        await here.leader.until(lambda: ("CommitBatch", 1) in here.leader.runner.engine.world._wanted)
        await here.leader.until(lambda: not here.leader.runner.effects_running)
        assert list(here.chain.batches) == [BATCH]
        here.chain.log += told
        await here.leader.until(here.is_read)
    assert list(here.chain.batches) == [BATCH]
