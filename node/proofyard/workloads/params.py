"""What all workloads check of a manifest before they look at their own parameters."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.errors import ManifestRefused

P = TypeVar("P", bound=msgspec.Struct)


def convert_params(manifest: Manifest, kind: type[P]) -> P:
    """The job's parameters as a `kind`. Raises `ManifestRefused` with the field that is wrong."""
    try:
        return msgspec.convert(manifest.params, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").strip(".") or "params"
        raise ManifestRefused(field if field == "params" else f"params.{field}", f"are refused: {reason}") from None


def check_common(manifest: Manifest, *, model: bool = True, precisions: Sequence[str] = ("fp32", "bf16")) -> None:
    """Raise `ManifestRefused` for a field outside `params` that is missing or out of range."""
    if manifest.version != 1:
        raise ManifestRefused("version", f"is {manifest.version}, this software executes version 1")
    if model and manifest.model is None:
        raise ManifestRefused("model", "is missing, it names the model's CID")
    if manifest.data is None:
        raise ManifestRefused("data", "is missing, it names the data file's CID")
    if not 0 <= manifest.seed < 1 << 63:
        raise ManifestRefused("seed", f"is {manifest.seed}, it must lie in [0, 2**63)")
    if not 0 < manifest.tolerance < 1:
        raise ManifestRefused("tolerance", f"is {manifest.tolerance}, it must lie between 0 and 1")
    if manifest.execution_class not in precisions:
        raise ManifestRefused(
            "execution_class", f"is {manifest.execution_class!r}, this workload knows {', '.join(precisions)}"
        )
