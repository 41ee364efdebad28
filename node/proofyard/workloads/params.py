"""What all workloads check of a manifest before they look at their own parameters."""

import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from proofyard.protocol.codec import prepared
from proofyard.protocol.manifest import MAX_TASKS, VERSION, Manifest
from proofyard.workloads.errors import ManifestRefused

P = TypeVar("P", bound=msgspec.Struct)

SHOWN = 80
"""Characters of a value that does not fit."""

PRECISIONS = ("exact", "exact8", "exact4")
"""How the frozen weights are held: docs/exact.md. Whatever computes without a model knows the first alone."""


def convert_params(manifest: Manifest, kind: type[P]) -> P:
    """The job's parameters as a `kind`. Raises `ManifestRefused` with the field that is wrong."""
    try:
        return msgspec.convert(manifest.params, prepared(kind))
    except msgspec.ValidationError as error:
        field, reason = misfit(error, manifest.params, kind)
        raise ManifestRefused(f"params.{field}" if field else "params", reason) from None


def misfit(error: msgspec.ValidationError, values: Mapping[str, Any], kind: type[msgspec.Struct]) -> tuple[str, str]:
    """Which of the values for a `kind` does not fit, "" for all of them, and what is allowed: `rank`, "is 0; it has to
    be `int` >= 1"."""
    reason, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").strip(".")
    allowed = re.sub(r", got .*$", "", reason).replace("Expected ", "it has to be ")
    if field not in values:
        return field, f"does not fit; {allowed}"
    if words := _words_of(next((each.type for each in msgspec.structs.fields(kind) if each.name == field), None)):
        allowed = f"it has to be one of {', '.join(map(repr, words))}"
    value = repr(values[field])
    return field, f"is {value if len(value) <= SHOWN else value[:SHOWN] + '...'}; {allowed}"


def _words_of(kind: Any) -> tuple[str, ...]:
    """The words that a field of this type may have; none where it has others than words."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return tuple(word for part in parts for word in _words_of(part))


def check_common(
    manifest: Manifest,
    *,
    model: bool = True,
    precisions: Sequence[str] = PRECISIONS,
    adapter: bool = False,
    data: bool = True,
) -> None:
    """Raise `ManifestRefused` for a field outside `params` that is missing or out of range."""
    if manifest.version != VERSION:
        raise ManifestRefused("version", f"is {manifest.version}, this software executes version {VERSION}")
    if not 0 <= manifest.look_ahead <= MAX_TASKS:
        raise ManifestRefused("look_ahead", f"is {manifest.look_ahead}, it must lie in [0, {MAX_TASKS}]")
    if model and manifest.model is None:
        raise ManifestRefused("model", "is missing, it names the model's CID")
    if data != (manifest.data is not None):
        reason = "is missing, it names the data file's CID" if data else "is given, this job's data stays at home"
        raise ManifestRefused("data", reason)
    if adapter != (manifest.adapter is not None):
        reason = "is missing, it names the adapter's CID" if adapter else "is given, this job has no use for one"
        raise ManifestRefused("adapter", reason)
    if not 0 <= manifest.seed < 1 << 63:
        raise ManifestRefused("seed", f"is {manifest.seed}, it must lie in [0, 2**63)")
    if manifest.precision not in precisions:
        raise ManifestRefused("precision", f"is {manifest.precision!r}, this workload knows {', '.join(precisions)}")
