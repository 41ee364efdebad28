"""What the Registry says of the nodes that are connected: the engine is told when the chain changes it.

A node is read when it announces itself; from then on events say when to look again, so that nobody has to ask for what
did not change.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from proofyard.chain import ChainClient, NodeRecord, Role, Rollback
from proofyard.chain import Event as ChainNews
from proofyard.chain.events import (
    Absolved,
    Claimed,
    Faulted,
    KeyRotated,
    OperatorRegistered,
    OperatorRetired,
    StakeChanged,
)
from proofyard.protocol.types import Address
from proofyard.verifier.context import Context, Member
from proofyard.verifier.engine.events import NodeJoined, NodeLeft

MAX_TASKS_HELD, MAX_AUDITS_HELD = 64, 256
"""However much a node says that it holds at a time."""

OF_OPERATORS = (OperatorRegistered, OperatorRetired, KeyRotated, Faulted, Absolved)
CONCERNING: tuple[type[ChainNews], ...] = (StakeChanged, Claimed, *OF_OPERATORS)
"""Events after which a connected node may be another than it was."""


def joined(member: Member) -> NodeJoined:
    """What the engine is told of a node that is here."""
    record, announce = member.record, member.announce
    return NodeJoined(
        node=record.node,
        owner=record.owner,
        operator=record.id,
        stake=record.stake,
        consecutive_valid=record.consecutive_valid,
        workloads=frozenset(announce.workloads),
        tasks=max(1, min(announce.tasks, MAX_TASKS_HELD)),
        audits=max(1, min(announce.audits, MAX_AUDITS_HELD)),
        memory_bytes=member.proven.memory_bytes,
        subnet=member.connection.subnet,
        speed=member.proven.steps_per_s,
    )


def active_node(chain: ChainClient, key: Address) -> NodeRecord | None:
    """The node whose hot key `key` is, if it is in the active set."""
    operator = chain.operator_of(key)
    record = None if operator is None else chain.operator(operator)
    return record if record and record.active and (record.role, record.node) == (Role.NODE, key) else None


async def follow_members(context: Context, events: Iterable[ChainNews | Rollback]) -> None:
    """Have the engine know of connected nodes what these events say. Whoever is no active node any more is given
    nothing; what it holds it may finish. After a reorganisation everybody is read again with its next announcement."""
    concerned: dict[Address, Member] = {}
    for event in events:
        if isinstance(event, Rollback):
            for member in context.members.values():
                member.read_at = float("-inf")
        elif isinstance(event, Claimed):
            for member in _members(context, event):
                member.record = replace(member.record, consecutive_valid=event.consecutive_valid)
                context.runner.post(joined(member))
        elif isinstance(event, CONCERNING):
            concerned.update((member.record.node, member) for member in _members(context, event))
    for node, member in concerned.items():
        record = await context.on_chain(partial(active_node, context.chain, node))
        if context.members.get(node) is not member:
            continue
        if record is None:
            leave(context, node)
        elif record != member.record:
            member.record = record
            context.runner.post(joined(member))


def _members(context: Context, event: ChainNews) -> list[Member]:
    """The connected nodes that an event is about: of an operator, or of an owner."""
    operator, owner = getattr(event, "operator", None), getattr(event, "owner", None)
    if operator is not None:
        return [member for member in context.members.values() if member.record.id == operator]
    return [member for member in context.members.values() if member.record.owner == owner]


def leave(context: Context, node: Address) -> None:
    """A node is not here any more. Its leases run on: it may come back in time."""
    if context.members.pop(node, None) is not None:
        context.runner.post(NodeLeft(node))
