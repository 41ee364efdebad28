"""A node in court, on a real chain: it draws juries, votes, opens and has verdicts carried out by itself."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world import CREDIT, Network, World

from proofyard.chain import ChallengeId, Court, CourtParams, Params, Phase, Wallet
from proofyard.disputes import voting
from proofyard.disputes.judging import Finding
from proofyard.node import clerk as clerk_module
from proofyard.node import juror as jury_duty
from proofyard.node.clerk import Clerk
from proofyard.node.court import CourtWatch
from proofyard.node.duties import Duties
from proofyard.node.juror import Juror, SpareExecutor
from proofyard.protocol.seal import UNAVAILABLE, UNKEYED
from proofyard.protocol.types import Wei

PATIENT = Params(exposure_bps=40_000, court=CourtParams(vote_time=900, reveal_time=900, draw_time=900))
"""Time enough for a slow machine; the tests move the clock when they are done."""
UNUSED: Any = None
WRONG = Finding(UNAVAILABLE, UNKEYED, True, "nobody delivers the state")


class Nodes:
    """The nodes of a world, each as it is after a restart: what it knows is the chain and its own folder."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder

    def juror(self, key: Wallet) -> CourtWatch:
        chain, duties = self.network.client(key), Duties()
        juror = Juror(chain, UNUSED, UNUSED, self.folder / key.address, duties)
        return CourtWatch(chain, duties, juror=juror)

    def clerk(self, key: Wallet) -> CourtWatch:
        chain, duties = self.network.client(key), Duties()
        return CourtWatch(chain, duties, clerk=Clerk(chain, key.address, duties))


