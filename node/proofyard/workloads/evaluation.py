"""What a fine-tuned model is worth: its loss on text that nobody trained on, and a sample of what it writes."""

from typing import Any

from proofyard.protocol.manifest import Manifest
from proofyard.workloads.causal_lm import AdaptedModel, adapted_model
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.lora import adapter_schema, prefixed_schema, take
from proofyard.workloads.lora_params import check_manifest
from proofyard.workloads.state import decode_state, read_schema
from proofyard.workloads.text_data import is_held_out, load_tokenizer, pack, read_documents
from proofyard.workloads.workload import Inputs, Resources

EVALUATION_BATCH = 4


def held_out_loss(
    manifest: Manifest, inputs: Inputs, resources: Resources, result: bytes | None, sequences: int = 32
) -> float:
    """Mean loss in nats a token over the first `sequences` rows of the held-out documents.

    `result` is the result artifact of a `lora` task, or None for the base model.
    """
    params = check_manifest(manifest)
    model = _model(manifest, inputs, resources, result)
    if inputs.data is None or inputs.model is None:
        raise InputRefused("the evaluation", "was given no model directory or no data file")
    documents = [d for d in read_documents(inputs.data) if is_held_out(d, params.holdout_percent)]
    rows = pack(documents, inputs.model, params.seq_len)[:sequences]
    batches = (rows[start : start + EVALUATION_BATCH] for start in range(0, len(rows), EVALUATION_BATCH))
    return sum(model.loss_sum(batch) for batch in batches) / (len(rows) * params.seq_len)


def generate(
    manifest: Manifest, inputs: Inputs, resources: Resources, result: bytes | None, prompt: str, new_tokens: int
) -> str:
    """`prompt` and its most likely continuation of up to `new_tokens` tokens."""
    import torch

    if inputs.model is None:
        raise InputRefused("the evaluation", "was given no model directory")
    adapted = _model(manifest, inputs, resources, result)
    tokenizer = load_tokenizer(inputs.model)
    ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids], device=adapted.device)
    with torch.no_grad():
        written: Any = adapted.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.1
        )
    return str(tokenizer.decode(written[0].tolist(), skip_special_tokens=True))


def _model(manifest: Manifest, inputs: Inputs, resources: Resources, result: bytes | None) -> AdaptedModel:
    params = check_manifest(manifest)
    if inputs.model is None:
        raise InputRefused("the evaluation", "was given no model directory")
    model = adapted_model(inputs.model, params, manifest.execution_class, resources)
    if result is None:
        model.set_adapter({})
    else:
        groups = (
            ("adapter", "velocity") if any(n.startswith("velocity.") for n in read_schema(result)) else ("adapter",)
        )
        tensors = decode_state(result, schema=prefixed_schema(adapter_schema(params), *groups))
        model.set_adapter(take(tensors, "adapter"))
    return model
