"""Which rounds are closed where nodes decide: what certificates in a job's lists say."""

from collections.abc import Sequence

import msgspec
import pytest

from proofyard.protocol import bls
from proofyard.protocol.certificate import Certificate, Delta, Phase, round_after
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.closing import Closing, ClosingRefused, Rounds, certified, check_closing, taken_rounds, voter_of
from proofyard.protocol.commitment import Domain
from proofyard.protocol.roster import Roster, Voter
from proofyard.protocol.types import Address, Digest, JobId, TaskIndex

DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
JOB, MANIFEST = JobId(7), Digest(b"m" * 32)
SECRETS = [bls.keygen(bytes([number]) * 32) for number in range(1, 5)]
VOTERS = tuple(
    Voter(Address("0x" + f"{number:040x}"), bls.public_key(secret), bls.BlsSignature(bytes(96)), 1)
    for number, secret in enumerate(SECRETS, 1)
)
ROSTER = Roster(VOTERS)
"""Its proofs are not looked at here."""
RULES = Rounds(Closing(quorum=2, timeout_s=60, voters=VOTERS), workers=3, rounds=3)
Sets = Sequence[Sequence[int]]


def deltas(tasks: Sequence[int]) -> tuple[Delta, ...]:
    return tuple(Delta(TaskIndex(task), raw_cid(b"%d" % task)) for task in tasks)


def certificate(
    sets: Sets, signers: int = 3, *, phase: Phase = Phase.COMMIT, job: JobId = JOB, manifest: Digest = MANIFEST
) -> Certificate:
    """That of the last of these sets, the others being what the rounds before it took."""
    *before, own = [deltas(tasks) for tasks in sets]
    each = round_after(DOMAIN, job, manifest, ROSTER, before)
    made = Certificate(phase, 1, own, ROSTER.signers([voter.node for voter in VOTERS[:signers]]), bls.BlsSignature(b""))
    message = each.statement(phase, 1, made.subject)
    signature = bls.aggregate([bls.sign(secret, message) for secret in SECRETS[:signers]])
    return msgspec.structs.replace(made, signature=signature)


def closed(*certificates: Certificate) -> list[tuple[list[tuple[int, int]], tuple[int, ...]]]:
    found = certified(DOMAIN, JOB, MANIFEST, RULES, ROSTER, certificates)
    return [([(each.task, each.late) for each in one.taken], one.dropped) for one in found]


FIRST, SECOND, LAST = [0, 2], [1, 3, 4], [6, 7, 8]


def test_certificates_close_rounds_in_whatever_order_they_come() -> None:
    said = [certificate([FIRST]), certificate([FIRST, SECOND]), certificate([FIRST, SECOND, LAST])]
    whole = [([(0, 0), (2, 0)], ()), ([(1, 1), (3, 0), (4, 0)], ()), ([(6, 0), (7, 0), (8, 0)], (5,))]
    assert closed(*said) == closed(*reversed(said), *said) == whole
    assert certified(DOMAIN, JOB, MANIFEST, RULES, ROSTER, said) == taken_rounds(RULES, [each.deltas for each in said])
    assert closed() == closed(*said[1:]) == [] and closed(said[0], said[2]) == whole[:1]


@pytest.mark.parametrize(
    "lie",
    [
        certificate([FIRST], 2),
        certificate([FIRST], phase=Phase.PREPARE),
        certificate([FIRST], job=JobId(8)),
        certificate([FIRST], manifest=Digest(b"n" * 32)),
        msgspec.structs.replace(certificate([FIRST]), deltas=deltas([0, 1])),
        msgspec.structs.replace(certificate([FIRST]), deltas=()),
        certificate([[0]]),
        certificate([[0, 9]]),
        certificate([[2, 0]]),
        certificate([FIRST, SECOND]),
    ],
    ids=[
        "two of four",
        "prepared",
        "another job",
        "another manifest",
        "another set",
        "no set",
        "too few",
        "strange",
        "unordered",
        "early",
    ],
)
def test_what_no_quorum_has_signed_for_the_next_round_closes_nothing(lie: Certificate) -> None:
    assert closed(lie) == []
    assert closed(lie, certificate([FIRST])) == [([(0, 0), (2, 0)], ())] or lie.deltas == deltas(SECOND)


def test_a_task_is_that_of_its_shards_voter() -> None:
    nodes = [voter.node for voter in VOTERS]
    assert [voter_of(3, nodes, TaskIndex(task)) for task in range(6)] == [*nodes[:3], *nodes[:3]]
    assert [voter_of(6, nodes, TaskIndex(task)) for task in range(6)] == [*nodes, *nodes[:2]]


def test_rules_name_each_voter_once_and_in_order() -> None:
    check_closing(RULES.closing, 3)
    for voters in (VOTERS[::-1], (*VOTERS, VOTERS[-1])):
        with pytest.raises(ClosingRefused, match="ascending"):
            check_closing(Closing(quorum=2, timeout_s=60, voters=voters), 3)
