"""Nodes that are connected, and challenges."""

from functools import partial
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from proofyard.chain.records import ChallengeId, ChallengeRecord
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api, answer
from proofyard.verifier.api.declaring import PAGE, Digits, Key, Limit, cursor, says
from proofyard.verifier.api.listing import ADDRESS
from proofyard.verifier.context import Context, Member
from proofyard.verifier.engine import scheduling

MAX_DISPUTES = 20
"""Of one page: each is a request to the chain."""
NodeCursor = Annotated[str | None, cursor(ADDRESS)]
DisputeCursor = Annotated[str | None, cursor()]
Few = Annotated[int, Query(ge=1, le=MAX_DISPUTES), Digits]


def add_network(app: FastAPI, api: Api) -> None:
    @app.get("/v1/nodes", responses=says(out.Page[out.Node]))
    async def nodes(cursor: NodeCursor = None, limit: Limit = PAGE) -> Response:
        """Nodes that are connected, by address."""
        return answer(await api.ask(partial(nodes_of, api.context, cursor, limit), "nodes", cursor, limit))

    @app.get("/v1/nodes/{address}", responses=says(out.Node))
    async def node(address: Key) -> Response:
        found = await api.ask(partial(_node, api.context, address))
        if found is None:
            raise HTTPException(404, f"{address} is not connected")
        return answer(found)

    @app.get("/v1/disputes", responses=says(out.Page[out.Dispute]))
    async def disputes(cursor: DisputeCursor = None, limit: Few = MAX_DISPUTES) -> Response:
        """Challenges, the newest first, as the Court has them now."""
        before = int(cursor) if cursor else None
        return answer(await api.on_chain(partial(_disputes, api.context, before, limit)))


def nodes_of(context: Context, after: str | None, limit: int) -> out.Page[out.Node]:
    addresses = sorted(node for node in context.members if after is None or node.lower() > after.lower())
    addresses.sort(key=str.lower)
    found = [_node_of(context, context.members[address]) for address in addresses[:limit]]
    return out.Page(items=found, next=addresses[limit - 1] if len(addresses) > limit else None)


def _node(context: Context, address: str) -> out.Node | None:
    member = next((each for node, each in context.members.items() if node.lower() == address.lower()), None)
    return None if member is None else _node_of(context, member)


def _node_of(context: Context, member: Member) -> out.Node:
    world, record = context.runner.engine.world, member.record
    board, node = world.memory(scheduling.Board), world.nodes.get(record.node)
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
    )


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
