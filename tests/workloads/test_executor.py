import asyncio
import json
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import psutil
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.errors import (
    ExecutionError,
    ExecutorCrashed,
    InputRefused,
    ManifestRefused,
    OutOfMemory,
    SegmentFailed,
    StateRefused,
    TaskStopped,
    TimeLimit,
    UnknownWorkload,
    from_wire,
    to_wire,
    within_memory,
)
from proofyard.workloads.executor import Executor
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.state_store import job_folder
from proofyard.workloads.workload import Inputs, Resources, load_workload


def executors() -> list[psutil.Process]:
    """The executors that this test process has started and that are alive."""
    mine = psutil.Process().children()
    alive = (process for process in mine if process.status() != psutil.STATUS_ZOMBIE)
    return [process for process in alive if "proofyard.workloads.child" in process.cmdline()]


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("executor")


async def test_a_job_runs_task_by_task_and_any_segment_can_be_repeated_exactly(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    losses, results = [], {}
    async with Executor(tmp_path) as executor:
        assert executor.backend
        for task in WORKLOAD.graph(manifest):
            inputs = Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps))
            seen = []
            trace = await executor.run_task(
                manifest,
                task,
                inputs,
                on_progress=lambda p: losses.append(p.loss),
                on_state=lambda n, _, seen=seen: seen.append(n),
            )
            states = [path.read_bytes() for path in trace.states]
            assert seen == list(range(task.segments + 1))
            assert states[0] == WORKLOAD.initial_state(manifest, task, inputs)
            results[task.index] = trace.result.read_bytes()
            assert results[task.index] == WORKLOAD.result(manifest, task, states.__getitem__)
            trace_cids = [cid_of_bytes(state) for state in states]
            WORKLOAD.check_result(manifest, task, results[task.index], states[-1], trace_cids)
            index = task.segments - 1
            assert await executor.run_segment(manifest, task, index, states[index], tiny) == states[index + 1]
    assert [loss for loss in losses if loss is not None][-1] < 0.8 * losses[0]


