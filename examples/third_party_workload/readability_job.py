"""The job spec of the workload `readability`, for `proofyard.sdk` and `proofyard job submit --workload readability`."""

from dataclasses import dataclass

from readability import WORKLOAD

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import RowsJob


@dataclass(frozen=True, kw_only=True)
class ReadabilityJob(RowsJob):
    """Readability figures of every line's `text`."""

    model: None = None

    def manifest(self, model: Cid | None, data: Cid | None) -> Manifest:
        return self._manifest(WORKLOAD, {}, model, data, None)
