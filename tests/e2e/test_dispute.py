"""A dispute from the settlement to the slash: real chain, real nodes on the jury, the command line for everything else.

Verifiers that call every audit right settle a batch with a faked task. The times in which jurors vote are long and are
cut short by moving the chain's clock once everybody has done what it does by itself, so nothing here depends on how
fast the machine is.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from proofyard.chain import ChainClient, ChallengeId, CourtParams, Params, Phase, Wallet
from proofyard.chain.events import VoteCommitted
from proofyard.cli import main
from proofyard.devnet.members import Member, keys_of, store_wallet
from proofyard.devnet.network import DevNetwork, Plan
from proofyard.protocol.types import ExitCode, Wei
from proofyard.sdk import Client, LoraJob, credits, settled_batches, submit_job

pytestmark = pytest.mark.timeout(700)

CREDIT = 10**18
COURT = CourtParams(jury_size=3, appeal_jury_size=5, vote_time=900, reveal_time=900, appeal_time=1800, draw_time=600)
PARAMS = Params(challenge_window=900, court=COURT)
BONDS = Wei(COURT.bond + COURT.appeal_bond)
DEADLINE_S = 200.0


@dataclass(frozen=True)
class Scene:
    """A network with a settled batch, and `run` for `dispute` commands: exit code, JSON and stderr."""

    network: DevNetwork
    outsider: Wallet
    run: Callable[..., tuple[int, Any, str]]

    @property
    def chain(self) -> ChainClient:
        return self.network.chain()

    def as_outsider(self, *args: str) -> tuple[int, Any, str]:
        return self.run(*args, *self._wallet("outsider"))

    def as_owner(self, member: Member, *args: str) -> tuple[int, Any, str]:
        return self.run(*args, *self._wallet(f"{member.name}-owner"))

    def as_node(self, member: Member, *args: str) -> tuple[int, Any, str]:
        return self.run(*args, config=self.network.directory / member.name / "proofyard.toml")

    def _wallet(self, name: str) -> list[str]:
        keys = keys_of(self.network.directory / "wallets", name)
        return ["--wallet", str(keys.keystore), "--password-file", str(keys.password_file)]

    def stake(self, wallet: Wallet) -> int:
        return self.chain.account(wallet.address).stake

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < give_up, f"waited in vain until {what}"
            time.sleep(0.3)


@pytest.fixture
def scene(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Scene]:
    def run(*args: str, config: Path | None = None) -> tuple[int, Any, str]:
        capsys.readouterr()
        toml = config or network.settings
        code = main(["--config", str(toml), "verifier", "dispute", *args, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    plan = Plan(
        nodes=3,
        adversaries=("skip-half",),
        verifiers=2,
        blind=True,
        model_dirs=(inputs / "model",),
        bonds=BONDS,
        params=PARAMS,
        decoys_bps=0,
    )
    with DevNetwork(tmp_path / "devnet", plan) as network:
        outsider = store_wallet(network.directory / "wallets", "outsider", Wallet.generate())
        network.anvil.fund(outsider.address)
        network.chain(network.treasury).transfer(outsider.address, Wei(100 * CREDIT))
        yield Scene(network, outsider, run)


def test_a_faked_entry_is_replayed_challenged_and_slashed_and_malice_costs_the_challenger(
    scene: Scene, inputs: Path, job: LoraJob
) -> None:
    network, chain = scene.network, scene.chain
    cheat = next(node for node in network.nodes if node.adversary)
    with Client(network.rpc_url, network.deployment.registry, network.requester.key) as client:
        robust = replace(job, rounds=1, robust="trimmed-mean", options={"robust_hostile": 1})
        handle = submit_job(robust, reward=credits(40), audit_fee=credits(10), client=client)
        handle.wait(DEADLINE_S)
        record = settled_batches(client, handle.job_id)[0].record
    assert record.faults == ()
    batch = str(record.batch)
    tasks = {task.commitment.node: task.commitment.task for task in record.tasks}
    accused = next(node for node in network.nodes if not node.adversary and node.key.address in tasks)
    absent = next(node for node in network.nodes if node not in (cheat, accused))

    # Whoever replays the batch finds the fake and is told what to type.
    code, found, _ = scene.run("replay", batch, "--model-dir", str(inputs / "model"))
    assert code == ExitCode.PROOF_MISMATCH
    faked = tasks[cheat.key.address]
    assert {int(row["task"]) for row in found["executed"] if row["holds"] is False} == {faked}
    assert found["checks"][-1]["field"].startswith("audits"), "and the record says valid where its votes do not"
    code, parted, said = scene.run("bisect", batch, str(faked))
    assert parted is not None, said
    assert (code, parted["first_state"], parted["segment"]["holds"]) == (ExitCode.PROOF_MISMATCH, 1, False)

    # One node is away: its owner votes by hand on one challenge and lets the other one pass. The others sit on their
    # juries without being told.
    network.kill(absent.name)
    assert found["challenges"][0].endswith(f"open {batch} --record")
    proposed = found["challenges"][1].removeprefix("proofyard verifier dispute ").split()
    code, opened, _ = scene.as_outsider(*proposed)
    assert f"task {faked} " in opened["about"]
    assert (code, opened["challenge"], opened["job"]) == (0, "1", str(handle.job_id))
    honest = f"{tasks[accused.key.address]}:0"
    assert scene.as_outsider("open", batch, "--segment", honest)[1]["challenge"] == "2"
    assert chain.token_balance(scene.outsider.address) <= COURT.draw_reward, "both bonds are paid"
    check_refusals(scene, batch, proposed, accused)
    code, vote, _ = scene.as_node(absent, "vote", "2", "--no-wait")
    assert (code, vote["wrong"], vote["revealed"]) == (0, False, False)
    scene.until("every juror has sealed", lambda: (sealed(chain, 1), sealed(chain, 2)) == (2, 3))
    network.anvil.warp(COURT.vote_time)
    assert scene.as_node(absent, "vote", "2")[1]["revealed"]
    scene.until("every vote is open", lambda: (opened_votes(chain, 1), opened_votes(chain, 2)) == ((2, 0), (0, 3)))
    network.anvil.warp(COURT.reveal_time)
    for challenge in (1, 2):
        scene.until("the jurors have the votes counted", lambda c=challenge: phase(chain, c) == Phase.VERDICT)

    # A bystander appeals; there are too few nodes for a larger jury, so the verdict stands and the bond goes back.
    before = scene.stake(accused.owner)
    code, _, said = scene.as_owner(accused, "appeal", "1")
    assert code == 0
    assert "of 5 jurors can be found" in said
    assert scene.stake(accused.owner) == before - COURT.appeal_bond
    network.anvil.warp(COURT.draw_time)
    assert scene.as_outsider("resolve", "1", "--wait")[1]["phase"] == "upheld"
    assert scene.stake(cheat.owner) == 0
    network.anvil.warp(COURT.appeal_time)
    scene.until("a juror has carried out the verdict", lambda: phase(chain, 2) == Phase.REJECTED)

    won = scene.run("show", "1")[1]["outcome"]
    lost = scene.run("show", "2")[1]["outcome"]
    assert int(won["to_winner"]) == PARAMS.node_stake * COURT.winner_bps // 10_000
    kept = 100 * CREDIT - COURT.bond + int(won["to_winner"])
    owned = scene.stake(scene.outsider) + chain.token_balance(scene.outsider.address)
    assert abs(owned - kept) <= COURT.draw_reward, "one bond is lost; a bond pays whoever draws its jury"
    assert sum(int(amount) for amount in won.values()) >= PARAMS.node_stake
    assert int(lost["to_winner"]) <= COURT.bond * COURT.winner_bps // 10_000
    assert scene.stake(absent.owner) < PARAMS.node_stake + BONDS, "who stayed silent was fined more than it earned"
    code, _, said = scene.as_outsider("withdraw")
    assert code == 0
    assert "are released" in said
    listed = scene.run("list")[1]
    assert [(row["challenge"], row["phase"]) for row in listed] == [("2", "rejected"), ("1", "upheld")]
    assert chain.totals().sum == chain.token_balance(chain.registry)
    assert chain.token_balance(chain.court) == 0


def check_refusals(scene: Scene, batch: str, opened: list[str], accused: Member) -> None:
    """What cannot be done now ends with its own exit code and a sentence that says why."""
    for code, said, refused in (
        (ExitCode.USAGE, "is unknown to the Registry", scene.run("replay", "99")),
        (ExitCode.USAGE, "has no task 99", scene.run("replay", batch, "--segment", "99:0")),
        (ExitCode.USAGE, "has no task of job 99", scene.run("replay", batch, "--segment", "99:0:0")),
        (ExitCode.USAGE, "has no segment 99", scene.as_outsider("open", batch, "--segment", "0:99")),
        (ExitCode.USAGE, "has no fault 0", scene.as_outsider("open", batch, "--fault", "0")),
        (ExitCode.USAGE, "there is no challenge 99", scene.run("show", "99")),
        (ExitCode.USAGE, "waits for no jury", scene.as_outsider("draw", "1")),
        (ExitCode.USAGE, "no first verdict", scene.as_outsider("appeal", "1")),
        (ExitCode.USAGE, "is not on the jury", scene.as_node(accused, "vote", "2")),
        (ExitCode.BALANCE_TOO_SMALL, "needs", scene.as_outsider("open", batch, "--record")),
        (ExitCode.FAILED, "too early", scene.as_owner(accused, "resolve", "1")),
        (ExitCode.FAILED, "in challenge 1", scene.as_owner(accused, *opened)),
        (ExitCode.UNREACHABLE, "no answer", scene.run("list", "--rpc-url", "http://127.0.0.1:1")),
    ):
        assert refused[:2] == (code, None), refused
        assert said in refused[2]


def sealed(chain: ChainClient, challenge: int) -> int:
    events = chain.challenge_events(chain.challenge(ChallengeId(challenge)))
    return len([event for event in events if isinstance(event, VoteCommitted)])


def opened_votes(chain: ChainClient, challenge: int) -> tuple[int, int]:
    record = chain.challenge(ChallengeId(challenge))
    return record.votes_wrong, record.votes_right


def phase(chain: ChainClient, challenge: int) -> Phase:
    return chain.challenge(ChallengeId(challenge)).phase
