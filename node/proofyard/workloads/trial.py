"""A job's model loaded once as nodes load it, beside transformers' own: what only computing shows, before anybody pays.

It happens in a process of its own, where torch and transformers are installed and the model fits in memory, and once
for each model (`exact.selfcheck`). Whoever has neither leaves it to the nodes.
"""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from proofyard.protocol.manifest import Manifest, decode_manifest, encode_manifest
from proofyard.workloads.errors import InputRefused, ModelMisread, WorkloadError, from_wire, to_wire
from proofyard.workloads.exact.selfcheck import marker_of
from proofyard.workloads.model_files import weight_files
from proofyard.workloads.workload import Resources, load_workload

logger = logging.getLogger(__name__)

NEEDED = ("torch", "transformers")
TIMEOUT_S = 1800.0
FACTOR = 3
"""A model's weights as they are stored, times this, are more than both ways of computing it take."""


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
    marker = marker_of(model, f"tried by {manifest.workload}", manifest.precision)
    if marker.exists():
        return
    command = [sys.executable, "-m", __name__, str(model)]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=encode_manifest(manifest), capture_output=True, check=False, timeout=TIMEOUT_S
        )
        found = msgspec.json.decode(done.stdout, type=tuple[str, dict[str, Any]] | None)
    except (subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
        logger.warning("model %s could not be tried here (%s); nodes do it", model.name, type(error).__name__)
        return
    if found is None:
        marker.touch()
        return
    refusal = from_wire(*found)
    if isinstance(refusal, InputRefused | ModelMisread):
        raise refusal
    logger.warning("model %s could not be tried here (%s); nodes do it", model.name, refusal)


def main() -> None:
    """Load the model of the manifest on stdin, as the directory MODEL; print the error that it ends with as JSON, or
    null."""
    manifest = decode_manifest(sys.stdin.buffer.read())
    found = None
    try:
        load_workload(manifest.workload).load_model(manifest, Path(sys.argv[1]), Resources())
    except WorkloadError as error:
        found = to_wire(error)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
