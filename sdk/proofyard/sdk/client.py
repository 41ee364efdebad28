"""The requester's side: escrow the pay, publish artifacts, follow the job, check and fetch the result.

Inputs and results are artifacts without encryption: model, data and manifest can be read by whoever has their CIDs,
which are in the job's manifest and so known to everybody. Do not submit what must stay private.
"""

import asyncio
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from proofyard.artifacts import ArtifactError, ArtifactUnavailable, BlockStore, fetch, serve_blocks
from proofyard.artifacts.dag import load
from proofyard.artifacts.exchange import PeerBlocks
from proofyard.chain import (
    ChainClient,
    ChainError,
    InsufficientBalance,
    JobTerms,
    Refused,
    VerifierRecord,
    Wallet,
)
from proofyard.disputes.settled import Settled, load_settled
from proofyard.protocol.amounts import DECIMALS, read_amount
from proofyard.protocol.cid import cid_digest, is_cid
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest, encode_manifest
from proofyard.protocol.messages import Ack, JobQuery, JobReport, LogLine, Publish
from proofyard.protocol.types import Address, BatchId, Cid, JobId, TaskIndex, Wei
from proofyard.protocol.validate import RecordInvalid
from proofyard.sdk.adapters import adapters_of, complete_adapters, one_adapter, read_adapter
from proofyard.sdk.artifacts import PeerAddress
from proofyard.sdk.destinations import require_free
from proofyard.sdk.errors import (
    BadAmount,
    BadPeer,
    ClientClosed,
    JobFailed,
    JobNotPublished,
    JobRefused,
    JobTimeout,
    NotFinished,
    NoVerifier,
    ResultIncomplete,
    ResultUnproven,
    SubmitUncertain,
)
from proofyard.sdk.refunds import take_back, what_comes_back
from proofyard.sdk.results import Proven, manifest_of, prove, require_package, standing_batches
from proofyard.sdk.settings import requester_settings
from proofyard.sdk.specs import JobSpec, called, check_spec, resolve_model
from proofyard.sdk.tables import with_plain_data
from proofyard.sdk.terms import (
    Offer,
    check_audit_fee,
    check_nonce,
    check_offer,
    check_sizes,
    check_task_rewards,
    check_verifier_fee,
    check_work,
    job_terms,
    most_of_a_task,
    owners_needed,
)
from proofyard.transport import Connection, DeadlineExceeded, Endpoint, TransportError
from proofyard.workloads.errors import InputRefused, ModelMisread
from proofyard.workloads.limits import USUAL
from proofyard.workloads.model_files import TOKENIZER_FILES, link_model
from proofyard.workloads.trial import try_model
from proofyard.workloads.workload import load_workload, task_graph

T = TypeVar("T")
logger = logging.getLogger("proofyard.sdk")

POLL_S = 0.5
SHORT_POLL_S = 0.05
FULL_PAGE = 100
"""A report with fewer lines is the newest: there is no hurry to ask again."""
LAST_LINES_S = 30.0
LARGEST_ID = 2**256 - 1
LAST_SEQ = (1 << 63) - 1
ANSWER_S = 10.0
PATIENCE_S = 60.0
PUBLISH_TIMEOUT_S = 3600.0
MAX_TOKENIZER_BYTES = 256 << 20
AWAY_S = 30.0
"""A verifier that could not be reached is not dialled again for so long, where others have what is read."""


@dataclass(frozen=True)
class Prepared:
    """A job that could be opened: nothing of it is published or paid yet. `artifacts` are the manifest and its
    inputs; `left_out` names what of the model's folder is not published; `model` is the hub name or directory that the
    requester calls its model, "" for none."""

    terms: JobTerms
    manifest: Manifest
    artifacts: tuple[Cid, ...]
    call: str = ""
    """By what the same call is known again."""
    since: int | None = None
    """It may have been opened before, from this block on."""
    left_out: tuple[str, ...] = ()
    model: str = ""


