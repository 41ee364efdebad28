"""A job's model, data and adapter, whatever form they are given in, as files here.

Rows that are no JSONL file are written to one (`tables`); what is named by its CID is fetched; of an adapter the number
of a job means its result, proved; a model's hub name is downloaded when the manifest is made (`specs.resolve_model`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proofyard.artifacts import ArtifactError, BlockStore
from proofyard.protocol.cid import CidError, spelt_cid
from proofyard.protocol.types import Cid, JobId
from proofyard.sdk.adapters import one_adapter
from proofyard.sdk.bounds import Limits
from proofyard.sdk.errors import JobRefused, NoVerifier
from proofyard.sdk.tables import with_plain_data


@dataclass(frozen=True)
class Sources:
    """Where inputs come from that are not here. `fetch` has an artifact of at most so many bytes in the store;
    `result` writes a job's result to a folder."""

    fetch: Callable[[Cid, int], object]
    result: Callable[[JobId, Path], Path]


@contextmanager
def as_files(spec: Any, store: BlockStore, sources: Sources, limits: Limits) -> Iterator[Any]:
    """A job spec whose model, data and adapter lie here as files and folders, for this long. Raises `JobRefused` with
    the field, and the row where one is wrong."""
    if not is_dataclass(spec) or isinstance(spec, type):
        yield spec
        return
    with TemporaryDirectory(prefix="proofyard-adapter-") as folder:
        changes: dict[str, Any] = {}
        for field, most in (("model", limits.model_bytes), ("data", limits.data_bytes)):
            cid = cid_in(getattr(spec, field, None))
            if cid is not None:
                changes[field] = _fetched(field, cid, most, store, sources)
        adapter = getattr(spec, "adapter", None)
        if adapter is not None and not Path(said := str(adapter)).is_dir():
            changes["adapter"] = one_adapter(_adapter(said, Path(folder) / "result", store, sources, limits), said)
        yield with_plain_data(replace(spec, **changes), store.path / "tables", limits)


def _adapter(said: str, dest: Path, store: BlockStore, sources: Sources, limits: Limits) -> Path:
    if said.isdecimal() and said.isascii():
        return sources.result(JobId(int(said)), dest)
    cid = cid_in(said)
    if cid is None:
        raise JobRefused(f"adapter: {said[:100]} is no folder, no CID and no job's number; give one of them")
    return _fetched("adapter", cid, limits.result_bytes, store, sources)


def cid_in(value: Any) -> Cid | None:
    """The CID that a text names which is no path that exists, in any of IPFS's spellings."""
    if isinstance(value, str):
        with suppress(CidError, OSError, ValueError):
            if not Path(value).exists():
                return spelt_cid(value)
    return None


def _fetched(field: str, cid: Cid, most: int, store: BlockStore, sources: Sources) -> Path:
    place = store.path / "inputs" / cid
    if place.exists():
        return place
    try:
        sources.fetch(cid, most)
        place.parent.mkdir(parents=True, exist_ok=True)
        return store.export(cid, place, most)
    except (ArtifactError, NoVerifier) as error:
        raise JobRefused(
            f"{field}: {cid} cannot be had ({error}); give a path, or put it where peers have it"
        ) from None
