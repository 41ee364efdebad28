"""An IPFS daemon (Kubo, or anything with its RPC) as a place to publish artifacts to and to find blocks in.

Blocks go over one by one with their own codec, so the daemon has exactly our CIDs whatever its import settings are.
The embedded store stays in front: what comes from IPFS is checked and kept there like a block from any peer.
"""

import asyncio
import io
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import ipfshttpclient
from ipfshttpclient.exceptions import AddressError, CommunicationError, ErrorResponse
from ipfshttpclient.exceptions import Error as IpfsError
from ipfshttpclient.exceptions import TimeoutError as NoAnswer

from proofyard.artifacts.dag import all_blocks
from proofyard.artifacts.errors import BadMultiaddress, IpfsUnavailable
from proofyard.artifacts.store import BlockStore
from proofyard.protocol.cid import RAW, cid_codec
from proofyard.protocol.types import Cid

# ipfshttpclient passes an argument that urllib3 2 ignores and warns of once per connection.
warnings.filterwarnings("ignore", message="The 'strict' parameter", category=FutureWarning)

DEFAULT_API = "/ip4/127.0.0.1/tcp/5001/http"
FIND_SECONDS = 60
"""How long the daemon may look for a block in its network."""


class IpfsNode:
    """The RPC of a daemon at multiaddress `api`. Also a provider for `fetch`: any CID that its network has.

    Raises `BadMultiaddress`; whether a daemon answers there shows when it is asked.
    """

    def __init__(self, api: str = DEFAULT_API) -> None:
        self.api = api
        self.name = f"IPFS at {api}"
        # `ipfshttpclient.connect` refuses daemons newer than 0.8; what is used here has not changed since.
        try:
            self._client: Any = ipfshttpclient.Client(api, timeout=FIND_SECONDS)
        except (AddressError, ValueError):
            raise BadMultiaddress(api) from None

    async def version(self) -> str:
        """What the daemon says it is. Raises `IpfsUnavailable`."""
        answer = await self._call(self._client.version)
        return str(answer["Version"])

    async def publish(self, store: BlockStore, cid: Cid) -> None:
        """Hand an artifact of `store` to the daemon, pinned. Raises `BlockMissing`, `IpfsUnavailable`."""
        for block in await asyncio.to_thread(lambda: list(all_blocks(store.get_block, cid))):
            data = await asyncio.to_thread(store.get_block, block)
            options = {"format": "raw" if cid_codec(block) == RAW else "dag-pb", "mhtype": "sha2-256", "version": 1}
            await self._call(self._client.block.put, io.BytesIO(data), opts=options)
        await self.pin(cid)

    async def pin(self, cid: Cid) -> None:
        """Make the daemon keep the artifact, fetching what it lacks from its network."""
        await self._call(self._client.pin.add, cid)

    async def unpin(self, cid: Cid) -> None:
        """Let the daemon forget the artifact."""
        await self._call(self._client.pin.rm, cid)

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        """The blocks as the daemon finds them, not yet checked; None for those it does not find."""
        for cid in cids:
            try:
                data = await self._call(self._client.block.get, cid)
            except _NotFound:
                yield cid, None
            else:
                yield cid, bytes(data)

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        """None that is known: the daemon may find each of them in its network."""
        return []

    def penalise(self, points: float, reason: str) -> None:
        """A daemon of one's own is not banned; the fetch that it spoilt has dropped it already."""

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *arguments, **options)
        except (ErrorResponse, NoAnswer) as error:
            raise _NotFound(self.api, str(error)) from None
        except CommunicationError as error:
            raise IpfsUnavailable(self.api, type(error).__name__) from None
        except IpfsError as error:
            raise IpfsUnavailable(self.api, str(error)) from None


class _NotFound(IpfsUnavailable):
    """The daemon answered, but not with what was asked for."""
