"""Our training against the libraries that people know: PEFT for the model, torch for the optimizer."""

import numpy as np
import peft
import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.lora_rounds import start_of_round, whole_adapter
from proofyard.workloads.lora_tensors import take
from proofyard.workloads.state import decode_state
from proofyard.workloads.text_data import batch_rows, is_held_out, pack, read_documents, shard
from proofyard.workloads.workload import Inputs, Resources

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

LOSS_ERROR, UPDATE_ERROR = 0.02, 0.1
"""How far the exact arithmetic may be from float32: a loss, and the whole change of a task, relative to it."""


def run_task(manifest, task, inputs, resources=None):
    """The states of a task and the loss of each step."""
    losses = []
    states = [WORKLOAD.initial_state(manifest, task, inputs)]
    runner = WORKLOAD.runner(manifest, task, inputs, resources or Resources())
    for index in range(task.segments):
        WORKLOAD.check_state(manifest, task, index, states[-1])
        states.append(runner.run(index, states[-1], lambda progress: losses.append(progress.loss)))
    WORKLOAD.check_state(manifest, task, task.segments, states[-1])
    return states, losses


def finished_job(manifest, tiny):
    """The states and losses of the first task, and the adapter that the job gives."""
    results, first = {}, None
    for task in WORKLOAD.graph(manifest):
        states, losses = run_task(manifest, task, Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps)))
        results[task.index] = WORKLOAD.result(manifest, task, states.__getitem__)
        first = first or (states, losses)
    last = [results[task] for task in WORKLOAD.finals(manifest)]
    params = read_params(manifest)
    start = start_of_round(params, manifest.seed, last, params.rounds)
    return first, whole_adapter(params, manifest.seed, start)


def peft_model(manifest, tiny, result, folder):
    base = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    directory = export_adapter(manifest, result, folder, "tiny")
    return peft.PeftModel.from_pretrained(base, directory, is_trainable=True).eval()


def batches(manifest, tiny):
    """The first worker's batches in the first round, step by step."""
    params = read_params(manifest)
    documents = [d for d in read_documents(tiny.data) if not is_held_out(d, params.holdout_percent)]
    rows = pack(shard(documents, params.workers, 0, "label"), tiny.model, params.seq_len)
    for step in range(params.task_steps):
        yield torch.from_numpy(rows[batch_rows(len(rows), params.batch, step, "lora batches", manifest.seed, 0)])


def mean_loss(model, batch):
    logits = model(input_ids=batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def test_peft_loads_the_result_and_has_the_same_loss(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(rounds=1, segment_steps=1)
    (states, losses), result = finished_job(manifest, tiny)
    for state, loss, batch in zip(states[:-1], losses, batches(manifest, tiny), strict=True):
        theirs = peft_model(manifest, tiny, take(decode_state(state), "adapter"), tmp_path / "adapter")
        with torch.no_grad():
            assert float(mean_loss(theirs, batch)) == pytest.approx(loss, rel=LOSS_ERROR)
    one, again = (export_adapter(manifest, result, tmp_path / name, "tiny") for name in ("one", "again"))
    for file in again.iterdir():
        assert file.read_bytes() == (one / file.name).read_bytes()


def test_training_is_what_a_plain_peft_loop_with_adamw_does(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(rounds=1, warmup_steps=2, lr_end=0.5, weight_decay=0.01, clip=0.5)
    params = read_params(manifest)
    (states, losses), _ = finished_job(manifest, tiny)
    start = take(decode_state(states[0]), "adapter")
    model = peft_model(manifest, tiny, start, tmp_path)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(), betas=(params.beta1, params.beta2), eps=params.eps, weight_decay=params.weight_decay
    )
    for step, batch in enumerate(batches(manifest, tiny)):
        loss = mean_loss(model, batch)
        assert float(loss.detach()) == pytest.approx(losses[step], rel=LOSS_ERROR)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), params.clip)
        optimizer.param_groups[0]["lr"] = params.lr_at(step)
        optimizer.step()
    plain = {
        n.removeprefix("base_model.model.").replace(".default.weight", ""): p.detach().numpy()
        for n, p in weights.items()
    }
    final = take(decode_state(states[-1]), "adapter")
    ours, theirs = (np.concatenate([(end[n] - start[n]).reshape(-1) for n in sorted(start)]) for end in (final, plain))
    assert np.linalg.norm(ours - theirs) < UPDATE_ERROR * np.linalg.norm(theirs)


@pytest.mark.parametrize("resources", [Resources(micro_batch=1), Resources(micro_batch=3), Resources(threads=2)])
def test_micro_batches_and_threads_change_nothing(tiny, lora_manifest, resources):
    manifest = lora_manifest(rounds=1)
    task = WORKLOAD.graph(manifest)[0]
    whole, _ = run_task(manifest, task, tiny)
    assert run_task(manifest, task, tiny, resources)[0] == whole


@pytest.mark.parametrize("precision", ["exact", "exact8", "exact4"])
def test_every_precision_trains_and_none_is_another(tiny, lora_manifest, precision):
    manifest = replace(lora_manifest(rounds=1), precision=precision)
    task = WORKLOAD.graph(manifest)[0]
    states, losses = run_task(manifest, task, tiny)
    assert losses[-1] < losses[0]
    if precision != "exact":
        other, _ = run_task(lora_manifest(rounds=1), task, tiny)
        assert all(one != another for one, another in zip(states[1:], other[1:], strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": 1e-30},
        {"beta2": 0.0},
        {"beta1": 0.0, "beta2": 0.0, "eps": 1e-30},
        {"lr": 0.0},
        {"lr": 1e-30},
        {"lr": 1e3},
        {"lr": 1e6, "alpha": 1e6},
        {"clip": 1e-6},
        {"lr_end": 0.0, "warmup_steps": 5},
        {"segment_steps": 64, "segments": 1},
        {"rank": 1},
        {"rank": 64},
    ],
)
def test_extreme_jobs_end_in_lawful_states_or_in_a_failure_that_everybody_shares(tiny, lora_manifest, changes):
    manifest = lora_manifest(rounds=1, batch=2, seq_len=16, **changes)
    task = WORKLOAD.graph(manifest)[0]

    def outcome(resources):
        try:
            return run_task(manifest, task, tiny, resources)[0]
        except WorkloadError as error:
            assert error.defined
            return type(error), str(error)

    assert outcome(Resources()) == outcome(Resources(micro_batch=1))
