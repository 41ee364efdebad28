"""Probes of others' lines: what they send is counted and thrown away, within bounds for each peer and for all."""

import asyncio

from proofyard.protocol.messages import LINE_PROBE_BYTES, Ack, LineProbe
from proofyard.transport import Body, Connection, RequestFailed
from proofyard.verifier.limits import Limiter

PROBE_S = 15.0
AT_ONCE = 8
"""Probes that are read at a time, of all peers together."""


class Lines:
    """Wallets cost nothing, so what all of them send together is bounded as well, in KiB."""

    def __init__(self) -> None:
        self._of_peer = Limiter("probes of lines", per_s=0.05, burst=4)
        self._of_all = Limiter("KiB of all probes of lines together", per_s=1024.0, burst=32 << 10)
        self._reading = 0

    async def probe(self, connection: Connection, _message: LineProbe, body: Body) -> Ack:
        """Read all of it. Raises `RequestFailed`."""
        if body.size > LINE_PROBE_BYTES:
            raise RequestFailed("too-large", f"{body.size} bytes are more than the {LINE_PROBE_BYTES} of a probe")
        self._of_peer.take(connection.peer)
        if self._reading >= AT_ONCE or self._of_all.over("all", body.size >> 10):
            raise RequestFailed("busy", "others measure their lines now; try again later")
        self._reading += 1
        try:
            async with asyncio.timeout(PROBE_S):
                async for _ in body:
                    pass
        except TimeoutError:
            raise RequestFailed("too-slow", f"{body.size} bytes did not come within {PROBE_S:.0f} s") from None
        finally:
            self._reading -= 1
        return Ack()
