"""What relays are paid for carrying artifacts between the nodes of this verifier's jobs: out of its own pocket, by one
transfer a day to each relay.

A relay shows receipts that both ends of a circuit have signed (`proofyard.protocol.carriage`). One honest end keeps it
from counting more than was carried. A relay and two ends that lie together are three owners, two of them with a stake
and work at the same job, or they are paid nothing; they are paid for no more bytes than that job's artifacts can have
needed, for no more than a part of what the job pays its verifiers, and for no more than the operator spends in a day.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from proofyard.artifacts import ArtifactError
from proofyard.chain import ChainClient
from proofyard.protocol.amounts import format_amount, read_amount
from proofyard.protocol.carriage import CarriageReceipt, CarriageRefused, validate_receipt
from proofyard.protocol.codec import decode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.fees import BPS
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import Ack, Acks, ShowCarriage
from proofyard.protocol.types import Address, Cid, JobId, ProofyardError, Wei
from proofyard.transport import Body, Connection
from proofyard.verifier.context import Context
from proofyard.verifier.engine.rows import Work
from proofyard.verifier.limits import Limiter
from proofyard.verifier.store.tables import Carried

logger = logging.getLogger(__name__)

DAY_S = 86_400
KEPT_S = 86_400
"""How long after it began a circuit counts."""
AHEAD_S = 3600
"""How far a relay's clock may be ahead."""
LEAST_BYTES = 1 << 20
"""Fewer are not counted: a row for each would cost more than they do."""
ROWS_A_DAY = 20_000
LOOK_S = 30.0
"""How long what the rows say of who works at which job is taken as still true."""
PAY_S, AFTER_ERROR_S = 300.0, 1800.0
GAS_OF_TRANSFER = 60_000
LAST_DAYS = 7
"""What is worth less than its transfer's gas waits for more, and no longer than this."""
LOOKED_AT = 16
"""Tasks, and results, that are looked at for how large a job's artifacts are."""
STATES_OF_RESULT = 4
"""A state is at most so much larger than a result: an adapter, and two moments of an optimizer."""
GIB = 1 << 30


@dataclass
class JobPart:
    """Who works at a job, by node with its owner; how many bytes can have gone between nodes; and when that was."""

    fee: int
    owners: dict[Address, Address]
    needed: int
    seen_at: float


