"""Where a worker's states are looked for, over real QUIC."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from proofyard.artifacts import ArtifactTooLarge, ArtifactUnavailable, BlockStore, serve_blocks
from proofyard.artifacts.unixfs import Link, file_node, node_cid
from proofyard.chain import Wallet
from proofyard.disputes.errors import StateWithheld
from proofyard.disputes.network import Network
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.mark import mark_of, opening_of
from proofyard.protocol.members import Member
from proofyard.protocol.messages import Ack, ObtainState
from proofyard.protocol.types import Address, Cid, Digest, JobId, Signature, TaskIndex
from proofyard.transport import Endpoint
from proofyard.workloads.errors import StateRefused

DOMAIN = Domain(31_337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
STATE = b"a state that only its worker has"
RECORD = raw_cid(b"record")
ZERO = Digest(bytes(32))


def committed(worker: Address) -> Member:
    result = raw_cid(b"result")
    commitment = Commitment(JobId(1), TaskIndex(0), worker, ZERO, ZERO, ZERO, 1, result, 1, ZERO)
    return Member(commitment, Signature(b""), (raw_cid(b"before"), raw_cid(STATE)))


class Verifier:
    """A verifier's endpoint and store; `fetches` says whether it gets the state from its worker when asked."""

    def __init__(self, folder: Path, fetches: bool | None) -> None:
        self.store = BlockStore(folder)
        self.endpoint = Endpoint(Wallet.generate(), network=DOMAIN)
        self.asked: list[ObtainState] = []
        self._fetches = fetches
        serve_blocks(self.endpoint, self.store)
        if fetches is not None:
            self.endpoint.on(ObtainState, self._obtain)

    async def _obtain(self, _connection: Any, message: ObtainState, _body: Any) -> Ack:
        self.asked.append(message)
        if not self._fetches:
            return Ack(False, "the worker is away")
        self.store.put_bytes(STATE)
        return Ack()


async def state_through(tmp_path: Path, fetches: bool | None) -> tuple[bytes, list[ObtainState]]:
    """State 1 of a task, asked for through one verifier."""
    worker = Wallet.generate().address
    verifier = Verifier(tmp_path / "verifier", fetches)
    async with verifier.endpoint as served, Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        listed = SimpleNamespace(node=served.address, endpoint=f"127.0.0.1:{served.port}")
        chain: Any = SimpleNamespace(active_verifiers=lambda: [listed], operator_of=lambda _: None)
        network = Network(chain, endpoint, BlockStore(tmp_path / "own"), tmp_path / "inputs")
        return await network.state(RECORD, committed(worker), 1, 0.0), verifier.asked


async def test_a_verifier_fetches_a_state_from_its_worker_for_whoever_asks(tmp_path: Path) -> None:
    state, asked = await state_through(tmp_path, fetches=True)
    assert state == STATE
    assert asked == [ObtainState(RECORD, JobId(1), TaskIndex(0), 1)]


async def test_a_state_is_withheld_only_where_a_verifier_could_be_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(StateWithheld, match="the worker is away"):
        await state_through(tmp_path / "one", fetches=False)
    with pytest.raises(StateWithheld, match="unknown-request"):
        await state_through(tmp_path / "other", fetches=None)


@pytest.mark.parametrize("kind", ["directory", "larger than any state"])
async def test_what_can_be_no_state_is_refused_and_not_called_withheld(tmp_path: Path, kind: str) -> None:
    worker, verifier = Wallet.generate().address, Verifier(tmp_path / "verifier", fetches=True)
    if kind == "directory":
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_bytes(b"content")
        cid = verifier.store.put_directory(tmp_path / "folder")
    else:
        cid = unfolding(verifier.store, 5 << 30)
    member = msgspec.structs.replace(committed(worker), trace=(raw_cid(b"before"), cid))
    async with verifier.endpoint as served, Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        listed = SimpleNamespace(node=served.address, endpoint=f"127.0.0.1:{served.port}")
        chain: Any = SimpleNamespace(active_verifiers=lambda: [listed], operator_of=lambda _: None)
        network = Network(chain, endpoint, BlockStore(tmp_path / "own"), tmp_path / "inputs")
        with pytest.raises(StateRefused):
            await network.state(RECORD, member, 1, 0.0)


async def test_what_is_only_too_large_for_this_machine_is_held_against_nobody(tmp_path: Path) -> None:
    worker, verifier = Wallet.generate().address, Verifier(tmp_path / "verifier", fetches=True)
    member = msgspec.structs.replace(
        committed(worker), trace=(raw_cid(b"before"), verifier.store.put_bytes(bytes(300_000)))
    )
    async with verifier.endpoint as served, Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        listed = SimpleNamespace(node=served.address, endpoint=f"127.0.0.1:{served.port}")
        chain: Any = SimpleNamespace(active_verifiers=lambda: [listed], operator_of=lambda _: None)
        store = BlockStore(tmp_path / "own")
        network = Network(chain, endpoint, store, tmp_path / "inputs", max_state_bytes=100_000)
        with pytest.raises(ArtifactTooLarge):
            await network.state(RECORD, member, 1, 0.0)


def unfolding(store: BlockStore, size: int) -> Cid:
    """A file of a few blocks that has `size` bytes at least: the same leaf again and again."""
    leaf = bytes(1 << 18)
    cid, level, width = store.put_bytes(leaf), len(leaf), 174
    while level < size:
        block = file_node([Link(cid, "", level)] * width, [level] * width).encode()
        cid, level = node_cid(block), level * width
        store.put_block(cid, block)
    return cid


async def test_without_a_verifier_nothing_is_held_against_the_worker(tmp_path: Path) -> None:
    async with Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        chain: Any = SimpleNamespace(active_verifiers=list, operator_of=lambda _: None)
        network = Network(chain, endpoint, BlockStore(tmp_path / "own"), tmp_path / "inputs")
        with pytest.raises(ArtifactUnavailable, match="no active verifier"):
            await network.state(RECORD, committed(Wallet.generate().address), 1, 0.0)


async def test_what_opens_a_mark_is_fetched_through_a_verifier_by_the_number_after_the_last_state(
    tmp_path: Path,
) -> None:
    opening, verifier = opening_of(bytes(32), decoy=True), Verifier(tmp_path / "verifier", fetches=True)
    verifier.store.put_bytes(opening)
    plain = committed(Wallet.generate().address)
    member = msgspec.structs.replace(plain, commitment=replace(plain.commitment, mark=mark_of(bytes(32), decoy=True)))
    async with verifier.endpoint as served, Endpoint(Wallet.generate(), network=DOMAIN) as endpoint:
        listed = SimpleNamespace(node=served.address, endpoint=f"127.0.0.1:{served.port}")
        chain: Any = SimpleNamespace(active_verifiers=lambda: [listed], operator_of=lambda _: None)
        network = Network(chain, endpoint, BlockStore(tmp_path / "own"), tmp_path / "inputs")
        assert await network.opening(RECORD, member) == opening
    assert verifier.asked == [ObtainState(RECORD, JobId(1), TaskIndex(0), 2)]
