"""The one error of a record that does not hold."""

from dataclasses import dataclass

from proofyard.protocol.types import BatchId, ExitCode, ProofyardError


class RecordInvalid(ProofyardError):
    """A batch record does not follow from the chain, the job and the signed bytes in it. `field` is the record's."""

    exit_code = ExitCode.PROOF_MISMATCH

    def __init__(self, batch: BatchId, field: str, reason: str) -> None:
        self.batch, self.field, self.reason = batch, field, reason
        super().__init__(f"the record of batch {batch} does not hold: {field}: {reason}")


@dataclass(frozen=True)
class Ensure:
    """`ensure(condition, reason)` for one field of one record."""

    batch: BatchId
    field: str

    def __call__(self, holds: bool, reason: str) -> None:
        if not holds:
            raise RecordInvalid(self.batch, self.field, reason)
