"""Agreement under schedules that a seed draws: messages lost, late, repeated and out of order, voters that die between
their disk and the network, and less than a third of liars that see all that is said and sign whatever they like."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_town import LIES, TASKS, TIMEOUT_S, Town, delta

from proofyard.node.rounds.messages import Certified, Message, NewView, Vote
from proofyard.protocol.bls import BlsSignature
from proofyard.protocol.certificate import Certificate, Delta, Phase, subject_of
from proofyard.protocol.commitment import word
from proofyard.protocol.types import Address, Digest

STEPS = 300
WEIGHTS = [(1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1), (5, 3, 2, 2, 1), (1, 1), (10, 10, 10, 1, 1, 1)]
SETS: list[tuple[Delta, ...]] = [
    tuple(delta(task) for task in range(TASKS)),
    tuple(delta(task) for task in range(2)),
    tuple(delta(task) for task in range(1, TASKS)),
    (delta(0, b"another"), *(delta(task) for task in range(1, TASKS))),
]


def liars_of(weights: tuple[int, ...], rng: random.Random) -> frozenset[int]:
    """Some voters with less than a third of all weight."""
    found: set[int] = set()
    for number in rng.sample(range(len(weights)), len(weights)):
        if 3 * sum(weights[each] for each in {*found, number}) < sum(weights):
            found.add(number)
    return frozenset(found)


class Storm:
    """A town in which anything may happen next."""

    def __init__(self, town: Town, rng: random.Random) -> None:
        self.town, self.rng = town, rng
        self.loss = rng.choice((0.0, 0.05, 0.3))
        self.now_lying = [self.equivocate, self.vote, self.show, self.change_view, self.replay, self.forge]
        for node in town.honest:
            # a liar's task has two results, and who got which first is chance
            town.take(node, town.machines[node].deliver(rng.choice((delta(0), delta(0, b"another"))), 0.0))

    def run(self, steps: int) -> None:
        town, rng = self.town, self.rng
        for _ in range(steps):
            draw = rng.random()
            if draw < 0.66 and town.wire:
                self.move_message()
            elif draw < 0.73:
                node = rng.choice(town.honest)
                step = town.machines[node].deliver(delta(rng.randrange(1, TASKS)), town.now)
                town.take(node, step)
                self.fetch()
            elif draw < 0.76:
                node = rng.choice(town.honest)
                town.take(node, town.machines[node].close(town.now))
            elif draw < 0.83:
                town.now += rng.choice((0.5, TIMEOUT_S, 4 * TIMEOUT_S))
                node = rng.choice(town.honest)
                town.take(node, town.machines[node].tick(town.now), sent=rng.choice((None, None, 0, 1)))
            elif draw < 0.87:
                town.restart(rng.choice(town.honest))
            elif town.lying:
                rng.choice(self.now_lying)()
            for machine in town.machines.values():
                assert set(town.lying).issuperset(machine._strikes), "an honest voter is taken for a liar"
        self.check()

    def move_message(self) -> None:
        town, rng = self.town, self.rng
        place, draw = rng.randrange(len(town.wire)), rng.random()
        if draw < self.loss:
            town.wire.pop(place)
        else:
            town.deliver(place, again=draw > 0.9)

    def fetch(self) -> None:
        """What proposals named and was not here."""
        for node, each in self.town.wanted:
            self.town.take(node, self.town.machines[node].deliver(each, self.town.now))
        self.town.wanted.clear()

    def check(self) -> None:
        """Nothing that was signed or decided is ever taken back, so the end shows what came before."""
        town = self.town
        assert len({each.subject for each in town.decided.values()}) <= 1
        assert len({subject for _, subject in town.subjects(Phase.COMMIT)}) <= 1
        prepared = town.subjects(Phase.PREPARE)
        assert len({view for view, _ in prepared}) == len(prepared)

    # Lies

    @property
    def view(self) -> int:
        return max(machine.durable.view for machine in self.town.machines.values())

    def say(self, sender: Address, message: Message) -> None:
        """To some, or at once and to most: liars may have the better network."""
        town, rng = self.town, self.rng
        fast = rng.random() < 0.5
        for node in town.honest:
            if fast and rng.random() < 0.8:
                town.take(node, town.machines[node].receive(sender, message, town.now))
            elif rng.random() < 0.6:
                town.wire.append((sender, node, message))

    def certificate(self, phase: Phase) -> Certificate | None:
        """A genuine one, if there is any to be made."""
        views = [(view, some) for view in range(1, self.view + 1) for some in SETS]
        self.rng.shuffle(views)
        return next((made for view, some in views if (made := self.town.certificate(phase, view, some))), None)

    def equivocate(self) -> None:
        """A leader proposes two sets, or what suits it among what was prepared."""
        town, rng = self.town, self.rng
        for view in (self.view, self.view + 1):
            if town.leader(view) in town.lying:
                for some in rng.sample(SETS, 2):
                    high = rng.choice((None, self.certificate(Phase.PREPARE)))
                    if high is None or high.view < view:
                        self.say(town.leader(view), town.proposal(view, some, high, rng.choice(("", "", "", *LIES))))

    def vote(self) -> None:
        town, rng = self.town, self.rng
        view, sender = rng.randrange(1, self.view + 1), rng.choice(town.lying)
        for phase in (Phase.PREPARE, Phase.COMMIT):
            for some in SETS:
                subject = subject_of(some)
                signature = town.sign(sender, phase, view, subject)
                self.say(sender, Vote(town.round.digest, phase, view, subject, signature))

    def show(self) -> None:
        """A certificate to some, who would not have it yet."""
        found = self.certificate(self.rng.choice((Phase.PREPARE, Phase.COMMIT)))
        if found:
            self.say(self.rng.choice(self.town.lying), Certified(self.town.round.digest, found))

    def change_view(self) -> None:
        town, rng = self.town, self.rng
        sender, view = rng.choice(town.lying), self.view + rng.randrange(4)
        high = rng.choice((None, self.certificate(Phase.PREPARE)))
        signature = town.sign(sender, Phase.NEW_VIEW, view, Digest(word(high.view if high else 0)))
        self.say(sender, NewView(town.round.digest, view, high, signature))

    def replay(self) -> None:
        if self.town.said:
            self.say(self.rng.choice(self.town.lying), self.rng.choice(self.town.said))

    def forge(self) -> None:
        """With the bits of voters who have not signed."""
        town, rng = self.town, self.rng
        view, some, phase = rng.randrange(1, self.view + 1), rng.choice(SETS), rng.choice((Phase.PREPARE, Phase.COMMIT))
        signed = {node: BlsSignature(rng.randbytes(96)) for node in town.honest}
        sender = rng.choice(town.lying)
        if rng.random() < 0.3:
            self.say(sender, Certified(town.round.digest, town.forged(phase, view, some, signed)))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.sampled_from(WEIGHTS))
def test_no_schedule_makes_two_certificates(seed: int, weights: tuple[int, ...]) -> None:
    rng = random.Random(seed)
    Storm(Town(weights, liars_of(weights, rng)), rng).run(STEPS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.sampled_from(WEIGHTS))
def test_every_honest_voter_decides_once_messages_arrive(seed: int, weights: tuple[int, ...]) -> None:
    """Whatever happened before, and while liars go on."""
    rng = random.Random(seed)
    town = Town(weights, liars_of(weights, rng))
    storm = Storm(town, rng)
    storm.run(STEPS // 2)
    town.start()
    town.close()
    town.wire.clear()
    for node in town.honest:
        town.restart(node)
    before = storm.view
    for _ in range(3000):
        if len(town.decided) == len(town.honest):
            break
        if town.lying:
            rng.choice([storm.vote, storm.change_view, storm.equivocate, storm.show])()
        storm.fetch()
        town.wait(TIMEOUT_S / 4, step=TIMEOUT_S / 4)
    storm.check()
    assert set(town.decided) == set(town.honest)
    assert storm.view <= before + 2 * len(weights) + 4


@pytest.mark.parametrize("broken", ["a third of liars", "voters that forget"])
def test_the_schedules_can_break_what_is_broken(broken: str) -> None:
    """Else the tests above would show nothing."""
    for seed in range(300):
        rng = random.Random(seed)
        liars = frozenset((0, 1)) if broken == "a third of liars" else frozenset((0,))
        storm = Storm(Town((1, 1, 1, 1), liars), rng)
        forget: Callable[[], None] | None = None if len(liars) > 1 else storm.town.kept.clear
        try:
            for _ in range(STEPS // 10):
                storm.run(10)
                if forget:
                    forget()
        except AssertionError:
            return
    raise AssertionError("no schedule found two certificates")