class Client:
    """A requester with its wallet, its chain connection and a store for what it publishes and fetches.

    Works synchronously; QUIC runs in a thread of its own. Use as `with Client(...) as client`.
    `registry` is the Registry's address on the chain behind `rpc_url`; `data_dir` keeps artifacts (default: temporary).
    `rpc_url` may name several endpoints with commas between: the next one is asked while one is not in order.
    `first_block` is the block that the Registry is in, where its past begins; 0 looks for it. `chain_id`: the chain
    that is meant, None for whichever answers.
    """

    def __init__(
        self,
        rpc_url: str,
        registry: str,
        wallet: Wallet,
        *,
        data_dir: Path | None = None,
        first_block: int = 0,
        chain_id: int | None = None,
    ) -> None:
        self.wallet = wallet
        self.chain = ChainClient(rpc_url, Address(registry), wallet, first_block=first_block, chain_id=chain_id)
        self._temporary = TemporaryDirectory(prefix="proofyard-") if data_dir is None else None
        self.store = BlockStore(Path(self._temporary.name) if self._temporary else Path(data_dir or ".") / "blocks")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proofyard-client", daemon=True)
        self._thread.start()
        self._endpoint: Endpoint | None = None
        self._opening = asyncio.Lock()
        self._away: dict[Address, float] = {}

    @classmethod
    def from_env(cls) -> Self:
        """A client from what every command reads: the settings file (`proofyard version` prints where, PROOFYARD_CONFIG
        names another), then the environment. Raises `BadSetting` that says what is missing and where it may stand."""
        settings = requester_settings()
        wallet = Wallet.unlock(settings.wallet, password_file=settings.password_file)
        chain_id = settings.chain_id or None
        return cls(settings.rpc_url, settings.registry, wallet, first_block=settings.from_block, chain_id=chain_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End connections and remove temporary files. Idempotent; jobs go on without the client."""
        if self._thread.is_alive():
            if self._endpoint is not None:
                self._run(self._endpoint.close())
            self._stop_loop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def submit(
        self,
        spec: JobSpec,
        *,
        reward: Wei,
        audit_fee: Wei,
        verifier_fee: Wei | None = None,
        auditors_per_segment: int = 2,
        segments_per_audit: int = 1,
        deadline_s: int = 24 * 3600,
        nonce: str = "",
    ) -> "JobHandle":
        """Open a job on chain with its pay in escrow, send a verifier its artifacts, and return its handle.

        `reward` goes to the workers, `audit_fee` to the auditors, `verifier_fee` to the verifiers (see
        `proofyard.protocol.fees.propose_verifier_fee` for what is proposed without one); what is not spent comes back.
        Whoever has the CIDs can read the inputs, and the manifest names them. Nothing is published or escrowed for a
        job that the workload refuses (`ManifestRefused`), that asks more of a node than the usual limits or has terms
        that the contract would refuse (`JobRefused`, with the field), or that no verifier can take (`NoVerifier`). A
        node whose operator allows less may still refuse it later; what is escrowed for it comes back. `JobNotPublished`
        where the job is open and no verifier has taken its artifacts.

        A job is opened once: where the end of the transaction is not seen (`SubmitUncertain`, a crash), the same call
        finds its own job. With a `nonce` every later call with the same one does; without, each call that came to its
        end is followed by a new job.
        """
        offer = Offer(
            reward=reward,
            audit_fee=audit_fee,
            verifier_fee=verifier_fee,
            auditors_per_segment=auditors_per_segment,
            segments_per_audit=segments_per_audit,
            deadline_s=deadline_s,
        )
        return self.open(self.prepare(spec, offer, nonce))

    def prepare(self, spec: JobSpec, offer: Offer, nonce: str = "") -> Prepared:
        """Everything of `submit` that costs nothing: the job as it would be opened. Raises as `submit` does."""
        self._require_open()
        check_offer(offer)
        spec = with_plain_data(spec, self.store.path / "tables")
        check_spec(spec)
        check_nonce(nonce)
        with _refusing_inputs(), self._adapter_here(spec) as spec:
            manifest, artifacts, left_out = self._manifest(spec)
        graph = task_graph(load_workload(manifest.workload), manifest)
        check_work(manifest, graph)
        check_task_rewards(graph, offer.reward, most_of_a_task(self.chain.params().court.receipt_penalty))
        check_audit_fee(graph, offer)
        gas_price = self.chain.gas_price()
        check_verifier_fee(len(graph), offer, gas_price)
        if spec.model is not None:
            with _refusing_inputs():
                try_model(manifest, resolve_model(spec.model))
        call = self._call(manifest, offer, nonce)
        with self.wallet.turns.take() as turn:
            cut_off = turn.submission(call)
        own, since = nonce or secrets.token_hex(16), self.chain.first_block if nonce else None
        if cut_off is not None:
            own, since = cut_off.split()[0], int(cut_off.split()[1])
        manifest = msgspec.structs.replace(manifest, nonce=own)
        manifest_cid = self.store.put_bytes(encode_manifest(manifest))
        terms = job_terms(manifest, cid_digest(manifest_cid), graph, offer, gas_price, self.chain.next_time())
        if since is None:
            self.chain.require_balance(terms.escrow)
        model = "" if spec.model is None else called(spec.model)
        return Prepared(terms, manifest, (manifest_cid, *artifacts), call, since, tuple(left_out), model)

    def short_of_owners(self, prepared: Prepared) -> str:
        """A sentence where the network has too few owners for this job now, so that it would wait for more; else
        empty."""
        name, terms = prepared.manifest.workload, prepared.terms
        needed = owners_needed(load_workload(name).graph(prepared.manifest), terms)
        owners = {node.owner for node in self.chain.active_nodes() if node.workloads >> terms.workload & 1}
        if len(owners) >= needed:
            return ""
        return (
            f"this job needs nodes of {needed} owners for {name} (k = {terms.auditors_per_segment} auditors, "
            f"m = {terms.segments_per_audit} segments) and the network has {len(owners)} now: it waits for more"
        )

    def open(self, prepared: Prepared) -> "JobHandle":
        """Put a prepared job's pay in escrow, and give its artifacts to a verifier, which takes them for an open job
        alone; where the same call has opened it before, pay nothing and return that. Raises `NoVerifier` before
        anything is paid, `SubmitUncertain` where its end was not seen, and `JobNotPublished` after it."""
        job = self._opened_before(prepared)
        found = job is not None
        if job is None:
            job = self._opened(prepared)
        if not found or self._is_waiting(job):
            self.publish(job, prepared.artifacts)
        with self.wallet.turns.take() as turn:
            turn.remember(prepared.call, None)
            if prepared.model:
                turn.name_model(self._place(job), prepared.model)
        return JobHandle(self, job, found)

    def _opened(self, prepared: Prepared) -> JobId:
        self._run(self._verifier())
        self._remember(prepared, f"{prepared.manifest.nonce} {self.chain.block_number()}")
        try:
            return self.chain.open_job(prepared.terms)
        except (Refused, InsufficientBalance):
            self._remember(prepared, None)
            raise
        except ChainError as error:
            raise SubmitUncertain(error) from None

    def _is_waiting(self, job: JobId) -> bool:
        """Whether an open job is nobody's yet."""
        record = self.chain.job(job)
        return not record.closed and not record.verifier

    def publish(self, job: JobId, artifacts: tuple[Cid, ...]) -> None:
        """Give a verifier an open job's manifest and inputs. Safe to repeat. Raises `JobNotPublished`."""
        try:
            self._run(self._publish(job, artifacts))
        except (TransportError, NoVerifier, JobRefused) as error:
            raise JobNotPublished(job, str(error)) from None

    def _opened_before(self, prepared: Prepared) -> JobId | None:
        """The job of this call, once what the wallet has on its way is mined."""
        if prepared.since is None:
            return None
        self.chain.finish_sending()
        found = self.chain.find_jobs(self.wallet.address, prepared.terms.manifest, since=prepared.since)
        return found[0] if found else None

    def _remember(self, prepared: Prepared, nonce: str | None) -> None:
        with self.wallet.turns.take() as turn:
            turn.remember(prepared.call, nonce)

    def _call(self, manifest: Manifest, offer: Offer, nonce: str) -> str:
        """What two calls have in common that are the same: network, wallet, work and terms."""
        place = (self.chain.chain_id, self.chain.registry, self.wallet.address, nonce)
        return hashlib.sha256(repr((place, manifest, offer)).encode()).hexdigest()

    def job(self, job: JobId) -> "JobHandle":
        """The handle of a job opened earlier. Raises `JobRefused` for what is no job's number."""
        if type(job) is not int or not 0 < job <= LARGEST_ID:
            raise JobRefused(f"job: {str(job)[:80]!r} is no job's number; give the one that submitting it gave")
        return JobHandle(self, job)

    def left_of(self, job: JobId) -> str:
        """A sentence: what is left of a job's money, and how it can be had back; empty where the chain does not say."""
        try:
            return what_comes_back(self.chain.job(job), self.chain.params().receipt_time, self.chain.now())
        except ChainError:
            return ""

    def report(self, job: JobId, since: int = 0) -> JobReport:
        """How a job is doing, from its own verifier, or any while none has taken it; one that restarts is waited for a
        minute. Raises `NoVerifier` where it is away: what others know of the job says nothing."""
        return self._run(self._ask(JobQuery(job, since)))

    def prove(self, job: JobId) -> Proven:
        """What the settled batches show of a job that is done. Raises `ResultUnproven`, and `RecordWithheld` for a
        batch whose record nobody delivers."""
        try:
            batches = [self.settled(batch) for batch in standing_batches(self.chain, job)]
        except RecordInvalid as error:
            raise ResultUnproven(job, str(error)) from None
        cid, manifest = self._work(job)
        workload = load_workload(manifest.workload)
        return prove(job, cid, task_graph(workload, manifest), workload.finals(manifest), batches)

    def settled(self, batch: BatchId) -> Settled:
        """A settled batch: its event, the record that the event names, and what the chain says to hold that against."""
        return self._run(load_settled(self.chain, self._read, batch))

    def package(
        self,
        proven: Proven,
        said: Cid | None,
        dest: Path,
        on_replace: Callable[[list[str]], object] = lambda _: None,
        model: Path | str | None = None,
    ) -> Path:
        """Package a proven result in `dest`, reading one task's result after another. Raises `ResultUnproven` where a
        verifier said that it is another one. `on_replace` gets the names of files before they are replaced; `model` is
        what adapters name, else what the wallet remembers."""
        _, manifest = self._work(proven.job)

        def results(task: TaskIndex) -> bytes:
            return self.read(proven.results[task], USUAL.max_state_bytes)

        with TemporaryDirectory(prefix="proofyard-result-") as folder:
            made = load_workload(manifest.workload).package(manifest, results, Path(folder) / "result")
            if said is not None:
                require_package(proven.job, said, self.store.put_directory(made))
            self._complete(proven.job, made, model)
            cid = self.store.put_directory(made)
            names = sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file())
        if replaced := [name for name in names if (dest / name).exists()]:
            on_replace(replaced)
        return self.store.export(cid, dest)

    def _complete(self, job: JobId, result: Path, model: Path | str | None) -> None:
        """Have the adapters of a job's result, if there are any, name the model as the requester calls it, and bring
        its tokenizer: from the model's directory where it is here, else from the network."""
        if not adapters_of(result):
            return
        with self.wallet.turns.take() as turn:
            name = turn.model(self._place(job)) if model is None else called(model)
        if Path(name).is_absolute() and not Path(name).is_dir():
            name = ""
        with TemporaryDirectory(prefix="proofyard-tokenizer-") as folder:
            here = Path(name) if Path(name).is_absolute() else Path(folder)
            if here == Path(folder):
                self._fetch_tokenizer(job, here)
            complete_adapters(result, name, here)

    def _fetch_tokenizer(self, job: JobId, folder: Path) -> None:
        """The tokenizer's files of a job's model. They may be nowhere any more: that is logged."""
        model = self._work(job)[1].model
        if model is None:
            return
        try:
            for name, cid in self._run(self._names(model)).items():
                if name in TOKENIZER_FILES:
                    (folder / name).write_bytes(self.read(cid, MAX_TOKENIZER_BYTES))
        except (ArtifactError, TransportError, NoVerifier) as error:
            logger.warning("the tokenizer of job %d's model cannot be had (%s); copy it from the model", job, error)

    def _place(self, job: JobId) -> str:
        return f"{self.chain.chain_id} {self.chain.registry} {job}"

    def read(self, cid: Cid, max_bytes: int) -> bytes:
        """The bytes of a file artifact of at most `max_bytes`, fetched and checked where it is not here yet."""
        return self._run(self._read(cid, max_bytes))

    def _work(self, job: JobId) -> tuple[Cid, Manifest]:
        """A job's manifest as the chain names it."""
        cid = manifest_of(self.chain, job)
        return cid, decode_manifest(self.read(cid, MAX_MANIFEST_BYTES))

    def _manifest(self, spec: JobSpec) -> tuple[Manifest, list[Cid], list[str]]:
        model: Cid | None = None
        data: Cid | None = None
        left_out: list[str] = []
        if spec.model is not None:
            model, left_out = link_model(self.store, resolve_model(spec.model))
            if left_out:
                logger.info("of the model's folder are not published: %s", ", ".join(left_out))
        if spec.data is not None:
            if not Path(spec.data).is_file():
                raise JobRefused(f"data: {spec.data} is no file; give the path of a JSONL, CSV or Parquet file")
            data = self.store.link_file(Path(spec.data))
        check_sizes(
            {field: self.store.size(cid) for field, cid in (("model", model), ("data", data)) if cid is not None}
        )
        manifest = spec.manifest(model, data)
        load_workload(manifest.workload).check(manifest)
        for field, cid in (("model", model), ("data", data)):
            if cid is not None and self.store.local_path(cid) is None:
                raise JobRefused(f"{field}: changed while it was looked at; submit again once nobody writes to it")
        if manifest.adapter is not None:
            self.store.put_bytes(read_adapter(Path(getattr(spec, "adapter", ""))).data)
        return manifest, list(manifest.inputs), left_out

    @contextmanager
    def _adapter_here(self, spec: Any) -> Iterator[Any]:
        """A spec whose adapter, where it has one, is a folder on this machine: the number of a job becomes its result,
        proved, and a CID what it names."""
        adapter = getattr(spec, "adapter", None)
        said = str(adapter)
        if adapter is None or Path(said).is_dir():
            yield spec
            return
        with TemporaryDirectory(prefix="proofyard-adapter-") as folder:
            if said.isdecimal():
                found = self.job(JobId(int(said))).result(Path(folder) / "result")
            elif is_cid(said):
                found = self.store.export(self._run(self._fetched(Cid(said))), Path(folder) / "result")
            else:
                raise JobRefused(f"adapter: {said} is no folder, no CID and no job's number; give one of them")
            yield replace(spec, adapter=one_adapter(found, f"{said}"))

    # In the thread

    async def _publish(self, job: JobId | None, artifacts: tuple[Cid, ...]) -> None:
        total = sum([await asyncio.to_thread(self.store.size, cid) for cid in artifacts])
        async for attempt in _patiently():
            with attempt:
                connection = await self._verifier()
                answer = await connection.request(Publish(artifacts, total, job), reply=Ack, timeout=PUBLISH_TIMEOUT_S)
                if not answer.proceed:
                    raise JobRefused(f"verifier {connection.peer} says: {answer.reason}")

    async def _ask(self, query: JobQuery) -> JobReport:
        async for attempt in _patiently():
            with attempt:
                connection = await self._verifier(query.job)
                try:
                    return await connection.request(query, reply=JobReport, timeout=ANSWER_S)
                except DeadlineExceeded:
                    await connection.close("no answer")
                    raise
        raise AssertionError("retrying ends with an answer or an error")

    async def _read(self, cid: Cid, max_bytes: int) -> bytes:
        if await asyncio.to_thread(lambda: any(self.store.missing(cid))):
            await fetch(self.store, cid, await self._verifiers(), max_bytes=max_bytes)
        return await asyncio.to_thread(self.store.get_bytes, cid, max_bytes=max_bytes)

    async def _fetched(self, cid: Cid) -> Cid:
        """An adapter's folder, once it is here."""
        if await asyncio.to_thread(lambda: any(self.store.missing(cid))):
            await fetch(self.store, cid, await self._verifiers(), max_bytes=USUAL.max_state_bytes)
        return cid

    async def _names(self, folder: Cid) -> dict[str, Cid]:
        """What a folder of few files holds, of which only its own block is fetched."""
        if not self.store.has(folder):
            for connection in await self._verifiers():
                with suppress(TransportError):
                    async for cid, data in PeerBlocks(connection).blocks([folder]):
                        if data is not None:
                            await asyncio.to_thread(self.store.put_block, cid, data)
        if not self.store.has(folder):
            raise ArtifactUnavailable(folder, 1, ["no verifier has it"])
        node = await asyncio.to_thread(load, self.store.get_block, folder)
        return {} if isinstance(node, bytes) else {link.name: link.cid for link in node.links}

    async def _verifier(self, job: JobId | None = None) -> Connection:
        """A connection to an active verifier: the one that the chain says has the job, where there is one."""
        verifiers = asked = await asyncio.to_thread(self.chain.active_verifiers)
        scheduler = None if job is None else (await asyncio.to_thread(self.chain.job, job)).verifier
        if scheduler:
            asked = [verifier for verifier in verifiers if verifier.id == scheduler]
        reasons = []
        for verifier in asked:
            found = await self._dial(verifier, verifiers)
            if isinstance(found, Connection):
                return found
            reasons.append(found)
        if scheduler:
            why = "; ".join(reasons) or "the Registry does not list it as active"
            raise NoVerifier(
                f"job {job} is with verifier {scheduler}, which cannot be asked now: {why}; the job goes on; "
                f"ask again, or see what the chain says with `proofyard job show {job}`"
            )
        raise NoVerifier(_why(reasons))

    async def _verifiers(self) -> list[Connection]:
        """Every active verifier that can be reached: a record that one has lost, or hides, its co-signers have."""
        verifiers = await asyncio.to_thread(self.chain.active_verifiers)
        now = time.monotonic()
        at_hand = [each for each in verifiers if self._away.get(each.node, 0.0) <= now]
        reasons: list[str] = []
        for asked in (at_hand, verifiers):
            dialled = await asyncio.gather(*(self._dial(verifier, verifiers) for verifier in asked))
            if found := [each for each in dialled if isinstance(each, Connection)]:
                return found
            reasons = [each for each in dialled if isinstance(each, str)]
            if len(asked) == len(verifiers):
                break
        raise NoVerifier(_why(reasons))

    async def _dial(self, verifier: VerifierRecord, known: Sequence[VerifierRecord]) -> Connection | str:
        """A connection to a verifier, or why there is none. `known` decides which of our addresses to send from."""
        try:
            peer = PeerAddress.parse(verifier.endpoint, verifier.node)
            endpoint = await self._socket(_addresses(known))
            connection = await endpoint.connect(peer.host, peer.port, expect=peer.wallet)
        except (BadPeer, TransportError) as error:
            self._away[verifier.node] = time.monotonic() + AWAY_S
            return str(error)
        self._away.pop(verifier.node, None)
        return connection

    async def _socket(self, peers: Sequence[PeerAddress]) -> Endpoint:
        """The client's one socket, opened when it is first known whom it must reach."""
        async with self._opening:
            if self._endpoint is None:
                endpoint = Endpoint(self.wallet, network=self.chain.domain)
                serve_blocks(endpoint, self.store)
                self._endpoint = await endpoint.__aenter__()
            return self._endpoint

    def _require_open(self) -> None:
        if self._loop.is_closed():
            raise ClientClosed

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise ClientClosed
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True)
class JobHandle:
    """A job on the network. The handle holds nothing but its number: `client.job(id)` makes another one. `found`: the
    call that gave it has opened the job before, and paid nothing."""

    client: Client
    job_id: JobId
    found: bool = False

    def status(self, since: int = 0) -> JobReport:
        """How the job is doing now, with log lines after number `since`."""
        return self.client.report(self.job_id, since)

    def wait(self, timeout: float | None = None, on_event: Callable[[LogLine], object] | None = None) -> JobReport:
        """Until the job is done. `timeout` in seconds; `on_event` gets every log line once, in order.

        Raises `JobFailed` with the network's reason, or `JobTimeout`; either leaves the job as it is.
        """
        if timeout is not None and not timeout >= 0:
            raise JobRefused(f"timeout: {timeout} s is no time to wait; give 0 or more seconds")
        give_up = None if timeout is None else time.monotonic() + timeout
        seen, ended = 0, None
        while True:
            report = self.status(seen)
            fresh = [line for line in report.log if seen < line.seq <= LAST_SEQ]
            for line in fresh:
                seen = max(seen, line.seq)
                if on_event is not None:
                    on_event(line)
            over = report.state in ("done", "failed")
            ended = ended or (time.monotonic() if over else None)
            # What is left of its log comes at once; a verifier that always has one line more is not heard out.
            if over and (not fresh or time.monotonic() - (ended or 0.0) > LAST_LINES_S):
                if report.state == "done":
                    return report
                raise JobFailed(self.job_id, report.reason, self.client.left_of(self.job_id))
            if give_up is not None and time.monotonic() > give_up and not over:
                raise JobTimeout(self.job_id, timeout or 0, report.state)
            if len(fresh) < FULL_PAGE:
                time.sleep(POLL_S if not fresh else SHORT_POLL_S)

    def close(self) -> int:
        """End the job and take back what is free of what it did not spend, and of what cheats lost in it.

        What is committed is still paid. Returns from when on (Unix seconds on the chain's clock) more can be had by
        calling this again, 0 where nothing is left: see `proofyard.sdk.refunds`.
        """
        chain = self.client.chain
        chain.close_job(self.job_id)
        return take_back(chain, chain.job(self.job_id))

    def prove(self) -> Proven:
        """What is settled of a job that is done, checked against the chain; see `proofyard.sdk.results`.

        Raises `ResultUnproven` where that is not the whole job.
        """
        return self.client.prove(self.job_id)

    def result(
        self,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write the job's result to the directory `dest`, new or empty unless `force`, and return it. Raises
        `DestinationTaken`, and `NotFinished` before the job is done. `on_replace` gets the names of what is replaced.

        Nobody is believed: the settled batches on chain must hold every task of the job, with records that validate,
        and what the verifier reports must be the package that is made here of the accepted results; else
        `ResultUnproven`, and nothing is written. Until `prove().final_at` a batch can still be challenged.

        Where the job's verifier is away, what is settled is enough; `NoVerifier` where that is not the whole job yet.

        For `LoraJob` this is a PEFT adapter: `peft.AutoPeftModelForCausalLM.from_pretrained(dest)` loads it. It names
        the `model` that is given here, or that this wallet submitted the job with, and brings its tokenizer.
        """
        target = Path(dest)
        if model is not None:
            called(model)
        require_free(target, force=force)
        said = self._said()
        try:
            proven = self.prove()
        except (ResultIncomplete, ArtifactUnavailable) as error:
            if isinstance(said, Exception):
                raise said from error  # whether it is done is not known
            raise
        return self.client.package(proven, None if isinstance(said, Exception) else said, target, on_replace, model)

    def _said(self) -> Cid | NoVerifier | TransportError | None:
        """The result that the job's verifier reports, or why it cannot be asked; None where it has none of a job that
        is settled whole."""
        try:
            report = self.status()
        except (NoVerifier, TransportError) as error:
            logger.warning("%s; looking at what is settled instead", error)
            return error
        if report.result is not None and report.state != "failed":
            return report.result
        record = self.client.chain.job(self.job_id)
        if record.units_paid == record.units:
            logger.warning(
                "job %s is %s by its verifier, and settled whole; that is looked at", self.job_id, report.state
            )
            return None
        if report.state == "failed":
            raise JobFailed(self.job_id, report.reason, self.client.left_of(self.job_id))
        raise NotFinished(self.job_id, report.state)


def submit_job(
    spec: JobSpec,
    *,
    reward: Wei,
    audit_fee: Wei,
    verifier_fee: Wei | None = None,
    client: Client | None = None,
    nonce: str = "",
    **terms: int,
) -> JobHandle:
    """Submit a job with `client`, or with one from the environment (`Client.from_env`); see `Client.submit`."""
    sender = client or Client.from_env()
    return sender.submit(spec, reward=reward, audit_fee=audit_fee, verifier_fee=verifier_fee, nonce=nonce, **terms)


def credits(amount: float | Decimal | str) -> Wei:
    """An amount of the network's token in base units: `credits("1.5")` is 1.5 * 10**18. Raises `BadAmount` for what is
    no amount, is negative or has more than 18 decimals."""
    try:
        if isinstance(amount, str):
            return read_amount(amount)
        base = Fraction(str(amount)) * 10**DECIMALS
    except ValueError:
        base = Fraction(-1)
    if base < 0 or base.denominator != 1:
        raise BadAmount(f"{amount!r} is not an amount of CREDIT; give one like 12, 0.5 or '1,250', at most 18 decimals")
    return Wei(base.numerator)


_FIELDS = {"data file": "data", "adapter": "adapter"}
"""What errors of inputs name, to the field of a job."""


@contextmanager
def _refusing_inputs() -> Iterator[None]:
    """What nodes refuse of model and data, as what is wrong with a job."""
    try:
        yield
    except InputRefused as error:
        field = next((field for word, field in _FIELDS.items() if word in error.what), "model")
        raise JobRefused(f"{field}: {error}; nothing was published or paid, correct it and submit again") from None
    except ModelMisread as error:
        raise JobRefused(f"model: {error}; nothing was published or paid") from None


def _patiently() -> AsyncRetrying:
    """Attempts to reach a verifier: one that restarts is waited for."""
    return AsyncRetrying(
        retry=retry_if_exception_type((TransportError, NoVerifier)),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_fixed(POLL_S),
        reraise=True,
    )


def _addresses(verifiers: Sequence[VerifierRecord]) -> list[PeerAddress]:
    found = []
    for verifier in verifiers:
        with suppress(BadPeer):
            found.append(PeerAddress.parse(verifier.endpoint, verifier.node))
    return found


def _why(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "the Registry lists no active verifier; start one with `verifier run`"
