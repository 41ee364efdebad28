"""The network of `soak.py`: anvil behind relays, a PostgreSQL of its own, a verifier of two processes on it, another
one on SQLite, nodes, requesters; all of them can be stopped, killed, cut off and filled up."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.devnet.ledger import Books, books_of
from proofyard.devnet.members import keys_of, store_wallet
from proofyard.devnet.postgres import NoPostgres, PostgresServer
from proofyard.devnet.process import free_udp_port
from proofyard.protocol.types import Address, ProofyardError, Wei
from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
from proofyard.runtime.parent import end_with_parent
from proofyard.sdk import Client
from soak_proxy import Relay, Relays

ROLES = Path(__file__).parent / "soak_roles.py"
CREDIT = 10**18
PARAMS = Params(challenge_window=10)
BLOCK_S = 1
STAKE = Wei(PARAMS.node_stake + PARAMS.court.bond + PARAMS.court.appeal_bond)
DISK_BYTES = {"postgres": 256 << 20, "verifier": 48 << 20, "node": 32 << 20}
READY_S = 120.0
NODE_STOP_S = 2
"""A node may finish its segment within this when it is told to end."""
DECOYS_BPS = 1000
DEPTH = 5
"""Blocks that a reorganisation takes away at most."""


SEATS = {"pair": ("first", "second"), "lone": ("",)}
"""Verifiers, and the names of their processes: several share a PostgreSQL, one has an SQLite on a small disk."""


class SoakFailed(ProofyardError):
    """The network cannot be started."""


@dataclass
class Program:
    """A process that is to run. `log` and `clock` are its files; `role` verifier or node."""

    name: str
    role: str
    settings: dict[str, Any]
    folder: Path
    relay: Relay
    pid: int = 0
    alive: bool = False
    expected: bool = False
    """Whether it was asked to end."""
    kills: int = 0

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def ready(self) -> Path:
        return self.folder / f"{self.name}.ready"

    @property
    def clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

    def cpu_s(self) -> float:
        """Of CPU that its process has used; 0 where that has ended."""
        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)


@dataclass
class Ended:
    """A process that ended by itself; `served`: it had come so far that it did what it is for."""

    name: str
    code: int
    said: str
    served: bool


@dataclass
class Disk:
    """A small file system of its own, or a folder of the machine's where none can be mounted."""

    path: Path
    own: bool
    ballast: Path = field(init=False)

    def __post_init__(self) -> None:
        self.ballast = self.path / "ballast"

    def fill(self) -> None:
        """Until nothing more fits."""
        with self.ballast.open("ab", buffering=0) as sink, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1 << 8, 1):
                with suppress(OSError):
                    while True:
                        sink.write(bytes(size))

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)


