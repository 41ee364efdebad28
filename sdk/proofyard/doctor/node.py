"""A node: its place in the Registry, what it offers, where it listens, whom it reaches, where it keeps what it owes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from proofyard.chain import NodeRecord, Role
from proofyard.doctor import service
from proofyard.doctor.checking import Check, Once, Seen, Skipped, fault, fine, note
from proofyard.doctor.setup import Setup, WalletUse
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.dial import affordable_reward, stake_at_risk
from proofyard.protocol.types import Wei
from proofyard.protocol.workload_bits import workload_bit
from proofyard.runtime.folder import runs_as
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import read_config, weight_files

if TYPE_CHECKING:
    from proofyard.node.settings import NodeSettings

CREDIT = 10**18


def checks(setup: Setup) -> list[Check]:
    if setup.node is None:
        return []
    return [Check("node", name, look) for name, look in _looks(setup, setup.node).items()]


def _looks(setup: Setup, node: "NodeSettings") -> dict[str, Callable[[], Seen]]:
    use = next(each for each in setup.wallets if each.role == "node")
    record = Once(lambda: setup.operator(use))
    process = partial(runs_as, node.data_dir)
    return {
        "registered": lambda: service.registered(record(), Role.NODE, use.address(), use.keystore.stem),
        "stake": lambda: service.stake(setup, record(), Role.NODE),
        "workloads": lambda: workloads(record(), node.workloads),
        "task reward": lambda: task_reward(setup, record(), node.max_task_reward),
        "bench": lambda: bench(setup, record(), node, use),
        "listening": lambda: service.udp(node.host, node.port, node.endpoint or service.endpoint_of(record), process()),
        "endpoint": lambda: service.reach(node.endpoint or service.endpoint_of(record), needed=False),
        "reached": lambda: reached(node.data_dir),
        "known": lambda: known(node.data_dir),
        "verifiers": lambda: service.peers(setup, ""),
        "folder": lambda: service.folder(node.data_dir, "node", setup, use),
        "disk": lambda: service.disk(node.data_dir, node.state_budget_bytes + node.cache_bytes),
        "models": lambda: models(node.model_dirs),
        "ipfs": lambda: service.ipfs(node.ipfs),
    }


def reached(data_dir: Path) -> Seen:
    """How others reach the node, as it says itself while it runs."""
    from proofyard.node.control import is_alive, read_status

    status = read_status(data_dir)
    if status is None or not is_alive(status) or not status.reached:
        raise Skipped("the node does not run: proofyard node run")
    found, _, todo = status.reached.partition(": ")
    return note("others", found, todo) if status.reached.startswith("not at all") else fine("others", status.reached)


def known(data_dir: Path) -> Seen:
    """Whom the node has found beside its verifiers."""
    from proofyard.node.control import is_alive, read_status

    status = read_status(data_dir)
    if status is None or not is_alive(status):
        raise Skipped("the node does not run: proofyard node run")
    if not status.knows:
        raise Skipped("it looks for nobody: discover = false, or a network on this machine alone")
    if status.knows.startswith("0 peers"):
        return note("peers", "none found beside its verifiers", "name some as peers in [node], as WALLET@HOST:PORT")
    return fine("peers", status.knows)


def workloads(record: NodeRecord | None, executed: Sequence[str]) -> Seen:
    """Whether what the node executes is what it is registered for."""
    if record is None:
        raise Skipped("it is not registered")
    missing = [name for name in executed if not record.workloads >> workload_bit(name) & 1]
    if len(missing) == len(executed):
        return fault("workloads", f"it is registered for none of {', '.join(executed)}", "correct workloads in [node]")
    if missing:
        return note("workloads", f"it is not registered for {', '.join(missing)}: no juries for these")
    return fine("workloads", ", ".join(executed))


def task_reward(setup: Setup, record: NodeRecord | None, most: int) -> Seen:
    """Whether the stake backs the largest task that the settings allow. `most` in whole CREDIT."""
    if record is None:
        raise Skipped("it is not registered")
    params = setup.chain().params()
    return backed(
        setup.chain().account(record.owner).stake, Wei(most * CREDIT), params.given_back_bps, params.collusion_bps
    )


def backed(stake: Wei, most: Wei, given_back_bps: int, collusion_bps: int) -> Seen:
    """All in base units: a task is offered only to whom its reward does not make cheating worth it."""
    backs = affordable_reward(stake_at_risk(stake, given_back_bps), collusion_bps)
    found = f"the stake of {format_amount(stake)} backs unsettled pay of {backs // CREDIT} CREDIT"
    if not backs:
        return fault("max_task_reward", f"{found}: no work is offered", "proofyard node stake CREDIT --owner WALLET")
    if backs < most:
        todo = "proofyard node stake CREDIT --owner WALLET for larger tasks"
        return note("max_task_reward", f"{found}, settings allow {most // CREDIT}", todo)
    return fine("max_task_reward", found)


def bench(setup: Setup, record: NodeRecord | None, node: "NodeSettings", use: WalletUse) -> Seen:
    """Whether the owner can be drawn for juries."""
    if record is None:
        raise Skipped("it is not registered")
    if not node.jury:
        raise Skipped("jury = false: it sits on none")
    lacking = [name for name in node.workloads if not setup.chain().on_bench(record.owner, workload_bit(name))]
    if lacking:
        todo = f"proofyard node bench {quote(use.keystore.stem)} --owner WALLET"
        return note(record.owner, f"not on the bench of {', '.join(lacking)}", todo)
    return fine(record.owner, "on the bench of all its workloads")


def models(directories: Sequence[Path]) -> Seen:
    """Whether each model directory is one."""
    for directory in directories:
        try:
            read_config(directory)
            weight_files(directory)
        except InputRefused as error:
            return fault(str(directory), str(error), "correct model_dirs in [node]")
        except OSError as error:
            return fault(str(directory), f"it cannot be read ({error.strerror})", "correct model_dirs in [node]")
    if not directories:
        raise Skipped("no model_dirs are set: models are fetched")
    return fine("model_dirs", f"{len(directories)} that can be read")
