"""When a round closes that does not wait for everybody, and which deltas it takes: docs/federated.md.

Task r * workers + w is that of shard w in round r. A round opens when the one before closes, the first one with its
job. It closes once it is whole or, after its time-out, once a quorum of its tasks is committed; it takes what is
committed by then, and of earlier rounds what came too late for them. Times are those of the blocks that batches were
committed in, so everybody computes the same sets. A verifier can make a delta late by committing it late, within what
the receipt that its worker holds allows; it cannot name a set.

With `voters` no time counts: a round is closed once a certificate of theirs says what it took, and such a
certificate is in a list of the job (`certified`).

A round rests on what the one before took; where deltas are small, on what all rounds took since the last key round
(`Rounds.key_rounds`), the newest first and each in ascending order, so that where a lower task follows a higher one
another round's set begins (`sets_in`).

A set is one of tasks. Whose result of a task counts, verdicts say: work that is done again has the same bits and the
same place, whenever it comes.
"""

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from proofyard.protocol.certificate import (
    Certificate,
    CertificateInvalid,
    Delta,
    Deltas,
    Phase,
    Round,
    Terms,
    round_after,
    validate_certificate,
)
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import MAX_DEPS, TaskSpec
from proofyard.protocol.roster import MAX_VOTERS, Roster, Voter, roster_of
from proofyard.protocol.types import Address, Digest, JobId, ProofyardError, TaskIndex

BPS = 10_000
T = TypeVar("T")
Commit = tuple[int, TaskIndex]
"""A batch with a signed commitment to a task was committed at this time (Unix seconds of its block)."""


class ClosingRefused(ProofyardError, ValueError):
    """Rules that no round could close by, or whose sets are too large."""


class Closing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules, as a manifest has them. `quorum` tasks of a round are enough after `timeout_s`. A delta that is n
    rounds late, `late_rounds` at most, counts (`discount_bps` / 10,000)^n of itself (staleness as in FedBuff, arXiv
    2106.06639). `voters`: who decides what a round takes, in ascending order; without any the chain's times do. Where
    there are, a voter begins no round before what all rounds but the last `ahead` took is paid; with 0 none waits."""

    quorum: Annotated[int, Meta(ge=1, le=MAX_DEPS)]
    timeout_s: Annotated[int, Meta(ge=1, le=30 * 86_400)]
    late_rounds: Annotated[int, Meta(ge=0, le=8)] = 1
    discount_bps: Annotated[int, Meta(ge=0, le=BPS)] = BPS // 2
    voters: Annotated[tuple[Voter, ...], Meta(max_length=MAX_VOTERS)] = ()
    ahead: Annotated[int, Meta(ge=0, le=1 << 20)] = 0

    def scale(self, late: int) -> float:
        """What a delta that is so many rounds late counts, correctly rounded."""
        return float(Fraction(self.discount_bps, BPS) ** late)


@dataclass(frozen=True)
class Rounds:
    """A job's rounds that close by rules: task r * `workers` + w is that of shard w in round r of `rounds`. Of every
    `key_rounds` rounds one carries what it started from, and later ones rest on nothing before it."""

    closing: Closing
    workers: int
    rounds: int
    key_rounds: int = 1

    @property
    def roster(self) -> Roster | None:
        """Who decides; None where the chain's times do. Raises `RosterInvalid`."""
        return roster_among(self.closing.voters) if self.closing.voters else None


@dataclass(frozen=True)
class Taken:
    """A task whose delta a round takes, `late` rounds after its own."""

    task: TaskIndex
    late: int


@dataclass(frozen=True)
class ClosedRound:
    """`taken` in ascending order of tasks; `dropped`: tasks that no round takes any more."""

    number: int
    closed_at: int
    taken: tuple[Taken, ...]
    dropped: tuple[TaskIndex, ...]


