"""The requester's side as coroutines: escrow the pay, publish artifacts, follow the job, check and fetch the result.

What asks the chain or reads disks runs in threads, what talks to peers in the loop. `Client` is the same for callers
without a loop.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

from proofyard.artifacts import ArtifactUnavailable, BlockStore
from proofyard.chain import ChainClient, ChainError, InsufficientBalance, JobRecord, Refused, Wallet
from proofyard.disputes.committed import closed_of
from proofyard.disputes.settled import Settled, load_settled
from proofyard.protocol.closing import dropped_tasks
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest
from proofyard.protocol.messages import JobQuery, JobReport
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, JobId, Wei
from proofyard.protocol.validate import RecordInvalid
from proofyard.sdk import packaging, preparing
from proofyard.sdk.bounds import Limits, Timeout
from proofyard.sdk.continuing import ContinuedJob
from proofyard.sdk.destinations import require_free
from proofyard.sdk.errors import (
    ClientClosed,
    JobFailed,
    JobNotPublished,
    JobOver,
    JobRefused,
    NotFinished,
    NoVerifier,
    ResultIncomplete,
    ResultUnproven,
    SubmitUncertain,
)
from proofyard.sdk.estimates import Estimate, estimate
from proofyard.sdk.following import Look, check_timeout, follow
from proofyard.sdk.handles import AsyncJobHandle
from proofyard.sdk.inputs import Sources
from proofyard.sdk.peers import OpenTransport, Peers, Quic
from proofyard.sdk.preparing import Prepared, place_of
from proofyard.sdk.refunds import ended_early, take_back, what_comes_back
from proofyard.sdk.results import Proven, manifest_of, prove, standing_batches
from proofyard.sdk.rounds import SettledRounds, settled_rounds
from proofyard.sdk.seams import mapped, mapped_each
from proofyard.sdk.settings import requester_settings
from proofyard.sdk.specs import JobSpec, LoraJob, called, check_spec
from proofyard.sdk.terms import Offer, check_offer
from proofyard.sdk.voters import find_voters
from proofyard.transport import TransportError
from proofyard.workloads.workload import finals_of, load_workload, task_graph

T = TypeVar("T")
LARGEST_ID = 2**256 - 1


class AsyncClient:
    """A requester with its wallet, its chain connection and a store for what it publishes and fetches; for one event
    loop. Use as `async with AsyncClient(...) as client`. The arguments are those of `Client`."""

    def __init__(
        self,
        rpc_url: str,
        registry: str,
        wallet: Wallet,
        *,
        data_dir: Path | None = None,
        first_block: int = 0,
        chain_id: int | None = None,
        timeout: Timeout = Timeout(),  # noqa: B008 (frozen)
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        transport: OpenTransport = Quic,
    ) -> None:
        self.wallet = wallet
        self.timeout, self.limits = timeout, limits
        self._connect: Callable[[], ChainClient] = lambda: ChainClient(
            rpc_url, Address(registry), wallet, first_block=first_block, chain_id=chain_id
        )
        self._transport = transport
        self._temporary = TemporaryDirectory(prefix="proofyard-") if data_dir is None else None
        self.store = BlockStore(Path(self._temporary.name) if self._temporary else Path(data_dir or ".") / "blocks")
        self._chain: ChainClient | None = None
        self._peers: Peers | None = None
        self._closed = False

    @classmethod
    def from_env(cls, **more: Any) -> Self:
        """A client from what every command reads: see `Client.from_env`."""
        settings = requester_settings()
        wallet = Wallet.unlock(settings.wallet, password_file=settings.password_file)
        usual = {"first_block": settings.from_block, "chain_id": settings.chain_id or None}
        return cls(settings.rpc_url, settings.registry, wallet, **usual | more)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @mapped
    async def connect(self) -> None:
        """Look at the chain and the Registry. Raises `ChainError` where they are not what was said."""
        try:
            self._chain = await asyncio.to_thread(self._connect)
        except BaseException:
            self._clean_up()
            raise
        self._peers = Peers(
            self._chain, self.store, self._transport(self.wallet, self._chain.domain, self.store), self.timeout
        )

    @mapped
    async def close(self) -> None:
        """End connections and remove temporary files. Idempotent; jobs go on without the client."""
        self._closed = True
        if self._peers is not None:
            await self._peers.close()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def chain(self) -> ChainClient:
        """What this wallet has to do with the Registry. Raises `ClientClosed`."""
        if self._chain is None or self._closed:
            raise ClientClosed
        return self._chain

    @property
    def peers(self) -> Peers:
        """The verifiers. Raises `ClientClosed`."""
        if self._peers is None or self._closed:
            raise ClientClosed
        return self._peers

    # Submitting

    async def submit(
        self,
        spec: JobSpec,
        *,
        reward: Wei,
        audit_fee: Wei,
        verifier_fee: Wei | None = None,
        nonce: str = "",
        **terms: int,
    ) -> AsyncJobHandle:
        """Open a job on chain with its pay in escrow, send a verifier its artifacts, and return its handle: see
        `Client.submit`."""
        offer = Offer(reward=reward, audit_fee=audit_fee, verifier_fee=verifier_fee, **terms)
        return await self.open(await self.prepare(spec, offer, nonce))

    @mapped
    async def prepare(self, spec: JobSpec, offer: Offer, nonce: str = "") -> Prepared:
        """Everything of `submit` that costs nothing: the job as it would be opened. Raises as `submit` does."""
        return await self._prepare(spec, offer, nonce, pays=True)

    async def _prepare(self, spec: JobSpec, offer: Offer, nonce: str, *, pays: bool) -> Prepared:
        chain = self.chain
        sources = Sources(self._from_thread(self.peers.fetch), self._from_thread(self.result))
        check_offer(offer)
        if isinstance(spec, LoraJob | ContinuedJob) and spec.lacks_voters:
            check_spec(spec, but=("data",))
            spec = spec.with_voters(await find_voters(chain, self.peers, "lora", self.timeout.answer, *spec.capped))

        def work() -> Prepared:
            made = preparing.work_of(spec, self.store, sources, self.limits)
            return preparing.prepare(made, offer, nonce, chain=chain, wallet=self.wallet, store=self.store, pays=pays)

        return await asyncio.to_thread(work)

    @mapped
    async def estimate(self, spec: JobSpec, offer: Offer) -> Estimate:
        """What a job will take: see `Client.estimate`."""
        prepared = await self._prepare(spec, offer, "", pays=False)
        read = self._from_thread(self.peers.read)
        return await asyncio.to_thread(estimate, self.chain, self.store, read, prepared)

    @mapped
    async def short_of_owners(self, prepared: Prepared) -> str:
        """A sentence where the network has too few owners for this job now, so that it would wait for more; else
        empty."""
        return await asyncio.to_thread(preparing.short_of_owners, self.chain, prepared)

    @mapped
    async def open(self, prepared: Prepared) -> AsyncJobHandle:
        """Put a prepared job's pay in escrow, and give its artifacts to a verifier: see `Client.open`."""
        chain = self.chain
        job = await asyncio.to_thread(self._opened_before, chain, prepared)
        found = job is not None
        if job is None:
            verifier = await self.peers.at_hand()
            job = await asyncio.to_thread(self._open, chain, prepared, verifier)
        if not found or await asyncio.to_thread(_is_waiting, chain, job):
            await self.publish(job, prepared.artifacts)
        await asyncio.to_thread(self._remember_opened, chain, prepared, job)
        return AsyncJobHandle(self, job, found)

    def _opened_before(self, chain: ChainClient, prepared: Prepared) -> JobId | None:
        """The job of this call, once what the wallet has on its way is mined."""
        if prepared.since is None:
            return None
        chain.finish_sending()
        found = chain.find_jobs(self.wallet.address, prepared.terms.manifest, since=prepared.since)
        return found[0] if found else None

    def _open(self, chain: ChainClient, prepared: Prepared, verifier: OperatorId) -> JobId:
        self._remember(prepared, f"{prepared.manifest.nonce} {chain.block_number()}")
        try:
            return chain.open_job(replace(prepared.terms, verifier=verifier))
        except (Refused, InsufficientBalance):
            self._remember(prepared, None)
            raise
        except ChainError as error:
            raise SubmitUncertain(error) from None

    def _remember(self, prepared: Prepared, nonce: str | None) -> None:
        with self.wallet.turns.take() as turn:
            turn.remember(prepared.call, nonce)

    def _remember_opened(self, chain: ChainClient, prepared: Prepared, job: JobId) -> None:
        with self.wallet.turns.take() as turn:
            turn.remember(prepared.call, None)
            if prepared.model:
                turn.name_model(place_of(chain, job), prepared.model)

    @mapped
    async def publish(self, job: JobId, artifacts: tuple[Cid, ...]) -> None:
        """Give a verifier an open job's manifest and inputs. Safe to repeat. Raises `JobNotPublished`."""
        try:
            await self.peers.publish(job, artifacts)
        except (TransportError, NoVerifier, JobRefused) as error:
            raise JobNotPublished(job, str(error)) from None

    # Following

    def job(self, job: int) -> AsyncJobHandle:
        """The handle of a job opened earlier. Raises `JobRefused` for what is no job's number."""
        check_job(job)
        return AsyncJobHandle(self, JobId(job))

    @mapped
    async def report(self, job: JobId, since: int = 0) -> JobReport:
        """How a job is doing: see `Client.report`."""
        return await self.peers.ask(JobQuery(job, since))

    @mapped_each
    async def follow(self, job: JobId, timeout: float | None = None) -> AsyncGenerator[Look, None]:
        """Each look at a job until it is over, also where it failed. Raises `JobTimeout`, and `JobOver` at once where
        the chain says that it will not be done."""
        asked = -math.inf

        async def ask(since: int) -> JobReport:
            nonlocal asked
            if time.monotonic() - asked > self.timeout.chain:
                asked = time.monotonic()
                await self._require_hope(job)
            return await self.report(job, since)

        check_timeout(timeout)
        async for look in follow(job, ask, self.timeout, timeout):
            yield look

    async def _require_hope(self, job: JobId) -> None:
        """Raise `JobOver` for a job that is not done and of which nothing more can be committed."""

        def look(chain: ChainClient) -> JobFailed | None:
            record = chain.job(job)
            return _failure(chain, record, "") if not record.closed or record.units_left else None

        found = await asyncio.to_thread(look, self.chain)
        if isinstance(found, JobOver):
            raise found

    @mapped
    async def failure(self, job: JobId, reason: str) -> JobFailed:
        """What a job's verifier gave it up for, with how it ended by the chain and what comes back."""

        def look(chain: ChainClient) -> JobFailed:
            with suppress(ChainError):
                return _failure(chain, chain.job(job), reason)
            return JobFailed(job, reason)

        return await asyncio.to_thread(look, self.chain)

    @mapped
    async def left_of(self, job: JobId) -> str:
        """A sentence: what is left of a job's money, and how it can be had back; empty where the chain does not say."""

        def look(chain: ChainClient) -> str:
            with suppress(ChainError):
                return what_comes_back(chain.job(job), chain.params().receipt_time, chain.now())
            return ""

        return await asyncio.to_thread(look, self.chain)

    @mapped
    async def end(self, job: JobId) -> int:
        """End a job and take back what is free of it: see `JobHandle.close`."""

        def work(chain: ChainClient) -> int:
            chain.close_job(job)
            return take_back(chain, chain.job(job))

        return await asyncio.to_thread(work, self.chain)

    # Results

    @mapped
    async def prove(self, job: JobId) -> Proven:
        """What the settled batches show of a job that is done. Raises `ResultUnproven`, and `RecordWithheld` for a
        batch whose record nobody delivers."""
        batches = await self._standing(job)
        cid, manifest = await self._work(job)
        closed = await closed_of(self.chain, self.peers.read, job, manifest)

        def work() -> Proven:
            workload, dropped = load_workload(manifest.workload), dropped_tasks(closed)
            graph = [spec for spec in task_graph(workload, manifest, closed) if spec.index not in dropped]
            return prove(job, cid, graph, finals_of(workload, manifest, closed), batches)

        return await asyncio.to_thread(work)

    @mapped
    async def rounds(self, job: JobId) -> SettledRounds:
        """The rounds of a job of `lora` that are settled whole, whether it is done or not. Raises as `prove` does, and
        `JobRefused` for another kind of job."""
        batches = await self._standing(job)
        cid, manifest = await self._work(job)
        closed = await closed_of(self.chain, self.peers.read, job, manifest)
        fetch, most = self._from_thread(self.peers.read), self.limits.result_bytes
        return await asyncio.to_thread(
            settled_rounds, job, cid, manifest, batches, lambda cid: fetch(cid, most), closed
        )

    async def _standing(self, job: JobId) -> list[Settled]:
        """The settled batches of a job."""
        try:
            numbers = await asyncio.to_thread(standing_batches, self.chain, job)
            return [await self.settled(batch) for batch in numbers]
        except RecordInvalid as error:
            raise ResultUnproven(job, str(error)) from None

    @mapped
    async def settled(self, batch: BatchId) -> Settled:
        """A settled batch: its event, the record that the event names, and what the chain says to hold that against."""
        return await load_settled(self.chain, self.peers.read, batch)

    @mapped
    async def result(
        self,
        job: JobId,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write a job's result to the directory `dest`: see `JobHandle.result`."""
        target = Path(dest)
        if model is not None:
            called(model)
        require_free(target, force=force)
        said = await self._said(job)
        try:
            proven = await self.prove(job)
        except (ResultIncomplete, ArtifactUnavailable) as error:
            if isinstance(said, Exception):
                raise said from error  # whether it is done is not known
            raise
        return await self.package(proven, None if isinstance(said, Exception) else said, target, on_replace, model)

    @mapped
    async def package(
        self,
        proven: Proven,
        said: Cid | None,
        dest: Path,
        on_replace: Callable[[list[str]], object] = lambda _: None,
        model: Path | str | None = None,
    ) -> Path:
        """Package a proven result in `dest`: see `packaging.package`. `model` is what adapters name, else what the
        wallet remembers."""
        _, manifest = await self._work(proven.job)
        how = self._packaging(proven.job, model, on_replace)
        return await asyncio.to_thread(lambda: packaging.package(proven, said, dest, manifest=manifest, how=how()))

    @mapped
    async def round_result(
        self,
        job: JobId,
        number: int,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the adapter after a settled round to the directory `dest`: see `JobHandle.round_result`."""
        target = Path(dest)
        if model is not None:
            called(model)
        require_free(target, force=force)
        rounds = await self.rounds(job)
        rounds.require(number)
        how = self._packaging(job, model, on_replace)

        def work() -> Path:
            return packaging.write(
                job, lambda folder: rounds.export(number, folder), target, manifest=rounds.manifest, how=how()
            )

        return await asyncio.to_thread(work)

    def _packaging(
        self, job: JobId, model: Path | str | None, on_replace: packaging.OnReplace
    ) -> Callable[[], packaging.Packaging]:
        """How a result is packaged, asked for in a thread: whatever the wallet remembers is in a file."""
        read, names = self._from_thread(self.peers.read), self._from_thread(self.peers.names)

        def how() -> packaging.Packaging:
            with self.wallet.turns.take() as turn:
                base = turn.model(place_of(self.chain, job)) if model is None else called(model)
            return packaging.Packaging(base, self.store, read, names, self.limits, on_replace)

        return how

    @mapped
    async def sent_bytes(self, job: JobId) -> tuple[int, ...]:
        """What the tasks of a job that is done handed over: see `JobHandle.sent_bytes`."""
        proven = await self.prove(job)
        return tuple([len(await self.peers.read(cid, self.limits.result_bytes)) for cid in proven.results.values()])

    @mapped
    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        """The bytes of a file artifact of at most `max_bytes`, fetched and checked where it is not here yet."""
        return await self.peers.read(cid, max_bytes)

    async def _work(self, job: JobId) -> tuple[Cid, Manifest]:
        """A job's manifest as the chain names it."""
        cid = await asyncio.to_thread(manifest_of, self.chain, job)
        return cid, decode_manifest(await self.peers.read(cid, MAX_MANIFEST_BYTES))

    async def _said(self, job: JobId) -> Cid | NoVerifier | TransportError | None:
        """The result that the job's verifier reports, or why it cannot be asked; None where it has none of a job that
        is settled whole."""
        try:
            report = await self.report(job)
        except (NoVerifier, TransportError) as error:
            preparing.logger.warning("%s; looking at what is settled instead", error)
            return error
        if report.result is not None and report.state != "failed":
            return report.result
        record = await asyncio.to_thread(self.chain.job, job)
        if record.units_paid == record.units:
            preparing.logger.warning(
                "job %s is %s by its verifier, and settled whole; that is looked at", job, report.state
            )
            return None
        if report.state == "failed":
            raise await self.failure(job, report.reason)
        raise NotFinished(job, report.state)

    def _from_thread(self, work: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
        """`work` of this loop, for what runs in a thread beside it."""
        loop = asyncio.get_running_loop()
        return lambda *given: asyncio.run_coroutine_threadsafe(work(*given), loop).result()


def check_job(job: Any) -> None:
    """Raise `JobRefused` for what is no job's number."""
    if type(job) is not int or not 0 < job <= LARGEST_ID:
        raise JobRefused(f"job: {str(job)[:80]!r} is no job's number; give the one that submitting it gave")


def _failure(chain: ChainClient, record: JobRecord, reason: str) -> JobFailed:
    receipt_time, now = chain.params().receipt_time, chain.next_time()
    if record.units_paid >= record.units:
        return JobFailed(
            record.id, reason, f"all of its tasks are settled all the same: proofyard job result {record.id} DIRECTORY"
        )
    back = what_comes_back(record, receipt_time, now)
    if how := ended_early(record, receipt_time, now):
        return JobOver(record.id, how, back)
    return JobFailed(record.id, reason, back)


def _is_waiting(chain: ChainClient, job: JobId) -> bool:
    """Whether nothing is committed of an open job: its verifier may not have its manifest."""
    record = chain.job(job)
    return not record.closed and record.units_left == record.units
