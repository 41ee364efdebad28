"""Giving out work with an eye on what every owner has in flight with other verifiers."""

import asyncio
import logging
from collections import Counter
from functools import partial

from sqlmodel import select

from proofyard.protocol.types import ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.database import Batch
from proofyard.verifier.exposure import elsewhere
from proofyard.verifier.membership import find_members, has_members
from proofyard.verifier.schedule import schedule

logger = logging.getLogger(__name__)


async def give_out(context: Context) -> None:
    """One pass of the scheduler."""
    try:
        others = await context.recent("elsewhere", partial(in_flight_elsewhere, context))
    except ProofyardError as error:
        logger.warning("what owners have in flight elsewhere is not known: %s", error)
        others = Counter()
    await schedule(context, others)


async def in_flight_elsewhere(context: Context) -> Counter[str]:
    """By the member lists of other verifiers' open batches that are here; the other seats show theirs
    before they commit."""
    history = await context.on_chain(context.chain.history)
    opened = history.open_batches(history.read_to)
    with context.database.session() as session:
        own = set(session.exec(select(Batch.chain_id)))
    lists = []
    for batch in opened:
        if batch.batch in own:
            continue
        if has_members(context, batch.header.members):
            found = await find_members(context, batch.header)
            if found is not None:
                lists.append(found[1])
    if not lists:
        return Counter()
    jobs = {job: history.job(job) for members in lists for job in {m.commitment.job for m in members}}
    owners = {key: owner for key, (_, owner) in history.owners(history.read_to).items()}
    return await asyncio.to_thread(partial(elsewhere, lists, jobs, owners))