def check_closing(closing: Closing, workers: int) -> None:
    """Raise `ClosingRefused` where rounds of so many workers cannot close by these rules."""
    if closing.quorum > workers:
        raise ClosingRefused(f"a quorum of {closing.quorum} is more than the {workers} workers of a round; give less")
    most = workers * (1 + closing.late_rounds)
    if most > MAX_DEPS:
        raise ClosingRefused(
            f"with {closing.late_rounds} late rounds a set may have {most} deltas, at most {MAX_DEPS} fit; give less"
        )
    if closing.ahead and not closing.voters:
        raise ClosingRefused(
            "ahead is given, which bounds how far nodes go on that decide; without them look_ahead does, leave it out"
        )
    places = [bytes.fromhex(voter.node[2:]) for voter in closing.voters]
    if places != sorted(set(places)):
        raise ClosingRefused("its voters are not in ascending order of their addresses, each once; sort them")


@functools.lru_cache(maxsize=64)
def roster_among(voters: tuple[Voter, ...]) -> Roster:
    """`roster_of` these: their proofs, which take 0.3 s each, are looked at once."""
    return roster_of(voters)


def voter_of(workers: int, voters: Sequence[Address], task: TaskIndex) -> Address:
    """Whose task it is where nodes decide: shard w is that of voter w, counted around."""
    return voters[task % workers % len(voters)]


def close_rounds(
    closing: Closing, workers: int, rounds: int, opened_at: int, commits: Iterable[Commit], now: int
) -> tuple[ClosedRound, ...]:
    """The rounds that are closed for good at `now`, the time of a block: no later block changes them. `commits` are all
    of the job's on chain, in any order; those after `now` do not matter."""
    times = _times(commits)
    came: dict[TaskIndex, int] = {}
    """When each task was first committed after its round had opened: before, it rested on something else."""
    closed: list[ClosedRound] = []
    left: set[TaskIndex] = set()
    for number in range(rounds):
        own = _tasks(workers, number)
        came |= {task: at for task in own if (at := _first_after(opened_at, times.get(task, ()))) is not None}
        at = _closes_at(closing, opened_at, [came[task] for task in own if task in came], workers)
        if at is None or at >= now:
            break
        left.update(own)
        taken = {task for task in left if task in came and came[task] <= at}
        closed.append(_closed(Rounds(closing, workers, rounds), number, at, taken, left))
        opened_at = at
    return tuple(closed)


def taken_rounds(rounds: Rounds, sets: Sequence[Iterable[Delta]]) -> tuple[ClosedRound, ...]:
    """The same where nodes decide: `sets` are those of the certificates of a job's first rounds, as far as there are
    any. They say what, and not when: `closed_at` is 0."""
    closed: list[ClosedRound] = []
    left: set[TaskIndex] = set()
    for number, deltas in enumerate(sets[: rounds.rounds]):
        left.update(_tasks(rounds.workers, number))
        closed.append(_closed(rounds, number, 0, {delta.task for delta in deltas}, left))
    return tuple(closed)


