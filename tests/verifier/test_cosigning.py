"""What a co-signer refuses, and how cheaply: forged records, strangers, second signatures. It is the real one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import msgspec
import pytest
from court import BATCH, RIGHT, Court, K, accuser, honest, off_by_a_bit, silent, state, trap
from sqlmodel import select
from stage import Link

from proofyard.chain import Wallet
from proofyard.protocol import bls
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.earnings import earnings
from proofyard.protocol.members import encode_members, members_root
from proofyard.protocol.messages import CoSign, CoSigned, SealOpened
from proofyard.protocol.plan import plan_of
from proofyard.protocol.record import BatchRecord, RecordedFault, encode_record
from proofyard.protocol.settlement import FaultReason, Header, Line, settlement_digest
from proofyard.protocol.settling import settlement_of
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex, Wei
from proofyard.protocol.validate import RecordInvalid
from proofyard.transport import RequestFailed
from proofyard.verifier.cosigning import BURST, CoSigner
from proofyard.verifier.engine.rows import Batch, Segment
from proofyard.verifier.follower import IN_TIME, LATE, SOUGHT
from proofyard.verifier.membership import members_of
from proofyard.verifier.signing import AlreadySigned
from proofyard.verifier.store.tables import Known, Signed

replaced: Callable[..., Any] = msgspec.structs.replace


async def show(
    here: Court, record: BatchRecord | Cid, *, peer: Wallet | None = None, sign: bool = True, batch: BatchId = BATCH
) -> CoSigned:
    """Ask the second verifier to sign, as the leader or as `peer`."""
    store = here.context.store
    cid = store.put_bytes(encode_record(record)) if isinstance(record, BatchRecord) else record
    link = Link((peer or here.leader.wallet).address, store, here.leader.endpoint)
    return await here.signer.cosigner.cosign(cast(Any, link), CoSign(cid, batch, sign), cast(Any, None))


def signed(here: Court) -> int:
    with here.signer.context.database.session() as session:
        return sum(row.batch == BATCH for row in session.exec(select(Signed)))


async def test_a_record_that_holds_is_signed_once_and_the_same_again(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()
    assert (await show(here, record, sign=False)).signature == b"" and not signed(here)
    answer = await show(here, record)
    view = here.context.chain.view(BATCH)
    cid = here.context.store.put_bytes(encode_record(record))
    digest = settlement_digest(view.domain, view.ref, settlement_of(record, view, cid))
    key = bls.public_key(here.signer.wallet.bls_secret())
    assert bls.verify(key, digest, bls.BlsSignature(answer.signature))
    assert await show(here, record) == answer


@dataclass(frozen=True)
class Forgery:
    """A change of an honest record; `field` is the one that gives it away."""

    name: str
    change: Callable[[Court, BatchRecord], BatchRecord]
    field: str


def paid(here: Court, record: BatchRecord) -> BatchRecord:
    """With the payouts that would follow."""
    return cast(BatchRecord, replaced(record, payouts=earnings(here.context.chain.view(BATCH), record).payouts))


def blame(here: Court, segment: int | None = None, kind: FaultReason = FaultReason.MISMATCH) -> RecordedFault:
    return RecordedFault(JobId(1), TaskIndex(0), here.worker.address, kind, "I say so", segment)  # type: ignore[arg-type]


def with_audit(record: BatchRecord, **changes: Any) -> BatchRecord:
    return cast(BatchRecord, replaced(record, audits=(replaced(record.audits[0], **changes), *record.audits[1:])))


def mismatch_without_one(here: Court, record: BatchRecord) -> BatchRecord:
    return paid(here, replaced(with_audit(record, verdict="fault"), faults=(blame(here, 0),)))


def fault_without_votes(here: Court, record: BatchRecord) -> BatchRecord:
    changed = with_audit(record, votes=(), absent=(), verdict="fault", reason="I say so")
    return paid(here, replaced(changed, faults=(blame(here, 0),)))


def wrong_result(here: Court, record: BatchRecord) -> BatchRecord:
    return paid(here, replaced(record, faults=(blame(here),)))


def withheld_state(here: Court, record: BatchRecord) -> BatchRecord:
    changed = with_audit(record, votes=(), absent=(), verdict="fault", reason="not delivered")
    return paid(here, replaced(changed, faults=(blame(here, 0, FaultReason.WITHHELD),)))


def withheld_result(here: Court, record: BatchRecord) -> BatchRecord:
    return paid(here, replaced(record, faults=(blame(here, None, FaultReason.WITHHELD),)))


def undecided_too_early(here: Court, record: BatchRecord) -> BatchRecord:
    audit = record.audits[0]
    asked = tuple(vote.auditor for vote in audit.votes)
    return paid(here, with_audit(record, votes=(), absent=asked, verdict="undecided"))


def other_auditor(here: Court, record: BatchRecord) -> BatchRecord:
    vote = record.audits[0].votes[0]
    seated = {vote.auditor for vote in record.audits[0].votes}
    other = next(a.peer for a in here.auditors if a.peer not in seated)
    return with_audit(record, votes=(replaced(vote, auditor=other), *record.audits[0].votes[1:]))


def other_answer(_here: Court, record: BatchRecord) -> BatchRecord:
    first, *rest = record.audits[0].votes
    return with_audit(record, votes=(replaced(first, after=Digest(bytes(32))), *rest))


def no_audit(here: Court, record: BatchRecord) -> BatchRecord:
    return paid(here, replaced(record, audits=()))


def no_pay(_here: Court, record: BatchRecord) -> BatchRecord:
    return cast(BatchRecord, replaced(record, payouts=()))


def others_leader(here: Court, record: BatchRecord) -> BatchRecord:
    return cast(BatchRecord, replaced(record, leader=here.chain.seats[1].id))


def paid_before(here: Court, record: BatchRecord) -> BatchRecord:
    return paid(here, replaced(record, repeated=((JobId(1), TaskIndex(0)),)))


def list_uncounted(here: Court, record: BatchRecord) -> BatchRecord:
    return cast(BatchRecord, replaced(record, counted=(), uncounted=(BATCH,)))


FORGERIES = [
    Forgery("a mismatch where all digests are equal", mismatch_without_one, "audits"),
    Forgery("a state refused that is in order", fault_without_votes, "faults"),
    Forgery("a result refused that is in order", wrong_result, "faults"),
    Forgery("a state called withheld that is there", withheld_state, "faults"),
    Forgery("a result called withheld that is there", withheld_result, "faults"),
    Forgery("audits dropped as undecided", undecided_too_early, "audits"),
    Forgery("another auditor than the drawn one", other_auditor, "audits"),
    Forgery("another answer than the sealed one", other_answer, "audits"),
    Forgery("no audit of a new node", no_audit, "audits"),
    Forgery("no pay", no_pay, "payouts"),
    Forgery("another verifier's name", others_leader, "leader"),
    Forgery("paid before", paid_before, "repeated"),
    Forgery("its own list uncounted", list_uncounted, "uncounted"),
]


async def test_no_forged_record_is_signed(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()
    for forgery in FORGERIES:
        here.signer.cosigner = CoSigner(here.signer.context)
        with pytest.raises(RecordInvalid) as refused:
            await show(here, forgery.change(here, record))
        assert refused.value.field == forgery.field, f"{forgery.name}: {refused.value}"
    assert not signed(here)
    await show(here, record)


async def test_a_vote_that_was_left_out_is_asked_for(court: Callable[..., Court]) -> None:
    """A leader that names an auditor as absent, so that its vote against a friend is not counted."""
    here = court(honest, honest, honest, honest)
    await here.commit({0: ((off_by_a_bit(state(1)),), True)}, drawn_ago=1000)
    record = await here.evidence()
    audit = record.audits[0]
    assert audit.verdict == "fault"
    (segment,) = here.leader.stored(Segment)
    listed = segment.auditors
    kept, dropped = audit.votes[:1], tuple(Address(a) for a in listed if a != audit.votes[0].auditor)
    quiet = with_audit(record, votes=kept, absent=dropped, verdict="undecided")
    answer = await show(here, paid(here, replaced(quiet, faults=())))
    assert answer.signature == b"" and {each.auditor for each in answer.left_out} <= set(dropped)
    assert answer.left_out and not signed(here)


@pytest.mark.parametrize("liar", [False, True])
async def test_an_auditor_that_hides_its_answer_from_the_leader_stops_nothing(
    court: Callable[..., Court], liar: bool
) -> None:
    """Co-signers hand on what they were shown; it is in the record then, and judged like any other answer."""
    here = court(accuser if liar else honest, honest, honest, honest, honest, lease_s=1.0)
    here.auditors[0].hides = True
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    votes = {vote.auditor: vote.after for vote in record.audits[0].votes}
    assert here.auditors[0].peer in votes and record.audits[0].verdict == "valid"
    assert here.guilty(record) == (["accuser"] if liar else [])


async def test_an_answer_that_its_auditor_did_not_sign_counts_for_nobody(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest, lease_s=1.0)
    hiding = here.auditors[0]
    hiding.hides = True
    await here.commit({0: (RIGHT, True)}, first=0)
    real = hiding.request

    async def request(message: Any, **options: Any) -> Any:
        answer = await real(message, **options)
        return replaced(answer, signature=Signature(bytes(65))) if isinstance(answer, SealOpened) else answer

    hiding.request = request  # type: ignore[method-assign]
    record = await here.judge()
    assert hiding.peer in record.audits[0].absent and record.faults == ()


async def test_an_answer_to_a_draw_that_is_gone_is_nobodys_answer_to_this_one(court: Callable[..., Court]) -> None:
    """A reorganisation drew the batch anew, and the auditor, away meanwhile, still shows what it had sealed before."""
    here = court(honest, honest, honest, honest, lease_s=1.0)
    away = here.auditors[0]
    away.hides, seal = True, away._seal
    away._seal = lambda offer: seal(replaced(offer, seed=Digest(bytes(32))))  # type: ignore[method-assign]
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.judge()
    assert away.peer in record.audits[0].absent and record.faults == ()


async def test_two_of_three_votes_accuse_nobody(court: Callable[..., Court]) -> None:
    here = court(accuser, accuser, honest, honest)
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.evidence()
    two = [vote for vote in record.audits[0].votes if vote.auditor in {a.peer for a in here.auditors[:K]}]
    lie = with_audit(record, votes=tuple(two), absent=(), verdict="fault")
    with pytest.raises(RecordInvalid):
        await show(here, paid(here, replaced(lie, faults=(blame(here, 0),))))


async def test_a_state_that_breaks_a_law_is_looked_at_and_signed(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest, honest)
    await here.commit({0: ((trap(state(1)), state(2)), True)})
    record = await here.evidence()
    assert record.faults and (await show(here, record)).signature


async def test_whoever_is_cut_off_itself_does_not_call_anybody_silent(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)}, withheld=True)
    record = await here.evidence()
    assert record.faults[0].kind == FaultReason.WITHHELD
    here.signer.context.members.clear()
    with pytest.raises(RequestFailed, match="reaches no node"):
        await show(here, record)


async def test_two_settlements_of_one_attempt_are_never_signed(court: Callable[..., Court]) -> None:
    """Both hold: an auditor that never answered is passed over, or waited for. Not after a restart either."""
    here = court(silent, honest, honest, honest, lease_s=1.0)
    await here.commit({0: (RIGHT, True)}, first=0)
    record = await here.evidence()
    other = replaced(record, audits=(replaced(record.audits[0], reason=""),))
    await show(here, other)
    again = with_audit(record, reason="for people")
    here.signer.cosigner = CoSigner(here.signer.context)
    for sign in (False, True):
        with pytest.raises(AlreadySigned):
            await show(here, again, sign=sign)


async def test_a_record_that_was_looked_at_is_looked_at_again_once_its_batch_is_drawn_anew(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()
    assert (await show(here, record, sign=False)).signature == b""
    chain = here.signer.context.chain
    before, members = chain.view(BATCH), {BATCH: record.tasks}
    first = plan_of(before, members).audits[0].auditors[:2]
    seeds = (replace(before, seed=Digest(number.to_bytes(32, "big"))) for number in range(99))
    anew = next(view for view in seeds if plan_of(view, members).audits[0].auditors[:2] != first)
    monkeypatch.setattr(chain, "view", lambda *_: anew)
    with pytest.raises(RecordInvalid):
        await show(here, record)
    assert not signed(here), "a reorganisation would have bound it to a record that holds nowhere"
    monkeypatch.undo()
    assert (await show(here, record)).signature


async def test_what_is_signed_is_written_down_first(
    court: Callable[..., Court], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()

    def crash(*_: object) -> bls.BlsSignature:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(bls, "sign", crash)
        await show(here, record)
    assert signed(here)


async def test_a_batch_whose_list_came_after_its_draw_is_not_signed(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()
    with here.signer.context.database.session() as session:
        session.merge(Known(batch=BATCH, leader=1, held=LATE))
    with pytest.raises(RecordInvalid, match="when the audits were drawn"):
        await show(here, record)
    with here.signer.context.database.session() as session:
        session.merge(Known(batch=BATCH, leader=1, held=SOUGHT))
    with pytest.raises(RequestFailed, match="looks for the member list"):
        await show(here, record)
    with here.signer.context.database.session() as session:
        session.delete(session.get(Known, BATCH))
    with pytest.raises(RequestFailed, match="has not seen the commit"):
        await show(here, record)
    with here.signer.context.database.session() as session:
        session.merge(Known(batch=BATCH, leader=1, held=IN_TIME))
    assert (await show(here, record)).signature


async def test_a_member_list_called_unavailable_that_can_be_had_is_counted(court: Callable[..., Court]) -> None:
    """What an owner has in flight with another verifier must not be forgotten."""
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True), 1: (RIGHT, True)})
    held = members_of(here.leader.stored(Batch)[0])[1:]
    listed = here.signer.context.store.put_bytes(encode_members(held))
    lines = (Line(JobId(1), held[0].commitment.work_units, Wei(1)),)
    other = BatchId(2)
    here.chain.batches[other] = replace(
        here.chain.batches[BATCH],
        id=other,
        content=Header(members_root(held), 1, cid_digest(listed), lines),
        verifier=here.chain.seats[1].id,
    )
    peers = here.leader.endpoint.peers
    hidden = peers.pop(here.signer.wallet.address)
    record = await here.evidence()
    assert record.uncounted == (other,)
    peers[here.signer.wallet.address] = hidden
    with pytest.raises(RecordInvalid, match="can be had from here"):
        await show(here, record)
    settled = await here.judge()
    assert (settled.uncounted, [batch for batch, _ in settled.counted]) == ((), [BATCH, other])


class Untouched:
    """A connection of which nothing may be read."""

    def __init__(self, wallet: Wallet) -> None:
        self.peer = wallet.address

    def vouch(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("who", ["a stranger", "another verifier"])
async def test_whoever_may_not_ask_is_refused_before_anything_is_fetched_or_read(
    court: Callable[..., Court], who: str
) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    asker = Wallet.generate() if who == "a stranger" else here.signer.wallet
    cosigner, record = here.signer.cosigner, Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
    ask = partial(cosigner.cosign, cast(Any, Untouched(asker)), CoSign(record, BATCH), cast(Any, None))
    with pytest.raises(RequestFailed, match=r"has no seat|is led by"):
        await ask()
    reads: list[str] = []
    for name in ("batch", "view", "now"):
        setattr(here.signer.context.chain, name, lambda *_, name=name: reads.append(name))
    if who == "a stranger":
        for _ in range(500):
            with pytest.raises(RequestFailed):
                await ask()
        assert reads == []
    else:
        refused = 0
        for _ in range(3 * BURST):
            try:
                await ask()
            except RequestFailed as error:
                refused += error.code == "busy"
            except AttributeError:
                continue
        assert refused >= BURST and len(reads) <= 2 * BURST


async def test_settled_dropped_and_voided_batches_are_not_signed(court: Callable[..., Court]) -> None:
    here = court(honest, honest, honest)
    await here.commit({0: (RIGHT, True)})
    record = await here.evidence()
    for change in ({"settled_at": 1}, {"dropped": True}, {"voided": True}):
        before = replace(here.chain.batches[BATCH])
        for name, value in change.items():
            setattr(here.chain.batches[BATCH], name, value)
        with pytest.raises(RequestFailed, match="not to be settled now"):
            await show(here, record)
        here.chain.batches[BATCH] = before
