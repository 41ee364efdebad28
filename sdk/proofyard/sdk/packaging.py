"""A proven result as its requester uses it: packaged here, its adapters complete."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from proofyard.artifacts import ArtifactError, BlockStore
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.sdk.adapters import adapters_of, complete_adapters
from proofyard.sdk.bounds import Limits
from proofyard.sdk.errors import NoVerifier
from proofyard.sdk.results import Proven, require_package
from proofyard.transport import TransportError
from proofyard.workloads.model_files import TOKENIZER_FILES
from proofyard.workloads.workload import load_workload, write_result

logger = logging.getLogger("proofyard.sdk")

Read = Callable[[Cid, int], bytes]
"""The bytes of a file artifact of at most so many bytes."""
Names = Callable[[Cid], dict[str, Cid]]
"""What a folder holds."""


OnReplace = Callable[[list[str]], object]


@dataclass(frozen=True)
class Packaging:
    """How results are packaged: their adapters name the model `base`, "" for its CID. `on_replace` gets the names of
    files before they are replaced."""

    base: str
    store: BlockStore
    read: Read
    names: Names
    limits: Limits
    on_replace: OnReplace = lambda _: None


def package(proven: Proven, said: Cid | None, dest: Path, *, manifest: Manifest, how: Packaging) -> Path:
    """Package a proven result in `dest`, reading one task's result after another. Raises `ResultUnproven` where a
    verifier `said` that it is another one."""

    def results(task: TaskIndex) -> bytes:
        return how.read(proven.results[task], how.limits.result_bytes)

    def make(folder: Path) -> Path:
        made = write_result(load_workload(manifest.workload), manifest, list(proven.results), results, folder)
        if said is not None:
            require_package(proven.job, said, how.store.put_directory(made))
        return made

    return write(proven.job, make, dest, manifest=manifest, how=how)


def write(job: JobId, make: Callable[[Path], Path], dest: Path, *, manifest: Manifest, how: Packaging) -> Path:
    """What `make` writes to a new folder of a job's result, as its requester uses it, in `dest`."""
    store = how.store
    with TemporaryDirectory(prefix="proofyard-result-") as folder:
        made = make(Path(folder) / "result")
        complete(job, made, manifest, how.base, how.read, how.names, how.limits)
        cid = store.put_directory(made)
        files = sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file())
    if replaced := [name for name in files if (dest / name).exists()]:
        how.on_replace(replaced)
    return store.export(cid, dest)


def complete(job: JobId, result: Path, manifest: Manifest, base: str, read: Read, names: Names, limits: Limits) -> None:
    """Have the adapters of a result, if there are any, name the model as the requester calls it, and bring its
    tokenizer: from the model's directory where it is here, else from the network."""
    if not adapters_of(result):
        return
    if Path(base).is_absolute() and not Path(base).is_dir():
        base = ""
    with TemporaryDirectory(prefix="proofyard-tokenizer-") as folder:
        here = Path(base) if Path(base).is_absolute() else Path(folder)
        if here == Path(folder) and manifest.model is not None:
            _fetch_tokenizer(job, manifest.model, here, read, names, limits)
        complete_adapters(result, base, here)


def _fetch_tokenizer(job: JobId, model: Cid, folder: Path, read: Read, names: Names, limits: Limits) -> None:
    """The tokenizer's files of a job's model. They may be nowhere any more: that is logged."""
    try:
        for name, cid in names(model).items():
            if name in TOKENIZER_FILES:
                (folder / name).write_bytes(read(cid, limits.tokenizer_bytes))
    except (ArtifactError, TransportError, NoVerifier) as error:
        logger.warning("the tokenizer of job %d's model cannot be had (%s); copy it from the model", job, error)