async def test_a_killed_executor_is_named_and_the_next_order_starts_another(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    first, task = WORKLOAD.graph(manifest)[:2]
    async with Executor(tmp_path) as executor:
        await executor.run_task(manifest, first, tiny)
        (process,) = executors()
        for each in (process, *process.children(recursive=True)):
            each.suspend()  # It would be through before a loaded machine comes to the kill.
        running = asyncio.create_task(executor.run_task(manifest, task, tiny))
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(ExecutorCrashed, match="signal 9"):
            await running
        assert (await executor.run_task(manifest, task, tiny)).resumed == 0


async def test_a_task_resumes_where_its_executor_crashed_and_repairs_what_is_damaged(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(segments=6)
    task = WORKLOAD.graph(manifest)[1]
    told = []
    async with Executor(tmp_path, adversary="crashing") as executor:
        with pytest.raises(ExecutorCrashed, match="exit code 3"):
            await executor.run_task(manifest, task, tiny, on_state=lambda number, _path: told.append(number))
    async with Executor(tmp_path) as executor:
        trace = await executor.run_task(manifest, task, tiny)
        assert task.segments > trace.resumed >= told[-1] >= 1
        trace.states[2].write_bytes(b"damaged")
        repaired = await executor.run_task(manifest, task, tiny)
        assert repaired.resumed == 1
        assert repaired.states[3].read_bytes() == trace.states[3].read_bytes()


async def test_errors_of_the_computation_come_back_typed_and_the_executor_lives_on(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    state = WORKLOAD.initial_state(manifest, task, Inputs())
    tensors = decode_state(state)
    async with Executor(tmp_path) as executor:
        with pytest.raises(StateRefused) as refused:
            await executor.run_segment(manifest, task, 1, state, tiny)
        assert refused.value.tensor == "step" and refused.value.defined
        wild = {n: np.full_like(a, 1e38) if n.startswith(("adapter.", "base.")) else a for n, a in tensors.items()}
        with pytest.raises(SegmentFailed, match="segment 0") as failed:
            await executor.run_segment(manifest, task, 0, encode_state(wild), tiny)
        assert failed.value.segment == 0 and failed.value.defined
        dead = {n: a if n == "step" else np.zeros_like(a) for n, a in tensors.items()}
        with pytest.raises((SegmentFailed, StateRefused), match="no gradient reaches"):
            await executor.run_segment(manifest, task, 0, encode_state(dead), tiny)
        with pytest.raises(ManifestRefused) as manifest_error:
            await executor.run_task(lora_manifest(rank=0), task, tiny)
        assert manifest_error.value.field == "params.rank"
        with pytest.raises(UnknownWorkload, match="lora"):
            await executor.run_task(msgspec.structs.replace(manifest, workload="mining"), task, tiny)
        with pytest.raises(InputRefused, match="layer"):
            await executor.run_task(lora_manifest(modules={"model.nothing": (64, 64)}), task, tiny)
        with pytest.raises(InputRefused, match=r"config\.json"):
            await executor.run_task(manifest, task, Inputs(tmp_path, tiny.data))
        await executor.run_segment(manifest, task, 0, state, tiny)
        pid = executors()[0].pid
        with pytest.raises(StateRefused):
            await executor.run_segment(manifest, task, 1, state, tiny)
        await executor.run_segment(manifest, task, 0, state, tiny)
        assert executors()[0].pid == pid


async def test_a_lack_of_memory_is_reported_and_survived(tiny, lora_manifest, tmp_path):
    """Before loading where the model alone is too large, otherwise where it happens."""
    big = tmp_path / "big"
    big.mkdir()
    for file in tiny.model.iterdir():
        (big / file.name).write_bytes(file.read_bytes())
    with (big / "model.safetensors").open("r+b") as stream:
        stream.truncate(4 << 30)
    manifest, greedy = lora_manifest(), lora_manifest(batch=4096, seq_len=64)
    task, greedy_task = WORKLOAD.graph(manifest)[0], WORKLOAD.graph(greedy)[0]
    async with Executor(tmp_path, resources=Resources(memory_bytes=1 << 30)) as executor:
        with pytest.raises(OutOfMemory, match="4096 MiB") as lacking:
            await executor.run_task(manifest, task, Inputs(big, tiny.data))
        assert not lacking.value.defined
        with pytest.raises(OutOfMemory, match="segment 0"):
            await executor.run_task(greedy, greedy_task, tiny)
        await executor.run_task(manifest, task, tiny)


async def test_a_task_stops_at_a_safe_point_and_resumes(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(segments=200)
    task = WORKLOAD.graph(manifest)[0]
    async with Executor(tmp_path) as executor:
        stops = []

        def stop_in_the_third_segment(progress):
            if progress.segment == 2 and not stops:
                stops.append(asyncio.ensure_future(executor.stop()))

        with pytest.raises(TaskStopped, match="stopped on request"):
            await executor.run_task(manifest, task, tiny, on_progress=stop_in_the_third_segment)
        trace = await executor.run_task(manifest, task, tiny)
        assert 2 <= trace.resumed < 200


async def test_cancelling_a_call_leaves_no_process_and_the_next_call_works(tiny, lora_manifest, tmp_path):
    long = lora_manifest(segments=4096)
    short = lora_manifest(segments=1)
    async with Executor(tmp_path) as executor:
        started = asyncio.Event()
        call = asyncio.create_task(
            executor.run_task(long, WORKLOAD.graph(long)[0], tiny, on_progress=lambda _: started.set())
        )
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not executors()
        await executor.run_task(short, WORKLOAD.graph(short)[0], tiny)
    assert not executors()


async def test_a_silent_executor_is_ended(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    async with Executor(tmp_path) as executor:
        await executor.run_task(manifest, WORKLOAD.graph(manifest)[0], tiny)
        for process in (*executors(), *executors()[0].children(recursive=True)):
            process.suspend()
        executor._silence_s = 0.2
        with pytest.raises(TimeLimit, match="silent"):
            await executor.run_task(manifest, WORKLOAD.graph(manifest)[0], tiny)
    assert not executors()


async def test_skipping_half_of_the_steps_gives_other_states(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    async with Executor(tmp_path / "a") as honest, Executor(tmp_path / "b", adversary="skip-half") as cheat:
        trace = await cheat.run_task(manifest, task, tiny)
        states = [path.read_bytes() for path in trace.states]
        assert WORKLOAD.result(manifest, task, states.__getitem__)
        for index in range(task.segments):
            assert await honest.run_segment(manifest, task, index, states[index], tiny) != states[index + 1]


async def test_a_wrong_result_does_not_follow_from_its_trace(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(segments=1)
    task = WORKLOAD.graph(manifest)[0]
    async with Executor(tmp_path, adversary="wrong-result") as cheat:
        trace = await cheat.run_task(manifest, task, tiny)
    last = trace.states[-1].read_bytes()
    assert trace.result.read_bytes() != WORKLOAD.result(manifest, task, lambda _: last)
    with pytest.raises(StateRefused, match="not what"):
        WORKLOAD.check_result(manifest, task, trace.result.read_bytes(), last, [])


async def test_a_table_of_rows_is_put_together_from_the_states_on_disk(tiny, tmp_path):
    params = {"rows": 100, "segment_rows": 30, "segments": 4}
    manifest = Manifest(workload="map", data=Cid("data"), params=params)
    workload = load_workload("map")
    task = workload.graph(manifest)[0]
    async with Executor(tmp_path) as executor:
        trace = await executor.run_task(manifest, task, tiny)
        states = [path.read_bytes() for path in trace.states]
        result = trace.result.read_bytes()
        workload.check_result(manifest, task, result, states[-1], [cid_of_bytes(state) for state in states])
        assert await executor.run_segment(manifest, task, 2, states[2], tiny) == states[3]
        again = await executor.run_task(manifest, task, tiny)
    assert again.resumed == 4 and again.result.read_bytes() == result


async def test_a_state_against_the_laws_is_not_even_loaded_a_model_for(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    task = WORKLOAD.graph(manifest)[0]
    tensors = {n: np.array(a) for n, a in decode_state(WORKLOAD.initial_state(manifest, task, Inputs())).items()}
    tensors["step"][...] = 2
    tensors["second.model.layers.0.self_attn.q_proj.lora_A"][0, 0] = -1e-9
    async with Executor(tmp_path) as executor:
        with pytest.raises(StateRefused, match="negative") as refused:
            await executor.run_segment(manifest, task, 1, encode_state(tensors), Inputs())
    assert refused.value.tensor == "second.model.layers.0.self_attn.q_proj.lora_A"


async def test_an_unknown_adversary_is_named(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest()
    async with Executor(tmp_path, adversary="gremlin") as executor:
        with pytest.raises(ExecutionError, match="gremlin"):
            await executor.run_task(manifest, WORKLOAD.graph(manifest)[0], tiny)


async def test_another_job_gets_another_process_and_nothing_of_the_first(tiny, tmp_path):
    params = {"rows": 100, "segment_rows": 100, "segments": 1}
    one, other = (Manifest(workload="map", data=Cid("data"), params=params, seed=seed) for seed in (1, 2))
    async with Executor(tmp_path) as executor:
        await executor.run_task(one, load_workload("map").graph(one)[0], tiny)
        (first,) = executors()
        await executor.run_task(other, load_workload("map").graph(other)[0], tiny)
        (second,) = executors()
        assert first.pid != second.pid
        assert str(job_folder(tmp_path, one)) not in " ".join(second.cmdline())


async def test_a_child_goes_on_with_its_job_after_a_task_was_forgotten_and_what_is_old_was_swept(tiny, tmp_path):
    params = {"rows": 100, "segment_rows": 50, "segments": 2}
    manifest = Manifest(workload="map", data=Cid("data"), params=params)
    (task,) = load_workload("map").graph(manifest)
    async with Executor(tmp_path) as executor:
        trace = await executor.run_task(manifest, task, tiny)
        before, after = trace.states[0].read_bytes(), trace.states[1].read_bytes()
        (first,) = executors()
        executor.forget(manifest, task, tiny)
        executor.sweep(time.time() + 60)
        assert await executor.run_segment(manifest, task, 0, before, tiny) == after
        assert executors() == [first]
    assert not any(tmp_path.iterdir())


def test_the_child_dies_with_its_parent(tiny, tmp_path):
    code = (
        "import asyncio, sys, psutil\n"
        "from pathlib import Path\n"
        "from proofyard.protocol.manifest import Manifest\n"
        "from proofyard.workloads.executor import Executor\n"
        "from proofyard.workloads.workload import Inputs, load_workload\n"
        "job = Manifest(workload='map', data='data', params={'rows': 100, 'segment_rows': 100, 'segments': 1})\n"
        "async def main():\n"
        "    async with Executor(Path(sys.argv[1])) as executor:\n"
        "        task = load_workload('map').graph(job)[0]\n"
        "        await executor.run_task(job, task, Inputs(data=Path(sys.argv[2])))\n"
        "        found = psutil.Process().children(recursive=True)\n"
        "        print(*(each.pid for each in found), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(tiny.data)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs(children, timeout=60)
    assert children and not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


def test_importing_the_parent_side_does_not_load_torch():
    code = (
        "import sys; import proofyard.workloads.executor, proofyard.workloads.lora, proofyard.workloads.lora_export;"
        "import proofyard.workloads.workload as w; w.load_workload('lora');"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'peft', 'tokenizers'}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize(
    "error",
    [
        UnknownWorkload("x", ["lora"]),
        UnknownWorkload("x", ["lora"], ["agrees"]),
        ManifestRefused("params.lr", "is wrong"),
        InputRefused("data", "is empty"),
        StateRefused("is NaN", "x"),
        SegmentFailed(3, "loss"),
        OutOfMemory("none left"),
    ],
)
def test_errors_cross_the_process_boundary_whole(error):
    name, operands = to_wire(error)
    again = from_wire(name, json.loads(json.dumps(operands)))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
    ],
)
def test_a_lack_of_memory_has_one_name_whoever_says_it(error):
    with pytest.raises(OutOfMemory, match="the model does not fit"), within_memory("the model"):
        raise error


def test_what_else_a_library_says_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), within_memory("the model"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
