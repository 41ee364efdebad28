"""Getting paid: the settled batches of a job, their records, and the claims that follow from them.

Anybody may send anybody's claim; the money goes to the owner of the operator that earned it. Verifiers' fees need no
claim: they go to their owners' stake when a batch is final.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proofyard.chain import BatchSettled, Claim, Claimed, claim_of
from proofyard.chain.client import cause_final_at
from proofyard.chain.events import topic_of
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record, payouts_of
from proofyard.protocol.settlement import Payout, payout_root
from proofyard.protocol.types import Address, JobId, Wei
from proofyard.sdk.client import Client
from proofyard.sdk.errors import RecordMismatch
from proofyard.sdk.results import standing_batches

CLAIMS_AT_ONCE = 50
"""Payouts in one transaction, well below a block's gas."""


@dataclass(frozen=True)
class SettledBatch:
    """A settled batch: what the chain says of it and the record that it rests on, which is checked against that."""

    event: BatchSettled
    record: BatchRecord

    @property
    def payouts(self) -> tuple[Payout, ...]:
        return payouts_of(self.record)


@dataclass(frozen=True)
class Due:
    """A payout that nobody has claimed. `claimable_at`: Unix seconds on the chain's clock. Of what a fault pays
    `amount` is the most that it can be."""

    claim: Claim
    node: Address
    owner: Address
    claimable_at: int

    @property
    def amount(self) -> Wei:
        return self.claim.payout.amount


def settled_batches(client: Client, job: JobId) -> list[SettledBatch]:
    """The batches with a line of a job that are settled now, with their records; other jobs' tasks may be in them.

    Raises `UnknownJob`, and `RecordMismatch` for a record that the chain contradicts.
    """
    client.chain.job(job)
    standing = standing_batches(client.chain, job)
    latest = {event.batch: event for event in client.chain.settled(job)}
    found = []
    for event in (latest[batch] for batch in standing):
        record = decode_record(client.read(event.record, MAX_RECORD_BYTES))
        if payout_root(event.batch, payouts_of(record)) != event.payout_root:
            raise RecordMismatch(event.batch, event.record)
        found.append(SettledBatch(event, record))
    return found


def unclaimed(client: Client, batches: Iterable[SettledBatch], nodes: Sequence[Address] | None = None) -> list[Due]:
    """What these batches owe and nobody has claimed yet, to `nodes` or to all. What a fault would have paid whose
    settlement was voided since is owed by nobody."""
    found = []
    for batch in batches:
        number, payouts = batch.event.batch, batch.payouts
        parties = [(paid.node, paid.owner) for paid in batch.record.payouts]
        parties += [(paid.node, paid.owner) for paid in batch.record.redress]
        for index, (node, owner) in enumerate(parties):
            if (nodes is not None and node not in nodes) or client.chain.is_claimed(number, index):
                continue
            final_at = cause_final_at(client.chain, payouts[index])
            if final_at is not None:
                at = max(batch.event.claimable_at, final_at)
                found.append(Due(claim_of(number, payouts, index), node, owner, at))
    return found


def claim_all(client: Client, dues: Sequence[Due]) -> Wei:
    """Claim what is due and whose window has closed; returns the sum that was paid. What is still in its window is
    passed over, what an owner at fault has forfeited is burned and not counted."""
    now, since = client.chain.now(), client.chain.block_number()
    ripe = [due for due in dues if due.claimable_at <= now]
    for start in range(0, len(ripe), CLAIMS_AT_ONCE):
        client.chain.claim([due.claim for due in ripe[start : start + CLAIMS_AT_ONCE]])
    news = client.chain.recent_events([topic_of(Claimed)]) if ripe else []
    ours = {(due.claim.batch, due.claim.payout.operator) for due in ripe}
    paid = (event for event in news if isinstance(event, Claimed) and event.position.block > since)
    return Wei(sum(event.amount for event in paid if (event.batch, event.operator) in ours))
