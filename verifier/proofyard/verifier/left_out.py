"""Answers that auditors showed to others and not to their leader: co-signers hand them on to the next record.

A leader that hides a vote and an auditor that hides its vote from the leader look the same to everybody else. So what
an auditor has signed goes into the record, whoever was shown it; what it has not signed counts for nobody.
"""

import asyncio
from collections.abc import Sequence

from proofyard.protocol.codec import encode
from proofyard.protocol.messages import LeftOut
from proofyard.protocol.seal import seal_of, seal_struct_hash
from proofyard.protocol.signature import signed_by
from proofyard.protocol.types import Digest
from proofyard.protocol.view import BatchView
from proofyard.verifier.context import Context
from proofyard.verifier.engine import audits
from proofyard.verifier.engine.events import Shown
from proofyard.verifier.engine.rows import Batch

MOST = 256
"""Answers that are taken in at once."""


def is_signed(view: BatchView, answer: LeftOut) -> bool:
    """Whether the auditor has signed the seal of this answer, for this place and this draw."""
    seal = seal_of(answer.opened.opening(), answer.auditor)
    struct = seal_struct_hash(view.batch, answer.job, answer.task, answer.segment, view.seed, answer.auditor, seal)
    return signed_by(view.domain.typed_digest(struct), answer.opened.signature, answer.auditor)


async def news_of(context: Context, view: BatchView, batch: Batch, answers: Sequence[LeftOut]) -> tuple[Shown, ...]:
    """Those of these answers that are signed and that this verifier lacks."""
    found = []
    for each in answers[:MOST]:
        shown = _shown(view.seed, each)
        known = not audits.is_news(context.runner.engine.world, batch.id, shown)
        if not known and await asyncio.to_thread(is_signed, view, each):
            found.append(shown)
    return tuple(found)


def _shown(seed: Digest, answer: LeftOut) -> Shown:
    return Shown(
        place=(answer.job, answer.task, answer.segment),
        auditor=answer.auditor,
        seed=seed,
        seal=seal_of(answer.opened.opening(), answer.auditor),
        signature=answer.opened.signature,
        opening=encode(answer.opened),
    )
