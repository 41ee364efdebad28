"""`DevNetwork`: anvil, contracts, nodes and verifiers, from nothing to ready, and all gone again at the end."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proofyard.chain import (
    Anvil,
    BatchCommitted,
    BatchSettled,
    ChainClient,
    CourtParams,
    Deployment,
    Params,
    SlashRecord,
    Wallet,
    deploy_network,
)
from proofyard.chain.events import topic_of
from proofyard.chain.export import write_deployment
from proofyard.devnet.directory import fresh_directory
from proofyard.devnet.forked import fork_server
from proofyard.devnet.ledger import Books, Holding, books_of, holding_of, statement
from proofyard.devnet.members import Member, keys_of, new_keys, store_wallet
from proofyard.devnet.process import Child, Interrupts, free_udp_port, stop_all
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, BatchId, Wei
from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
from proofyard.workloads.sandbox import found_here

WATCH_S = 0.5
PAIR = "colluding-pair"
PURSE = Wei(1000 * 10**18)
PARAMS = Params(challenge_window=10, court=CourtParams(jury_size=3, appeal_jury_size=5))
"""Juries are small: four nodes are enough for one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start. `nodes` honest ones come first, then one node for each of `adversaries` (names in
    `proofyard.workloads.zoo`), two for a colluding pair.

    `host`: the address of this machine that chain and verifiers listen on.
    `threads`: CPU threads of each node's executor. `model_dirs`: used in place by all. `rpc_port` 0 takes a free
    port. `block_time` in seconds. `ready_timeout` in seconds, for each process. `purse`: what each owner and
    the requester are given beside their stake, in base units. `bonds`: what the owner of each honest node stakes beside
    what backs it, so that the node can challenge and appeal by itself; None for one challenge and its appeal.
    `listed`: the Registry says where nodes are, so that they find each other without a verifier. `blind`:
    verifiers find every audited answer right. `decoys_bps`: for how many tasks in 10,000 they order a decoy, and nodes
    make one; None for what they do by themselves.
    """

    nodes: int = 4
    adversaries: tuple[str, ...] = ()
    verifiers: int = 1
    blind: bool = False
    decoys_bps: int | None = None
    host: str = "127.0.0.1"
    threads: int = 1
    model_dirs: tuple[Path, ...] = ()
    rpc_port: int = 0
    block_time: int = 1
    listed: bool = False
    lease_s: float = 30.0
    state_due_s: float = 60.0
    batch_s: float = 60.0
    ready_timeout: float = 120.0
    purse: Wei = PURSE
    bonds: Wei | None = None
    params: Params = PARAMS
    log_level: str = "info"
    log_format: str = "text"

    def stake_of(self, role: str, adversary: str | None = None) -> Wei:
        """What a member's owner stakes when it joins."""
        court = self.params.court
        bonds = court.bond + court.appeal_bond if self.bonds is None else self.bonds
        if role == "node":
            return Wei(self.params.node_stake + (0 if adversary else bonds))
        return self.params.verifier_stake if role == "verifier" else Wei(0)


