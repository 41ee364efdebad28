"""Who decides what the rounds of a job take, where nobody is in charge: asked of the network's nodes at submission.

A node says its own key, over a connection that its wallet has proved; its weight is what the Registry says. A manifest
has them all, so that everybody checks the same certificates.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from proofyard.chain import ChainClient, NodeRecord
from proofyard.protocol.caps import Caps
from proofyard.protocol.closing import roster_among
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.messages import AskVoter, VoterKey
from proofyard.protocol.roster import RosterInvalid, Voter, roster_of
from proofyard.protocol.types import Address
from proofyard.protocol.workload_bits import workload_bits
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.peers import Peers
from proofyard.transport import Connection, TransportError
from proofyard.workloads.workload import load_workload, rounds_of

TOKEN = 10**18
NO_CAPS = Caps()
MOST = 32
"""Voters of one job: everybody who checks its rounds looks at each one's proof, 0.3 s of it."""
AT_ONCE = 16
"""Nodes that are asked at a time."""


async def find_voters(
    chain: ChainClient, peers: Peers, workload: str, answer_s: float, workers: int = 1, caps: Caps = NO_CAPS
) -> tuple[Voter, ...]:
    """The nodes that execute a workload and that answer, where the Registry says that they are or by routes that they
    told a verifier; those with the most at stake where there are too many. An owner's stake is shared by its nodes. Of
    the `workers` shards of a round, which are theirs, no owner and no subnet has more than `caps` say. Raises
    `JobRefused` where there are none, or too few for that."""
    nodes = await asyncio.to_thread(chain.active_nodes)
    bit, turn = workload_bits([workload]), asyncio.Semaphore(AT_ONCE)

    async def dial(node: NodeRecord) -> Connection | None:
        async with turn:
            connection = await peers.dial(node) if node.endpoint else ""
            return None if isinstance(connection, str) else connection

    async def ask(connection: Connection) -> VoterKey | None:
        async with turn:
            try:
                return await connection.request(AskVoter(), reply=VoterKey, timeout=answer_s)
            except TransportError:
                return None

    able = sorted((node for node in nodes if node.workloads & bit), key=lambda node: (-node.stake, node.node))[:MOST]
    dialled = await asyncio.gather(*map(dial, able))
    reached = {node.node: connection for node, connection in zip(able, dialled, strict=True) if connection is not None}
    reached |= await peers.told_of([node for node in able if node.node not in reached])
    answering = [node for node in able if node.node in reached]
    answers = await asyncio.gather(*(ask(reached[node.node]) for node in answering))
    found = [(node, key) for node, key in zip(answering, answers, strict=True) if key is not None]
    if not found:
        raise JobRefused(
            f"rounds_by: of {len(nodes)} nodes none that executes {workload} can be reached, by its endpoint in the "
            "Registry or by what verifiers know; ask again later, or leave the rounds to the chain"
        )
    voters = await asyncio.to_thread(_roster, found)
    places = {node.node: (node, reached[node.node].subnet) for node in able if node.node in reached}
    return _weighed([places[node][0] for node in _within([places[v.node] for v in voters], workers, caps)], voters)


def _within(found: Sequence[tuple[NodeRecord, str]], workers: int, caps: Caps) -> list[Address]:
    """As many of these, each with the subnet that it is in, as may have a round's shards between them, in their order
    of stake: shard w is that of voter w, counted around, so that each of n has `workers` / n of them, rounded up."""
    ordered = sorted(found, key=lambda each: (-each[0].stake, each[0].node))
    limits = [most for most in (caps.owner, caps.subnet) if most]
    if not limits:
        return [node.node for node, _ in ordered]
    for each_has in range(-(-workers // len(found)), min(limits) + 1):
        has, kept = Counter[str](), []
        for node, subnet in ordered:
            if not caps.objection(has[node.owner], subnet, has[subnet], each_has):
                has.update({node.owner: each_has, subnet: each_has})
                kept.append(node.node)
        if len(kept) * each_has >= workers:
            return kept
    owners, subnets = {node.owner for node, _ in found}, {subnet for _, subnet in found}
    raise JobRefused(
        f"caps: the nodes that answer are of {len(owners)} owners in {len(subnets)} subnets, too few for {workers} "
        "shards a round; allow more to one of them, or give fewer workers"
    )


def _weighed(nodes: Sequence[NodeRecord], voters: Sequence[Voter]) -> tuple[Voter, ...]:
    """These nodes of a roster, an owner's stake shared by those of them that are its own."""
    of_owner, stakes = Counter(node.owner for node in nodes), {node.node: node for node in nodes}
    kept = [(voter, stakes[voter.node]) for voter in voters if voter.node in stakes]
    return tuple(
        msgspec.structs.replace(voter, weight=max(1, node.stake // TOKEN // of_owner[node.owner]))
        for voter, node in kept
    )


def _roster(found: Sequence[tuple[NodeRecord, VoterKey]]) -> tuple[Voter, ...]:
    """Those whose proofs hold and whose keys are no other node's, as a roster has them: who has two nodes show one key
    has neither vote, and keeps nobody else from voting."""
    voters = [Voter(node.node, said.key, said.possession, 1) for node, said in found]
    ordered = tuple(sorted(voters, key=lambda voter: bytes.fromhex(voter.node[2:])))
    try:
        return roster_among(ordered).voters
    except RosterInvalid:
        right = list(filter(_is_right, ordered))
    shown = Counter(voter.key for voter in right)
    try:
        return roster_among(tuple(voter for voter in right if shown[voter.key] == 1)).voters
    except RosterInvalid as error:
        raise JobRefused(f"rounds_by: {error}") from None


def _is_right(voter: Voter) -> bool:
    try:
        return bool(roster_of([voter]).voters)
    except RosterInvalid:
        return False


def told(manifest: Manifest) -> str:
    """Who decides what a job's rounds take, in a sentence; empty where the chain does."""
    rounds = rounds_of(load_workload(manifest.workload), manifest)
    voters = () if rounds is None else rounds.closing.voters
    if not voters:
        return ""
    listed = ", ".join(f"{voter.node} ({voter.weight})" for voter in voters)
    total = sum(voter.weight for voter in voters)
    return f"{len(voters)} nodes decide what its rounds take, with more than two thirds of {total} votes: {listed}"
