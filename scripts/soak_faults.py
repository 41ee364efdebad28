"""What goes wrong in a storm of `soak.py`. Each fault draws its victims, begins, and says when it is over."""

import heapq
import itertools
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from soak_network import DEPTH, Program, SoakNetwork
from soak_proxy import Mode

STOP_S = 5.0
"""How long a program may take to end when it is asked to."""
RESTART_S = 1.0
PAUSE_S = 20.0
MAX_RPC_S = 60.0


class Faults:
    """Begins faults and ends them when they are due. `counts`: how many there were, by name; `stops`: seconds of each
    stop that was asked for, None where it took longer than `STOP_S`."""

    def __init__(self, network: SoakNetwork, rng: random.Random, only: frozenset[str], *, scale: float = 1.0) -> None:
        self._network, self._rng, self._scale = network, rng, scale
        self.counts: Counter[str] = Counter()
        self.stops: list[tuple[str, float | None]] = []
        self.floor = 0
        """Blocks up to here stay."""
        self.postgres_down = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._next: dict[str, float] = {}
        self._held: Counter[str] = Counter()
        self._busy: set[object] = set()
        """What a fault has now, and no other may have."""
        every: dict[str, tuple[int, Callable[[], None]]] = {
            "reorg": (8, self._reorg),
            "rpc": (5, self._rpc),
            "half": (1, self._half),
            "disk": (2, self._disk),
            "clock": (3, self._clock),
            "database": (2, self._database),
            "freeze": (2, self._freeze),
            "stop": (3, self._stop),
        }
        self._kills = not only or "kill" in only
        self._others = {name: every[name] for name in every if not only or name in only}

    def begin_due(self, kill_every_s: float, fault_every_s: float) -> None:
        """The kills and the other faults whose time has come, on average one in so many seconds each."""
        now = time.monotonic()
        for _ in range(self._due_since("kill", kill_every_s, now) if self._kills else 0):
            self._kill()
        for _ in range(self._due_since("fault", fault_every_s, now) if self._others else 0):
            weights = [weight for weight, _ in self._others.values()]
            name = self._rng.choices(list(self._others), weights)[0]
            self._others[name][1]()

    def _due_since(self, name: str, every_s: float, now: float) -> int:
        """How many there are since it was last asked; none after a pause."""
        at, count = self._next.get(name, float("-inf")), 0
        if at < now - PAUSE_S:
            at = now
        while at <= now:
            at, count = at + self._rng.expovariate(1 / every_s), count + 1
        self._next[name] = at
        return count

    def end_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def end_all(self) -> None:
        """Everything is as it should be again."""
        while self._due:
            heapq.heappop(self._due)[2]()

    def may_run(self, program: Program) -> bool:
        return not self._held[program.name]

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds * self._scale, next(self._number), what))

    def _told(self, name: str, text: str) -> None:
        self.counts[name] += 1
        print(f"  {time.strftime('%H:%M:%S')} {name}: {text}", flush=True)

    def _down_for(self, program: Program, seconds: float) -> None:
        """Whoever holds a program last starts it again."""
        self._held[program.name] += 1

        def back() -> None:
            self._held[program.name] -= 1
            if self.may_run(program):
                self._network.start(program)

        self._after(seconds, back)

    def rest(self, program: Program) -> None:
        """Start one that ended by itself again in a moment."""
        self._down_for(program, RESTART_S)

    def _running(self) -> list[Program]:
        return [each for each in self._network.programs.values() if each.alive and self.may_run(each)]

    # Processes

    def _kill(self) -> None:
        running = self._running()
        if running:
            verifiers = [program for program in running if program.role == "verifier"]
            program = self._rng.choice(verifiers if verifiers and self._rng.random() < 0.5 else running)
            self._told("kill", program.name)
            self._network.kill(program)
            self._down_for(program, self._rng.choice((0.0, 0.0, 0.5, 3.0)))

    def _half(self) -> None:
        nodes = self._network.of_role("node")
        gone, seconds = self._rng.sample(nodes, len(nodes) // 2), self._rng.uniform(10, 40)
        self._told("half", f"{', '.join(each.name for each in gone)} for {seconds:.0f} s")
        for program in gone:
            self._network.kill(program)
            self._down_for(program, seconds)

    def _freeze(self) -> None:
        running = [each for each in self._running() if each.name not in self._busy]
        if not running:
            return
        program, seconds = self._rng.choice(running), self._rng.uniform(2, 25)
        self._told("freeze", f"{program.name} for {seconds:.0f} s")
        self._busy.add(program.name)
        self._network.signal(program, signal.SIGSTOP)

        def thaw() -> None:
            self._busy.discard(program.name)
            self._network.signal(program, signal.SIGCONT)

        self._after(seconds, thaw)

    def _stop(self) -> None:
        running = [each for each in self._running() if each.name not in self._busy]
        if not running:
            return
        program = self._rng.choice(running)
        seconds = self._network.stop(program, STOP_S)
        self._told("stop", f"{program.name} in {'more than 5' if seconds is None else f'{seconds:.2f}'} s")
        self.stops.append((program.name, seconds))
        self._down_for(program, self._rng.choice((0.0, 1.0, 5.0)))

    # The chain

    def _rpc(self) -> None:
        mode = self._rng.choice((Mode.HANGING, Mode.REFUSING, Mode.DEAF))
        seconds = min(MAX_RPC_S, self._rng.expovariate(1 / 15) + 2) if mode != Mode.DEAF else self._rng.uniform(1, 8)
        role = self._rng.choice(("verifier", "verifier", "node"))
        chosen = [each for each in self._network.of_role(role) if self._rng.random() < 0.5]
        relays = [each for each in chosen if ("relay", each.name) not in self._busy]
        if not relays:
            return
        self._told("rpc", f"{mode} for {', '.join(each.name for each in relays)}, {seconds:.0f} s")
        for program in relays:
            self._busy.add(("relay", program.name))
            self._network.relays.set(program.relay, mode)

        def over() -> None:
            for program in relays:
                self._busy.discard(("relay", program.name))
                self._network.relays.set(program.relay, Mode.PASSING)

        self._after(seconds, over)

    def _reorg(self) -> None:
        """Blocks go. The transactions of requesters come back, whose wallets see to that; of the others all do, some,
        or none, in another order, and now or later."""
        network, rng = self._network, self._rng
        head = network.chain().block_number()
        depth = min(rng.randint(1, DEPTH), head - self.floor)
        if depth < 1:
            return
        share, late, shorter = rng.choice((0.0, 0.5, 1.0)), rng.random() < 0.3, rng.random() < 0.3
        mine, others = _transactions(network, head - depth + 1, head)
        network.anvil._request("anvil_rollback" if shorter else "anvil_reorg", [depth] if shorter else [depth, []])
        _close_hole(network, head - depth)
        back = [raw for raw in others if rng.random() < share]
        self._told(
            "reorg",
            f"{depth} blocks of {head}{', shorter' if shorter else ''}, {len(mine)} + {len(back)} of {len(others)} "
            f"transactions come back{' late' if late else ''}",
        )
        rng.shuffle(mine)
        rng.shuffle(back)
        _send(network, mine)
        if late:
            self._after(rng.uniform(2, 10), lambda: _send(network, back))
        else:
            _send(network, back)

    # The machine

    def _disk(self) -> None:
        small = [name for name, disk in self._network.disks.items() if disk.own and ("disk", name) not in self._busy]
        if not small:
            return
        name, seconds = self._rng.choice(small), self._rng.uniform(2, 20)
        self._told("disk", f"{name} is full for {seconds:.0f} s")
        self._busy.add(("disk", name))
        self._network.disks[name].fill()

        def over() -> None:
            self._busy.discard(("disk", name))
            self._network.disks[name].free()

        self._after(seconds, over)

    def _clock(self) -> None:
        """The wall's clock of one process is wrong for a while; or the chain's goes ahead."""
        if self._rng.random() < 0.25:
            ahead = self._rng.randint(5, 40)
            self._told("clock", f"the chain's goes {ahead} s ahead")
            self._network.anvil._request("evm_increaseTime", [hex(ahead)])
            return
        program = self._rng.choice(list(self._network.programs.values()))
        if ("clock", program.name) in self._busy:
            return
        offset, seconds = (
            self._rng.choice((-86_400.0, -3600.0, -30.0, 30.0, 3600.0, 86_400.0)),
            self._rng.uniform(5, 30),
        )
        self._told("clock", f"{program.name}'s is wrong by {offset:.0f} s for {seconds:.0f} s")
        self._busy.add(("clock", program.name))
        self._network.set_clock(program, offset)

        def over() -> None:
            self._busy.discard(("clock", program.name))
            self._network.set_clock(program, 0.0)

        self._after(seconds, over)

    def _database(self) -> None:
        if self.postgres_down:
            return
        mode, seconds = self._rng.choice(("fast", "immediate")), self._rng.choice((0.0, 2.0, 10.0, 25.0))
        self._told("database", f"PostgreSQL stops ({mode}) for {seconds:.0f} s")
        with suppress(subprocess.CalledProcessError):
            self._network.postgres.stop(mode)
        self.postgres_down = True
        self._after(seconds, self._start_postgres)

    def _start_postgres(self) -> None:
        """Again and again: it does not start on a full disk."""
        try:
            self._network.postgres.start()
            self.postgres_down = False
        except subprocess.CalledProcessError:
            self._after(1.0, self._start_postgres)

    def look_after_postgres(self) -> None:
        """One that ended by itself, on a full disk, is started again."""
        if not self.postgres_down and not self._network.postgres.runs():
            self.counts["database crashes"] += 1
            self.postgres_down = True
            self._start_postgres()


def _transactions(network: SoakNetwork, first: int, last: int) -> tuple[list[str], list[str]]:
    """The raw transactions of blocks, oldest first: those of requesters, and the others."""
    mine: list[str] = []
    others: list[str] = []
    requesters = {client.wallet.address.lower() for client in network.clients}
    for number in range(first, last + 1):
        block = network.anvil._request("eth_getBlockByNumber", [hex(number), True])
        for transaction in block["transactions"]:
            raw = network.anvil._request("eth_getRawTransactionByHash", [transaction["hash"]])
            (mine if transaction["from"].lower() in requesters else others).append(raw)
    return mine, others


def _send(network: SoakNetwork, raws: list[str]) -> None:
    for raw in raws:
        with suppress(Exception):
            network.anvil._request("eth_sendRawTransaction", [raw])


def _close_hole(network: SoakNetwork, since: int) -> None:
    """An anvil that mines in the middle of a reorganisation may be left without a block that others rest on, which no
    chain is: what is above is made anew."""
    head = network.chain().block_number()
    for number in range(since, head + 1):
        if network.anvil._request("eth_getBlockByNumber", [hex(number), False]) is None:
            network.anvil._request("anvil_reorg", [head - number + 1, []])
            return