class DevNetwork:
    """A network of real processes in `directory`, for use in a `with` statement.

    `tell` hears what was done, while it starts; `interrupts` come when they can be dealt with.
    Raises `ToolNotFound` or `PortInUse` for anvil, `ChildDied` or `ChildNotReady` for a node or verifier; whatever
    happens, also an interrupt in the middle of starting, nothing is left running.
    """

    def __init__(
        self,
        directory: Path,
        plan: Plan,
        tell: Callable[[str], object] = lambda _: None,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.plan = plan
        self._tell = tell
        self._interrupts = interrupts or Interrupts()
        self.members: dict[str, Member] = {}
        self._children: dict[str, Child] = {}
        self._ready: dict[str, dict[str, Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(fresh_directory(self.directory))
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def place_of(self, _member: Member) -> tuple[Sequence[str], Mapping[str, Any]]:
        """What a member's command runs within, and the settings that it has for that: for networks that span more than
        this machine's own addresses."""
        return (), {}

    # What runs

    @property
    def rpc_url(self) -> str:
        return self.anvil.rpc_url

    @property
    def settings(self) -> Path:
        """A settings file for commands that talk to this network as its requester."""
        return self.directory / "proofyard.toml"

    @property
    def contracts(self) -> Path:
        """Addresses and ABIs for programs in other languages."""
        return self.directory / "contracts"

    @property
    def nodes(self) -> list[Member]:
        return [member for member in self.members.values() if member.role == "node"]

    @property
    def verifiers(self) -> list[Member]:
        return [member for member in self.members.values() if member.role == "verifier"]

    @property
    def requester(self) -> Member:
        return self.members["requester"]

    def names(self) -> dict[Address, str]:
        """Name of every address that appears in logs and records."""
        return {address: m.name for m in self.members.values() for address in (m.key.address, m.owner.address)}

    def endpoint(self, name: str) -> str:
        """Where a running member listens for QUIC."""
        return f"{self.plan.host}:{self._ready[name]['port']}"

    def api_url(self, verifier: str) -> str:
        """A verifier's HTTP status API."""
        return f"http://127.0.0.1:{self._ready[verifier]['api_port']}"

    def chain(self, wallet: Wallet | None = None) -> ChainClient:
        return ChainClient(self.rpc_url, self.deployment.registry, wallet, first_block=self.deployment.block)

    def kill(self, name: str) -> None:
        """End a member as a power cut would."""
        self._children[name].kill()

    def restart(self, name: str) -> None:
        """Start a member again, with the files that it left; wait until it is ready."""
        self._children[name].kill()
        self._spawn(self.members[name])
        self._ready[name] = self._children[name].wait_ready(self.plan.ready_timeout, self._interrupts.pause)

    def ended(self, name: str) -> None:
        """Until a member that was asked to end has done so."""
        self._children[name].wait_stopped(self.plan.ready_timeout)

    def log_of(self, name: str) -> Path:
        return self._children[name].log

    def pid_of(self, name: str) -> int:
        return self._children[name].pid

    def gas_of_batches(self, since: int) -> int:
        """What committing and settling batches took after block `since`."""
        topics = {topic_of(BatchCommitted), topic_of(BatchSettled)}
        blocks = range(since + 1, self.chain().block_number() + 1)
        receipts = (receipt for block in blocks for receipt in self.anvil.receipts(block))
        return sum(
            int(receipt["gasUsed"], 16)
            for receipt in receipts
            if topics & {log["topics"][0] for log in receipt["logs"] if log["topics"]}
        )

    def exit_codes(self) -> dict[str, int]:
        """Members that have ended by themselves, and how."""
        codes = {name: child.exit_code for name, child in self._children.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def watch(self, on_end: Callable[[str, int], object]) -> None:
        """Until interrupted; `on_end` hears once of each member that ends by itself, and of its exit code."""
        told: set[str] = set()
        while True:
            for name, code in self.exit_codes().items():
                if name not in told:
                    told.add(name)
                    on_end(name, code)
            self._interrupts.pause(WATCH_S)

    # Money

    def holdings(self) -> dict[str, Holding]:
        """What every member's owner holds and has at stake now, by name."""
        chain = self.chain()
        return {member.name: holding_of(chain, member.owner.address) for member in self.members.values()}

    def statement(self) -> dict[Address, Wei]:
        """Whose every token is now, by owner; the Registry's are those that are nobody's yet."""
        return statement(self.chain(), self._holders())

    def books(self) -> Books:
        """All tokens there are, counted wherever they can be."""
        return books_of(self.chain(), self._holders())

    def slashes(self, batches: Iterable[BatchId]) -> list[tuple[Member, SlashRecord]]:
        """Who lost stake in these batches, and how much."""
        chain = self.chain()
        by_key = {member.key.address: member for member in self.members.values()}
        faults = [fault for batch in batches for fault in chain.slashes(batch)]
        found = [fault for fault in faults if fault.reason != FaultReason.DISAGREED and not fault.absolved]
        return [(by_key[chain.operator(slash.operator).node], slash) for slash in found]

    def _holders(self) -> list[Address]:
        return [self.treasury.address, *(member.owner.address for member in self.members.values())]

    # Starting

    def _start(self) -> None:
        logs = self.directory / "logs"
        logs.mkdir()
        with self._interrupts.held():
            self._server = fork_server()  # loads meanwhile
            self.anvil = self._stack.enter_context(
                Anvil(
                    host=self.plan.host,
                    port=self.plan.rpc_port,
                    block_time=self.plan.block_time,
                    mixed=True,
                    log=logs / "anvil.log",
                )
            )
        self.treasury = self.anvil.wallet(0)
        self.deployment: Deployment = deploy_network(self.rpc_url, self.treasury, self.plan.params)
        self._tell(f"chain at {self.rpc_url}, Registry {self.deployment.registry}, Court {self.deployment.court}")
        self._stack.callback(lambda: stop_all(list(self._children.values())))
        self._join("requester", "requester")
        # Seats that are taken before the first batch of all count at once.
        for number in range(1, self.plan.verifiers + 1):
            self._join(f"verifier-{number}", "verifier")
        pairs = (kind for kind in self.plan.adversaries if kind == PAIR)
        cheats = (*(None for _ in range(self.plan.nodes)), *self.plan.adversaries, *pairs)
        for key, (number, cheat) in zip(new_keys(len(cheats)), reversed([*enumerate(cheats, 1)]), strict=True):
            self._join(f"node-{number}", "node", cheat, key)
        self.members = dict(sorted(self.members.items()))
        self._tell(f"{len(self.members)} members registered")
        held = found_here()
        why = "; ".join(f"{name}: {why}" for name, why in held.lacking)
        self._tell(f"jobs are held by {', '.join(held.names)}" if held.holds else f"nothing here holds jobs ({why})")
        for group in (self.verifiers, self.nodes):
            for member in group:
                self._spawn(member)
            for member in group:
                self._ready[member.name] = self._children[member.name].wait_ready(
                    self.plan.ready_timeout, self._interrupts.pause
                )
                self._tell(f"{member.name} is ready")
        self._write_settings()

    def _write_settings(self) -> None:
        keys = keys_of(self.directory / "wallets", "requester")
        requester = {"wallet": str(keys.keystore), "password_file": str(keys.password_file)}
        requester |= {"api": self.api_url(self.verifiers[0].name)} if self.verifiers else {}
        network = {
            "rpc_url": self.rpc_url,
            "registry": self.deployment.registry,
            "from_block": self.deployment.block,
            "chain_id": self.deployment.chain_id,
        }
        self.settings.write_text(toml_text({"": network, "requester": requester}))
        write_deployment(self.contracts, self.chain())

    def _join(self, name: str, role: str, adversary: str | None = None, key: Wallet | None = None) -> None:
        """Give a new member keys, ether and tokens, and have its owner register it."""
        stake = self.plan.stake_of(role, adversary)
        wallets = self.directory / "wallets"
        key = store_wallet(wallets, name, key or Wallet.generate())
        owner = key if role == "requester" else store_wallet(wallets, f"{name}-owner", Wallet.generate())
        member = Member(name, role, key, owner, adversary)
        for wallet in (key, owner):
            self.anvil.fund(wallet.address)
        self.chain(self.treasury).transfer(owner.address, Wei(stake + self.plan.purse))
        if role == "node":
            self._ready[name] = {"port": free_udp_port()} if self.plan.listed else {}
            endpoint = self.endpoint(name) if self.plan.listed else ""
            self.chain(owner).register_node(key, stake, workload_bits(WORKLOADS), endpoint)
        elif role == "verifier":
            self._ready[name] = {"port": free_udp_port()}
            self.chain(owner).register_verifier(key, stake, self.endpoint(name))
        self.members[name] = member

    def _spawn(self, member: Member) -> None:
        home = self.directory / member.name
        home.mkdir(exist_ok=True)
        keys = keys_of(self.directory / "wallets", member.name)
        settings: dict[str, Any] = {
            "rpc_url": self.rpc_url,
            "registry": self.deployment.registry,
            "from_block": self.deployment.block,
            "chain_id": self.deployment.chain_id,
            "wallet": str(keys.keystore),
            "password_file": str(keys.password_file),
            "data_dir": "data",
            "ready_file": "ready.json",
            "model_dirs": [str(path.absolute()) for path in self.plan.model_dirs],
        }
        if member.role == "verifier":
            settings |= {"port": self._ready[member.name]["port"]}
            settings |= {"lease_s": self.plan.lease_s, "state_due_s": self.plan.state_due_s}
            settings |= {"batch_s": self.plan.batch_s}
            settings |= {"blind": True} if self.plan.blind else {}
            settings |= {} if self.plan.decoys_bps is None else {"decoys_bps": self.plan.decoys_bps}
        else:
            settings |= {"threads": self.plan.threads, "stop_s": 0, "prove_s": 0, "page": False}
            settings |= {"port": self._ready[member.name]["port"]} if self.plan.listed else {}
            settings |= {} if found_here().holds else {"unsandboxed": True}  # the jobs here are one's own
            settings |= {} if self.plan.decoys_bps is None else {"max_decoys_bps": self.plan.decoys_bps}
        if member.adversary:
            settings["adversary"] = member.adversary
            settings["accomplices"] = str(self.directory / "accomplices")
        within, own = self.place_of(member)
        settings |= own
        toml = home / "proofyard.toml"
        toml.write_text(toml_text({member.role: settings}))
        with self._interrupts.held():
            self._children[member.name] = Child(
                member.name,
                [
                    *("--config", str(toml), "--log-level", self.plan.log_level, "--log-format", self.plan.log_format),
                    *(member.role, "run"),
                ],
                log=self.directory / "logs" / f"{member.name}.log",
                ready=home / "ready.json",
                within=within,
                server=self._server,
            )


def toml_text(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A TOML document of flat tables, the unnamed one first; JSON's strings, numbers and lists are TOML's."""
    lines: list[str] = []
    for name, values in tables.items():
        lines += [f"[{name}]"] if name else []
        lines += [*(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
