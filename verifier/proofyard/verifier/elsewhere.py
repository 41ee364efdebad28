"""What every owner has in flight with other verifiers, and what this one's owner has open, told to the engine every so
often: one stake backs all of it."""

import asyncio
import contextlib
import logging
from collections import Counter

from proofyard.chain.errors import EventsMissing
from proofyard.protocol.members import Member
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Backed, Elsewhere, Event, NodesListed
from proofyard.verifier.exposure import elsewhere
from proofyard.verifier.membership import find_members, has_members

logger = logging.getLogger(__name__)

POLL_S = 5.0
AFTER_ERROR_S = 30.0
PART, MOST_S = 0.02, 60.0
"""All nodes of the chain are read for so much of the time, but after so many seconds in any case: there may be many."""
MEMBER_BYTES = 1024
"""What a member takes in memory, about."""


async def watch_exposure(context: Context) -> None:
    """Until cancelled. The engine is told what has changed, and all of it when it begins anew."""
    told: dict[type[Event], Event] = {}
    listed: list[tuple[Address, Address, int]] = []
    due, clock = float("-inf"), asyncio.get_running_loop().time
    context.runner.recall.append(lambda: list(told.values()))
    while True:
        try:
            found = await in_flight_elsewhere(context)
            if clock() >= due:
                start = clock()
                listed = [(node.node, node.owner, node.workloads) for node in await context.active_nodes()]
                due = clock() + min(MOST_S, (clock() - start) / PART)
            exposure = Elsewhere(tuple((Address(owner), reward) for owner, reward in sorted(found.items())))
            backed = await stake_of_owner(context)
            news: list[Event] = [exposure, NodesListed(tuple(sorted(listed)))]
            news += [] if backed is None else [backed]
            for event in news:
                if told.get(type(event)) != event:
                    told[type(event)] = event
                    context.runner.post(event)
        except ProofyardError as error:
            logger.warning("what owners have in flight elsewhere is not known: %s", error)
        except Exception:
            logger.exception("what owners have in flight elsewhere cannot be told; trying again")
            await asyncio.sleep(AFTER_ERROR_S)
        await asyncio.sleep(POLL_S)


async def stake_of_owner(context: Context) -> Backed | None:
    """What this verifier's owner has at stake and open; None without a seat."""
    seats = await context.verifiers()
    owner = next((seat.owner for seat in seats if seat.node == context.wallet.address), None)
    if owner is None:
        return None

    def read() -> Backed:
        block = context.chain.block_number()
        account = context.chain.account(owner, block=block)
        return Backed(account.stake, account.exposed, block)

    return await context.on_chain(read)


async def in_flight_elsewhere(context: Context) -> Counter[str]:
    """By the member lists of other verifiers' open batches that are here; the other seats show theirs before they
    commit. What the other processes of this one have in flight is in the database."""
    history = await context.on_chain(context.chain.history)
    own, beside = set(context.rows.by_chain_id), Counter[str]()
    claims = context.claims
    if claims is not None:
        own |= await context.database.ask(claims.batches)
        beside = Counter(await context.database.ask(claims.in_flight))
    lists = []
    for batch in history.open_batches(history.read_to):
        if batch.batch not in own and has_members(context, batch.header.members):
            found = await find_members(context, batch.header)
            if found is not None:
                lists.append(await _signed(context, *found))
    if not lists:
        return beside
    jobs = {}
    for job in {member.commitment.job for members in lists for member in members}:
        # A list says what its leader likes, of jobs that never were as well: such a batch is nobody's to settle.
        with contextlib.suppress(EventsMissing):
            jobs[job] = history.job(job)
    owners = {key: owner for key, (_, owner) in history.owners(history.read_to).items()}
    return beside + await asyncio.to_thread(lambda: elsewhere(lists, jobs, owners))


async def _signed(context: Context, cid: Cid, members: tuple[Member, ...]) -> tuple[Member, ...]:
    """The members of a list that their workers signed: no verifier can make up what somebody else owes."""
    key = "signed", cid
    known = context.lists.get(key)
    if known is None:
        known = await asyncio.to_thread(lambda: tuple(each for each in members if _is_signed(context, each)))
        context.lists.put(key, known, MEMBER_BYTES * len(known))
    return known


def _is_signed(context: Context, member: Member) -> bool:
    return member.commitment.is_signed(context.domain, member.signature)
