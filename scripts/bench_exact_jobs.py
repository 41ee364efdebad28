"""The jobs that the benchmark executes: many small ones of every kind, and the demo's."""

from dataclasses import replace
from typing import Any

from bench_exact_setup import Bench, write_lines
from bench_exact_traces import Job
from demo import bible_scenario
from proofyard.protocol.types import Cid
from proofyard.sdk import EmbedJob, EvaluateJob, LoraJob, MapJob
from proofyard.workloads.workload import Inputs

TINY, SMOLLM2, ROWS = "tiny", "smollm2", "rows"
DEMO_SEED = 7
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_jobs(bench: Bench) -> list[Job]:
    """Jobs of many small segments, different in everything that a job may choose."""
    workers, segments = bench.size(8, 2), bench.size(10, 4)
    shapes: list[dict[str, Any]] = [
        {"batch": 4, "seq_len": 16},
        {"batch": 1, "seq_len": 48, "targets": ALL_LINEAR, "rank": 2},
        {"batch": 3, "seq_len": 24, "precision": "exact8"},
        {"batch": 2, "seq_len": 32, "precision": "exact4", "targets": ALL_LINEAR},
        {"batch": 7, "seq_len": 8, "segment_steps": 2, "layers": [1]},
        {"batch": 2, "seq_len": 17, "segment_steps": 3, "options": {"weight_decay": 0.1, "warmup_steps": 5}},
        {"batch": 5, "seq_len": 12, "rank": 64, "options": {"eps": 1e-8, "beta2": 0.999}},
        {"batch": 4, "seq_len": 20, "lr": 0.3, "alpha": 500.0, "options": {"outer_momentum": 0.9, "outer_lr": 0.7}},
    ]
    jobs = []
    for number, shape in enumerate(shapes):
        size = {"rounds": 1, "workers": workers, "segments": segments, "segment_steps": 1, "rank": 4, "lr": 3e-3}
        spec = LoraJob(**{"model": bench.tiny, "data": bench.patterns, "seed": bench.seed + number, **size, **shape})
        jobs.append(_job(f"lora {number}", TINY, spec))
    for precision, count in {
        "exact": bench.size(12, 1),
        "exact8": bench.size(6, 1),
        "exact4": bench.size(6, 1),
    }.items():
        real: dict[str, Any] = {
            "rounds": 1,
            "workers": 2,
            "segments": count,
            "segment_steps": 1,
            "batch": 2,
            "seq_len": 24,
        }
        spec = LoraJob(model=bench.smollm2, data=bench.bible, lr=3e-3, seed=bench.seed, precision=precision, **real)
        jobs.append(_job(f"lora SmolLM2 {precision}", SMOLLM2, spec))
    return jobs


def row_jobs(bench: Bench) -> list[Job]:
    """Embeddings, losses, answers to questions, cleaned text; all rows of each in one task."""
    rows = bench.size(48, 12)
    texts = [{"text": text} for text in bench.verses(rows)]
    short = write_lines(bench.folder / "verses.jsonl", [{"text": line["text"][:60]} for line in texts])
    whole = write_lines(bench.folder / "whole-verses.jsonl", texts)
    empty = write_lines(
        bench.folder / "with-empty.jsonl",
        [{"text": "" if n % 5 == 4 else line["text"][:60]} for n, line in enumerate(texts)],
    )
    asked = write_lines(bench.folder / "questions.jsonl", [_question(n) for n in range(rows)])
    specs = {
        "embed, tiny": EmbedJob(model=bench.tiny, data=short, max_tokens=48, segment_rows=2),
        "embed, MiniLM": EmbedJob(model=bench.minilm, data=whole, segment_rows=3),
        "evaluate text, tiny": EvaluateJob(model=bench.tiny, data=empty, max_tokens=48, segment_rows=2),
        "evaluate choices, tiny": EvaluateJob(
            model=bench.tiny, data=asked, choices=3, segment_rows=2, precision="exact8"
        ),
        "evaluate choices, SmolLM2": EvaluateJob(model=bench.smollm2, data=asked, choices=3, segment_rows=4),
        "map, tiny's tokens": MapJob(model=bench.tiny, data=whole, chunk_tokens=40, segment_rows=3),
    }
    return [_job(name, ROWS, replace(spec, segments=-(-rows // spec.segment_rows))) for name, spec in specs.items()]


def zoo_jobs(bench: Bench) -> list[Job]:
    """Jobs for cheats: long tasks first, then tasks of one segment for cheats that act seldom; and rows."""
    usual: dict[str, Any] = {
        "model": bench.tiny,
        "data": bench.patterns,
        "rank": 4,
        "lr": 3e-3,
        "seed": bench.seed,
        "batch": 2,
    }
    rounds, workers = bench.size(4, 2), bench.size(8, 3)
    long = LoraJob(**usual, rounds=rounds, workers=workers, segments=6, segment_steps=2, seq_len=16)
    seldom = LoraJob(**usual, rounds=bench.size(13, 3), workers=workers, segments=1, segment_steps=10, seq_len=8)
    real = LoraJob(
        **usual | {"model": bench.smollm2, "data": bench.bible},
        rounds=bench.size(3, 2),
        workers=bench.size(5, 1),
        segments=5,
        segment_steps=2,
        seq_len=16,
    )
    lora = {"a, long tasks": (TINY, long), "b, short tasks": (TINY, seldom), "SmolLM2": (SMOLLM2, real)}
    return [*(_job(name, group, spec) for name, (group, spec) in lora.items()), *_zoo_rows(bench)]


def _zoo_rows(bench: Bench) -> list[Job]:
    rows = bench.size(96, 8)
    texts = [{"text": text[:60]} for text in bench.verses(rows)]
    verses = write_lines(bench.folder / "zoo-verses.jsonl", texts)
    asked = write_lines(bench.folder / "zoo-questions.jsonl", [_question(n) for n in range(rows)])
    few = write_lines(bench.folder / "zoo-few-questions.jsonl", [_question(n) for n in range(20)])
    specs = {
        "evaluate choices, tiny": (ROWS, EvaluateJob(model=bench.tiny, data=asked, choices=3)),
        "evaluate text, tiny": (ROWS, EvaluateJob(model=bench.tiny, data=verses, max_tokens=48)),
        "embed, tiny": (ROWS, EmbedJob(model=bench.tiny, data=verses, max_tokens=48)),
        "map, tiny's tokens": (ROWS, MapJob(model=bench.tiny, data=verses, chunk_tokens=20)),
        "evaluate choices, SmolLM2": (SMOLLM2, EvaluateJob(model=bench.smollm2, data=few, choices=3)),
    }
    return [_job(name, group, replace(spec, segment_rows=2, segments=4)) for name, (group, spec) in specs.items()]


def demo_job(bench: Bench, **changes: Any) -> Job:
    """What `make demo` trains, in fewer and longer rounds."""
    scenario = bible_scenario(bench.subfolder("demo"), DEMO_SEED)
    return _job(scenario.name, SMOLLM2, replace(scenario.job, **({"rounds": 2, "segments": 5} | changes)))


def _question(number: int) -> dict[str, object]:
    choices = [f"{number + 1}", f"{number * 3} and more", "nobody knows"]
    return {"text": f"After {number} comes", "choices": choices, "answer": number % 3}


def _job(name: str, group: str, spec: Any) -> Job:
    return Job(name, group, spec.manifest(Cid("model"), Cid("data")), Inputs(spec.model, spec.data))
