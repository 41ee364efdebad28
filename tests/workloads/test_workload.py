"""The protocol itself: what an object lacks to be a workload, inexact ones, and which failures are answers."""

import sys
from types import ModuleType

import numpy as np
import pytest

from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.protocol.manifest import MAX_DEPS, Manifest, TaskSpec
from proofyard.protocol.messages import TaskOffer
from proofyard.protocol.types import Cid, JobId, TaskIndex
from proofyard.transport.frames import MAX_HEADER_BYTES
from proofyard.workloads import errors
from proofyard.workloads.errors import ManifestRefused, UnknownWorkload, WorkloadError
from proofyard.workloads.rows import RowsParams, RowsWorkload
from proofyard.workloads.state import TensorSpec, decode_state, encode_state
from proofyard.workloads.text_data import Document
from proofyard.workloads.workload import InexactWorkload, Inputs, Resources, Workload, load_workload, task_graph

BUILT_IN = {"lora": True, "sweep": True, "embed": True, "evaluate": True, "map": False}


class Loudness(RowsWorkload):
    """A number a line that differs a little from machine to machine."""

    name = "loudness"
    exact = False
    params_type = RowsParams
    row_type = Document

    def __init__(self, error=0.0):
        self.error = error

    def needs_model(self, params):
        return False

    def columns(self, params):
        return {"loudness": TensorSpec("F32", ())}

    def compute(self, manifest, params, inputs, resources):
        return lambda lines: {"loudness": np.array([len(line.text) + self.error for line in lines], np.float32)}

    def package(self, manifest, results, dest):
        return dest

    def agrees(self, manifest, task, segment, before, one, other):
        a, b = (decode_state(state)["loudness"] for state in (one, other))
        return bool((np.abs(a - b) <= np.float32(0.01)).all())


def installed(monkeypatch, tmp_path, workload):
    """Makes `workload` an installed one."""
    module = ModuleType("some_workload")
    module.WORKLOAD = workload
    monkeypatch.setitem(sys.modules, "some_workload", module)
    info = tmp_path / "some_workload-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-workload\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[proofyard.workloads]\n{workload.name} = some_workload:WORKLOAD\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(("name", "arithmetic"), BUILT_IN.items())
def test_the_built_in_workloads_are_exact_and_say_whether_they_need_the_arithmetic(name, arithmetic):
    workload: Workload = load_workload(name)
    assert (workload.exact, workload.arithmetic) == (True, arithmetic)


def test_an_inexact_workload_says_what_agrees(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path, Loudness())
    workload: InexactWorkload = load_workload("loudness")
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a"}\n{"text": "abc"}')
    manifest = Manifest(workload="loudness", data=Cid("data"), params={"rows": 2, "segment_rows": 2, "segments": 1})
    task = workload.graph(manifest)[0]
    inputs = Inputs(data=data)
    before = workload.initial_state(manifest, task, inputs)
    ours, theirs, false = (
        Loudness(error).runner(manifest, task, inputs, Resources()).run(0, before, lambda _: None)
        for error in (0.0, 0.003, 0.02)
    )
    for state in (ours, theirs, false):
        workload.check_state(manifest, task, 1, state)
    assert ours != theirs
    assert workload.agrees(manifest, task, 0, before, ours, theirs)
    assert not workload.agrees(manifest, task, 0, before, ours, false)


def test_an_inexact_workload_without_its_own_metric_is_not_used(monkeypatch, tmp_path):
    class Mute(Loudness):
        agrees = property()

    installed(monkeypatch, tmp_path, Mute())
    with pytest.raises(UnknownWorkload, match="lacks agrees"):
        load_workload("loudness")


def test_a_workload_of_an_older_protocol_is_told_what_it_lacks(monkeypatch, tmp_path):
    class Old:
        name = "old"

        def change(self, manifest, task, before, after):
            return {}

    installed(monkeypatch, tmp_path, Old())
    with pytest.raises(
        UnknownWorkload, match=r"lacks exact, arithmetic, check, .*check_state, max_bytes, result, check_result"
    ):
        load_workload("old")


def test_a_workload_under_another_name_is_not_used(monkeypatch, tmp_path):
    workload = Loudness()
    installed(monkeypatch, tmp_path, workload)
    monkeypatch.setattr(workload, "name", "silence")
    with pytest.raises(UnknownWorkload, match="name that it is installed under"):
        load_workload("loudness")


def test_only_what_follows_from_manifest_inputs_and_state_is_an_answer():
    """Whoever adds an error decides this; a machine's own trouble as an answer would convict honest workers."""
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, WorkloadError)}
    assert {name for name in kinds if getattr(errors, name).defined} == {
        "SegmentFailed",
        "StateRefused",
        "InputRefused",
    }


def test_a_table_of_an_inexact_workload_is_still_checked():
    manifest = Manifest(workload="loudness", data=Cid("data"), params={"rows": 2, "segment_rows": 2, "segments": 1})
    workload = Loudness()
    task = workload.graph(manifest)[0]
    with pytest.raises(errors.StateRefused):
        workload.check_state(manifest, task, 1, encode_state({"loudness": np.zeros(3, np.float32)}))


def test_a_workload_without_the_arithmetic_knows_one_precision():
    params = {"rows": 2, "segment_rows": 2, "segments": 1}
    manifest = Manifest(workload="loudness", data=Cid("data"), params=params, precision="exact8")
    with pytest.raises(errors.ManifestRefused, match="knows exact;"):
        Loudness().check(manifest)


class Graphed:
    """A workload whose graph is what the test says."""

    name, exact, arithmetic = "graphed", True, False

    def __init__(self, *deps):
        self.deps = deps

    def graph(self, manifest):
        return [TaskSpec(index=TaskIndex(n), kind="k", deps=tuple(deps)) for n, deps in enumerate(self.deps)]

    def __getattr__(self, member):
        if member.startswith("__"):
            raise AttributeError(member)
        return lambda *_: None


@pytest.mark.parametrize(
    ("deps", "reason"),
    [
        ([], "0 tasks"),
        ([()] * 100_001, "100001 tasks"),
        ([(), (1,)], "does not come before"),
        ([(), (2,), ()], "does not come before"),
        ([(-1,)], "does not come before"),
        ([*[()] * 257, tuple(range(257))], "257 results, at most 256"),
    ],
)
def test_a_graph_that_no_verifier_can_schedule_is_refused(deps, reason):
    with pytest.raises(ManifestRefused, match=reason):
        task_graph(Graphed(*deps), Manifest(workload="graphed", params={}))


def test_as_many_inputs_as_fit_an_offer_are_taken():
    deps = [*[()] * MAX_DEPS, tuple(range(MAX_DEPS))]
    graph = task_graph(Graphed(*deps), Manifest(workload="graphed", params={}))
    cids = tuple(raw_cid(b"result %d" % number) for number in range(MAX_DEPS))
    offer = TaskOffer(JobId(1), raw_cid(b"manifest"), graph[-1], cids, (), 15.0)
    assert len(encode(offer)) < MAX_HEADER_BYTES / 4
