"""What all workloads check of a manifest before they look at their own parameters."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import MAX_TASKS, VERSION, Manifest
from proofyard.workloads.errors import ManifestRefused

P = TypeVar("P", bound=msgspec.Struct)

PRECISIONS = ("exact", "exact8", "exact4")
"""How the frozen weights are held: docs/exact.md. Whatever computes without a model knows the first alone."""


def convert_params(manifest: Manifest, kind: type[P]) -> P:
    """The job's parameters as a `kind`. Raises `ManifestRefused` with the field that is wrong."""
    try:
        return msgspec.convert(manifest.params, prepared(kind))
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").strip(".") or "params"
        raise ManifestRefused(field if field == "params" else f"params.{field}", f"are refused: {reason}") from None


def check_common(
    manifest: Manifest, *, model: bool = True, precisions: Sequence[str] = PRECISIONS, adapter: bool = False
) -> None:
    """Raise `ManifestRefused` for a field outside `params` that is missing or out of range."""
    if manifest.version != VERSION:
        raise ManifestRefused("version", f"is {manifest.version}, this software executes version {VERSION}")
    if not 0 <= manifest.look_ahead <= MAX_TASKS:
        raise ManifestRefused("look_ahead", f"is {manifest.look_ahead}, it must lie in [0, {MAX_TASKS}]")
    if model and manifest.model is None:
        raise ManifestRefused("model", "is missing, it names the model's CID")
    if manifest.data is None:
        raise ManifestRefused("data", "is missing, it names the data file's CID")
    if adapter != (manifest.adapter is not None):
        reason = "is missing, it names the adapter's CID" if adapter else "is given, this job has no use for one"
        raise ManifestRefused("adapter", reason)
    if not 0 <= manifest.seed < 1 << 63:
        raise ManifestRefused("seed", f"is {manifest.seed}, it must lie in [0, 2**63)")
    if manifest.precision not in precisions:
        raise ManifestRefused("precision", f"is {manifest.precision!r}, this workload knows {', '.join(precisions)}")
