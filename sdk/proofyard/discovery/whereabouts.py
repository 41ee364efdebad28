"""Where a peer is that one knows by its wallet alone: asked of peers that may have met it.

What they tell are records that the peer itself has signed, so a liar can but tell an old one, or nothing.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Collection, Iterable

from proofyard.discovery.messages import MOST_TOLD, FindPeers, KnownPeers
from proofyard.protocol.codec import CodecError
from proofyard.protocol.commitment import Domain
from proofyard.protocol.peer_record import PeerRecord, read_record
from proofyard.protocol.types import Address
from proofyard.transport import Connection, TransportError

logger = logging.getLogger("proofyard.discovery")

ANSWER_S = 5.0
MOST_ASKED = 8


async def whereabouts(
    nodes: Collection[Address], peers: Iterable[Connection], network: Domain
) -> dict[Address, PeerRecord]:
    """The newest record of each of at most `MOST_TOLD` nodes that any of the first `MOST_ASKED` peers has met."""
    wanted = tuple(dict.fromkeys(nodes))[:MOST_TOLD]
    found: dict[Address, PeerRecord] = {}
    if not wanted:
        return found
    answers = await asyncio.gather(*(_ask(peer, wanted, network) for peer in list(peers)[:MOST_ASKED]))
    for record in (each for answer in answers for each in answer):
        known = found.get(record.node)
        if record.node in wanted and (known is None or known.sequence < record.sequence):
            found[record.node] = record
    return found


async def _ask(peer: Connection, nodes: tuple[Address, ...], network: Domain) -> list[PeerRecord]:
    here = _is_loopback(peer.remote[0])
    try:
        answer = await peer.request(FindPeers(nodes), reply=KnownPeers, timeout=ANSWER_S)
    except TransportError as error:
        logger.debug("%s does not say where others are: %s", peer.peer, error)
        return []
    found = []
    for data in answer.records:
        try:
            found.append(read_record(data, network, time.time(), here=here))
        except CodecError as error:
            logger.debug("%s: %s", peer.peer, error)
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
