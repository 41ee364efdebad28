"""What a verifier holds itself to: its own record before it shows it, keyed digests before it signs, one signature."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from court import BATCH, RIGHT, Court, honest
from stage import Link

from proofyard.artifacts import ArtifactError, BlockMissing, cid_of_bytes
from proofyard.protocol import bls
from proofyard.protocol.earnings import earnings
from proofyard.protocol.messages import CoSign
from proofyard.protocol.record import BatchRecord, encode_record
from proofyard.protocol.settlement import BatchRef
from proofyard.protocol.types import Digest, Signature
from proofyard.protocol.validate import RecordInvalid
from proofyard.verifier.engine.effects import Settle
from proofyard.verifier.engine.rows import BatchState
from proofyard.verifier.leading import _record_for
from proofyard.verifier.signing import AlreadySigned, bound_to, sign_once
from proofyard.verifier.store.tables import Signed

REF = BatchRef(BATCH, 0, Digest(bytes([7]) * 32), Digest(bytes([8]) * 32))

replaced: Callable[..., Any] = msgspec.structs.replace


@pytest.mark.parametrize("damage", ["verdict", "vote"])
async def test_a_leader_shows_no_record_that_it_would_not_sign_itself(court: Callable[..., Court], damage: str) -> None:
    """Whatever its database has come to say, a record that does not follow never leaves the house."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    async with here.leader.without(Settle):
        await here.leader.until(lambda: here.leader.rows.batches[1].state == BatchState.JUDGED)
        rows = here.leader.rows
        if damage == "verdict":
            (segment,) = rows.segments_of[1]
            segment.verdict, segment.kind, segment.reason = "fault", 1, "a bad disk"
        else:
            seat = next(seat for seats in rows.seats.values() for seat in seats.values() if seat.opening)
            seat.signature = Signature(bytes(65))
        with pytest.raises(RecordInvalid) as refused:
            await _record_for(here.context, here.context.chain.view(BATCH), rows.batches[1])
    assert refused.value.field == "audits"


async def test_no_record_that_spares_or_makes_a_copier_is_signed(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest, copies=0)
    await here.commit({0: (RIGHT, True)}, first=0, keyed=True)
    record = await here.evidence()
    audit = record.audits[0]
    copier = here.auditors[0].peer
    assert audit.copied == (copier,) and [fault.node for fault in record.faults] == [copier]
    honest_voter = next(vote.auditor for vote in audit.votes if vote.auditor != copier)

    async def show(changed: BatchRecord) -> bytes:
        view = here.context.chain.view(BATCH)
        cid = here.context.store.put_bytes(encode_record(replaced(changed, payouts=earnings(view, changed).payouts)))
        link = Link(here.leader.wallet.address, here.context.store, here.leader.endpoint)
        answer = await here.signer.cosigner.cosign(cast(Any, link), CoSign(cid, BATCH, True), cast(Any, None))
        return answer.signature

    votes = audit.votes[:2]
    spared = replaced(record, audits=(replaced(audit, votes=votes, copied=()),), faults=())
    with pytest.raises(RecordInvalid, match="keyed digest"):
        await show(spared)
    accused = sorted((copier, honest_voter), key=[vote.auditor for vote in audit.votes].index)
    faults = tuple(
        sorted((*record.faults, replaced(record.faults[0], node=honest_voter)), key=lambda fault: fault.place)
    )
    framed = replaced(record, audits=(replaced(audit, copied=tuple(accused)),), faults=faults)
    with pytest.raises((RecordInvalid, ArtifactError)):
        await show(framed)
    assert await show(record)


async def test_one_digest_of_an_attempt_is_signed_whoever_asks_for_another(court: Callable[..., Court]) -> None:
    """The last line, for two requests of the same moment: each had found nothing signed when it began."""
    here = court(honest)
    context = here.signer.context
    first, other = Digest(bytes(32)), Digest(bytes([1]) * 32)
    record, another = context.store.put_bytes(b"a record"), context.store.put_bytes(b"another")
    signature = await sign_once(context, REF, first, record)
    assert bls.verify(bls.public_key(here.signer.wallet.bls_secret()), first, signature)
    for named in (record, another):
        with pytest.raises(AlreadySigned):
            await sign_once(context, REF, other, named)
    assert await sign_once(context, REF, first, record) == signature
    assert await bound_to(context, REF) == (first, record)
    assert await sign_once(context, replace(REF, attempt=1), other, record) != signature, (
        "another attempt is another question"
    )
    again = replace(REF, seed=Digest(bytes([9]) * 32))
    assert await bound_to(context, again) is None, "the batch of another chain binds to nothing on this one"
    assert await sign_once(context, again, other, another)
    assert await bound_to(context, REF) == (first, record), "and does where that one comes back"


async def test_what_a_signature_binds_to_is_on_the_disk_first(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut this verifier may sign nothing else, so it must still have what it signed."""
    context = court(honest).signer.context
    record = context.store.put_bytes(bytes(600_000))
    synced: set[Path] = set()
    flush = os.fsync

    def fsync(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink())
        with context.database.session() as session:
            assert session.get(Signed, (BATCH, 0, bytes(REF.seed))) is None
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    await sign_once(context, REF, Digest(bytes(32)), record)
    blocks = {context.store.path / "blocks" / block.cid[-2:] / block.cid for block in context.store.blocks()}
    assert len(blocks) == 3 and blocks <= synced
    assert {path.parent for path in blocks} <= synced
    with pytest.raises(BlockMissing):
        await sign_once(context, replace(REF, attempt=1), Digest(bytes(32)), cid_of_bytes(b"not here"))
