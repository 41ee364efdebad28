"""Decoys: which works have one, when it is ordered, and what opens the marks of a batch.

A decoy comes into a batch first and the commitment beside it into a later one, once that batch is over, so that nothing
on chain or in a member list shows which of them is which. Until then nothing that rests on the commitment's result
comes into a batch either: it names what it was made of. A receipt that falls due is honoured before all that.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from proofyard.protocol.codec import decode, encode
from proofyard.protocol.mark import UNOPENED, opens
from proofyard.protocol.members import Member, TaskKey, decode_members
from proofyard.protocol.messages import SubmitCommitment
from proofyard.protocol.types import Address
from proofyard.verifier.engine.rows import Batch, Job, Work
from proofyard.verifier.engine.world import Rules

BPS = 10_000
MAX_SALTS_BYTES = 16 << 20


def is_ordered(rules: Rules, job: Job, task: int, attempt: int, node: Address) -> bool:
    """Whether a task's worker is to make a decoy as well: by a draw that nobody without this verifier's secret can
    foresee, and only where what a false answer costs is a stake. Not where a round closes on what is committed: a list
    does not tell a decoy from work, and would count it."""
    if not job.exact or job.workers or not rules.decoys_bps:
        return False
    offer = encode((job.id, job.manifest, task, attempt, node))
    drawn = hashlib.blake2b(offer, key=rules.secret[:64], digest_size=8).digest()
    return int.from_bytes(drawn, "big") % BPS < rules.decoys_bps


def shown(work: Work) -> tuple[Member, bytes]:
    """What comes into a batch for a work now, its decoy first, and what opens the mark of that."""
    submission = decode(work.submission, SubmitCommitment)
    each = submission.decoy if work.decoy and submission.decoy is not None else submission
    certificate = submission.certificate if each is submission else None
    return Member(each.commitment, each.signature, each.trace, certificate), each.salt


def without_decoy(submission: bytes) -> bytes:
    """A submission as it goes on once its decoy has had its batch."""
    return encode(msgspec.structs.replace(decode(submission, SubmitCommitment), decoy=None))


def salts_of(batch: Batch, members: Sequence[Member]) -> tuple[bytes, ...]:
    """What opens each member's mark, in the order of the list; `UNOPENED` where that is not known."""
    if not batch.salts:
        return (UNOPENED,) * len(members)
    return tuple(decode(batch.salts, list[bytes], max_bytes=MAX_SALTS_BYTES))


def decoys_of(batch: Batch) -> frozenset[TaskKey]:
    """The tasks that a batch holds a decoy of, as far as their marks are opened."""
    members = decode_members(batch.members)
    marked = zip(members, salts_of(batch, members), strict=True)
    return frozenset(member.key for member, salt in marked if opens(member.commitment.mark, salt, decoy=True))
