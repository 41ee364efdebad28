"""The yardsticks: the same work as people write it, in float32 with transformers, PEFT and torch's AdamW."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.tokenizer import Tokenizer, Tokens

Array = npt.NDArray[Any]

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


class PlainTrainer:
    """A LoRA training loop. Adapters have the names that they have in states."""

    def __init__(self, model: Path, params: LoraParams) -> None:
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        config = peft.LoraConfig(
            r=params.rank, lora_alpha=params.alpha, target_modules=sorted(params.modules), lora_dropout=0.0
        )
        self._params = params
        self._model: Any = peft.get_peft_model(base, config).train()
        self._weights = {_name(name): p for name, p in self._model.named_parameters() if p.requires_grad}
        self.begin_round()

    def begin_round(self) -> None:
        """Moments start at zero, as they do in every round of a job."""
        p = self._params
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), lr=p.lr, betas=(p.beta1, p.beta2), eps=p.eps, weight_decay=p.weight_decay
        )

    def load(self, adapter: Mapping[str, Array]) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(torch.from_numpy(np.array(adapter[name])))

    def adapter(self) -> dict[str, Array]:
        return {name: weight.detach().numpy().copy() for name, weight in self._weights.items()}

    def step(self, rows: Tokens, rate: float) -> float:
        """One step on rows of tokens (batch, seq_len + 1); returns the mean loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = torch.from_numpy(rows)
        loss = _mean_loss(self._model, batch)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(list(self._weights.values()), self._params.clip)
        self._optimizer.step()
        return float(loss.detach())

    def held_out_loss(self, rows: Tokens) -> float:
        """Mean loss in nats a token."""
        self._model.eval()
        with torch.inference_mode():
            losses = [float(_mean_loss(self._model, torch.from_numpy(row[None]))) for row in rows]
        self._model.train()
        return sum(losses) / len(losses)


def _mean_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _name(parameter: str) -> str:
    """`base_model.model.X.lora_A.default.weight` as `X.lora_A`."""
    return parameter.removeprefix("base_model.model.").removesuffix(".default.weight")


class PlainEncoder:
    """Sentence embeddings: mean over tokens, length 1; texts of like length are computed together."""

    def __init__(self, model: Path, max_tokens: int, batch: int = 32) -> None:
        self._model: Any = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
        self._tokenizer = Tokenizer(model, max_tokens=max_tokens)
        self._batch = batch

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Array:
        rows = [ids.tolist() for ids in self._tokenizer.each(texts, special=True)]
        found: list[Any] = [None] * len(rows)
        for some in by_length(rows, self._batch):
            ids, mask = padded([rows[number] for number in some])
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[:, :, None]
            vectors = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=1)
            for number, vector in zip(some, vectors.numpy(), strict=True):
                found[number] = vector
        return np.stack(found)


class PlainScorer:
    """Summed losses of whole texts after the model's end token."""

    def __init__(self, model: Path, max_tokens: int, end: int, batch: int = 8) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._tokenizer = Tokenizer(model)
        self._max_tokens, self._end, self._batch = max_tokens, end, batch

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[float]:
        encoded = [ids.tolist() for ids in self._tokenizer.each(texts)]
        rows = [[self._end, *ids[: self._max_tokens]] for ids in encoded]
        found = [0.0] * len(rows)
        for some in by_length(rows, self._batch):
            ids, mask = padded([rows[number] for number in some])
            counted = mask[:, 1:].bool()
            logits = self._model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1]).logits[counted]
            losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][counted], reduction="none")
            for number, part in zip(some, torch.split(losses, counted.sum(1).tolist()), strict=True):
                found[number] = float(part.sum())
        return found


def by_length(rows: Sequence[Sequence[int]], batch: int) -> list[list[int]]:
    """Numbers of the rows in batches of like length."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    return [order[start:end] for start, end in pairwise([*range(0, len(order), batch), len(order)])]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with zeros behind, and 1 where a token stands, both (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
