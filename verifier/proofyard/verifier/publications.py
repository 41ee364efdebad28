"""What others bring to this verifier, and how much of it is fetched for whom.

A requester brings what the manifest of its open job names: the job pays for the room. A verifier with a seat brings the
member list of its batch. Anybody else may leave single blocks, such as the manifest of a job that it is about to open,
within an allowance that all of them share.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from weakref import WeakValueDictionary

from proofyard.artifacts import fetch
from proofyard.artifacts.exchange import PeerBlocks
from proofyard.artifacts.fetcher import FORGERY_POINTS
from proofyard.protocol.cid import RAW, cid_codec, raw_cid
from proofyard.protocol.codec import CodecError
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.members import MAX_MEMBERS_BYTES
from proofyard.protocol.messages import Ack, Publish
from proofyard.protocol.types import Address, Cid, JobId
from proofyard.transport import Body, Connection, RequestFailed
from proofyard.verifier import taking
from proofyard.verifier.context import Context
from proofyard.verifier.engine.events import Published
from proofyard.verifier.engine.rows import Job, JobState
from proofyard.verifier.limits import Limiter
from proofyard.verifier.store.tables import TABLES
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.workload import all_tasks

MAX_PUBLISH_BYTES = 16 << 30
"""Of one job's inputs."""
MAX_ARTIFACTS = 16
SEEN_S = 20.0
"""How long a job is waited for that its requester has just opened; it asks again."""
SEEN_POLL_S, STORED_POLL_S = 0.2, 2.0
BLOCK_S = 60.0
AT_ONCE = 32
"""Publications of one peer, of which one is under way and the others wait."""
OVER = frozenset((JobState.DONE, JobState.FAILED))


class _Turn(asyncio.Lock):
    """Who publishes, one thing after another; `users` counts those that wait as well."""

    users = 0