class Carriers:
    """Answers relays of one verifier, and pays them. With no price it says that it pays nothing."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context = context
        self._jobs: dict[JobId, JobPart] = {}
        self._price = read_amount(settings.relay_price or "0")
        self._a_day = read_amount(settings.relay_a_day)
        self._fee_bps = settings.relay_fee_bps
        self._showing = Limiter("receipts of a relay", per_s=0.1, burst=16)
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()
        context.endpoint.on(ShowCarriage, self.show)

    async def show(self, connection: Connection, message: ShowCarriage, _body: Body) -> Acks:
        """Count what is new in receipts, each as far as it counts for something."""
        receipts = message.receipts
        if not self._price:
            return Acks((Ack(False, "this verifier pays no relays"),) * len(receipts))
        self._showing.take(connection.peer)
        context = self._context
        said = partial(_objections, receipts, connection.peer, context.wallet.address, context.domain)
        objections = await context.hops.run(partial(said, context.chain_time()))
        async with self._lock:
            jobs = await self._look()
            relay_owner = next(
                (each.owner for each in await context.active_nodes() if each.node == connection.peer), ""
            )
            enter = partial(self._enter, receipts, objections, jobs, relay_owner or connection.peer)
            return Acks(await context.database.ask(partial(enter, int(context.chain_time()) // DAY_S)))

    def _enter(
        self,
        receipts: Sequence[CarriageReceipt],
        objections: Sequence[str],
        jobs: dict[JobId, JobPart],
        relay_owner: str,
        day: int,
        session: Session,
    ) -> tuple[Ack, ...]:
        answers = []
        for receipt, objection in zip(receipts, objections, strict=True):
            reason = objection or self._count(session, receipt, jobs, relay_owner, day)
            answers.append(Ack(not reason, reason))
        return tuple(answers)

    def _count(
        self, session: Session, receipt: CarriageReceipt, jobs: dict[JobId, JobPart], relay_owner: str, day: int
    ) -> str:
        """Write down what is owed for what is new; why that is nothing."""
        circuit = receipt.circuit
        of_circuit = (Carried.relay == circuit.relay, Carried.circuit == circuit.circuit)
        rows = session.exec(select(Carried).where(*of_circuit)).all()
        fresh = receipt.carried - sum(row.bytes for row in rows)
        if fresh < LEAST_BYTES:
            return "" if rows else f"fewer than {LEAST_BYTES} bytes are not counted"
        row = next((row for row in rows if row.day == day), None)
        if row is None and session.exec(select(func.count()).where(Carried.day == day)).one() >= ROWS_A_DAY:
            return "this verifier has counted as many circuits today as it does"
        ends, known = (circuit.caller, circuit.host), [JobId(row.job) for row in rows]
        job = next((each for each in known or sorted(jobs) if _is_of(jobs.get(each), ends, relay_owner)), None)
        if job is None:
            return "its ends are no two owners' nodes at one job of this verifier, or the relay is one's own"
        owed = self._owed(session, job, jobs[job], fresh, day)
        row = row or Carried(relay=circuit.relay, circuit=circuit.circuit, day=day, job=job)
        row.bytes, row.amount = row.bytes + fresh, str(int(row.amount) + owed)
        session.add(row)
        session.flush()
        return "" if owed else "what this verifier pays for this job, or today, is used up"

    def _owed(self, session: Session, job: JobId, part: JobPart, fresh: int, day: int) -> int:
        """For so many more bytes of a job, in base units of the token."""
        of_job = session.exec(select(Carried).where(Carried.job == job)).all()
        today = session.exec(select(Carried.amount).where(Carried.day == day)).all()
        counted = max(0, min(fresh, part.needed - sum(row.bytes for row in of_job)))
        left_of_job = part.fee * self._fee_bps // BPS - sum(int(row.amount) for row in of_job)
        left_today = self._a_day - sum(map(int, today))
        return max(0, min(counted * self._price // GIB, left_of_job, left_today))

    async def _look(self) -> dict[JobId, JobPart]:
        """Who works at which job, those of the last day included."""
        now = time.monotonic()
        if now - self._looked_at > LOOK_S:
            self._looked_at = now
            owners = {each.node: each.owner for each in await self._context.active_nodes()}
            auditors: defaultdict[JobId, set[Address]] = defaultdict(set)
            for (_, place), seats in self._context.rows.seats.items():
                auditors[place[0]].update(seats)
            found: dict[JobId, JobPart] = {}
            for job, works in _works(self._context).items():
                nodes = auditors[job] | {work.node for work in works}
                known = {node: owners[node] for node in nodes if node in owners}
                sizes = _sizes(self._context, job, works, len(known))
                needed = await asyncio.to_thread(_needed, self._context, *sizes)
                found[job] = JobPart(int(self._context.rows.jobs[job].verifier_fee), known, needed, now)
            before = {job: part for job, part in self._jobs.items() if now - part.seen_at < KEPT_S}
            self._jobs = before | found
        return self._jobs

    # Paying

    async def run(self) -> None:
        """Pay what is due, until cancelled."""
        while True:
            pause = PAY_S
            try:
                if self._price and self._context.leads:
                    await self.pay()
            except ProofyardError as error:
                logger.warning("relays are paid later: %s", error)
                pause = AFTER_ERROR_S
            except Exception:
                logger.exception("relays could not be paid; trying again")
                pause = AFTER_ERROR_S
            await asyncio.sleep(pause)

    async def pay(self) -> None:
        """One transfer to each relay for the days that are over. What it pays for is written down before it is sent, so
        that after a crash the same is sent, once."""
        context = self._context
        today = int(context.chain_time()) // DAY_S
        gas = GAS_OF_TRANSFER * context.settings.token_per_ether * await context.on_chain(context.chain.gas_price)
        for (relay, number), amount in (await context.database.ask(partial(_due, today, gas, set(self._jobs)))).items():
            if amount:
                to = await context.on_chain(partial(context.chain.payee, relay))
                await context.send(f"pay-relay {relay} {number}", partial(_pay, to=to, amount=Wei(amount)))
                logger.info("paid %s to %s for what it has carried", format_amount(amount), relay)
            await context.database.ask(partial(_paid, relay, number))


def _pay(chain: ChainClient, *, to: Address, amount: Wei) -> None:
    chain.pay(to, amount)


def _objections(
    receipts: Iterable[CarriageReceipt], relay: Address, payer: Address, domain: Domain, now: float
) -> list[str]:
    """What is wrong with each receipt that a relay shows to a payer; "" for nothing."""
    found = []
    for receipt in receipts:
        circuit = receipt.circuit
        if (circuit.relay, circuit.payer) != (relay, payer):
            found.append("it is another relay's, or for another verifier")
        elif not now - KEPT_S < circuit.begun < now + AHEAD_S:
            found.append("its circuit began too long ago, or in the future")
        else:
            try:
                validate_receipt(receipt, domain)
                found.append("")
            except CarriageRefused as error:
                found.append(str(error)[:300])
    return found


def _is_of(part: JobPart | None, ends: tuple[Address, Address], relay_owner: str) -> bool:
    """Whether two ends work at a job, and with the relay are of three owners."""
    if part is None or not all(end in part.owners for end in ends):
        return False
    return len({relay_owner, *(part.owners[end] for end in ends)}) == 3


def _works(context: Context) -> dict[JobId, list[Work]]:
    """The works of the jobs that this verifier schedules."""
    found: defaultdict[JobId, list[Work]] = defaultdict(list)
    for work in context.rows.works.values():
        found[work.job].append(work)
    jobs = context.rows.jobs
    return {job: works for job, works in found.items() if job in jobs and not jobs[job].elsewhere}


def _sizes(context: Context, job: JobId, works: Sequence[Work], nodes: int) -> tuple[list[Cid], list[Cid], int, int]:
    """The artifacts that every node of a job takes; some of its results; how many nodes there are; and how many
    artifacts of a result's size went between them at most."""
    rows = context.rows
    specs = [decode(task.spec, TaskSpec) for task in rows.tasks_of[job][:LOOKED_AT]]
    segments = max((spec.segments for spec in specs), default=1)
    moved = sum(len(work.inputs) + STATES_OF_RESULT * (segments + 1) for work in works)
    shared: list[Cid] = []
    if context.store.has(rows.jobs[job].manifest):
        content = context.manifest(rows.jobs[job].manifest)
        shared = [cid for cid in (content.model, content.data) if cid is not None]
    results = [work.result for work in works if work.result is not None][-LOOKED_AT:]
    return shared, results, nodes, moved