def certified(
    domain: Domain, job: JobId, manifest: Digest, rounds: Rounds, roster: Roster, certificates: Iterable[Certificate]
) -> tuple[ClosedRound, ...]:
    """The rounds that are closed by what voters signed for the job of this manifest: `certificates` are those that its
    lists hold, in any order and whatever they are of. Those that are none of the next round count for nothing."""
    of_round: defaultdict[int, set[Certificate]] = defaultdict(set)
    for certificate in certificates:
        if certificate.deltas:
            # What a round takes has a task of its own in it, and none of a later one.
            of_round[max(delta.task for delta in certificate.deltas) // rounds.workers].add(certificate)
    sets: list[Deltas] = []
    while len(sets) < rounds.rounds:
        each = round_after(domain, job, manifest, roster, sets)
        terms = terms_of(rounds.closing, rounds.workers, sets)
        known = (one for one in of_round[len(sets)] if not terms.objection(one.deltas) and _is_of(each, roster, one))
        found = next(known, None)
        if found is None:
            break
        sets.append(found.deltas)
    return taken_rounds(rounds, sets)


@functools.lru_cache(maxsize=4096)
def _is_of(each: Round, roster: Roster, certificate: Certificate) -> bool:
    """Whether a round's voters have signed a certificate."""
    try:
        validate_certificate(each, roster, certificate, Phase.COMMIT)
    except CertificateInvalid:
        return False
    return True


def open_tasks(specs: Sequence[TaskSpec], rounds: Rounds, closed: Sequence[ClosedRound]) -> tuple[TaskSpec, ...]:
    """Of a job's tasks those of the rounds that are open, each resting on what the round before took. The first round
    is open from the start."""
    found, sets = list(specs[: rounds.workers]), sets_of(closed)
    for each in closed[: rounds.rounds - 1]:
        first = (each.number + 1) * rounds.workers
        deps = rested_on(sets, each.number + 1, rounds.key_rounds)
        found += [msgspec.structs.replace(spec, deps=deps) for spec in specs[first : first + rounds.workers]]
    return tuple(found)


def since(number: int, key_rounds: int) -> int:
    """The first of the rounds whose sets round `number` rests on."""
    return max(0, number - 1) // key_rounds * key_rounds


def rested_on(sets: Sequence[Sequence[T]], number: int, key_rounds: int) -> tuple[T, ...]:
    """What round `number` rests on; `sets`: what each round from the first one on took, in ascending order."""
    return tuple(each for taken in reversed(sets[since(number, key_rounds) : number]) for each in taken)


def sets_in(tasks: Sequence[TaskIndex]) -> list[tuple[TaskIndex, ...]]:
    """The sets that a round rests on, the oldest first. A set ends with a task of its own round, which comes after all
    that an earlier round can take."""
    if not tasks:
        return []
    ends = [at for at in range(1, len(tasks)) if tasks[at] < tasks[at - 1]]
    return [tuple(tasks[first:end]) for first, end in zip([0, *ends], [*ends, len(tasks)], strict=True)][::-1]


def sets_of(closed: Sequence[ClosedRound]) -> list[tuple[TaskIndex, ...]]:
    """The tasks that each round took."""
    return [tuple(entry.task for entry in each.taken) for each in closed]


def final_tasks(rounds: Rounds, closed: Sequence[ClosedRound]) -> tuple[TaskIndex, ...]:
    """The tasks whose results the job's result is made of; none while its last round is open."""
    whole = len(closed) == rounds.rounds
    return rested_on(sets_of(closed), rounds.rounds, rounds.key_rounds) if whole else ()


def dropped_tasks(closed: Iterable[ClosedRound]) -> frozenset[TaskIndex]:
    """The tasks that no round takes any more: the job does without them."""
    return frozenset(task for each in closed for task in each.dropped)


def terms_of(closing: Closing, workers: int, sets: Sequence[Iterable[Delta]]) -> Terms:
    """What the next round may take where nodes decide: `sets` are those that all rounds before it took."""
    number = len(sets)
    taken = {delta.task for each in sets[-closing.late_rounds - 1 :] for delta in each}
    earlier = range(max(0, number - closing.late_rounds), number)
    late = (task for each in earlier for task in _tasks(workers, each) if task not in taken)
    own = range(number * workers, (number + 1) * workers)
    return Terms(own, closing.quorum, frozenset(late))


def _times(commits: Iterable[Commit]) -> Mapping[TaskIndex, Sequence[int]]:
    times: defaultdict[TaskIndex, list[int]] = defaultdict(list)
    for at, task in commits:
        times[task].append(at)
    return times


def _tasks(workers: int, number: int) -> tuple[TaskIndex, ...]:
    return tuple(map(TaskIndex, range(number * workers, (number + 1) * workers)))


def _closed(rounds: Rounds, number: int, at: int, taken: set[TaskIndex], left: set[TaskIndex]) -> ClosedRound:
    """A round that took `taken` of what was `left`, which is without that and what is dropped afterwards."""
    left.difference_update(taken)
    last, latest = number == rounds.rounds - 1, number - rounds.closing.late_rounds
    dropped = sorted(task for task in left if last or task // rounds.workers <= latest)
    left.difference_update(dropped)
    late = (Taken(task, number - task // rounds.workers) for task in sorted(taken))
    return ClosedRound(number, at, tuple(late), tuple(dropped))


def _first_after(opened_at: int, times: Sequence[int]) -> int | None:
    return min((at for at in times if at > opened_at), default=None)


def _closes_at(closing: Closing, opened_at: int, came: Sequence[int], workers: int) -> int | None:
    """When the last task has come, or time-out and quorum both: whichever is first."""
    ordered = sorted(came)
    whole = [ordered[-1]] if len(ordered) == workers else []
    enough = [max(opened_at + closing.timeout_s, ordered[closing.quorum - 1])] if len(ordered) >= closing.quorum else []
    return min(whole + enough, default=None)
