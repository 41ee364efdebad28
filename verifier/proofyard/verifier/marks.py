"""What opens the marks of a batch's members (`proofyard.protocol.mark`).

Workers give it with their commitments, and to no other verifier. Whoever takes a batch over asks them for it: a node
shows it once somebody else leads its batch.
"""

import asyncio
import time
from dataclasses import replace

from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.commitment import Domain
from proofyard.protocol.mark import SALT_BYTES, UNOPENED, mark_cid, opens
from proofyard.protocol.members import Member
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.types import ProofyardError
from proofyard.protocol.validate import trace_is_usable
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import owed
from proofyard.verifier.engine import effects
from proofyard.verifier.engine.decoys import salts_of
from proofyard.verifier.engine.events import MarksTold
from proofyard.verifier.membership import members_of

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
    signed = shown.is_signed(domain, decoy.signature)
    return "" if signed else "it is not signed by its worker"


async def ask_marks(context: Context, effect: effects.AskMarks) -> None:
    """Have what opens every mark of a batch, as far as workers give it in the time that they have for a state: all of
    them together, so that many that are away hold up the batch for no longer than one."""
    batch = context.rows.batches.get(effect.batch)
    if batch is None:
        return
    members = members_of(batch)
    limit, end = asyncio.Semaphore(ASKED_AT_ONCE), time.monotonic() + context.settings.state_due_s

    async def one(member: Member, salt: bytes) -> bytes:
        async with limit:
            return salt or await find_salt(context, member, patience_s=max(0.0, end - time.monotonic()))

    found = await asyncio.gather(*map(one, members, salts_of(batch, members)))
    context.runner.post(MarksTold(effect.batch, tuple(found)))


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
