"""The yardstick of `bench_verify.py`: the same training steps as people write them, PEFT and torch's AdamW.

Prints the seconds that the steps took, model loading not counted.
"""

import json
import sys
import time
from pathlib import Path

import msgspec
import peft
import torch
from transformers import AutoModelForCausalLM

from proofyard.workloads.determinism import configure
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_runner import training_rows
from proofyard.workloads.text_data import batch_rows


def main() -> None:
    order = json.loads(sys.argv[1])
    params = msgspec.convert(order["params"], LoraParams)
    configure(threads=1)
    rows = training_rows(Path(order["model"]), Path(order["data"]), params, 0)
    base = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32)
    config = peft.LoraConfig(r=params.rank, lora_alpha=params.alpha, target_modules=sorted(params.modules))
    model = peft.get_peft_model(base, config)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=params.lr)

    def step(number: int) -> None:
        batch = torch.from_numpy(rows[batch_rows(len(rows), params.batch, number, "plain")])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip)
        optimizer.step()

    step(0)
    started = time.perf_counter()
    for number in range(params.task_steps):
        step(number)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
