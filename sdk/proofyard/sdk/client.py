"""A requester for callers without an event loop: `AsyncClient` behind a portal."""

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from proofyard.protocol.messages import JobReport, LogLine
from proofyard.protocol.types import BatchId, Cid, JobId, Wei
from proofyard.sdk.bounds import Limits, Timeout
from proofyard.sdk.errors import JobFailed
from proofyard.sdk.handles import AsyncJobHandle, JobHandle
from proofyard.sdk.portal import Portal

if TYPE_CHECKING:
    from proofyard.artifacts import BlockStore
    from proofyard.chain import ChainClient, Wallet
    from proofyard.disputes.settled import Settled
    from proofyard.sdk.core import AsyncClient
    from proofyard.sdk.estimates import Estimate
    from proofyard.sdk.following import Look
    from proofyard.sdk.peers import OpenTransport
    from proofyard.sdk.preparing import Prepared
    from proofyard.sdk.results import Proven
    from proofyard.sdk.rounds import SettledRounds
    from proofyard.sdk.specs import JobSpec
    from proofyard.sdk.terms import Offer

T = TypeVar("T")


class Client:
    """A requester with its wallet, its chain connection and a store for what it publishes and fetches.

    Works synchronously, in a thread of its own; `AsyncClient` is the same in an event loop. Use as
    `with Client(...) as client`. `registry` is the Registry's address on the chain behind `rpc_url`; `data_dir` keeps
    artifacts (default: temporary). `rpc_url` may name several endpoints with commas between: the next one is asked
    while one is not in order. `first_block` is the block that the Registry is in, where its past begins; 0 looks for
    it. `chain_id`: the chain that is meant, None for whichever answers. `transport` makes what reaches peers, QUIC
    where nobody says otherwise (`proofyard.sdk.peers`).
    """

    def __init__(
        self,
        rpc_url: str,
        registry: str,
        wallet: "Wallet",
        *,
        data_dir: Path | None = None,
        first_block: int = 0,
        chain_id: int | None = None,
        timeout: Timeout = Timeout(),  # noqa: B008 (frozen)
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        transport: "OpenTransport | None" = None,
    ) -> None:
        from proofyard.sdk.core import AsyncClient
        from proofyard.sdk.peers import Quic

        core = AsyncClient(
            rpc_url,
            registry,
            wallet,
            data_dir=data_dir,
            first_block=first_block,
            chain_id=chain_id,
            timeout=timeout,
            limits=limits,
            transport=transport or Quic,
        )
        self._begin(core)

    def _begin(self, core: "AsyncClient") -> None:
        self._core = core
        self._portal = Portal("proofyard-client")
        try:
            self._portal.run(core.connect())
        except BaseException:
            self._portal.close()
            raise

    @classmethod
    def from_env(cls, **more: Any) -> Self:
        """A client from what every command reads: the settings file (`proofyard version` prints where, PROOFYARD_CONFIG
        names another), then the environment. `more` are arguments of `Client`. Raises `BadSetting` that says what is
        missing and where it may stand."""
        from proofyard.sdk.core import AsyncClient

        client = cls.__new__(cls)
        client._begin(AsyncClient.from_env(**more))
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End connections and remove temporary files. Idempotent; jobs go on without the client."""
        if self._portal.is_open:
            self._portal.run(self._core.close())
            self._portal.close()

    @property
    def wallet(self) -> "Wallet":
        return self._core.wallet

    @property
    def chain(self) -> "ChainClient":
        """What this wallet has to do with the Registry. Raises `ClientClosed`."""
        return self._core.chain

    @property
    def store(self) -> "BlockStore":
        """What was published and fetched."""
        return self._core.store

    def submit(
        self,
        spec: "JobSpec",
        *,
        reward: Wei,
        audit_fee: Wei,
        verifier_fee: Wei | None = None,
        auditors_per_segment: int = 2,
        segments_per_audit: int = 1,
        deadline_s: int = 24 * 3600,
        nonce: str = "",
    ) -> JobHandle:
        """Open a job on chain with its pay in escrow, send a verifier its artifacts, and return its handle.

        `reward` goes to the workers, `audit_fee` to the auditors, `verifier_fee` to the verifiers (see
        `proofyard.protocol.fees.propose_verifier_fee` for what is proposed without one); what is not spent comes back.
        Whoever has the CIDs can read the inputs, and the manifest names them. Nothing is published or escrowed for a
        job that the workload refuses, that asks more of a node than the usual limits or has terms that the contract
        would refuse (`JobRefused`, with the field), or that no verifier can take (`NoVerifier`). A node whose operator
        allows less may still refuse it later; what is escrowed for it comes back. `JobNotPublished` where the job is
        open and no verifier has taken its artifacts.

        A job is opened once: where the end of the transaction is not seen (`SubmitUncertain`, a crash), the same call
        finds its own job. With a `nonce` every later call with the same one does; without, each call that came to its
        end is followed by a new job.
        """
        terms = {
            "auditors_per_segment": auditors_per_segment,
            "segments_per_audit": segments_per_audit,
            "deadline_s": deadline_s,
        }
        work = self._core.submit(
            spec, reward=reward, audit_fee=audit_fee, verifier_fee=verifier_fee, nonce=nonce, **terms
        )
        return self._handle(self._portal.run(work))

    def prepare(self, spec: "JobSpec", offer: "Offer", nonce: str = "") -> "Prepared":
        """Everything of `submit` that costs nothing: the job as it would be opened. Raises as `submit` does."""
        return self._portal.run(self._core.prepare(spec, offer, nonce))

    def estimate(self, spec: "JobSpec", offer: "Offer") -> "Estimate":
        """What a job will take before it is paid: time, money, bytes and audits, from what the network did lately
        (`proofyard.sdk.estimates`). What nothing was measured of is None. Raises as
        `submit` does, but for a balance that is too small."""
        return self._portal.run(self._core.estimate(spec, offer))

    def short_of_owners(self, prepared: "Prepared") -> str:
        """A sentence where the network has too few owners for this job now, so that it would wait for more; else
        empty."""
        return self._portal.run(self._core.short_of_owners(prepared))

    def open(self, prepared: "Prepared") -> JobHandle:
        """Put a prepared job's pay in escrow, and give its artifacts to a verifier, which takes them for an open job
        alone; where the same call has opened it before, pay nothing and return that. Raises `NoVerifier` before
        anything is paid, `SubmitUncertain` where its end was not seen, and `JobNotPublished` after it."""
        return self._handle(self._portal.run(self._core.open(prepared)))

    def publish(self, job: JobId, artifacts: tuple[Cid, ...]) -> None:
        """Give a verifier an open job's manifest and inputs. Safe to repeat. Raises `JobNotPublished`."""
        self._portal.run(self._core.publish(job, artifacts))

    def job(self, job: int) -> JobHandle:
        """The handle of a job opened earlier. Raises `JobRefused` for what is no job's number."""
        return self._handle(self._core.job(job))

    def report(self, job: JobId, since: int = 0) -> JobReport:
        """How a job is doing, from its own verifier, or any while none has taken it; one that restarts is waited for a
        minute. Raises `NoVerifier` where it is away: what others know of the job says nothing."""
        return self._portal.run(self._core.report(job, since))

    def follow(self, job: JobId, timeout: float | None = None) -> "Iterator[Look]":
        """Each look at a job until it is over, also where it failed. Raises `JobTimeout`."""
        return self._portal.each(self._core.follow(job, timeout))

    def log(self, job: JobId) -> list[LogLine]:
        """All that a job's verifier says has happened so far, at most `Limits.log_lines`."""
        return self._portal.run(self._core.job(job).log())

    def failure(self, job: JobId, reason: str) -> JobFailed:
        """What a job's verifier gave it up for, with how it ended by the chain and what comes back."""
        return self._portal.run(self._core.failure(job, reason))

    def left_of(self, job: JobId) -> str:
        """A sentence: what is left of a job's money, and how it can be had back; empty where the chain does not say."""
        return self._portal.run(self._core.left_of(job))

    def end(self, job: JobId) -> int:
        """End a job and take back what is free of it: see `JobHandle.close`."""
        return self._portal.run(self._core.end(job))

    def prove(self, job: JobId) -> "Proven":
        """What the settled batches show of a job that is done. Raises `ResultUnproven`, and `RecordWithheld` for a
        batch whose record nobody delivers."""
        return self._portal.run(self._core.prove(job))

    def rounds(self, job: JobId) -> "SettledRounds":
        """The rounds of a job of `lora` that are settled whole, whether it is done or not: what each started from and
        came to (`proofyard.sdk.rounds`). Raises as `prove` does, and `JobRefused` for another kind of job."""
        return self._portal.run(self._core.rounds(job))

    def settled(self, batch: BatchId) -> "Settled":
        """A settled batch: its event, the record that the event names, and what the chain says to hold that against."""
        return self._portal.run(self._core.settled(batch))

    def result(
        self,
        job: JobId,
        dest: Path | str,
        *,
        force: bool = False,
        model: Path | str | None = None,
        on_replace: Callable[[list[str]], object] = lambda _: None,
    ) -> Path:
        """Write a job's result to the directory `dest`: see `JobHandle.result`."""
        work = self._core.result(job, dest, force=force, model=model, on_replace=on_replace)
        return self._portal.run(work)

    def round_result(
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
        work = self._core.round_result(job, number, dest, force=force, model=model, on_replace=on_replace)
        return self._portal.run(work)

    def sent_bytes(self, job: JobId) -> tuple[int, ...]:
        """What the tasks of a job that is done handed over: see `JobHandle.sent_bytes`."""
        return self._portal.run(self._core.sent_bytes(job))

    def read(self, cid: Cid, max_bytes: int) -> bytes:
        """The bytes of a file artifact of at most `max_bytes`, fetched and checked where it is not here yet."""
        return self._portal.run(self._core.read(cid, max_bytes))

    def run(self, work: "Callable[[AsyncClient], Coroutine[Any, Any, T]]") -> T:
        """The result of what `work` asks of the asynchronous client behind this one, in its loop."""
        return self._portal.run(work(self._core))

    def _handle(self, handle: AsyncJobHandle) -> JobHandle:
        return JobHandle(self, handle.job_id, handle.found)


def submit_job(
    spec: "JobSpec",
    *,
    reward: Wei,
    audit_fee: Wei,
    verifier_fee: Wei | None = None,
    client: Client | None = None,
    nonce: str = "",
    **terms: int,
) -> JobHandle:
    """Submit a job with `client`, or with one from settings and environment (`Client.from_env`); see
    `Client.submit`."""
    sender = client or Client.from_env()
    return sender.submit(spec, reward=reward, audit_fee=audit_fee, verifier_fee=verifier_fee, nonce=nonce, **terms)
