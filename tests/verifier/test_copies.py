"""What a verifier copies of what others' jobs come to, and how much."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from court import BATCH, RIGHT, Court, honest
from stage import Link

from proofyard.artifacts.keeper import Keeper
from proofyard.protocol.types import Cid
from proofyard.verifier import copies
from proofyard.verifier.copies import copy_results
from proofyard.verifier.retention import tidy
from proofyard.verifier.store.tables import Known


async def settled(here: Court, monkeypatch: pytest.MonkeyPatch) -> tuple[Cid, Cid]:
    """The leader has settled a batch of one final task; its record and the task's result."""
    await here.commit({0: (RIGHT, True)})
    async with here.leader.running(close=False):
        await here.leader.until(lambda: here.chain.batches[BATCH].settlement is not None)
    note(here, settled=True)
    monkeypatch.setattr(copies, "cid_of_record", lambda chain, batch: here.settlement.record)
    link = Link(here.leader.wallet.address, here.context.store, here.leader.endpoint)

    async def dial(peer: object, endpoint: str) -> Any:
        return cast(Any, link)

    monkeypatch.setattr(here.signer.context, "dial", dial)
    result = here.leader.context.rows.works[1, 0, 1].result
    assert result is not None
    return here.settlement.record, result


def note(here: Court, *, settled: bool) -> None:
    with here.signer.context.database.session() as session:
        session.merge(Known(batch=BATCH, leader=here.chain.seats[0].id, settled=settled))


async def test_what_a_settled_record_names_of_a_result_is_here_until_the_batch_is_final(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(honest, honest, honest)
    record, result = await settled(here, monkeypatch)
    context = here.signer.context
    assert not context.store.has(result)
    await copy_results(context)
    assert context.copies[BATCH].whole
    object.__setattr__(context.settings, "cache_bytes", 0)
    await tidy(context, grace_s=-1)
    assert context.store.has(result) and context.store.has(record)
    note(here, settled=False)
    await copy_results(context)
    for pin in Keeper(context.store).pins(0):
        Keeper(context.store).unpin(pin.cid)
    await tidy(context, grace_s=-1)
    assert not context.store.has(result), "voided or final: nobody is owed it any more"


@pytest.mark.parametrize("bound", ["of a job", "of all", "away", "not chosen"])
async def test_nothing_is_copied_over_a_bound(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    here = court(honest, honest, honest)
    _, result = await settled(here, monkeypatch)
    context = here.signer.context
    match bound:
        case "of a job":
            monkeypatch.setattr(copies, "JOB_BYTES", 0)
        case "of all":
            object.__setattr__(context.settings, "cache_bytes", 0)
        case "away":
            monkeypatch.setattr(copies, "cid_of_record", lambda chain, batch: None)
        case _:
            monkeypatch.setattr(copies, "COPIES", 0)
    await copy_results(context)
    assert not context.store.has(result)
    assert context.copies[BATCH].whole == (bound != "away"), "only what may come is looked for again"
