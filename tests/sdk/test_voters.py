"""Who decides what a job's rounds take: asked of the nodes that the Registry says where to find."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from proofyard.chain import Wallet
from proofyard.protocol import bls
from proofyard.protocol.caps import Caps
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.closing import roster_among
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.messages import AskVoter, VoterKey
from proofyard.protocol.roster import possession_digest
from proofyard.protocol.types import Address
from proofyard.protocol.workload_bits import workload_bits
from proofyard.sdk.errors import JobRefused
from proofyard.sdk.voters import find_voters, told
from proofyard.transport import PeerUnreachable

ONE, TWO, THREE = (Wallet.from_key(bytes([number]) * 32) for number in (1, 2, 3))
PLACES = [wallet.as_voter(1) for wallet in (ONE, TWO)]
KEYS = {voter.node: VoterKey(voter.key, voter.possession) for voter in PLACES}
LORA = workload_bits(["lora"])


def node(wallet: Wallet, owner: str, stake: int, *, endpoint: str = "127.0.0.1:1", workloads: int = LORA) -> Any:
    record = {"node": wallet.address, "owner": owner, "stake": stake * 10**18, "endpoint": endpoint}
    return SimpleNamespace(**record, workloads=workloads)


@dataclass
class Peers:
    """Nodes by what they answer; who is not in it is away."""

    answers: dict[Address, VoterKey | Exception]
    met: tuple[Address, ...] = ()
    """By the verifiers, who say where they are."""
    subnets: dict[Address, str] = field(default_factory=dict)
    """Where nodes are; who is not in it is alone there."""

    async def dial(self, peer: Any) -> Any:
        assert peer.endpoint, "there is nothing to dial"
        return self._connection(peer) if peer.node in self.answers else "it is away"

    async def told_of(self, nodes: Any) -> dict[Address, Any]:
        return {each.node: self._connection(each) for each in nodes if each.node in self.met}

    def _connection(self, peer: Any) -> Any:

        async def request(message: AskVoter, **_: Any) -> VoterKey:
            answer = self.answers[peer.node]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return SimpleNamespace(request=request, subnet=self.subnets.get(peer.node, peer.node))


async def found(
    nodes: list[Any],
    answers: dict[Address, VoterKey | Exception],
    met: tuple[Address, ...] = (),
    subnets: dict[Address, str] | None = None,
    capped: tuple[int, Caps] = (1, Caps()),
) -> dict[Address, int]:
    chain: Any = SimpleNamespace(active_nodes=lambda: nodes)
    peers: Any = Peers(answers, met, subnets or {})
    voters = await find_voters(chain, peers, "lora", 1.0, *capped)
    assert roster_among(voters).voters == voters
    return {voter.node: voter.weight for voter in voters}


async def test_an_owners_stake_is_shared_by_its_nodes_and_a_small_one_has_a_vote() -> None:
    assert await found([node(ONE, "a", 100), node(TWO, "a", 100)], KEYS) == {ONE.address: 50, TWO.address: 50}
    assert await found([node(ONE, "a", 100), node(TWO, "b", 0)], KEYS) == {ONE.address: 100, TWO.address: 1}


async def test_who_is_away_or_shows_no_key_of_its_own_has_no_vote() -> None:
    theirs = [node(ONE, "a", 5), node(TWO, "b", 5), node(THREE, "c", 5)]
    strange = {**KEYS, TWO.address: replace(KEYS[TWO.address], possession=KEYS[ONE.address].possession)}
    assert await found(theirs, strange) == {ONE.address: 5}
    silent = {**KEYS, TWO.address: PeerUnreachable("127.0.0.1", 1, "it is away")}
    assert await found(theirs, silent) == {ONE.address: 5}


async def test_whoever_has_two_nodes_vote_with_one_key_has_no_vote_and_keeps_nobody_elses() -> None:
    secret = ONE.voter_secret()
    key = bls.public_key(secret)
    proofs = {who.address: bls.prove_possession(secret, possession_digest(who.address, key)) for who in (ONE, THREE)}
    pair = {address: VoterKey(key, proof) for address, proof in proofs.items()}
    theirs = [node(ONE, "a", 5), node(TWO, "b", 5), node(THREE, "c", 5)]
    assert await found(theirs, {**KEYS, **pair}) == {TWO.address: 5}
    with pytest.raises(JobRefused, match="rounds_by"):
        await found([theirs[0], theirs[2]], {**pair})


async def test_a_node_without_an_endpoint_votes_where_verifiers_have_met_it() -> None:
    hidden = [node(ONE, "a", 5, endpoint=""), node(TWO, "b", 5, endpoint="")]
    assert await found(hidden, KEYS, met=(TWO.address,)) == {TWO.address: 5}


async def test_a_rounds_shards_are_dealt_out_so_that_no_owner_and_no_subnet_has_more_than_the_job_says() -> None:
    keys = KEYS | {THREE.address: VoterKey(*(lambda voter: (voter.key, voter.possession))(THREE.as_voter(1)))}
    theirs = [node(ONE, "a", 6), node(TWO, "a", 4), node(THREE, "b", 5)]
    assert await found(theirs, keys, capped=(3, Caps(owner=2))) == {ONE.address: 3, TWO.address: 2, THREE.address: 5}
    one_each = {ONE.address: 6, THREE.address: 5}
    assert await found(theirs, keys, capped=(2, Caps(owner=1))) == one_each, "the one with more at stake"
    assert await found(theirs, keys, capped=(4, Caps(owner=2))) == one_each, "two shards each"
    with pytest.raises(JobRefused, match="caps: the nodes that answer are of 2 owners in 3 subnets, too few for 5"):
        await found(theirs, keys, capped=(5, Caps(owner=2)))
    near = {ONE.address: "here", THREE.address: "here"}
    assert await found(theirs, keys, subnets=near, capped=(2, Caps(subnet=1))) == {ONE.address: 3, TWO.address: 2}
    with pytest.raises(JobRefused, match="caps"):
        await found(theirs, keys, subnets=near, capped=(2, Caps(owner=1, subnet=1)))


async def test_a_network_in_which_nobody_can_be_found_is_said() -> None:
    hidden = [node(ONE, "a", 5, endpoint=""), node(TWO, "b", 5, workloads=0)]
    with pytest.raises(JobRefused, match="of 2 nodes none that executes lora"):
        await found(hidden, KEYS)


def test_a_requester_is_told_who_decides() -> None:
    shape = {"rounds": 2, "workers": 1, "segments": 1, "segment_steps": 1, "batch": 1, "seq_len": 8}
    params = {"modules": {"m": (4, 4)}, "rank": 2, "alpha": 1.0, "lr": 0.1, **shape}
    manifest = Manifest(workload="lora", model=raw_cid(b"model"), data=raw_cid(b"data"), params=params)
    assert told(manifest) == ""
    voters = [{"node": ONE.address, "key": bytes(48), "possession": bytes(96), "weight": 7}]
    rules = {"quorum": 1, "timeout_s": 60, "voters": voters}
    said = told(replace(manifest, params=params | {"closing": rules}))
    assert said == f"1 nodes decide what its rounds take, with more than two thirds of 7 votes: {ONE.address} (7)"
