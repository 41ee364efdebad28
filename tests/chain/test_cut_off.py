"""Every command that sends, cut off at each of its transactions: the same call again pays nothing twice, and says what
the first one did."""

import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rpc_stand_in import Answer, Forward, standing_in
from world import CREDIT, Network, World

from proofyard.chain import ChainClient, Court, Params, Wallet, endpoints, rpc
from proofyard.chain import client as chain_client
from proofyard.chain.sender import Sender
from proofyard.cli import main
from proofyard.protocol.types import BatchId, ExitCode, JobId, Wei

PASSWORD = "pw"
WAYS = ("502", "dropped", "no answer")


@dataclass
class Scene:
    """A network in which every command has something to do."""

    network: Network
    folder: Path
    world: World
    wallets: dict[str, Wallet]
    numbers: dict[str, int] = field(default_factory=dict)

    def keep(self, name: str, wallet: Wallet) -> Wallet:
        wallet.save(self.folder / f"{name}.json", PASSWORD, scrypt_rounds=2)
        self.wallets[name] = Wallet.unlock(self.folder / f"{name}.json", password=PASSWORD)
        return wallet

    def chain(self, name: str, url: str = "") -> ChainClient:
        wallet = self.wallets[name]
        registry = self.network.deployment.registry
        return ChainClient(url or self.network.anvil.rpc_url, registry, Wallet(wallet.account, wallet.turns.keystore))

    def books(self) -> Any:
        """Everybody's money, stakes, jobs and challenges, and how much was sent."""
        chain = self.network.deployer
        count = chain._w3.eth.get_transaction_count
        of = {
            name: (
                chain.token_balance(each.address),
                replace(chain.account(each.address), release_at=0, bound_until=0),
                count(each.account.address),
            )
            for name, each in self.wallets.items()
        }
        numbers = map(JobId, range(1, self.numbers["jobs"] + 1))
        jobs = [replace(chain.job(job), closed_at=0, last_active=0, surplus_from=0) for job in numbers]
        return of, jobs, chain.totals().sum, chain.challenge_count(), chain.active_verifiers()


@dataclass(frozen=True)
class Case:
    """A command, or a call of the library where a command needs a whole network; how many transactions it sends, and
    what has to have happened before. What depends on when it is called is in none of its answers."""

    call: list[str] | Callable[[Scene, str], object]
    sends: int
    before: Callable[[Scene], object] = lambda scene: None


def close_two(scene: Scene) -> None:
    chain = scene.chain("requester")
    chain.close_job(JobId(2))
    scene.network.anvil.warp(chain.params().receipt_time + 2)


def unbond(scene: Scene) -> None:
    scene.chain("rich").request_unstake(Wei(7 * CREDIT))
    scene.network.anvil.warp(scene.chain("rich").params().unstake_delay + 2)


def leave_bench(scene: Scene) -> None:
    owner = scene.chain("owner")
    owner.retire(scene.world.ids[0])
    scene.world.owners[0].register_node(scene.world.nodes[0], Wei(0), 1, "127.0.0.1:4001")
    scene.network.anvil.warp(owner.params().unstake_delay + 2)


def draw(scene: Scene) -> None:
    scene.network.anvil.mine(3)
    Court(scene.network.deployer).draw_jury(scene.numbers["challenge"])  # type: ignore[arg-type]


def final(scene: Scene) -> None:
    scene.network.anvil.warp(scene.network.deployer.params().challenge_window * 20)


def claim(scene: Scene, url: str) -> None:
    chain, batch = scene.chain("rich", url), BatchId(scene.numbers["undisputed"])
    claims = scene.world.claims(batch, scene.world.payouts())
    if due := [each for index, each in enumerate(claims) if not chain.is_claimed(batch, index)]:
        chain.claim(due)


def vote(scene: Scene, url: str) -> None:
    chain = scene.network.deployer
    juror = chain.jurors(scene.numbers["challenge"], 0)[0]  # type: ignore[arg-type]
    name = scene.world.node_of(juror).address
    wallet = next(key for key, each in scene.wallets.items() if each.address == name)
    Court(scene.chain(wallet, url)).commit_vote(scene.numbers["challenge"], bytes([5]) * 32)  # type: ignore[arg-type]


def challenge(scene: Scene, url: str) -> None:
    scene.world.challenge_segment(scene.chain("rich", url), scene.numbers["settled"], scene.commitments, 1, 1)  # type: ignore[arg-type, attr-defined]


CASES = {
    "register a node": Case(["node", "register", "--wallet", "hot", "--owner", "rich", "--workload", "lora"], 2),
    "register a verifier": Case(
        ["verifier", "register", "--wallet", "hot", "--owner", "rich", "--endpoint", "127.0.0.1:4"], 2
    ),
    "stake": Case(["node", "stake", "5", "--owner", "rich"], 2),
    "unstake": Case(["node", "unstake", "node0", "--owner", "owner"], 2),
    "withdraw": Case(["node", "withdraw", "--owner", "rich"], 1, unbond),
    "what was won": Case(["verifier", "dispute", "withdraw", "--wallet", "rich"], 2, unbond),
    "bench": Case(["node", "bench", "node0", "--owner", "owner"], 1, leave_bench),
    "attend": Case(["verifier", "attend", "--wallet", "seat0"], 1),
    "unseat": Case(
        ["verifier", "unseat", "0", "--wallet", "rich"],
        1,
        lambda scene: scene.network.anvil.warp(3 * scene.chain("rich").params().idle_period),
    ),
    "cancel": Case(["job", "cancel", "2", "--wallet", "requester"], 1),
    "refund": Case(["job", "refund", "2", "--wallet", "requester"], 1, close_two),
    "draw a jury": Case(
        ["verifier", "dispute", "draw", "1", "--wallet", "rich"], 1, lambda scene: scene.network.anvil.mine(3)
    ),
    "claim": Case(claim, 1, final),
    "vote": Case(vote, 1, draw),
    "challenge": Case(challenge, 4),
}


