"""A proven result as its requester uses it: packaged here, its adapters complete."""

import logging
from collections.abc import Callable
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
from proofyard.workloads.workload import load_workload

logger = logging.getLogger("proofyard.sdk")

Read = Callable[[Cid, int], bytes]
"""The bytes of a file artifact of at most so many bytes."""
Names = Callable[[Cid], dict[str, Cid]]
"""What a folder holds."""


def package(
    proven: Proven,
    said: Cid | None,
    dest: Path,
    *,
    manifest: Manifest,
    base: str,
    store: BlockStore,
    read: Read,
    names: Names,
    limits: Limits,
    on_replace: Callable[[list[str]], object] = lambda _: None,
) -> Path:
    """Package a proven result in `dest`, reading one task's result after another; its adapters name the model `base`,
    "" for its CID. Raises `ResultUnproven` where a verifier `said` that it is another one. `on_replace` gets the names
    of files before they are replaced."""

    def results(task: TaskIndex) -> bytes:
        return read(proven.results[task], limits.result_bytes)

    with TemporaryDirectory(prefix="proofyard-result-") as folder:
        made = load_workload(manifest.workload).package(manifest, results, Path(folder) / "result")
        if said is not None:
            require_package(proven.job, said, store.put_directory(made))
        complete(proven.job, made, manifest, base, read, names, limits)
        cid = store.put_directory(made)
        files = sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file())
    if replaced := [name for name in files if (dest / name).exists()]:
        on_replace(replaced)
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