def _needed(context: Context, shared: Sequence[Cid], results: Sequence[Cid], nodes: int, moved: int) -> int:
    """Bytes that can have gone between the nodes of a job."""

    def size(cid: Cid) -> int:
        try:
            return context.store.size(cid)
        except ArtifactError:
            return 0

    return nodes * sum(map(size, shared)) + moved * max(map(size, results), default=0)


def _due(today: int, least: int, jobs: set[JobId], session: Session) -> dict[tuple[Address, int], int]:
    """Payments that are to be made, by relay and number, with their amounts; those of days before `today` that are
    worth `least` begin now."""
    waiting: defaultdict[str, list[Carried]] = defaultdict(list)
    for row in session.exec(select(Carried).where(Carried.payment == 0, Carried.day < today)):
        waiting[row.relay].append(row)
    for rows in waiting.values():
        if sum(int(row.amount) for row in rows) >= least or min(row.day for row in rows) < today - LAST_DAYS:
            for row in rows:
                row.payment = today
                session.add(row)
    over = (col(Carried.paid).is_(True), col(Carried.day) < today - LAST_DAYS, col(Carried.job).not_in(jobs))
    session.exec(delete(Carried).where(*over))
    due: defaultdict[tuple[Address, int], int] = defaultdict(int)
    for row in session.exec(select(Carried).where(Carried.payment != 0, col(Carried.paid).is_(False))):
        due[Address(row.relay), row.payment] += int(row.amount)
    return dict(due)


def _paid(relay: Address, number: int, session: Session) -> None:
    for row in session.exec(select(Carried).where(Carried.relay == relay, Carried.payment == number)):
        row.paid = True
        session.add(row)
