"""Our training against the libraries that people know: PEFT for the model, torch for the optimizer."""

import numpy as np
import peft
import pytest
import torch
from msgspec.structs import replace
from transformers import AutoModelForCausalLM

from proofyard.workloads import determinism
from proofyard.workloads.causal_lm import adapted_model
from proofyard.workloads.lora import WORKLOAD, put, take
from proofyard.workloads.lora_export import export_adapter
from proofyard.workloads.lora_params import read_params
from proofyard.workloads.quantized import QUANTIZED
from proofyard.workloads.sketch import exact_distance
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.text_data import batch_rows, is_held_out, pack, read_documents, shard
from proofyard.workloads.workload import Inputs, Resources

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it


@pytest.fixture(autouse=True)
def deterministic():
    determinism.configure(threads=1)
    yield
    torch.set_deterministic_debug_mode("default")


def finished_job(manifest, tiny):
    """The states of the first task, and the result of a one-round job."""
    results = {}
    first = []
    for task in WORKLOAD.graph(manifest):
        inputs = Inputs(tiny.model, tiny.data, tuple(results[d] for d in task.deps))
        states = [WORKLOAD.initial_state(manifest, task, inputs)]
        runner = WORKLOAD.runner(manifest, task, inputs, Resources())
        for index in range(task.segments):
            states.append(runner.run(index, states[-1], lambda _: None))
        results[task.index] = WORKLOAD.result(manifest, task, states[-1])
        first = first or states
    return first, results[max(results)]


def peft_model(manifest, tiny, result, folder):
    base = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    directory = export_adapter(manifest, result, folder, "tiny")
    return peft.PeftModel.from_pretrained(base, directory, is_trainable=True).eval()


def test_peft_loads_the_result_and_computes_the_same(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(rounds=1)
    _, result = finished_job(manifest, tiny)
    theirs = peft_model(manifest, tiny, result, tmp_path / "adapter")
    ours = adapted_model(tiny.model, read_params(manifest), "fp32", Resources())
    ours.set_adapter(take(decode_state(result), "adapter"))
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=tokens).logits, ours.model(input_ids=tokens).logits)
    again = export_adapter(manifest, result, tmp_path / "again", "tiny")
    for file in again.iterdir():
        assert file.read_bytes() == (tmp_path / "adapter" / file.name).read_bytes()


def test_training_is_what_a_plain_peft_loop_with_adamw_does(tiny, lora_manifest, tmp_path):
    manifest = lora_manifest(rounds=1, warmup_steps=2, lr_end=0.5, weight_decay=0.01, clip=0.5)
    params = read_params(manifest)
    states, _ = finished_job(manifest, tiny)
    start = take(decode_state(states[0]), "adapter")
    zeros = {name: np.zeros_like(array) for name, array in start.items()}
    model = peft_model(manifest, tiny, encode_state(put(start, "adapter") | put(zeros, "velocity")), tmp_path)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(), betas=(params.beta1, params.beta2), eps=params.eps, weight_decay=params.weight_decay
    )
    documents = [d for d in read_documents(tiny.data) if not is_held_out(d, params.holdout_percent)]
    rows = pack(shard(documents, params.workers, 0, "label"), tiny.model, params.seq_len)
    for step in range(params.task_steps):
        batch = torch.from_numpy(rows[batch_rows(len(rows), params.batch, step, "lora batches", manifest.seed, 0)])
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), params.clip)
        optimizer.param_groups[0]["lr"] = params.lr_at(step)
        optimizer.step()
    final = take(decode_state(states[-1]), "adapter")
    plain = {
        n.removeprefix("base_model.model.").replace(".default.weight", ""): p.detach().numpy()
        for n, p in weights.items()
    }
    moved = {n: final[n] - start[n] for n in final}
    assert exact_distance(moved, {n: plain[n] - start[n] for n in final}) < 1e-3


def test_micro_batches_and_threads_change_only_the_rounding(tiny, lora_manifest):
    manifest = lora_manifest(rounds=1)
    task = WORKLOAD.graph(manifest)[0]
    before = WORKLOAD.initial_state(manifest, task, tiny)
    whole = WORKLOAD.runner(manifest, task, tiny, Resources()).run(0, before, lambda _: None)
    split = WORKLOAD.runner(manifest, task, tiny, Resources(micro_batch=1)).run(0, before, lambda _: None)
    distance = exact_distance(*(WORKLOAD.change(manifest, task, before, state) for state in (whole, split)))
    assert distance < 1e-3
    torch.set_num_threads(2)
    assert WORKLOAD.runner(manifest, task, tiny, Resources()).run(0, before, lambda _: None) == whole


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.005), ("nf4", 0.1)])
def test_quantized_weights_stay_close_and_keep_nothing_for_the_backward_pass(precision, error):
    torch.manual_seed(0)
    base = torch.nn.Linear(70, 30)
    layer = QUANTIZED[precision](base)
    spread = (layer.expand() - base.weight).norm() / base.weight.norm()
    assert 0 < spread < error
    x = torch.randn(5, 70, requires_grad=True)
    out = layer(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, layer.expand(), base.bias))
    torch.testing.assert_close(gradient, torch.ones(5, 30) @ layer.expand())


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_every_precision_trains_and_is_its_own_class(tiny, lora_manifest, precision):
    manifest = replace(lora_manifest(rounds=1), execution_class=precision)
    task = WORKLOAD.graph(manifest)[0]
    losses = []
    state = before = WORKLOAD.initial_state(manifest, task, tiny)
    runner = WORKLOAD.runner(manifest, task, tiny, Resources())
    for index in range(task.segments):
        state = runner.run(index, state, lambda p: losses.append(p.loss))
    assert losses[-1] < losses[0]
    exact = WORKLOAD.runner(lora_manifest(rounds=1), task, tiny, Resources()).run(0, before, lambda _: None)
    mine = WORKLOAD.runner(manifest, task, tiny, Resources()).run(0, before, lambda _: None)
    distance = exact_distance(*(WORKLOAD.change(manifest, task, before, after) for after in (exact, mine)))
    assert distance > manifest.tolerance
