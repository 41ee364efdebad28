"""A node's jury duty on a real chain; what it finds is given."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from world import World

from proofyard.chain import ChallengeId, Court, CourtParams, Params, Phase
from proofyard.disputes.judging import Finding
from proofyard.node import juror as jury_duty
from proofyard.node.juror import Juror, SpareExecutor
from proofyard.protocol.settlement import OperatorId

PATIENT = Params(unstake_delay=10_000, court=CourtParams(vote_time=900, reveal_time=900))
"""Time enough for a slow machine; the tests move the clock when they are done."""


async def served(juror: Juror, holds: Callable[[], bool]) -> None:
    """Let a juror look until something holds."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):
            await juror.look()
            await asyncio.sleep(0.05)
        await asyncio.gather(*juror._at_work.values())


async def test_jurors_vote_open_and_have_the_verdict_carried_out_through_restarts(
    deploy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = deploy(PATIENT)
    world = World.build(network, verifiers=1, nodes=6)
    chain, outsider = world.chain, network.owner(50)
    job = world.open_job(network.owner(1300), tasks=6)
    _, _, challenge = world.disputed(job, outsider)
    network.anvil.mine(3)
    jury = Court(outsider).draw_jury(challenge)
    judged: list[ChallengeId] = []

    async def judge(_chain: Any, _network: Any, _executor: Any, case: Any, *, patience_s: float) -> Finding:
        judged.append(case.id)
        return Finding(True, f"found within {patience_s} s")

    monkeypatch.setattr(jury_duty, "judge", judge)
    unused: Any = None

    def restarted(member: OperatorId) -> Juror:
        return Juror(network.client(world.nodes[world.ids.index(member)]), unused, unused)

    away, *present = jury
    for number, member in enumerate(present, 1):
        await served(restarted(member), lambda n=number: _sealed(world, challenge) == n)
    assert len(judged) == len(present)
    await restarted(world.ids[0]).look()
    assert len(judged) == len(present), "the accused has no part in it"
    params = chain.params().court
    network.anvil.warp(params.vote_time)
    for number, member in enumerate(present, 1):
        await served(restarted(member), lambda n=number: chain.challenge(challenge).votes_wrong >= n)
    assert len(judged) == len(present), "what is sealed is not judged again"
    network.anvil.warp(params.reveal_time + len(jury) * jury_duty.TURN_S)
    await served(restarted(present[-1]), lambda: chain.challenge(challenge).phase == Phase.VERDICT)
    network.anvil.warp(params.appeal_time + len(jury) * jury_duty.TURN_S)
    await served(restarted(present[-1]), lambda: chain.challenge(challenge).phase == Phase.UPHELD)
    absent = chain.account(world.owners[world.ids.index(away)].wallet.address)
    assert absent.stake == chain.params().node_stake - params.juror_fine
    world.check_conserved()


def _sealed(world: World, challenge: ChallengeId) -> int:
    events = world.chain.challenge_events(world.chain.challenge(challenge))
    return sum(type(event).__name__ == "VoteCommitted" for event in events)


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
    unused: Any = None
    spare = SpareExecutor(own, unused, tmp_path)  # type: ignore[arg-type]
    for busy in (False, True):
        own.busy = busy
        await spare.run_segment(unused, unused, 0, b"", unused)
    assert used == ["first", "second", "closed"]
