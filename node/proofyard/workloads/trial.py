"""A job's model loaded once as nodes load it, beside transformers' own: what only computing shows, before anybody pays.

It happens in a process of its own, where torch and transformers are installed and the model fits in memory, and once
for each model (`exact.selfcheck`). Whoever has neither leaves it to the nodes.
"""

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil

from proofyard.protocol.codec import CodecError, decode_json, prepared
from proofyard.protocol.manifest import Manifest, decode_manifest, encode_manifest
from proofyard.workloads.checked import Checked, checked_folder, use
from proofyard.workloads.errors import ExecutionError, InputRefused, ModelMisread, WorkloadError, from_wire, to_wire
from proofyard.workloads.exact.selfcheck import comparison
from proofyard.workloads.model_files import files_of, weight_files
from proofyard.workloads.sandbox import Policy, Sandbox
from proofyard.workloads.warmup import Warm, environment, warm_up
from proofyard.workloads.workload import Resources, load_workload

logger = logging.getLogger(__name__)

NEEDED = ("torch", "transformers")
TIMEOUT_S = 1800.0
FACTOR = 3
"""A model's weights as they are stored, times this, are more than both ways of computing it take."""

_Ended = tuple[tuple[str, dict[str, Any]] | None, list[tuple[str, float]]]


def try_model(manifest: Manifest, model: Path) -> None:
    """Raise `InputRefused` or `ModelMisread` where no node would compute with this model. Where it cannot be tried
    here, that is logged and nothing else."""
    if not load_workload(manifest.workload).arithmetic:
        return
    size = sum(file.stat().st_size for file in weight_files(model))
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking or FACTOR * size > psutil.virtual_memory().available:
        why = f"{lacking[0]} is not installed" if lacking else "there is not enough memory"
        logger.info("model %s is not tried here: %s; nodes do it", model.name, why)
        return
    known = Checked(checked_folder(), manifest.model or "")
    tried = comparison(model, f"tried by {manifest.workload}", manifest.precision)
    if known.has(tried):
        return
    try:
        found, checked = _tried(manifest, model, known)
    except (subprocess.TimeoutExpired, CodecError, ExecutionError) as error:
        logger.warning("model %s could not be tried here (%s); nodes do it", model.name, type(error).__name__)
        return
    for key, apart in checked:
        known.add(key, apart)
    if found is None:
        known.add(tried, 0.0)
        return
    refusal = from_wire(*found)
    if isinstance(refusal, InputRefused | ModelMisread):
        raise refusal
    logger.warning("model %s could not be tried here (%s); nodes do it", model.name, refusal)


def _tried(manifest: Manifest, model: Path, known: Checked) -> _Ended:
    """What a process in the sandbox finds. Raises `TimeoutExpired`, `MsgspecError` and `ExecutionError`."""
    warm = warm_up(Resources())
    reads = (*files_of(model), str(known.folder), *([warm.library] if warm.library else []))
    gpu = warm.backend.startswith("cuda")
    policy = Policy(read=reads, helper=True, gpu=gpu)
    arguments = [str(model.absolute()), msgspec.json.encode(warm).decode(), str(known.folder)]
    env, data = environment(os.cpu_count() or 1), encode_manifest(manifest)
    done = Sandbox().run(policy, __name__, arguments, data=data, env=env, timeout_s=TIMEOUT_S)
    found: _Ended = decode_json(done.stdout, cast(Any, _Ended))
    return found


def main() -> None:
    """Load the model of the manifest on stdin, as the directory MODEL; print the error that it ends with as JSON, or
    null, and the comparisons that passed."""
    manifest = decode_manifest(sys.stdin.buffer.read())
    model, warm, folder = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=prepared(Warm)), Path(sys.argv[3])
    found, checked = None, list[tuple[str, float]]()
    use(Checked(folder, manifest.model or "", lambda key, apart: checked.append((key, apart))))
    try:
        load_workload(manifest.workload).load_model(manifest, model, warm.used(Resources()))
    except WorkloadError as error:
        found = to_wire(error)
    sys.stdout.buffer.write(msgspec.json.encode((found, checked)))


if __name__ == "__main__":
    main()