class SoakNetwork:
    """In `folder`; use in a `with` statement, in the main thread."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        seats: Mapping[str, tuple[str, ...]] = SEATS,
        requesters: int = 2,
        params: Params = PARAMS,
        level: str = "info",
    ) -> None:
        self.folder = folder.absolute()
        self._nodes, self._seats, self._requesters = nodes, seats, requesters
        self._params, self._level = params, level
        self.databases: dict[str, str] = {}
        """The URL of each verifier's."""
        self._stack = ExitStack()
        self.programs: dict[str, Program] = {}
        self.disks: dict[str, Disk] = {}
        self.ended: list[Ended] = []
        self.clients: list[Client] = []
        self._holders: list[Address] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # Starting

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.anvil = self._stack.enter_context(Anvil(log=self.folder / "anvil.log"))
        self.relays = self._stack.enter_context(Relays(self.anvil.port))
        treasury = self.anvil.wallet(0)
        self.deployment = deploy_network(self.anvil.rpc_url, treasury, self._params)
        self._bank = self.chain(treasury)
        self._holders.append(treasury.address)
        if any(len(processes) > 1 for processes in self._seats.values()):
            self._start_postgres()
        self._start_forker()
        self._add_verifiers()
        for number in range(1, self._nodes + 1):
            self._add_node(f"node-{number}")
        for _ in range(self._requesters):
            wallet = Wallet.generate()
            self._fund(wallet, Wei(10_000_000 * CREDIT))
            self.clients.append(
                self._stack.enter_context(
                    Client(self.anvil.rpc_url, self.deployment.registry, wallet, first_block=self.deployment.block)
                )
            )
        self.anvil.set_mining(BLOCK_S)
        for program in self.programs.values():
            self.start(program)
        for program in self.programs.values():
            self._wait_ready(program)

    def _start_postgres(self) -> None:
        disk = self._disk("postgres", "postgres")
        try:
            self.postgres = PostgresServer(disk.path / "cluster")
        except NoPostgres as reason:
            raise SoakFailed(f"a soak needs PostgreSQL: {reason}") from None
        self._stack.callback(self.postgres.close)
        self.database_url = self.postgres.database()

    def _start_forker(self) -> None:
        with (self.folder / "forker.log").open("wb") as sink:
            self._forker = subprocess.Popen(
                [sys.executable, str(ROLES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                process_group=0,
                preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGKILL),
            )
        self._stack.callback(self._stop_all)

    def _disk(self, name: str, kind: str) -> Disk:
        path = self.folder / "disks" / name
        path.mkdir(parents=True)
        size = f"size={DISK_BYTES[kind]},mode=0755"
        mounted = (
            shutil.which("mount") is not None
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], capture_output=True
            ).returncode
        )
        if mounted:
            self._stack.callback(subprocess.run, ["umount", "-l", str(path)], capture_output=True)
        self.disks[name] = Disk(path, mounted)
        return self.disks[name]

    def chain(self, wallet: Wallet | None = None) -> ChainClient:
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, first_block=self.deployment.block)

    def _fund(self, wallet: Wallet, amount: Wei) -> None:
        self.anvil.fund(wallet.address, 10_000)
        self._bank.transfer(wallet.address, amount)
        self._holders.append(wallet.address)

    def _owner(self, stake: Wei) -> ChainClient:
        wallet = Wallet.generate()
        self._fund(wallet, Wei(stake + 1000 * CREDIT))
        return self.chain(wallet)

    def _add_verifiers(self) -> None:
        for name, processes in self._seats.items():
            key, port, stake = Wallet.generate(), free_udp_port(), self._params.verifier_stake
            self._member(name, key)
            self._owner(stake).register_verifier(key, stake, f"127.0.0.1:{port}")
            common: dict[str, Any] = {"batch_s": 3.0, "lease_s": 8.0, "state_due_s": 60.0, "decoys_bps": DECOYS_BPS}
            common["receipt_blocks"] = DEPTH + 1
            if len(processes) == 1:
                data = self._disk(name, "verifier").path / "data"
                self.databases[name] = f"sqlite:///{data / 'verifier.db'}"
                self._program(name, "verifier", name, common | {"data_dir": str(data), "port": port})
                continue
            home = self.folder / name
            common |= {"database_url": self.database_url, "blocks_dir": str(home / "blocks")}
            self.databases[name] = self.database_url
            for number, process in enumerate(processes):
                own = {"process": process, "data_dir": str(home / process), "port": free_udp_port() if number else port}
                self._program(f"{name}-{process}", "verifier", name, common | own)

    def _add_node(self, name: str) -> None:
        key = Wallet.generate()
        self._member(name, key)
        self._owner(STAKE).register_node(key, STAKE, workload_bits(WORKLOADS))
        small = name in ("node-1", "node-2")
        home = self._disk(name, "node").path if small else self.folder / name
        more: dict[str, Any] = {"data_dir": str(home / "data"), "threads": 1, "workloads": ["lora"]}
        more |= {"max_decoys_bps": DECOYS_BPS, "stop_s": NODE_STOP_S}
        self._program(name, "node", name, more)

    def _member(self, name: str, key: Wallet) -> None:
        store_wallet(self.folder / "wallets", name, key)
        self.anvil.fund(key.address, 10_000)
        self._holders.append(key.address)

    def _program(self, name: str, role: str, member: str, more: dict[str, Any]) -> None:
        keys, relay = keys_of(self.folder / "wallets", member), self.relays.add()
        settings = {
            "rpc_url": f"http://127.0.0.1:{relay.port}",
            "registry": self.deployment.registry,
            "from_block": self.deployment.block,
            "wallet": str(keys.keystore),
            "password_file": str(keys.password_file),
        }
        program = self.programs[name] = Program(name, role, settings | more, self.folder, relay)
        program.settings["ready_file"] = str(program.ready)
        self.set_clock(program, 0.0)

    def _wait_ready(self, program: Program) -> None:
        end = time.monotonic() + READY_S
        while not program.ready.exists():
            self.reap()
            if self.ended:
                raise SoakFailed(f"{self.ended[0].name} has ended: {self.ended[0].said}; see {program.log}")
            if time.monotonic() > end:
                raise SoakFailed(f"{program.name} is not ready after {READY_S:.0f} s; see {program.log}")
            time.sleep(0.1)

    # Processes

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._forker.stdin is not None and self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(order) + "\n")
        self._forker.stdin.flush()
        answer: dict[str, Any] = json.loads(self._forker.stdout.readline())
        return answer

    def start(self, program: Program) -> None:
        if program.alive:
            return
        program.ready.unlink(missing_ok=True)
        answer = self._order(
            do="start",
            name=program.name,
            role=program.role,
            settings=program.settings,
            log=str(program.log),
            clock=str(program.clock),
            level=self._level,
        )
        program.pid, program.alive, program.expected = answer["pid"], True, False

    def signal(self, program: Program, number: signal.Signals) -> None:
        if program.alive:
            self._order(do="signal", name=program.name, number=int(number))

    def kill(self, program: Program) -> None:
        """As a power cut would."""
        if program.alive:
            program.expected = True
            program.kills += 1
            self.signal(program, signal.SIGKILL)
            self.reap([program], wait=True)

    def stop(self, program: Program, within_s: float) -> float | None:
        """Ask it to end; how many seconds that took, None where it was killed after `within_s`."""
        program.expected, start = True, time.monotonic()
        self.signal(program, signal.SIGTERM)
        while program.alive and time.monotonic() < start + within_s:
            self.reap([program])
            time.sleep(0.02)
        if not program.alive:
            return time.monotonic() - start
        self.signal(program, signal.SIGABRT)
        time.sleep(0.5)  # for its stacks to be written
        self.kill(program)
        return None

    def reap(self, programs: Iterable[Program] | None = None, *, wait: bool = False) -> None:
        """Note who has ended; who was not asked to, in `ended`."""
        chosen = [each for each in (self.programs.values() if programs is None else programs) if each.alive]
        for name, code in self._order(do="reap", names=[each.name for each in chosen], wait=wait).items():
            program = self.programs[name]
            program.alive = False
            if not program.expected:
                self.ended.append(Ended(name, code, _last_line(program.log), program.ready.exists()))

    def _stop_all(self) -> None:
        for program in self.programs.values():
            with suppress(Exception):
                self.kill(program)
        self._forker.kill()
        self._forker.wait()

    def of_role(self, role: str) -> list[Program]:
        return [program for program in self.programs.values() if program.role == role]

    def set_clock(self, program: Program, offset_s: float) -> None:
        """Have the wall's clock of a process be wrong."""
        with program.clock.open("r+b" if program.clock.exists() else "wb") as file:
            file.write(struct.pack("<d", offset_s))

    # Money

    def books(self) -> Books:
        """All tokens there are, as of one block."""
        chain = self.chain()
        while True:
            before = chain.block_number(), self.head_hash()
            found = books_of(chain, self._holders)
            if (chain.block_number(), self.head_hash()) == before:
                return found

    def head_hash(self) -> str:
        return str(self.anvil._request("eth_getBlockByNumber", ["latest", False])["hash"])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-400:] if lines else ""
