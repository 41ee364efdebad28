"""The example of a workload from outside, as an installed package is: its module and its entry point on the path."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.sdk import JobRefused, make_job
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.executor import Executor
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs, load_workload

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_workload"


async def test_a_workload_from_outside_is_found_executed_and_audited(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "proofyard_readability-0.1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE / "readability.py", site)
    shutil.copy(EXAMPLE / "readability_job.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: proofyard-readability\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[proofyard.workloads]\nreadability = readability:WORKLOAD\n"
        "[proofyard.jobs]\nreadability = readability_job:ReadabilityJob\nbroken = readability:WORKLOAD\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": "ab " * n + "abcd"}) for n in range(5)))
    params = {"rows": 5, "segment_rows": 2, "segments": 3}
    manifest = Manifest(workload="readability", data=Cid("data"), params=params)
    workload = load_workload("readability")
    (compute,) = workload.graph(manifest)
    spec = make_job("readability", {"data": data, "segment_rows": 2, "segments": 3})
    assert spec.manifest(None, Cid("data")) == manifest
    with pytest.raises(JobRefused, match="readability:WORKLOAD is no job spec"):
        make_job("broken", {})
    async with Executor(tmp_path / "work") as executor:
        trace = await executor.run_task(manifest, compute, Inputs(data=data))
        states = [path.read_bytes() for path in trace.states]
        assert await executor.run_segment(manifest, compute, 1, states[1], Inputs(data=data)) == states[2]
        result = trace.result.read_bytes()
        workload.check_result(manifest, compute, result, states[-1], [cid_of_bytes(state) for state in states])
    with pytest.raises(StateRefused, match="word_length"):
        table = dict(decode_state(states[1]))
        workload.check_state(manifest, compute, 1, encode_state(table | {"word_length": -table["word_length"]}))
    folder = workload.package(manifest, lambda _: result, tmp_path / "out")
    rows = [json.loads(line) for line in (folder / "readability.jsonl").read_text().splitlines()]
    assert [row["words"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[1]["word_length"] == 3.0


def test_the_example_names_its_entry_point():
    project = (EXAMPLE / "pyproject.toml").read_text()
    assert 'readability = "readability:WORKLOAD"' in project
    code = "import sys; sys.path.insert(0, sys.argv[1]); import readability; print(readability.WORKLOAD.name)"
    done = subprocess.run([sys.executable, "-c", code, str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "readability"
