"""Does a record hold? The one function that leader, co-signers, jurors, challengers, SDK and replays all run."""

from collections.abc import Collection, Mapping, Sequence

from proofyard.protocol.invalid import RecordInvalid as RecordInvalid
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.members import Member, TaskKey
from proofyard.protocol.plan import plan_of as plan_of
from proofyard.protocol.record import BatchRecord
from proofyard.protocol.types import BatchId, JobId
from proofyard.protocol.view import BatchView


def validate_record(
    view: BatchView,
    record: BatchRecord,
    manifests: Mapping[JobId, Manifest],
    graphs: Mapping[JobId, Sequence[TaskSpec]],
    members: Mapping[BatchId, Sequence[Member]],
    *,
    paid: Collection[TaskKey],
    exact: Mapping[JobId, bool],
    now: int | None,
) -> None:
    """Raise `RecordInvalid` for the first field, in the record's order, that does not follow."""
    raise NotImplementedError
