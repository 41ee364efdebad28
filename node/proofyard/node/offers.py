"""Holding an offer against the chain before anything is computed or signed for it.

A verifier says what the task is, which state an audit starts from and what keys its answer. If any of that were a lie,
this node would sign for work that nobody asked for, or seal an answer that convicts it; so all of it is taken from the
chain and the job's manifest, or proved to be in the batch, and the offer only has to agree.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from proofyard.chain import ChainClient, JobRecord
from proofyard.disputes.committed import Read, graph_of, load_members
from proofyard.disputes.rounds import Counted
from proofyard.node.limits import LeftForLater, OfferRefused, check_limits
from proofyard.node.prices import check_price, parse_prices
from proofyard.node.settings import NodeSettings
from proofyard.node.supplies import Supplies
from proofyard.protocol.cid import cid_bytes, cid_digest
from proofyard.protocol.earnings import LEAST_SEAT_PAY, seat_price
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.merkle import root
from proofyard.protocol.messages import AuditOffer, PeerHint, TaskOffer
from proofyard.protocol.settlement import Header
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId
from proofyard.runtime.recent import Recent
from proofyard.workloads.workload import load_workload, rounds_of

GRAPHS, HEADERS, LISTS, COUNTED = 8, 256, 4, 1024
"""Task graphs, headers of batches and their lists that are kept in memory; a list may have 64 MiB."""
READS, FRESH_S = 256, 30.0
"""What the chain said of jobs and batches, and how long it is taken as still true: a reorganisation may change it."""
LOOK_S = 1.0
"""Between two looks at which rounds of a job are open, where an offer is of another one."""
LEADER_FRESH_S = 5.0
"""The same for who leads a batch, which may be taken over: a block or two."""
CREDIT = 10**18
V = TypeVar("V")
N = TypeVar("N", bound=Hashable)


class Offers:
    """What a node knows of the jobs and batches that it is offered parts of."""

    def __init__(self, settings: NodeSettings, chain: ChainClient, supplies: Supplies) -> None:
        self._settings = settings
        self._chain = chain
        self._supplies = supplies
        self._graphs: Recent[tuple[JobId, Cid], tuple[float, tuple[TaskSpec, ...]]] = Recent(GRAPHS)
        self._counted = Counted(COUNTED)
        self._headers: Recent[tuple[BatchId, Digest], Header] = Recent(HEADERS)
        self._lists: Recent[tuple[BatchId, Digest], Mapping[TaskKey, Member]] = Recent(LISTS)
        self._reads: Recent[tuple[str, Hashable], tuple[float, Any]] = Recent(READS)
        self.waits: Callable[[JobRecord], str] = lambda _: ""
        """Why a job is left to later hours; empty where it is not."""

    async def check_task(self, verifier: Address, offer: TaskOffer, *, accepted: bool = False) -> Manifest:
        """The manifest of a task that this node may take, or has `accepted`. Raises `OfferRefused`, which names the
        field, `LeftForLater`, and what stands between this machine and an answer."""
        job = await self._job(offer)
        manifest = await self._supplies.manifest(verifier, offer.manifest, offer.providers)
        await self._check_spec(verifier, offer, manifest)
        await self._check_terms(job, manifest, offer)
        if not accepted and (later := self.waits(job)):
            raise LeftForLater(later)
        if len(offer.inputs) != len(offer.task.deps):
            raise OfferRefused("inputs", f"are {len(offer.inputs)}, the task has {len(offer.task.deps)}")
        return manifest

    async def check_own(self, offer: TaskOffer, manifest: Manifest) -> None:
        """Of a task that this node does as a voter, what `check_task` asks of a job and of this machine."""
        job = await self._job(offer)
        await self._check_terms(job, manifest, offer)
        if later := self.waits(job):
            raise LeftForLater(later)

    async def _check_terms(self, job: JobRecord, manifest: Manifest, offer: TaskOffer) -> None:
        check_limits(self._settings, manifest, offer.task)
        prices = parse_prices(self._settings.min_price)
        check_price(prices, job, manifest.workload, unpaid=self._settings.unpaid)
        reward, most = job.reward * offer.task.work_units // job.units, self._settings.max_task_reward * CREDIT
        if reward > most:
            # Beyond what a broken receipt costs its verifier, breaking it pays.
            raise OfferRefused("the task's reward", f"is {reward}, this node's max_task_reward is {most} base units")
        seat = seat_price(job, offer.task.work_units, offer.task.segments)
        if seat < LEAST_SEAT_PAY:
            # Nobody would come to its audits, and what nobody has audited is not paid.
            raise OfferRefused("the job's audit fee", f"pays an auditor {seat}, at least {LEAST_SEAT_PAY} are needed")
        await self._supplies.local_data(manifest, offer.task)

    async def check_audit(self, verifier: Address, offer: AuditOffer) -> Manifest:
        """The manifest of an audit whose seed, task and state are those of the batch. Raises as `check_task` does."""
        await self._job(offer)
        await self.check_leader(verifier, offer.batch, LEADER_FRESH_S)
        await self.check_drawn(offer)
        manifest = await self._supplies.manifest(verifier, offer.manifest, offer.providers)
        await self._check_spec(verifier, offer, manifest)
        check_limits(self._settings, manifest, offer.task)
        await self._supplies.local_data(manifest, offer.task)
        await self._check_member(verifier, offer)
        return manifest

    async def check_drawn(self, offer: AuditOffer) -> None:
        """Raise `OfferRefused` unless an audit's seed is that of its batch, which a reorganisation may have changed."""
        for fresh_s in (FRESH_S, 0.0):
            drawn = await self._read_once("seed", self._chain.seed, offer.batch, fresh_s)
            if drawn is not None and drawn.seed == offer.seed:
                return
        raise OfferRefused("seed", f"is not the one that was drawn for batch {offer.batch}")

    async def _check_member(self, verifier: Address, offer: AuditOffer) -> None:
        """Raise `OfferRefused` unless the batch holds a commitment to this task and to this state of it: as the offer
        proves or, where it does not, as the batch's list says."""
        proof = offer.member
        if proof is None:
            member = await self.member(verifier, offer)
            commitment, trace = member.commitment, member.trace
            has_state = 0 <= offer.segment < len(trace) and trace[offer.segment] == offer.before
            included = len(trace) == commitment.segments + 1 and _trace_root(trace) == commitment.trace_root
        else:
            commitment, has_state = proof.commitment, proof.has_state(offer.segment, offer.before)
            included = proof.is_in(await self._header(offer.batch))
        fits = (
            included
            and (commitment.job, commitment.task) == (offer.job, offer.task.index)
            and commitment.manifest == cid_digest(offer.manifest)
            and commitment.segments == offer.task.segments
            and 0 <= offer.segment < commitment.segments
        )
        if not fits:
            self._reads.drop(("batch", offer.batch))
            raise OfferRefused("task", f"is not what batch {offer.batch} holds a commitment to")
        if not has_state:
            raise OfferRefused("before", f"is not the state before segment {offer.segment} that was committed to")

    async def _header(self, batch: BatchId) -> Header:
        """What a batch was committed as."""
        state = await self._read_once("batch", self._chain.batch, batch)
        known = self._headers.get((batch, state.header))
        if known is None:
            known = self._headers.put((batch, state.header), await asyncio.to_thread(self._chain.header, batch))
        return known

    async def member(self, verifier: Address, offer: AuditOffer) -> Member:
        """The commitment that an audit is of, as its batch's list has it. Raises as `check_task` does."""
        header = await self._header(offer.batch)
        known = self._lists.get((offer.batch, header.members))
        if known is None:
            members = await load_members(self._read(verifier, offer.providers), offer.batch, header)
            known = self._lists.put((offer.batch, header.members), {member.key: member for member in members})
        member = known.get((offer.job, offer.task.index))
        if member is None:
            raise OfferRefused("task", f"is not in batch {offer.batch}")
        return member

    async def check_leader(self, verifier: Address, batch: BatchId, fresh_s: float = 0.0) -> None:
        """Raise `OfferRefused` unless a verifier leads a batch, or did `fresh_s` seconds ago: any other that has audits
        executed makes nodes work for nothing, and would be shown answers before the leader's auditors have all sealed
        theirs."""
        for seconds in sorted({fresh_s, 0.0}, reverse=True):
            state = await self._read_once("batch", self._chain.batch, batch, seconds)
            # Whose key it is changes only where an operator is given another one.
            patience_s = FRESH_S if seconds else 0.0
            if state.verifier == await self._read_once("operator", self._chain.operator_of, verifier, patience_s):
                return
        raise OfferRefused("batch", f"{batch} is led by another verifier")

    async def _job(self, offer: TaskOffer | AuditOffer) -> JobRecord:
        job = await self._read_once("job", self._chain.job, offer.job)
        if job.manifest != cid_digest(offer.manifest):
            self._reads.drop(("job", offer.job))
            raise OfferRefused("manifest", f"is not that of job {offer.job}")
        return job

    async def _check_spec(self, verifier: Address, offer: TaskOffer | AuditOffer, manifest: Manifest) -> None:
        """Raise `OfferRefused` unless a task is that of the job's graph; `LeftForLater` while its round is not open by
        this node's chain, which may be a block behind its verifier's."""
        key, index = (offer.job, offer.manifest), offer.task.index
        at, graph = self._graphs.get(key) or (-LOOK_S, ())
        grows = rounds_of(load_workload(manifest.workload), manifest) is not None
        fits = graph[index : index + 1] == (offer.task,)
        if not graph or (grows and not fits and time.monotonic() - at >= LOOK_S):
            read = self._read(verifier, offer.providers)
            graph = await graph_of(self._chain, read, offer.job, manifest, self._counted)
            self._graphs.put(key, (time.monotonic(), graph))
        if grows and index >= len(graph):
            raise LeftForLater(f"busy: the round of task {index} is not open yet")
        if not 0 <= index < len(graph) or graph[index] != offer.task:
            raise OfferRefused("task", f"is not task {index} of the job's graph")

    async def _read_once(self, name: str, read: Callable[[N], V], number: N, fresh_s: float = FRESH_S) -> V:
        """What the chain says, or said at most `fresh_s` seconds ago."""
        known = self._reads.get((name, number))
        if known is None or known[0] <= time.monotonic() - fresh_s:
            known = self._reads.put((name, number), (time.monotonic(), await asyncio.to_thread(read, number)))
        value: V = known[1]
        return value

    def _read(self, verifier: Address, hints: tuple[PeerHint, ...]) -> Read:
        return partial(self._bytes, verifier, hints)

    async def _bytes(self, verifier: Address, hints: tuple[PeerHint, ...], cid: Cid, max_bytes: int) -> bytes:
        return await self._supplies.bytes_of(verifier, cid, hints, max_bytes, "a member list")


def _trace_root(trace: Sequence[Cid]) -> Digest:
    return root([cid_bytes(cid) for cid in trace])