async def served(watch: CourtWatch, holds: Callable[[], bool]) -> None:
    """Let a node look until something holds."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):
            await watch.look()
            await asyncio.sleep(0.05)
        await watch._duties.settle()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ChallengeId, str]]:
    """Who judged what; everybody finds the same."""
    found: list[tuple[ChallengeId, str]] = []

    async def judge(chain: Any, _network: Any, _executor: Any, case: Any, *, owner: str, patience_s: float) -> Finding:
        found.append((case.id, owner))
        return WRONG

    monkeypatch.setattr(jury_duty, "judge", judge)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clerk_module, "DRAW_TURNS_S", 1)
    monkeypatch.setattr(clerk_module, "AGAIN_S", 0.2)


async def test_jurors_vote_open_and_have_the_verdict_carried_out_through_restarts(
    deploy: Any, judged: list[Any], tmp_path: Path
) -> None:
    network = deploy(PATIENT)
    world, nodes = World.build(network, verifiers=1, nodes=7), Nodes(network, tmp_path)
    chain, outsider = world.chain, network.owner(50)
    job = world.open_job(network.owner(1300), tasks=7)
    _, _, challenge = world.disputed(job, outsider)
    network.anvil.mine(3)
    jury = Court(outsider).draw_jury(challenge)

    away, *present = jury
    for number, member in enumerate(present, 1):
        await served(nodes.juror(world.node_of(member)), lambda n=number: _sealed(world, challenge) == n)
    assert [owner for _, owner in judged] == present
    await nodes.juror(world.nodes[0]).look()
    assert len(judged) == len(present), "the accused has no part in it"
    params = chain.params().court
    network.anvil.warp(params.vote_time)
    for number, member in enumerate(present, 1):
        if number == 1:
            next((tmp_path / world.node_of(member).address).iterdir()).unlink()
        await served(nodes.juror(world.node_of(member)), lambda n=number: chain.challenge(challenge).votes_wrong >= n)
    assert len(judged) == len(present) + 1, "what is sealed is not judged again, unless the disk has lost it"
    network.anvil.warp(params.reveal_time + len(jury) * jury_duty.TURN_S)
    last = nodes.juror(world.node_of(present[-1]))
    await served(last, lambda: chain.challenge(challenge).phase == Phase.VERDICT)
    network.anvil.warp(params.appeal_time + len(jury) * jury_duty.TURN_S)
    await served(last, lambda: chain.challenge(challenge).phase == Phase.UPHELD)
    assert chain.account(away).stake == chain.params().node_stake - params.juror_fine
    world.check_conserved()


def _sealed(world: World, challenge: ChallengeId) -> int:
    events = world.chain.challenge_events(world.chain.challenge(challenge))
    return sum(type(event).__name__ == "VoteCommitted" for event in events)


async def test_another_node_of_the_owner_stands_in_for_one_that_is_down(
    deploy: Any, judged: list[Any], tmp_path: Path
) -> None:
    network = deploy(PATIENT)
    world, nodes = World.build(network, verifiers=1, nodes=6), Nodes(network, tmp_path)
    seconds = {}
    for owner in world.owners:
        key = network.key()
        owner.register_node(key, Wei(100 * CREDIT), 1, "")
        seconds[owner.wallet.address] = key
    job = world.open_job(network.owner(1300), tasks=6)
    _, _, challenge = world.disputed(job, network.owner(50))
    network.anvil.mine(3)
    jury = Court(world.chain).draw_jury(challenge)
    second = nodes.juror(seconds[jury[0]])
    await second.look()
    await second._duties.settle()
    assert judged == [], "the first one's turn comes first"
    network.anvil.warp(int(PATIENT.court.vote_time * jury_duty.STAND_IN) + 1)
    await served(second, lambda: _sealed(world, challenge) == 1)
    await nodes.juror(world.node_of(jury[0])).look()
    assert judged == [(challenge, jury[0])], "an owner votes once"
    network.anvil.warp(PATIENT.court.vote_time)
    await served(nodes.juror(world.node_of(jury[0])), lambda: True)
    await served(second, lambda: world.chain.challenge(challenge).votes_wrong == 1)


async def test_any_node_draws_juries_for_the_reward_and_ends_what_nobody_ends(deploy: Any, tmp_path: Path) -> None:
    network = deploy(PATIENT)
    world, nodes = World.build(network, verifiers=1, nodes=7), Nodes(network, tmp_path)
    chain = world.chain
    job = world.open_job(network.owner(1300), tasks=7)
    ref, _, challenge = world.disputed(job, network.owner(50))
    drawer = nodes.clerk(world.nodes[6])
    before = world.stake(world.owners[6])
    assert chain.block_number() <= chain.challenge(challenge).draw_block
    await drawer.look()
    await drawer._duties.settle()
    assert chain.challenge(challenge).phase == Phase.DRAW, "its block is not there yet"
    network.anvil.mine(3)
    await served(drawer, lambda: chain.challenge(challenge).phase == Phase.VOTE)
    assert world.stake(world.owners[6]) == before + PATIENT.court.draw_reward

    # A silent jury, and no other owners for another one: nothing is confirmed, the batch is to be settled again.
    court = PATIENT.court
    network.anvil.warp(court.vote_time + court.reveal_time + clerk_module.END_TURNS_S)
    await served(drawer, lambda: chain.challenge(challenge).phase == Phase.DRAW)
    network.anvil.mine(3)
    network.anvil.warp(court.draw_time + clerk_module.END_TURNS_S)
    await served(drawer, lambda: chain.challenge(challenge).phase != Phase.DRAW)
    assert chain.challenge(challenge).phase == Phase.DISMISSED
    assert chain.batch(ref.batch).voided
    world.check_conserved()


async def test_a_second_process_is_started_only_while_the_first_one_computes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    class Named:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.name, self.busy = "second", False

        async def __aenter__(self) -> "Named":
            return self

        async def __aexit__(self, *_: object) -> None:
            used.append("closed")

        async def run_segment(self, *_: Any) -> bytes:
            used.append(self.name)
            return b""

    monkeypatch.setattr(jury_duty, "Executor", Named)
    own = Named()
    own.name = "first"
    spare = SpareExecutor(own, UNUSED, tmp_path)  # type: ignore[arg-type]
    for busy in (False, True):
        own.busy = busy
        await spare.run_segment(UNUSED, UNUSED, 0, b"", UNUSED)
    assert used == ["first", "second", "closed"]


async def on_a_jury(deploy: Any, tmp_path: Path) -> tuple[Any, World, Any, ChallengeId]:
    """A network, and who watches for its first juror, whose time to vote has begun."""
    network = deploy(PATIENT)
    world, nodes = World.build(network, verifiers=1, nodes=7), Nodes(network, tmp_path)
    job = world.open_job(network.owner(1300), tasks=7)
    _, _, challenge = world.disputed(job, network.owner(50))
    network.anvil.mine(3)
    jury = Court(world.chain).draw_jury(challenge)
    return network, world, nodes.juror(world.node_of(jury[0])), challenge


async def sealed_after_a_snapshot(network: Any, world: World, watch: Any, challenge: ChallengeId) -> Any:
    """The vote is on chain, and the juror has seen it there; returns what the chain goes back to."""
    before = network.anvil._request("evm_snapshot", [])
    await served(watch, lambda: _sealed(world, challenge) == 1)
    await watch.look()
    await watch._duties.settle()
    return before


async def gone_and_sealed_again(network: Any, world: World, watch: Any, challenge: ChallengeId, before: Any) -> None:
    """The vote's block is no more, and half of the time to vote is over when the juror has sealed again."""
    network.anvil._request("evm_revert", [before])
    network.anvil.mine(2)
    assert _sealed(world, challenge) == 0
    network.anvil._request("evm_increaseTime", [world.chain.params().court.vote_time // 2])
    network.anvil.mine(1)
    await served(watch, lambda: _sealed(world, challenge) == 1)


async def test_a_sealed_vote_that_went_with_its_block_is_sealed_again_as_it_was(
    deploy: Any, judged: list[Any], tmp_path: Path
) -> None:
    network, world, watch, challenge = await on_a_jury(deploy, tmp_path)
    before = await sealed_after_a_snapshot(network, world, watch, challenge)
    await gone_and_sealed_again(network, world, watch, challenge, before)
    assert len(judged) == 1, "the first vote may come back, and opens with what was found then alone"


async def test_a_vote_of_another_node_that_went_with_its_block_is_stood_in_for(
    deploy: Any, judged: list[Any], tmp_path: Path
) -> None:
    """The node that sealed it for their owner does not come back."""
    network, world, watch, challenge = await on_a_jury(deploy, tmp_path)
    before = await sealed_after_a_snapshot(network, world, watch, challenge)
    for ballot in tmp_path.rglob("*.vote"):
        ballot.unlink()  # as it is for a node that has only seen the vote
    await gone_and_sealed_again(network, world, watch, challenge, before)
    assert len(judged) == 2


async def test_an_endpoint_that_is_a_block_behind_has_no_vote_found_anew(
    deploy: Any, judged: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network, world, watch, challenge = await on_a_jury(deploy, tmp_path)
    await served(watch, lambda: _sealed(world, challenge) == 1)
    await watch.look()
    await watch._duties.settle()
    plain, looks = voting.seat_of, []

    def seat_of(chain: Any, record: Any) -> Any:
        looks.append(plain(chain, record))
        return replace(looks[-1], committed=False, own=False)

    monkeypatch.setattr(voting, "seat_of", seat_of)
    network.anvil._request("evm_increaseTime", [world.chain.params().court.vote_time // 2])
    network.anvil.mine(1)
    await served(watch, lambda: looks)
    assert len(judged) == 1 and _sealed(world, challenge) == 1
