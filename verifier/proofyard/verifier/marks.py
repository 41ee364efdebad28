"""What opens the marks of a batch's members (`proofyard.protocol.mark`).

Workers give it with their commitments, and to no other verifier. Whoever takes a batch over asks them for it: a node
shows it once somebody else leads its batch.
"""

import asyncio
import time
from dataclasses import replace

from sqlmodel import select

from proofyard.protocol.audit import Verdict
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.mark import SALT_BYTES, UNOPENED, mark_cid, opens
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import ProofyardError
from proofyard.protocol.validate import trace_is_usable
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch, Segment
from proofyard.verifier.delivery import owed
from proofyard.verifier.membership import members_of

MAX_SALTS_BYTES = 16 << 20
ASKED_AT_ONCE = 16


def objection_to_decoy(message: SubmitCommitment, domain: Domain) -> str:
    """Why a submission's decoy is none, empty where it is one, or there is none: a signed commitment to the same task
    with the same first state and none of the other true ones."""
    decoy, own = message.decoy, message.commitment
    if decoy is None:
        return ""
    shown, trace = decoy.commitment, decoy.trace
    if not opens(shown.mark, decoy.salt, decoy=True):
        return "its salt does not open its mark"
    if replace(shown, trace_root=own.trace_root, result=own.result, mark=own.mark) != own:
        return "it is to another task"
    apart = len(trace) == len(message.trace) and trace[0] == message.trace[0]
    if not apart or not set(trace[1:]).isdisjoint(message.trace):
        return "its states are not all but the first one other ones"
    if not trace_is_usable((*trace, shown.result)) or shown.trace_root != root([cid_bytes(cid) for cid in trace]):
        return "its trace root is not that of its trace"
    signed = signed_by(domain.typed_digest(shown.struct_hash()), decoy.signature, own.node)
    return "" if signed else "it is not signed by its worker"


def salts_of(batch: Batch) -> tuple[bytes, ...]:
    """What opens each member's mark, in the order of the list; `UNOPENED` where that is not known."""
    if not batch.salts:
        return (UNOPENED,) * len(members_of(batch))
    return tuple(decode(batch.salts, list[bytes], max_bytes=MAX_SALTS_BYTES))


def decoys_of(batch: Batch) -> frozenset[TaskKey]:
    """The tasks that a batch holds a decoy of."""
    marked = zip(members_of(batch), salts_of(batch), strict=True)
    return frozenset(member.key for member, salt in marked if opens(member.commitment.mark, salt, decoy=True))


async def gather_salts(context: Context, batch: Batch) -> None:
    """Have what opens every mark of a batch, as far as workers give it in the time that they have for a state: all of
    them together, so that many that are away hold up the batch for no longer than one."""
    members, known = members_of(batch), salts_of(batch)
    if UNOPENED not in known:
        return
    limit, end = asyncio.Semaphore(ASKED_AT_ONCE), time.monotonic() + context.settings.state_due_s

    async def one(member: Member, salt: bytes) -> bytes:
        async with limit:
            return salt or await find_salt(context, member, patience_s=max(0.0, end - time.monotonic()))

    before = decoys_of(batch)
    batch.salts = encode(await asyncio.gather(*map(one, members, known)))
    with context.database.session() as session:
        session.merge(batch)
        for job, task in decoys_of(batch) - before:
            # What its auditors answered says something else now.
            for row in session.exec(select(Segment).where(Segment.batch == batch.id, Segment.job == job)):
                if row.task == task and not row.unvoted:
                    row.verdict = Verdict.PENDING


async def find_salt(context: Context, member: Member, *, patience_s: float) -> bytes:
    """What opens a commitment's mark, from its worker or whoever has it; `UNOPENED` where nobody gives it."""
    mark, cid = member.commitment.mark, mark_cid(member.commitment.mark)
    try:
        await owed(context, member.commitment.node, cid, "what opens its mark", patience_s=patience_s)
        opening = await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=SALT_BYTES + 1)
    except ProofyardError:
        return UNOPENED
    salt = opening[:SALT_BYTES]
    return salt if opens(mark, salt, decoy=False) or opens(mark, salt, decoy=True) else UNOPENED
