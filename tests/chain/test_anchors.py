"""Numbers that a reorganisation gives to other jobs, on a real chain: what was meant for a job reaches no other."""

from collections.abc import Callable

import pytest
from hexbytes import HexBytes
from world import MEMBERS, UNITS, Network, World

from proofyard.chain import Anchor, ChainClient
from proofyard.chain.refusals import AnchorGone
from proofyard.protocol.types import Digest, JobId, Wei

ROOT = Digest(bytes([7]) * 32)


class Fork:
    """Two requesters' jobs and a batch with all units of the first one, a block each."""

    def __init__(self, network: Network) -> None:
        self.network, self.chain = network, network.deployer
        world = World.build(network, verifiers=1, nodes=1)
        self.verifier = world.verifier()
        self.requesters = [network.owner(1400), network.owner(1400)]
        self.jobs = [world.open_job(each, tasks=1) for each in self.requesters]
        self.seen = self.chain.anchor(self.jobs)
        self.batch = self.verifier.commit_batch(ROOT, 1, MEMBERS, [(self.jobs[0], UNITS)])
        head = self.chain.block_number()
        self.hashes = [self._blocks(number)["transactions"][0] for number in range(head - 2, head + 1)]
        self.raw = [self._ask("eth_getRawTransactionByHash", each) for each in self.hashes]

    def _ask(self, method: str, *params: object) -> object:
        return self.network.anvil._request(method, list(params))

    def _blocks(self, number: int) -> dict[str, list[str]]:
        return self._ask("eth_getBlockByNumber", hex(number), False)  # type: ignore[return-value]

    def reorganise(self, *order: int, depth: int) -> None:
        """So many of the newest blocks are others: with the transactions of these, one each."""
        self._ask("anvil_reorg", depth, [[self.raw[number], place] for place, number in enumerate(order)])

    def status(self, number: int) -> int:
        receipt = self._ask("eth_getTransactionReceipt", HexBytes(self.hashes[number]).to_0x_hex())
        return int(receipt["status"], 16)  # type: ignore[index]


def test_a_commit_on_its_way_holds_nothing_of_the_job_that_has_the_number_now(network: Network) -> None:
    fork = Fork(network)
    first, second = fork.jobs
    assert fork.chain.job(first).units_open == UNITS
    fork.reorganise(1, 0, 2, depth=3)
    owners = [fork.chain.job(job).requester for job in (first, second)]
    assert owners == [each.wallet.address for each in reversed(fork.requesters)], "the numbers are swapped"
    assert [fork.status(number) for number in range(3)] == [1, 1, 0]
    for job in fork.jobs:
        record = fork.chain.job(job)
        assert (record.units_open, record.escrow, record.verifier) == (0, 1300 * 10**18, 0), "nothing is held"
    again = fork.verifier.commit_batch(ROOT, 1, MEMBERS, [(second, UNITS)])
    assert again == fork.batch and fork.chain.job(second).units_open == UNITS


@pytest.mark.parametrize("order", [(2,), (1, 2), (0, 1, 2)], ids=["above", "under the other job", "all of it"])
def test_a_reorganisation_under_the_job_alone_refuses_its_commit(network: Network, order: tuple[int, ...]) -> None:
    """Where the job's own block stands nothing is lost by it; where it went nobody knows what comes back."""
    fork = Fork(network)
    fork.reorganise(*order, depth=len(order))
    taken = len(order) < 3
    assert fork.status(2) == taken
    assert fork.chain.job(fork.jobs[0]).units_open == UNITS * taken
    if not taken:
        fork.verifier.commit_batch(ROOT, 1, MEMBERS, [(fork.jobs[0], UNITS)])
        assert fork.chain.job(fork.jobs[0]).units_open == UNITS


CALLS: dict[str, Callable[[ChainClient, ChainClient, JobId, Anchor], object]] = {
    "topUp": lambda requester, _, job, seen: requester.top_up(job, Wei(1), seen),
    "takeJob": lambda _, verifier, job, seen: verifier.take_job(job, seen),
    "takeJobs": lambda _, verifier, job, seen: verifier.take_jobs([job], seen),
    "commitBatch": lambda _, verifier, job, seen: verifier.commit_batch(ROOT, 1, MEMBERS, [(job, UNITS)], seen),
    "closeJob": lambda requester, _, job, seen: requester.close_job(job, seen),
}


def test_whatever_names_a_job_says_on_which_chain(network: Network) -> None:
    fork = Fork(network)
    fork.reorganise(1, 0, depth=3)
    second = fork.jobs[1]
    requester = fork.requesters[0]
    assert fork.chain.job(second).requester == requester.wallet.address
    before = fork.chain.job(second)
    for call in CALLS.values():
        with pytest.raises(AnchorGone, match=f"another block {fork.seen.number} than this rests on"):
            call(requester, fork.verifier, second, fork.seen)
    assert fork.chain.job(second) == before
    for call in CALLS.values():
        call(requester, fork.verifier, second, fork.chain.anchor([second]))
    after = fork.chain.job(second)
    assert (after.escrow, after.units_open, after.closed) == (1, UNITS, True)
