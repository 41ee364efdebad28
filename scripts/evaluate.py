"""Held-out loss and a text sample of a model, with or without an adapter, as JSON on stdout.

Plain transformers and PEFT, none of the code that trained the adapter: a second opinion on what a job delivered.
Run as a program of its own, so that its memory is given back.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from proofyard.workloads.text_data import is_held_out, pack, read_documents
from proofyard.workloads.tokenizer import Tokenizer

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="a PEFT adapter directory; the base model without it")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--holdout-percent", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--new-tokens", type=int, default=36)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    if args.adapter:
        model = PeftModel.from_pretrained(model, str(args.adapter))
    model = model.to(device).eval()
    with torch.inference_mode():
        loss = held_out_loss(model, device, args)
        text = sample(model, device, args)
    print(json.dumps({"loss": loss, "text": text}))


def held_out_loss(model: Any, device: str, args: argparse.Namespace) -> float:
    """Mean loss in nats a token over the first rows of the documents that no worker trains on."""
    documents = [d for d in read_documents(args.data) if is_held_out(d, args.holdout_percent)]
    rows: Any = torch.from_numpy(pack(documents, args.model, args.seq_len)[: args.sequences])
    total = 0.0
    for batch in rows.to(device).split(BATCH):
        logits = model(batch[:, :-1]).logits
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return float(total / rows[:, 1:].numel())


def sample(model: Any, device: str, args: argparse.Namespace) -> str:
    """The most likely continuation of the prompt, without the prompt."""
    tokenizer = Tokenizer(args.model)
    ids = torch.tensor([tokenizer.tokens(args.prompt)], device=device)
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=args.new_tokens,
        do_sample=False,
        repetition_penalty=1.1,
    )
    return tokenizer.decode(written[0, ids.shape[1] :].tolist())


if __name__ == "__main__":
    main()
