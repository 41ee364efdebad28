"""What packing gains on a data set: rows, tokens and steps with one document a row, with documents end to end, packed.

`python scripts/bench_packing.py --model DIRECTORY --data FILE --seq-len 256`; FILE as for `job submit`. Prints a line a
layout: rows of an epoch, tokens learned and computed a row, and, with `--steps`, the median seconds that a step of
`--batch` rows takes of the processor, all threads together (losses and gradients of adapters of rank 8 on q_proj and
v_proj), and the tokens learned in such a second.
"""

import argparse
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from proofyard.sdk import LoraJob
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads.adapted import linear_modules
from proofyard.workloads.causal_lm import AdaptedModel
from proofyard.workloads.lora_params import LoraParams
from proofyard.workloads.lora_tensors import initial_adapter
from proofyard.workloads.packing import Rows, training_rows
from proofyard.workloads.text_data import Document, batch_rows, read_documents
from proofyard.workloads.workload import Resources


def main() -> None:
    args = arguments()
    with TemporaryDirectory() as folder:
        spec = with_plain_data(LoraJob(model=args.model, data=args.data, seq_len=args.seq_len), Path(folder))
        documents = read_documents(Path(spec.data))
    layouts = {
        "one a row": one_a_row(documents, args.model, args.seq_len),
        "end to end": training_rows(documents, args.model, args.seq_len, packing=False),
        "packed": training_rows(documents, args.model, args.seq_len, packing=True),
    }
    found = timed(layouts, args) if args.steps else {}
    for name, rows in layouts.items():
        computed = args.seq_len * len(rows) if name == "one a row" else len(rows.tokens) - len(rows.sequences) + 1
        line = f"{name}: {len(rows)} rows, {rows.learned / len(rows):.1f} learned of {computed / len(rows):.1f} a row"
        if name in found:
            seconds, rate = found[name]
            line += f", {seconds:.3f} s of the processor a step, {rate:.1f} tokens learned a second"
        print(line)


def one_a_row(documents: Iterable[Document], model: Path, seq_len: int) -> Rows:
    """Each sequence of the packed rows in a row of its own, filled up with tokens that are not learned."""
    packed = training_rows(documents, model, seq_len, packing=True)
    rows = np.full((len(packed.sequences) - 1, seq_len + 1), ~0, np.int64)
    for row, (start, end) in zip(rows, zip(packed.sequences, packed.sequences[1:], strict=False), strict=True):
        row[: end - start] = packed.tokens[start:end]
    return Rows(rows.reshape(-1), np.arange(len(rows) + 1) * (seq_len + 1), np.arange(len(rows) + 1))


def timed(layouts: dict[str, Rows], args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Of each layout the median seconds of a step, in turns, and the tokens learned a second."""
    modules = linear_modules(args.model, ["q_proj", "v_proj"], None)
    sizes = {"rounds": 1, "workers": 1, "segments": 1, "segment_steps": 1, "batch": args.batch, "seq_len": args.seq_len}
    params = LoraParams(modules=modules, rank=8, alpha=16.0, lr=1e-3, **sizes)
    model = AdaptedModel(args.model, modules, "exact", Resources())
    seconds: dict[str, list[float]] = {name: [] for name in layouts}
    learned = dict.fromkeys(layouts, 0)
    for step in range(-1, args.steps):
        for name, rows in layouts.items():
            batch = [each for row in rows.take(batch_rows(len(rows), args.batch, step + 1, name)) for each in row]
            model.decoder.adapters.set(initial_adapter(params, 0), params.scale)
            started = time.process_time()
            model.train(batch, 1e-3)
            if step >= 0:
                seconds[name].append(time.process_time() - started)
                learned[name] += sum(int((tokens[1:] >= 0).sum()) for tokens in batch)
    return {name: (statistics.median(took), learned[name] / sum(took)) for name, took in seconds.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
