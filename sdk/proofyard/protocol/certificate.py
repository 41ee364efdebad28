"""Which deltas a round took, as a quorum of its voters signed it: docs/federated.md, Nobody in charge.

A certificate says nothing by itself: it is one of a round (`Round`), which names the job and its manifest, the set that
the round before took, and who votes. So a certificate of another chain, job, round or roster is worthless here, and so
is one of a job that had this number before the chain went back.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.cid import cid_digest
from proofyard.protocol.codec import CidText, Task32, encode
from proofyard.protocol.commitment import Domain, word
from proofyard.protocol.keccak import keccak
from proofyard.protocol.manifest import MAX_DEPS
from proofyard.protocol.roster import BLS, Roster, Scheme, Signed, Signers
from proofyard.protocol.types import Digest, ExitCode, JobId, ProofyardError, TaskIndex

MAX_VIEW = (1 << 31) - 1
View = Annotated[int, Meta(ge=1, le=MAX_VIEW)]

ROUND_TYPEHASH = keccak(b"Round(uint256 jobId,bytes32 manifest,uint32 round,bytes32 before,bytes32 roster)")
STATEMENT_TYPEHASH = keccak(b"Statement(bytes32 round,uint8 phase,uint32 view,bytes32 subject)")
FIRST = Digest(bytes(32))
"""Stands for the set that the round before the first one took."""


class CertificateInvalid(ProofyardError):
    """A certificate that its round's voters have not signed, or of what is no set of deltas."""

    exit_code = ExitCode.PROOF_MISMATCH


class Phase(IntEnum):
    """What a voter states of a view."""

    PREPARE = 1
    """It finds this set right, and no other one in this view."""
    COMMIT = 2
    """It has seen a quorum that does, and keeps to that set."""
    NEW_VIEW = 3
    """It takes part in no view before this one any more, and has seen a prepared set of that view at the latest."""


class Delta(msgspec.Struct, frozen=True):
    """A task's result, of which this much is enough to find the signed commitment to it."""

    task: Task32
    result: CidText


Deltas = Annotated[tuple[Delta, ...], Meta(max_length=MAX_DEPS)]


class Certificate(msgspec.Struct, frozen=True, dict=True):
    """A quorum's statement of a view about a set of deltas. With `Phase.COMMIT` the round is decided; with
    `Phase.PREPARE` it shows that no other set can be prepared in that view."""

    phase: Phase
    view: View
    deltas: Deltas
    signers: Signers
    signature: Signed

    @functools.cached_property
    def subject(self) -> Digest:
        return subject_of(self.deltas)


@dataclass(frozen=True)
class Round:
    """What voters decide on. `manifest`: the digest of the job's; `before`: `subject_of` what the round before took;
    `roster`: the voters' digest. All of it follows from the chain and the certificate before, so that a round has one
    roster and one certificate."""

    domain: Domain
    job: JobId
    manifest: Digest
    number: int
    before: Digest
    roster: Digest

    @functools.cached_property
    def digest(self) -> Digest:
        words = (ROUND_TYPEHASH, word(self.job), self.manifest, word(self.number, 4), self.before, self.roster)
        return self.domain.typed_digest(keccak(b"".join(words)))

    def statement(self, phase: Phase, view: int, subject: Digest) -> Digest:
        """What a voter signs."""
        words = (STATEMENT_TYPEHASH, self.digest, word(phase, 1), word(view, 4), subject)
        return self.domain.typed_digest(keccak(b"".join(words)))


@dataclass(frozen=True)
class Terms:
    """Which sets a round may take. `tasks`: the round's own; `least`: so many of them at least; `late`: tasks of
    earlier rounds that no round has taken."""

    tasks: range
    least: int
    late: frozenset[TaskIndex] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.least <= len(self.tasks) or len(self.tasks) + len(self.late) > MAX_DEPS:
            raise ValueError(f"{self} are no terms: at least 1 of its tasks, and with late ones at most {MAX_DEPS}")

    def objection(self, deltas: Sequence[Delta]) -> str:
        """Why a round cannot take these deltas; empty where it can."""
        said = [delta.task for delta in deltas]
        if said != sorted(set(said)) or len(said) > MAX_DEPS:
            return "they are not one result a task, by ascending task"
        strange = [task for task in said if task not in self.tasks and task not in self.late]
        if strange:
            return f"task {strange[0]} is none of the round's, and not late for it"
        if self.count(said) < self.least:
            return f"{self.count(said)} of the round's tasks are in it, at least {self.least} are needed"
        return next((f"{each.result} is no CID" for each in deltas if not _is_cid(each.result)), "")

    def count(self, tasks: Collection[TaskIndex]) -> int:
        """How many of these are the round's own."""
        return sum(task in self.tasks for task in tasks)

    def is_whole(self, tasks: Collection[TaskIndex]) -> bool:
        return self.count(tasks) == len(self.tasks)


def subject_of(deltas: Sequence[Delta]) -> Digest:
    """What stands for a set of deltas in statements, and in the next round's `before`."""
    return Digest(keccak(encode(tuple(deltas))))


def validate_certificate(
    each: Round, roster: Roster, certificate: Certificate, phase: Phase, scheme: Scheme = BLS
) -> None:
    """Raise `CertificateInvalid` unless a quorum of the round's voters has signed it. Whether the round may take the
    set (`Terms`) its signers have looked: one of them at least is honest."""
    if each.roster != roster.digest:
        raise CertificateInvalid(f"round {each.number} of job {each.job} has other voters than these")
    if certificate.phase != phase:
        raise CertificateInvalid(f"it is of phase {certificate.phase}, not {phase}")
    voters = roster.signed_by(certificate.signers)
    if voters is None:
        raise CertificateInvalid("its signers are no voters of this round")
    weight = sum(voter.weight for voter in voters)
    if not roster.is_quorum(weight):
        raise CertificateInvalid(f"its signers have {weight} of {roster.total} votes, over two thirds are needed")
    message = each.statement(phase, certificate.view, certificate.subject)
    if not scheme.verify([voter.key for voter in voters], message, certificate.signature):
        raise CertificateInvalid("its signature is not that of its signers")


def round_after(domain: Domain, job: JobId, manifest: Digest, roster: Roster, sets: Sequence[Deltas]) -> Round:
    """The round after those that took `sets`."""
    return Round(domain, job, manifest, len(sets), subject_of(sets[-1]) if sets else FIRST, roster.digest)


def validate_certificates(
    domain: Domain,
    job: JobId,
    manifest: Digest,
    roster: Roster,
    certificates: Sequence[Certificate],
    scheme: Scheme = BLS,
) -> None:
    """Raise `CertificateInvalid` unless these are of a job's first rounds, one after the other."""
    sets = [each.deltas for each in certificates]
    for number, certificate in enumerate(certificates):
        each = round_after(domain, job, manifest, roster, sets[:number])
        validate_certificate(each, roster, certificate, Phase.COMMIT, scheme)


def _is_cid(text: str) -> bool:
    try:
        cid_digest(text)
    except ValueError:
        return False
    return True
