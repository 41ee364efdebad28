import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.workloads.errors import OutOfDisk
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state_store import StateStore, states_to_keep, task_folder, write_durably
from proofyard.workloads.workload import Inputs


def test_a_damaged_state_is_noticed_and_dropped(tmp_path):
    store = StateStore(tmp_path)
    path = store.write(3, b"state")
    assert store.read(3) == (path, b"state")
    assert store.read(2) is None
    path.write_bytes(b"stale")
    assert store.read(3) is None
    assert not path.exists()


def test_other_inputs_have_another_folder(tmp_path, lora_manifest):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[2]
    folders = {
        task_folder(tmp_path, manifest, task, Inputs(results=(b"a",))),
        task_folder(tmp_path, manifest, task, Inputs(results=(b"b",))),
        task_folder(tmp_path, lora_manifest(lr=0.02), task, Inputs(results=(b"a",))),
        task_folder(tmp_path, manifest, WORKLOAD.graph(manifest)[3], Inputs(results=(b"a",))),
    }
    assert len(folders) == 4


@given(st.integers(1, 300), st.integers(1, 1000), st.integers(0, 400_000))
def test_what_is_kept_fits_the_budget_and_is_not_thinner_than_needed(segments, size, budget):
    if budget < size:
        with pytest.raises(OutOfDisk):
            states_to_keep(segments, size, budget)
        return
    keep = states_to_keep(segments, size, budget)
    assert 0 in keep and len(keep) * size <= budget
    if keep.step > 1:
        assert len(range(0, segments + 1, keep.step - 1)) * size > budget


async def test_a_state_that_was_not_kept_is_made_again_exactly(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(segments=5)
    task = WORKLOAD.graph(manifest)[0]
    async with Executor(tmp_path) as executor:
        trace = await executor.run_task(manifest, task, tiny)
        states = [path.read_bytes() for path in trace.states]
        executor.forget(manifest, task, tiny)
        assert not any(path.exists() for path in trace.states)
        keep = states_to_keep(task.segments, len(states[0]), 2 * len(states[0]))
        assert list(keep) == [0, 3]
        for kept, number in ((0, 2), (3, 5)):
            assert await executor.advance(manifest, task, tiny, states[kept], kept, number) == states[number]


def test_a_full_disk_is_reported_and_leaves_no_torn_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutOfDisk, match="2000 bytes"):
            write_durably(tmp_path / "state", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
