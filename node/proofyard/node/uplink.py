"""How fast this machine sends to a network: measured by sending to its verifiers, over the transport that work uses."""

import asyncio
import os
from collections.abc import Sequence

from proofyard.chain import VerifierRecord, Wallet
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import Ack, LineProbe
from proofyard.transport import Connection, Endpoint, TransportError

SIZES = (128 << 10, 1 << 20, 4 << 20)
"""Bytes of one probe after the other; the last that is begun counts."""
LONG_ENOUGH_S = 1.0
"""A probe that took so long is the last."""
PROBE_S = 15.0
ASKED = 3
"""Verifiers that are tried, one after the other, until one answers."""


async def measure_uplink(network: Domain, verifiers: Sequence[VerifierRecord]) -> float | None:
    """Bytes a second; None where no verifier lets itself be sent to. It asks under a wallet of its own."""
    async with Endpoint(Wallet.generate(), network=network) as endpoint:
        for verifier in [each for each in verifiers if each.endpoint][:ASKED]:
            try:
                connection = await endpoint.connect_to(verifier.endpoint, expect=verifier.node)
                if (found := await _measured(connection)) is not None:
                    return found
            except (TransportError, OSError):
                continue
    return None


async def _measured(connection: Connection) -> float | None:
    clock, rate = asyncio.get_running_loop().time, None
    for size in SIZES:
        data, began = os.urandom(size), clock()
        try:
            await connection.request(LineProbe(), reply=Ack, body=data, timeout=PROBE_S)
        except TransportError:
            break
        seconds = clock() - began
        rate = size / seconds
        if seconds >= LONG_ENOUGH_S:
            break
    return rate