class Cut:
    """Does what it is asked; the answer to the given transaction is lost."""

    def __init__(self, at: int, way: str) -> None:
        self.left, self._way = at, way

    def __call__(self, data: dict[str, Any], forward: Forward) -> Answer | None:
        if data["method"] != "eth_sendRawTransaction":
            return None
        self.left -= 1
        if self.left > 0:
            return None
        forward(data)
        match self._way:
            case "502":
                return Answer(502)
            case "dropped":
                raise http.client.RemoteDisconnected
            case _:
                time.sleep(1.0)
                return Answer(504)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, anvil: Any) -> Iterator[Scene]:
    from proofyard.chain import deploy_network

    folder, deployer = tmp_path_factory.mktemp("cut-off"), anvil.wallet(0)
    deployment = deploy_network(anvil.rpc_url, deployer, Params(exposure_bps=40_000))
    network = Network(anvil, deployment, ChainClient(anvil.rpc_url, deployment.registry, deployer))
    world = World.build(network, verifiers=1, nodes=6)
    made = Scene(network, folder, world, {})
    rich, requester = network.owner(3000), network.owner(6000)
    for name, chain in {"rich": rich, "requester": requester, "owner": world.owners[0]}.items():
        assert chain.wallet is not None
        made.keep(name, chain.wallet)
    made.keep("hot", network.key())
    made.keep("seat0", world.verifiers[0])
    for number, key in enumerate(world.nodes):
        made.keep(f"node{number}", key)
    rich.add_stake(Wei(20 * CREDIT))
    job = world.open_job(requester, tasks=6)
    world.open_job(requester, tasks=3, reward=300)
    other = world.open_job(requester, tasks=6)
    undisputed = world.commit(other, world.commitments(other))
    world.settle(undisputed, world.settlement(other), [0])
    ref, made.commitments, number = world.disputed(job, network.owner(50))  # type: ignore[attr-defined]
    made.numbers |= {"jobs": 3, "undisputed": undisputed.batch, "settled": ref.batch, "challenge": number}
    (folder / "password").write_text(PASSWORD)
    yield made


def run(scene: Scene, case: Case, url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    if callable(case.call):
        try:
            case.call(scene, url)
        except (Exception, KeyboardInterrupt) as error:
            return 1, "", str(error)
        return 0, "", ""
    password = str(scene.folder / "password")
    owner = ["--owner-password-file", password] if "--owner" in case.call else []
    wallet = ["--password-file", password] if "--wallet" in case.call else []
    place = ["--rpc-url", url, "--registry", scene.network.deployment.registry]
    capsys.readouterr()
    code = main([*case.call, *place, *owner, *wallet, "--keystore-dir", str(scene.folder), "--json"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name, case in CASES.items() for at in range(1, case.sends + 1)]
)
def test_the_same_command_again_pays_nothing_twice_and_says_what_was_done(
    scene: Scene, name: str, at: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, anvil = CASES[name], scene.network.anvil
    way = WAYS[(list(CASES).index(name) + at) % len(WAYS)]

    cut = Cut(at, way)

    class Interrupted(Sender):
        """Ended by whoever waits, once the answer was lost."""

        def _await_receipt(self, *given: Any, **options: Any) -> Any:
            if cut.left <= 0:
                raise KeyboardInterrupt
            return super()._await_receipt(*given, **options)

    def begin() -> str:
        for left in scene.folder.glob("*.sending"):
            left.unlink()
        return str(anvil._request("evm_snapshot", []))

    before = begin()
    case.before(scene)
    snapshot = begin()
    try:
        code, _, said = run(scene, case, anvil.rpc_url, capsys)
        assert code == 0, said
        books = scene.books()
    finally:
        anvil._request("evm_revert", [snapshot])
    snapshot = begin()
    try:
        with monkeypatch.context() as patched, standing_in(anvil.rpc_url, cut) as provider:
            patched.setattr(chain_client, "Sender", Interrupted)
            patched.setattr(endpoints, "ANSWER_S", 0.5)
            patched.setattr(rpc, "PATIENCE_S", 0.2)
            patched.setattr(rpc, "LONGEST_PAUSE_S", 0.1)
            assert run(scene, case, provider.url, capsys)[0] != 0, "it is not known what became of it"
        code, _, said = run(scene, case, anvil.rpc_url, capsys)
        assert code in (0, ExitCode.USAGE), said
        for found, kept in zip(scene.books(), books, strict=True):
            assert found == kept
        if not callable(case.call):
            assert "sent before by a call that was cut off" in said
            assert code == 0 or at == case.sends, "only where nothing is left to do"
    finally:
        anvil._request("evm_revert", [before])
        scene.network.deployer._w3.provider.doubt()  # type: ignore[attr-defined]