class Publications:
    """The handler of `Publish` for one verifier."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._requests = Limiter("publications", per_s=10.0, burst=100)
        self._left = Limiter("KiB of wallets without a job or a seat", per_s=64.0, burst=16 << 10)
        self._turns: WeakValueDictionary[Address, _Turn] = WeakValueDictionary()
        self._looking = asyncio.Lock()

    async def publish(self, connection: Connection, message: Publish, _body: Body) -> Ack:
        """Fetch what a peer has for its job or its batch, over the connection it asked on."""
        self._requests.take(connection.peer)
        if len(message.artifacts) > MAX_ARTIFACTS:
            return Ack(False, f"more than {MAX_ARTIFACTS} artifacts at once are not taken")
        async with self._turn(connection.peer):
            if message.job is not None:
                return await self._inputs(connection, message, message.job)
            seats = await self._context.verifiers()
            if any(seat.node == connection.peer for seat in seats):
                return await self._lists(connection, message)
            return await self._blocks(connection, message)

    @asynccontextmanager
    async def _turn(self, peer: Address) -> AsyncIterator[None]:
        turn = self._turns.setdefault(peer, _Turn())
        if turn.users >= AT_ONCE:
            raise RequestFailed("busy", f"{AT_ONCE} publications of yours are under way; wait for them")
        turn.users += 1
        try:
            async with turn:
                yield
        finally:
            turn.users -= 1

    async def _inputs(self, connection: Connection, message: Publish, number: JobId) -> Ack:
        """A job's manifest and what it names. The manifest is stored last, so that the job begins with all of it."""
        job = await self._job(number)
        if job.requester != connection.peer or job.state in OVER or job.gone:
            return Ack(False, f"job {number} is not an open job of {connection.peer}")
        if job.elsewhere:
            return Ack(False, f"job {number} is with another verifier")
        if message.total_bytes > MAX_PUBLISH_BYTES:
            return Ack(False, f"{message.total_bytes} bytes are more than the {MAX_PUBLISH_BYTES} this verifier takes")
        context = self._context
        if context.store.has(job.manifest):
            data = await asyncio.to_thread(context.store.get_bytes, job.manifest, MAX_MANIFEST_BYTES)
        else:
            data = await _block(connection, job.manifest, MAX_MANIFEST_BYTES)
        try:
            manifest = decode_manifest(data)
        except CodecError as error:
            return Ack(False, f"the manifest of job {number} cannot be read: {error}")
        if refusal := await self._refusal(job, manifest):
            # The engine ends the job for this reason; nothing is fetched for it.
            await asyncio.to_thread(context.store.put_block, job.manifest, data)
            context.runner.post(Published(job.manifest))
            return Ack(False, refusal)
        named = manifest.inputs
        for cid in message.artifacts:
            if cid not in (job.manifest, *named):
                return Ack(False, f"the manifest of job {number} does not name {cid}")
        left = message.total_bytes
        for cid in dict.fromkeys(named):
            if cid in message.artifacts:
                left -= await self._fetch(connection, cid, left)
        await asyncio.to_thread(context.store.put_block, job.manifest, data)
        context.runner.post(Published(job.manifest))
        return Ack()

    async def _refusal(self, job: Job, manifest: Manifest) -> str:
        """Why a job is none that pays for its room here; empty where it is."""
        try:
            graph = await asyncio.to_thread(lambda: all_tasks(self._context.workload(manifest), manifest))
            return await taking.refusal(self._context, job, manifest, graph)
        except taking.TooMuchToDo:
            return ""
        except WorkloadError as error:
            return str(error)

    async def _lists(self, connection: Connection, message: Publish) -> Ack:
        if message.total_bytes > MAX_MEMBERS_BYTES:
            return Ack(False, f"{message.total_bytes} bytes are more than the {MAX_MEMBERS_BYTES} of a member list")
        left = message.total_bytes
        for cid in message.artifacts:
            left -= await self._fetch(connection, cid, left)
            self._context.runner.post(Published(cid))
        return Ack()

    async def _blocks(self, connection: Connection, message: Publish) -> Ack:
        open_it = "open the job first and name it, so that its escrow answers for the room"
        if any(cid_codec(cid) != RAW for cid in message.artifacts) or message.total_bytes > MAX_MANIFEST_BYTES:
            return Ack(
                False, f"only single blocks of {MAX_MANIFEST_BYTES} bytes in all are taken of a stranger; {open_it}"
            )
        fresh = [cid for cid in dict.fromkeys(message.artifacts) if not self._context.store.has(cid)]
        if self._left.over("all", len(fresh) and len(fresh) + (message.total_bytes >> 10)):
            return Ack(False, f"strangers have left as much as is taken of them for now; {open_it}")
        left = message.total_bytes
        for cid in fresh:
            data = await _block(connection, cid, left)
            left -= len(data)
            await asyncio.to_thread(self._context.store.put_block, cid, data)
        for cid in message.artifacts:
            self._context.runner.post(Published(cid))
        return Ack()

    async def _fetch(self, connection: Connection, cid: Cid, left: int) -> int:
        await fetch(self._context.store, cid, [connection], max_bytes=max(0, left))
        return await asyncio.to_thread(self._context.store.size, cid)

    async def _job(self, number: JobId) -> Job:
        """A job's row, whichever process has it. Raises `RequestFailed` for one that the chain has not shown yet."""
        clock = asyncio.get_running_loop().time
        give_up, look_at = clock() + SEEN_S, 0.0
        while True:
            job = self._context.rows.jobs.get(number)
            if job is None and clock() >= look_at:
                # Another process may have it. Whoever waits for a job that there is not costs a look now and then.
                async with self._looking:
                    job = await asyncio.to_thread(self._stored, number)
                look_at = clock() + STORED_POLL_S
            if job is not None:
                return job
            if clock() > give_up:
                raise RequestFailed("not-seen", f"job {number} is not seen on chain yet; ask again")
            await asyncio.sleep(SEEN_POLL_S)

    def _stored(self, number: JobId) -> Job | None:
        found = next(iter(self._context.database.rows(Job, TABLES[Job].c.id == number)), None)
        return found if isinstance(found, Job) else None


async def _block(connection: Connection, cid: Cid, max_bytes: int) -> bytes:
    """One raw block of at most so many bytes, from the peer that offers it. Raises `RequestFailed`."""
    source = PeerBlocks(connection) if isinstance(connection, Connection) else connection
    data = None
    try:
        async with asyncio.timeout(BLOCK_S), aclosing(source.blocks([cid])) as blocks:
            data = await anext((each async for _, each in blocks), None)
    except TimeoutError:
        raise RequestFailed("too-slow", f"{cid} did not come within {BLOCK_S:.0f} s") from None
    if data is None:
        raise RequestFailed("not-there", f"you do not have {cid} yourself")
    if raw_cid(data) != cid:
        connection.penalise(FORGERY_POINTS, f"{connection.peer} sent something else as block {cid}")
        raise RequestFailed("forged", f"what came is not {cid}")
    if len(data) > max_bytes:
        raise RequestFailed("too-large", f"{cid} has {len(data)} bytes, over the {max_bytes} that were announced")
    return data
