"""Which tasks of a job may start: the rule of `proofyard.protocol.lookahead`, kept up to date change by change.

Tasks with equal dependencies share a gate, so a round of W tasks on the W tasks before it is one gate and not W times W
pairs. A gate is open while all its inputs are at hand and no chain of results under it that wait for their verdicts is
longer than the look-ahead.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence

from proofyard.protocol.types import Address, Cid, TaskIndex

Deps = tuple[TaskIndex, ...]


class Gate:
    """`missing`: inputs that are not at hand. `pending`: of each gate that its inputs come from, how many of the tasks
    that it needs are not accepted. `chains`: how many of those gates give it a chain of which length; `chain` is the
    longest. `inputs`, `makers`: kept by whoever gives its tasks out, None where they must be found anew."""

    __slots__ = ("above", "chain", "chains", "deps", "inputs", "is_open", "makers", "members", "missing", "pending")

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.members: list[TaskIndex] = []
        self.missing = 0
        self.pending: Counter[Gate] = Counter()
        self.chains: Counter[int] = Counter()
        self.chain = 0
        self.above: list[Gate] = []
        self.is_open = False
        self.inputs: tuple[Cid, ...] | None = None
        self.makers: tuple[Address, ...] = ()


class Graph:
    """`deps` of each task by its index; every dependency has a lower index than its task. What the tasks `shut` rest on
    is not known yet: their gate is closed whatever is at hand."""

    def __init__(self, deps: Sequence[Deps], look_ahead: int, shut: Container[int] = ()) -> None:
        self.look_ahead = look_ahead
        self.gates: list[Gate] = []
        self.gate_of: list[Gate] = []
        self._uses: dict[TaskIndex, list[Gate]] = {}
        self._at_hand = bytearray(len(deps))
        self._accepted = bytearray(len(deps))
        known: dict[tuple[Deps, bool], Gate] = {}
        for index, needs in enumerate(deps):
            key = needs, index in shut
            gate = known.get(key)
            if gate is None:
                gate = known[key] = self._new_gate(needs)
                if index in shut:
                    gate.missing, gate.is_open = 1, False
            gate.members.append(TaskIndex(index))
            self.gate_of.append(gate)

    def _new_gate(self, deps: Deps) -> Gate:
        gate = Gate(deps)
        for dep in set(deps):
            self._uses.setdefault(dep, []).append(gate)
            gate.missing += 1
            gate.pending[self.gate_of[dep]] += 1
        for below in gate.pending:
            below.above.append(gate)
            gate.chains[self._over(below)] += 1
        gate.chain = max(gate.chains, default=0)
        gate.is_open = not deps
        self.gates.append(gate)
        return gate

    def _over(self, below: Gate) -> int:
        """The chain that a task of `below` that is not accepted gives to what rests on it; beyond the look-ahead all
        are alike."""
        return min(below.chain, self.look_ahead) + 1

    def uses(self, task: TaskIndex) -> Sequence[Gate]:
        """The gates that need a task's result."""
        return self._uses.get(task, ())

    def move(self, task: TaskIndex, *, at_hand: bool, accepted: bool) -> list[Gate]:
        """A task's result is at hand, or accepted, or not any more. Returns the gates that opened or closed."""
        nearer, surer = at_hand - self._at_hand[task], accepted - self._accepted[task]
        if not nearer and not surer:
            return []
        self._at_hand[task], self._accepted[task] = at_hand, accepted
        touched: dict[Gate, None] = {}
        below = self.gate_of[task]
        for gate in self.uses(task):
            gate.missing -= nearer
            gate.inputs = None
            touched[gate] = None
            if surer:
                self._pend(gate, below, -surer, touched)
        return [gate for gate in touched if self._flipped(gate)]

    def _flipped(self, gate: Gate) -> bool:
        now = not gate.missing and gate.chain <= self.look_ahead
        changed, gate.is_open = now != gate.is_open, now
        return changed

    def _pend(self, gate: Gate, below: Gate, change: int, touched: dict[Gate, None]) -> None:
        had = gate.pending[below] > 0
        gate.pending[below] += change
        has = gate.pending[below] > 0
        if had != has:
            self._shift(gate, (self._over(below),) if had else (), (self._over(below),) if has else (), touched)

    def _shift(self, gate: Gate, less: Iterable[int], more: Iterable[int], touched: dict[Gate, None]) -> None:
        """Chains under a gate are other ones; so may be those of the gates above it."""
        work = [(gate, less, more)]
        while work:
            gate, less, more = work.pop()
            before = self._over(gate)
            gate.chains.update(more)
            gate.chains.subtract(less)
            gate.chain = max((length for length, count in gate.chains.items() if count > 0), default=0)
            touched[gate] = None
            after = self._over(gate)
            if before != after:
                work += [(above, (before,), (after,)) for above in gate.above if above.pending[gate] > 0]


__all__ = ["Deps", "Gate", "Graph"]
