"""Faults are seeded, for real wherever a machine without a card can have them, and the doctor has to name each."""

import http.server
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proofyard.chain import Anvil, ChainClient, Deployment, Params, Wallet, deploy_network
from proofyard.cli import main
from proofyard.devnet.process import free_udp_port
from proofyard.doctor import (
    Check,
    Finding,
    Seen,
    Setup,
    State,
    WalletUse,
    checks_of,
    machine,
    node,
    run,
    service,
    verifier,
)
from proofyard.doctor.checking import fine
from proofyard.node.settings import NodeSettings
from proofyard.protocol.types import Address, Wei
from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
from proofyard.runtime.folder import keep_for, own_folder
from proofyard.verifier.settings import VerifierSettings

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")

CREDIT = 10**18
ENDED = "127.0.0.1:9"
"""Nobody listens there."""


@dataclass(frozen=True)
class Scene:
    """A chain with a Registry, a node's wallet in order, and a place for more."""

    anvil: Anvil
    made: Deployment
    chain: ChainClient
    folder: Path
    owner: Wallet
    hot: WalletUse

    def wallet(self, name: str, *, password: str = "pw", ether: int = 1, of: Wallet | None = None) -> WalletUse:
        """A keystore that opens with "pw", and a file with `password`."""
        key, keystore, file = of or Wallet.generate(), self.folder / f"{name}.json", self.folder / f"{name}.password"
        key.save(keystore, "pw", scrypt_rounds=2)
        file.touch(mode=0o600)
        file.write_text(password)
        if ether:
            self.anvil.fund(key.address, ether)
        return WalletUse("node", keystore, file)

    def setup(self, **changes: Any) -> Setup:
        """What is in order, with `changes`; those of `node` alone as a dictionary."""
        use = changes.pop("use", self.hot)
        settings: dict[str, Any] = {"registry": self.made.registry, "wallet": use.keystore}
        settings |= {"data_dir": self.folder / "data", "jury": False} | changes.pop("node", {})
        given = {"rpc_url": self.anvil.rpc_url, "registry": self.made.registry, "wallets": (use,)} | changes
        return Setup(node=NodeSettings(**settings), **given)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Anvil() as anvil:
        treasury = anvil.wallet(0)
        made = deploy_network(anvil.rpc_url, treasury, Params())
        chain = ChainClient(anvil.rpc_url, made.registry, treasury)
        folder = tmp_path_factory.mktemp("doctor")
        owner = Wallet.generate()
        anvil.fund(owner.address)
        chain.transfer(owner.address, Wei(300 * CREDIT))
        bare = Scene(anvil, made, chain, folder, owner, WalletUse("node", folder))
        key = Wallet.generate()
        hot = bare.wallet("hot", of=key)
        ChainClient(anvil.rpc_url, made.registry, owner).register_node(key, Wei(100 * CREDIT), workload_bits(WORKLOADS))
        yield replace(bare, hot=hot)


def found(setup: Setup, *sections: str) -> dict[str, Finding]:
    """What is found, by section and name."""
    return {f"{each.section} {each.name}": each for each in run(checks_of(setup, sections), bound_s=60)}


