"""What a verifier tells the process of its API: how it is, and answers to what only it knows. In the verifier's loop;
what takes longer in threads."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import bindparam, select

from proofyard.artifacts import ArtifactError
from proofyard.chain.records import ChallengeId, ChallengeRecord
from proofyard.protocol.capability import BLOCK_BYTES
from proofyard.protocol.codec import CodecError, decode
from proofyard.protocol.members import MAX_MEMBERS_BYTES, Member, decode_members
from proofyard.protocol.types import BatchId, Cid, JobId
from proofyard.verifier.api import types as out
from proofyard.verifier.api import wire
from proofyard.verifier.api.statements import Dial, Fees, Slashed, dial_of, look_around
from proofyard.verifier.context import Context
from proofyard.verifier.context import Member as Connected
from proofyard.verifier.engine import rows, scheduling
from proofyard.verifier.health import Watch
from proofyard.verifier.metrics import Metrics, version
from proofyard.verifier.store.tables import TABLES

BATCHES = 10
"""So many of a job are told of at most."""

_BATCH = TABLES[rows.Batch]
_LISTS = select(_BATCH.c.members, _BATCH.c.counted).where(_BATCH.c.id == bindparam("row"))


class Teller:
    """Answers for one verifier."""

    def __init__(self, context: Context, metrics: Metrics, watch: Watch) -> None:
        self._context, self._metrics, self._watch = context, metrics, watch
        self._dials = asyncio.Semaphore(1)
        """What the numbers of a dial take is read one after the other."""

    def beat(self) -> wire.Beat:
        return wire.Beat(self._watch.health(), self._watch.ready(), status_of(self._context))

    async def answer(self, question: wire.AnyQuestion) -> bytes:
        """JSON. Raises `ProofyardError` where chain or disk do not say."""
        return msgspec.json.encode(await self._found(question))

    async def _found(self, question: wire.AnyQuestion) -> Any:
        context, chain = self._context, self._context.chain
        match question:
            case wire.Nodes(after, limit):
                return nodes_of(context, after, limit)
            case wire.OneNode(address):
                return _node(context, address)
            case wire.Around(job, task):
                machines = {node: member.proven.said() for node, member in context.members.items()}
                return look_around(context.runner.engine.world, job, machines, task)
            case wire.Measured():
                return (await asyncio.to_thread(self._metrics.text)).decode()
            case wire.Disputes(before, limit):
                return await context.on_chain(partial(_disputes, context, before, limit))
            case wire.Fees(job):
                return await context.on_chain(partial(_fees, context, job))
            case wire.Slashes(batch):
                slashes = await context.on_chain(lambda: chain.slashes(BatchId(batch)))
                return [
                    Slashed(str(each.operator), each.job, each.task, each.segment, each.amount, each.absolved)
                    for each in slashes
                ]
            case wire.DialOf():
                async with self._dials:
                    return await context.on_chain(partial(_dial, context, question))


def status_of(context: Context) -> out.Status:
    chain_time, block = context.clock()
    return out.Status(
        verifier=context.wallet.address,
        operator=None if context.registered is None else str(context.registered),
        chain_id=str(context.domain.chain_id),
        registry=context.chain.registry,
        court=context.chain.court,
        block=block,
        chain_time=chain_time,
        version=version(),
        nodes=len(context.members),
        streams=0,
    )


# Nodes


def nodes_of(context: Context, after: str | None, limit: int) -> out.Page[out.Node]:
    addresses = sorted(node for node in context.members if after is None or node.lower() > after.lower())
    addresses.sort(key=str.lower)
    found = [_node_of(context, context.members[address]) for address in addresses[:limit]]
    return out.Page(items=found, next=addresses[limit - 1] if len(addresses) > limit else None)


def _node(context: Context, address: str) -> out.Node | None:
    member = next((each for node, each in context.members.items() if node.lower() == address.lower()), None)
    return None if member is None else _node_of(context, member)


def _node_of(context: Context, member: Connected) -> out.Node:
    world, record = context.runner.engine.world, member.record
    board, node = world.memory(scheduling.Board), world.nodes.get(record.node)
    proven, claim = member.proven, member.proven.claim
    in_flight = board.exposure.get(record.owner, 0) + world.elsewhere.get(record.owner, 0)
    return out.Node(
        address=record.node,
        owner=record.owner,
        operator=str(record.id),
        workloads=list(member.announce.workloads),
        software=member.announce.software,
        stake=str(record.stake),
        consecutive_valid=record.consecutive_valid,
        holds=[f"{job}:{task}" for job, task in sorted(node.holds if node else ())],
        room=node.tasks if node else 0,
        audits=node.audits if node else 0,
        in_flight=str(in_flight),
        faults=world.rows.guilty.get(record.owner, 0),
        lost=board.losses.get(record.node, 0),
        tokens_per_s=member.tokens_per_s if node and node.holds else None,
        memory_bytes=str(proven.memory_bytes),
        claimed_bytes=str(claim.memory_bytes if claim else 0),
        shown_bytes=str(proven.blocks * BLOCK_BYTES),
        device=claim.device if claim else "",
        steps_per_s=claim.steps_per_s if claim else 0,
        checked_at=proven.checked_at,
        proven=proven.said(),
    )


# The chain


def _disputes(context: Context, before: int | None, limit: int) -> out.Page[out.Dispute]:
    newest = context.chain.challenge_count()
    first = newest if before is None else min(newest, before - 1)
    numbers = range(first, max(0, first - limit), -1)
    items = [_dispute(context.chain.challenge(ChallengeId(number))) for number in numbers]
    return out.Page(items=items, next=items[-1].id if items and int(items[-1].id) > 1 else None)


def _dispute(found: ChallengeRecord) -> out.Dispute:
    return out.Dispute(
        id=str(found.id),
        kind=found.kind.name.lower(),
        phase=found.phase.name.lower(),
        batch=str(found.batch),
        job=str(found.job),
        task=found.task,
        segment=found.segment,
        accused=str(found.accused),
        challenger=found.challenger,
        bond=str(found.bond),
        opened_at=found.opened_at,
        until=found.until,
        votes_wrong=found.votes_wrong,
        votes_right=found.votes_right,
    )


def _fees(context: Context, job: int) -> list[Fees]:
    settlements = context.chain.settlements(JobId(job), context.clock()[1])
    return [Fees(event.batch, event.fees, event.signers.bit_count()) for event in settlements[-BATCHES:]]


def _dial(context: Context, asked: wire.DialOf) -> Dial | None:
    """Of a task of a batch that is drawn. Raises `ProofyardError` where chain or member lists cannot be had."""
    view = context.chain.view(BatchId(asked.batch), asked.attempt)
    with context.database.engine.connect() as connection:
        own, counted = connection.execute(_LISTS, {"row": asked.row}).one()
    members: dict[BatchId, Any] = {}
    for batch, cid in decode(counted, tuple[tuple[int, Cid], ...], max_bytes=16 << 20) if counted else ():
        members[BatchId(batch)] = _list_of(context.store.get_bytes, batch, cid)
    members[view.batch] = decode_members(own)
    return dial_of(view, members, asked.job, asked.task)


def _list_of(read: Callable[..., bytes], batch: int, cid: Cid) -> tuple[Member, ...]:
    try:
        return decode_members(read(cid, max_bytes=MAX_MEMBERS_BYTES))
    except ArtifactError as error:
        raise CodecError(f"the member list of batch {batch} is not kept any more ({error})") from None
