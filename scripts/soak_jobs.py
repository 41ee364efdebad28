"""The requesters of `soak.py`: jobs are opened whatever happens meanwhile, and found again by their manifests where a
reorganisation gave them other numbers."""

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from proofyard.chain import ChainClient, JobTerms
from proofyard.chain.errors import ChainError
from proofyard.chain.events import JobOpened, topic_of
from proofyard.protocol.cid import cid_digest, make_cid
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Ack, Publish
from proofyard.protocol.types import Cid, JobId, ProofyardError, Wei
from proofyard.protocol.workload_bits import workload_bit
from proofyard.sdk import AsyncClient, Client
from soak_network import CREDIT, SoakNetwork

RETRY_S = 1.0
TRIES = 120
DEEP = 12


@dataclass
class Submitted:
    """A job that a requester opens. `number` is what the chain calls it now; `over`: paid whole there, or closed and
    nothing of it open."""

    manifest: Manifest
    cid: Cid
    client: Client
    terms: JobTerms
    began: float
    number: JobId | None = None
    over: bool = False
    given_up: bool = False
    """It was found stuck, and is waited for no more."""


class Requesters:
    """Opens jobs in threads, one at a time for each wallet."""

    def __init__(self, network: SoakNetwork, rng: random.Random) -> None:
        self._network, self._rng = network, rng
        self._pool = ThreadPoolExecutor(len(network.clients), "requester")
        self._turns = [threading.Lock() for _ in network.clients]
        self._opening: list[Future[None]] = []
        self._seed = rng.randrange(1 << 30)
        self._stopping = False
        self.jobs: list[Submitted] = []
        self.chain: ChainClient = network.chain()
        self.first_block = self._read_to = self.chain.block_number()
        self._lasting: dict[Cid, JobId] = {}

    def close(self) -> None:
        self._stopping = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def unfinished(self) -> list[Submitted]:
        return [job for job in self.jobs if not job.over and not job.given_up]

    @property
    def opening(self) -> bool:
        """Whether a job is about to be opened."""
        self._opening = [each for each in self._opening if not each.done()]
        return bool(self._opening)

    def open(self) -> None:
        """One more job, of a shape and with a verifier that are drawn."""
        self._seed += 1
        params = {"rounds": self._rng.choice((1, 1, 2, 3)), "width": self._rng.choice((1, 2, 3, 4))}
        look_ahead = self._rng.choice((0, 1, 2))
        manifest = Manifest(workload="lora", params=params, seed=self._seed, look_ahead=look_ahead)
        self.open_one(manifest, self._rng.random())

    def open_one(self, manifest: Manifest, choice: float) -> None:
        """Begin to open a job, with the verifier that a number from 0 to 1 chooses."""
        turn = self._rng.randrange(len(self._turns))
        self._opening.append(self._pool.submit(self._open, turn, manifest, choice))

    def _open(self, turn: int, manifest: Manifest, choice: float) -> None:
        client = self._network.clients[turn]
        with self._turns[turn]:
            cid = client.store.put_bytes(encode_manifest(manifest))
            if not self._published(client, cid, choice):
                return
            job = Submitted(manifest, cid, client, _terms(manifest, cid), time.monotonic())
            self.jobs.append(job)
            try:
                job.number = client.chain.open_job(job.terms)
            except ProofyardError:
                # Its transaction may be there all the same: it is looked for by its manifest.
                job.number = None

    def _published(self, client: Client, cid: Cid, choice: float) -> bool:
        for _ in range(TRIES):
            if self._stopping:
                return False
            try:
                client.run(partial(_publish, cid, choice))
                return True
            except (ProofyardError, TimeoutError):
                time.sleep(RETRY_S)
        return False

    def look(self) -> None:
        """What the chain calls the jobs, and which of them are over. Blocks that no reorganisation reaches are read
        once."""
        head = self.chain.block_number()
        recent = self._openings(self._read_to + 1)
        self._lasting |= {cid: event.job for cid, event in recent.items() if event.position.block <= head - DEEP}
        self._read_to = max(self._read_to, head - DEEP)
        opened = self._lasting | {cid: event.job for cid, event in recent.items()}
        for job in self.unfinished:
            job.number = opened.get(job.cid)
            if job.number is None:
                continue
            try:
                record = self.chain.job(job.number)
            except ChainError:
                # Its block went in this moment.
                continue
            job.over = record.over and not record.units_open and make_cid(record.manifest) == job.cid

    def _openings(self, first: int) -> dict[Cid, JobOpened]:
        events = self.chain._events_since(first, [topic_of(JobOpened)])
        return {make_cid(event.manifest): event for event in events if isinstance(event, JobOpened)}

    def forget_missing(self) -> None:
        """Jobs that no block has are no jobs: their openers did not send them again."""
        opened = self._openings(self.first_block)
        self.jobs = [job for job in self.jobs if job.cid in opened]


async def _publish(cid: Cid, choice: float, client: AsyncClient) -> None:
    """To one verifier of those that can be reached."""
    known = client.chain.active_verifiers()
    order = known[int(choice * len(known)) :] + known[: int(choice * len(known))]
    for record in order:
        found = await client.peers.dial(record)
        if not isinstance(found, str):
            answer = await found.request(Publish((cid,), client.store.size(cid)), reply=Ack, timeout=10)
            if answer.proceed:
                return
    raise ProofyardError("no verifier takes the job")


def _terms(manifest: Manifest, cid: Cid) -> JobTerms:
    units = sum(1 + number % 3 for number in range(manifest.params["rounds"] * manifest.params["width"]))
    # Odd amounts, so that every division leaves something.
    return JobTerms(
        manifest=cid_digest(cid),
        units=units,
        reward=Wei(units * CREDIT + 7),
        audit_fee=Wei(units * CREDIT // 2 + 3),
        verifier_fee=Wei(units * CREDIT // 20 + 1),
        auditors_per_segment=2,
        segments_per_audit=1,
        deadline=int(time.time()) + 24 * 3600,
        workload=workload_bit("lora"),
    )