def seen_of(setup: Setup, name: str) -> Seen:
    """What one check sees, named by section and name."""
    (finding,) = run([each for each in checks_of(setup) if f"{each.section} {each.name}" == name], bound_s=60)
    return finding.seen


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """An HTTP server that gives everybody the same answer."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_nothing_is_wrong_where_nothing_is(scene: Scene) -> None:
    there = found(scene.setup(), "chain", "wallet", "node")
    assert [name for name, each in there.items() if each.seen.state is State.FAULT] == []
    assert there["node registered"].seen.state is State.FINE
    assert there["wallet password"].seen.state is State.FINE


# One fault each. What is changed, the check that has to see it, and words of what it says.

Seeded = Callable[[Scene], Setup]


def _permissions(scene: Scene) -> Setup:
    use = scene.wallet("open")
    use.keystore.chmod(0o644)
    return scene.setup(use=use)


def _password_permissions(scene: Scene) -> Setup:
    use = scene.wallet("told")
    assert use.password_file is not None
    use.password_file.chmod(0o604)
    return scene.setup(use=use)


def _of_another_wallet(scene: Scene) -> Setup:
    folder = scene.folder / "theirs"
    folder.mkdir()
    keep_for(folder, {"service": "node", "wallet": Wallet.generate().address})
    return scene.setup(node={"data_dir": folder})


def _of_another_chain(scene: Scene) -> Setup:
    folder = scene.folder / "elsewhere"
    folder.mkdir()
    keep_for(folder, {"service": "node", "chain": "1"})
    return scene.setup(node={"data_dir": folder})


def _retired(scene: Scene) -> Setup:
    key = Wallet.generate()
    chain = ChainClient(scene.anvil.rpc_url, scene.made.registry, scene.owner)
    chain.retire(chain.register_node(key, Wei(100 * CREDIT), workload_bits(["map"])))
    return scene.setup(use=scene.wallet("retired", of=key))


def _requester(scene: Scene) -> Setup:
    return scene.setup(wallets=(replace(scene.wallet("poor"), role="requester"), scene.hot))


FAULTS: dict[str, tuple[Seeded, str, str]] = {
    "endpoint away": (lambda s: s.setup(rpc_url=f"http://{ENDED}"), "chain endpoint", "refused"),
    "second endpoint away": (
        lambda s: s.setup(rpc_url=f"{s.anvil.rpc_url},http://{ENDED}"), "chain endpoint 2", "refused",
    ),
    "no URL": (lambda s: s.setup(rpc_url="chain.example"), "chain endpoint", "no address of a chain"),
    "wrong chain": (lambda s: s.setup(chain_id=1), "chain chain id", "is chain 31337; chain 1 is meant"),
    "no network": (lambda s: s.setup(registry=""), "chain registry", "none is set"),
    "no code": (lambda s: s.setup(registry="0x" + "12" * 20), "chain registry", "no Registry at"),
    "other code": (lambda s: s.setup(registry=s.made.credit), "chain registry", "no Registry at"),
    "from_block ahead": (lambda s: s.setup(from_block=10**9), "chain history", "from_block is 1000000000"),
    "no keystore": (
        lambda s: s.setup(use=WalletUse("node", s.folder / "none.json")), "wallet keystore", "no such keystore",
    ),
    "keystore that all read": (_permissions, "wallet keystore", "mode 644"),
    "password that all read": (_password_permissions, "wallet password", "mode 604"),
    "wrong password": (lambda s: s.setup(use=s.wallet("x", password="no")), "wallet password", "wrong password"),
    "empty password": (lambda s: s.setup(use=s.wallet("y", password="")), "wallet password", "empty"),
    "no ether": (lambda s: s.setup(use=s.wallet("z", ether=0)), "wallet ether", "0.000000 ether"),
    "no tokens": (_requester, "wallet requester's tokens", "no CREDIT"),
    "not registered": (lambda s: s.setup(use=s.wallet("new")), "node registered", "does not know this key"),
    "retired": (_retired, "node stake", "retired"),
    "folder of another wallet": (_of_another_wallet, "node folder", "another wallet"),
    "folder of another chain": (_of_another_chain, "node folder", "another chain: 1, not 31337"),
    "folder that is none": (lambda s: s.setup(node={"data_dir": s.hot.keystore}), "node folder", "is no folder"),
    "no model": (lambda s: s.setup(node={"model_dirs": (s.folder,)}), "node models", "config.json"),
    "no IPFS daemon": (
        lambda s: s.setup(node={"ipfs": "/ip4/127.0.0.1/tcp/9/http"}), "node ipfs", "IPFS",
    ),
    "endpoint that is none": (lambda s: s.setup(node={"endpoint": "nowhere"}), "node endpoint", "not HOST:PORT"),
    "name without an address": (
        lambda s: s.setup(node={"endpoint": "no-such-host.invalid:4433", "port": 1}), "node endpoint", "no address",
    ),
    "host of another machine": (
        lambda s: s.setup(node={"host": "203.0.113.7"}), "node listening", "no such address",
    ),
    "settings that do not fit": (lambda s: s.setup(wrong={"node": "threads: -1: give 0"}), "node settings", "threads"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_found_and_explained(fault: str, scene: Scene) -> None:
    seed, name, words = FAULTS[fault]
    seen = seen_of(seed(scene), name)
    assert seen.state is State.FAULT
    assert words in seen.found
    assert seen.todo


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (429, "slow down", "too many requests"),
        (200, json.dumps({"error": {"code": -32005, "message": "daily request count exceeded"}}), "too many requests"),
        (200, "<html>", "no JSON-RPC"),
        (403, "", "status 403"),
        (200, json.dumps({"result": "hello"}), "no chain"),
        (301, "", "redirect"),
    ],
)
def test_an_endpoint_that_is_no_use_says_why(status: int, body: str, words: str) -> None:
    with answering(status, body) as url:
        seen = seen_of(Setup(url), "chain endpoint")
    assert seen.state is State.FAULT
    assert words in seen.found


def test_a_chain_ahead_of_this_clock_is_told() -> None:
    with Anvil() as anvil:
        anvil.warp(5 * 3600)
        seen = seen_of(Setup(anvil.rpc_url), "chain clock")
    assert seen.state is State.FAULT
    assert "5 hours behind" in seen.found


@pytest.mark.parametrize(
    ("latest", "pending", "state"),
    [
        (1000, 1000, State.FINE),
        (1000 - 600, 1000, State.FINE),
        (1000 - 3600, 1000 - 3000, State.FAULT),
        (1000 - 3600, 1000 - 3600, State.NOTE),
        (1059, 1059, State.FINE),
        (1061, 1061, State.FAULT),
    ],
)
def test_a_quiet_chain_is_no_wrong_clock(latest: int, pending: int, state: State) -> None:
    from proofyard.doctor.chain import clock

    assert clock(latest, pending, 1000.0).state is state


def test_a_port_that_is_taken_is_told_and_a_service_is_not_in_its_own_way(scene: Scene) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, socket.socket() as also:
        taken.bind(("127.0.0.1", 0))
        also.bind(("127.0.0.1", 0))
        also.listen()
        port, api = taken.getsockname()[1], also.getsockname()[1]
        setup = scene.setup(node={"port": port, "data_dir": scene.folder / "used"})
        assert "another program" in seen_of(setup, "node listening").found
        assert "another program" in service.tcp("127.0.0.1", api, None).found
        with own_folder(scene.folder / "used"):
            assert "own process" in seen_of(setup, "node listening").found


def test_verifiers_that_nobody_can_dial_are_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "DIAL_S", 0.5)
    owner, key = Wallet.generate(), Wallet.generate()
    scene.anvil.fund(owner.address)
    scene.chain.transfer(owner.address, Wei(1000 * CREDIT))
    at = f"127.0.0.1:{free_udp_port()}"
    chain = ChainClient(scene.anvil.rpc_url, scene.made.registry, owner)
    chain.register_verifier(key, Wei(1000 * CREDIT), at)
    silent = seen_of(scene.setup(), "node verifiers")
    assert silent.state is State.FAULT
    assert "no verifier answers" in silent.found
    use = replace(scene.wallet("seat", of=key), role="verifier")
    swapped = seen_of(scene.setup(use=replace(use, role="node")), "node registered")
    assert "is a verifier, not a node" in swapped.found
    settings = VerifierSettings(
        registry=scene.made.registry,
        wallet=use.keystore,
        data_dir=scene.folder / "v",
        database_url=f"postgresql://me:hidden@{ENDED}/db",
    )
    setup = Setup(scene.anvil.rpc_url, scene.made.registry, wallets=(use,), verifier=settings, api=f"http://{ENDED}")
    there = found(setup, "verifier")
    assert there["verifier registered"].seen.state is State.FINE
    assert there["verifier seat"].seen.state is not State.SKIPPED
    for name, words in {"database": "no database answers", "api": "nobody answers"}.items():
        assert there[f"verifier {name}"].seen.state is State.FAULT
        assert words in there[f"verifier {name}"].seen.found
    assert "hidden" not in repr(list(there.values()))


def test_a_verifier_that_is_not_ready_says_so_itself() -> None:
    wrong = {"checks": [{"name": "seat", "holds": False, "reason": "it is gone"}, {"name": "chain", "holds": True}]}
    with answering(503, json.dumps(wrong)) as url:
        assert "seat: it is gone" in verifier.ready(url).found
    with answering(200, "{}") as url:
        assert "no verifier" in verifier.ready(url).found


@pytest.mark.parametrize(
    ("seen", "state", "words"),
    [
        (machine.python_release((3, 10)), State.FAULT, "Python 3.10"),
        (machine.python_release((3, 99)), State.NOTE, "nobody has tried"),
        (machine.packages({"torch": ">=2.4,<2.15"}, {"torch": "2.3.1"}.get), State.FAULT, "torch 2.3.1"),
        (machine.packages({"torch": ">=2.4,<2.15"}, {"torch": "2.15.0+cu130"}.get), State.FAULT, "2.15.0"),
        (machine.packages({"aioquic": "==1.7.2"}, {"aioquic": "1.7.1"}.get), State.FAULT, "aioquic 1.7.1"),
        (machine.packages({"torch": ">=2.4"}, {}.get), State.NOTE, "node run"),
        (machine.gpu(["0x10de"], None, "2.13", "13.0"), State.FAULT, "no driver"),
        (machine.gpu(["0x10de"], "H100, 570", "2.13.0+cpu", None), State.FAULT, "without CUDA"),
        (machine.gpu([], "H100, 570", "2.13.0+cpu", None), State.FAULT, "without CUDA"),
        (machine.gpu(["0x10de"], "H100, 570", "2.13", "13.0"), State.FINE, "CUDA 13.0"),
        (machine.gpu(["0x1002"], None, "2.13", None), State.NOTE, "AMD"),
        (machine.memory(1 << 30, 0), State.FAULT, "1.0 GiB free"),
        (machine.memory(8 << 30, 16 << 30), State.FAULT, "memory_limit_bytes"),
        (machine.descriptors(100, 4096), State.FAULT, "100 open files"),
        (machine.descriptors(512, 4096), State.NOTE, "512 open files"),
        (machine.anvil_release("anvil", "anvil 0.2.0 (abc 2024-01-01)"), State.FAULT, "0.2.0 is too old"),
        (machine.anvil_release("anvil", "anvil Version: 1.7.1\n"), State.FINE, "1.7.1"),
        (machine.anvil_release("anvil", "Usage: ..."), State.FAULT, "does not say"),
        (service.ipfs_release("/ip4", "0.4.22"), State.FAULT, "too old"),
        (service.ipfs_release("/ip4", "0.32.1-rc1"), State.FINE, "0.32.1"),
        (node.backed(Wei(0), Wei(85 * CREDIT), 3000, 3000), State.FAULT, "no work is offered"),
        (node.backed(Wei(100 * CREDIT), Wei(85 * CREDIT), 3000, 3000), State.NOTE, "backs unsettled pay of 46 CREDIT"),
        (node.backed(Wei(200 * CREDIT), Wei(85 * CREDIT), 3000, 3000), State.FINE, "93 CREDIT"),
    ],
)  # fmt: skip
def test_hardware_and_releases_that_are_not_here(seen: Any, state: State, words: str) -> None:
    assert seen.state is state
    assert words in seen.found
    assert bool(seen.todo) or state is not State.FAULT


def test_a_card_on_the_bus_is_seen(tmp_path: Path) -> None:
    for name, kind, vendor in (("0", "0x030200", "0x10de"), ("1", "0x020000", "0x10de"), ("2", "0x030000", "0x1234")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "class").write_text(kind + "\n")
        (tmp_path / name / "vendor").write_text(vendor + "\n")
    assert machine.cards(tmp_path) == ["0x10de"]
    assert machine.cards(tmp_path / "none") == []


WRONG_BITS = """
from proofyard.workloads import exact
from proofyard.workloads.exact.tampering import TamperedBackend, Tampering
make = exact._make
exact._make = lambda *args: TamperedBackend(make(*args), Tampering(weights=lambda w: w * 1.0001))
"""


def _program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_a_machine_with_many_faults_names_each(tmp_path: Path) -> None:
    """Wrong bits in every backend, a card that torch was not built for, an old anvil, few open files, a full disk for
    temporary files, no network: in one process that has them all."""
    tools, full = tmp_path / "bin", tmp_path / "full"
    tools.mkdir()
    full.mkdir()
    (tmp_path / "sitecustomize.py").write_text(WRONG_BITS)
    _program(tools / "nvidia-smi", "Some Card, 570.1")
    _program(tools / "anvil", "anvil 0.2.0 (1234567 2024-06-01)")
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path), "COLUMNS": "60"}
    mount, umount, unshare = map(shutil.which, ("mount", "umount", "unshare"))
    small = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)]
    mounted = bool(mount and umount) and not subprocess.run([str(mount), *small], capture_output=True).returncode
    apart = bool(unshare) and not subprocess.run([str(unshare), "-n", "true"], capture_output=True).returncode
    expected = {"gpu": "without CUDA", "anvil": "0.2.0", "descriptors": "200 open files"}
    try:
        if mounted:
            (full / "filler").write_bytes(bytes(64 << 10))
            environ["TMPDIR"], expected["temporary"] = str(full), "nothing can be written"
        else:
            expected["arithmetic"] = "does not compute the bits"
        command = [*([str(unshare), "-n"] if apart else []), sys.executable, "-m", "proofyard.cli"]
        command += ["--config", str(tmp_path / "none.toml"), "doctor", "machine", "chain", "--json"]
        (tmp_path / "none.toml").write_text('rpc_url = "http://192.0.2.1:8545"\n' if apart else "")
        limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (200, 200))
        done = subprocess.run(command, env=environ, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    finally:
        if mounted:
            subprocess.run([str(umount), "-l", str(full)], capture_output=True)
    assert done.returncode == 1, done.stderr
    told = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    for name, words in expected.items():
        assert told[name]["state"] == "fault", told[name]
        assert words in told[name]["found"]
    assert not apart or told["ipv6"]["state"] == "note"
    assert told["endpoint"]["state"] == "fault"


def test_wrong_bits_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_BITS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "does not compute the bits" in machine.arithmetic(1, sys.executable).found


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    small = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if not mount or not umount or subprocess.run(small, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (tmp_path / "filler").write_bytes(bytes(1 << 20))
        seen = service.disk(tmp_path / "data", 1 << 34)
    finally:
        subprocess.run([umount, "-l", str(tmp_path)], capture_output=True)
    assert seen.state is State.FAULT
    assert "0.0 GiB" in seen.found


def test_an_ipfs_daemon_that_is_too_old_is_told() -> None:
    with answering(200, json.dumps({"Version": "0.4.23"})) as url:
        host, port = url.removeprefix("http://").split(":")
        assert "too old" in service.ipfs(f"/ip4/{host}/tcp/{port}/http").found


def test_what_hangs_is_bounded_and_what_breaks_is_a_finding() -> None:
    release = threading.Event()

    def breaks() -> Any:
        raise RuntimeError("odd")

    checks = [
        Check("machine", "hangs", lambda: fine("", str(release.wait(60)))),
        Check("machine", "works", lambda: fine("", "there")),
        Check("machine", "breaks", breaks),
    ]
    hangs, works, broken = run(checks, bound_s=0.5)
    release.set()
    assert (hangs.seen.state, works.seen.state, broken.seen.state) == (State.FAULT, State.FINE, State.FAULT)
    assert "no answer within" in hangs.seen.found
    assert "odd" in broken.seen.found


@pytest.mark.parametrize("columns", [60, 80])
def test_the_page_fits_shows_no_secret_and_ends_with_1(
    columns: int, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    toml = tmp_path / "proofyard.toml"
    toml.write_text(
        f'rpc_url = "http://me:s3cr3tword@{ENDED}/v3/s3cr3tkey"\nregistry = "{Address(scene.made.registry)}"\n'
        f'[node]\nwallet = "{scene.hot.keystore}"\npassword_file = "{scene.hot.password_file}"\n'
    )
    assert main(["--config", str(toml), "doctor", "chain", "wallet", "node", "--verbose"]) == 1
    printed = capsys.readouterr()
    assert "s3cr3t" not in printed.out + printed.err
    lines = printed.out.splitlines()
    assert [line for line in lines if len(line) > columns and " " in line.strip()] == []
    assert "FAULT endpoint: connection refused" in printed.out
    assert printed.out.splitlines()[-1] == "1 fault found"


def test_a_section_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nodes"]) == 2
    assert "no 'nodes'; known are machine, chain" in capsys.readouterr().err
