"""The measured part of `docs/verification.md`, from the figures of `bench_exact.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

SLEEPING = "plain, sleeping threads"
MARKER = "<!-- measured -->\n"

Figures = dict[str, Any]


def replace_measured(page: str, measured: str) -> str:
    """The page with everything after the marker replaced."""
    before, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"docs/verification.md has no line {MARKER.strip()!r}")
    return before + marker + "\n" + measured


def render(figures: Figures) -> str:
    """Prose and tables of whatever was measured."""
    parts = ["## Measured", _origin(figures)]
    for key, section in SECTIONS.items():
        if key in figures:
            parts += section(figures)
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _origin(f: Figures) -> str:
    machine, sections = f["machine"], f["sections"].values()
    loads = [section[key] for section in sections for key in ("load_before", "load_after")]
    return (
        f"Written by `make bench-exact`; every figure was measured, at code {_codes(f)}, seed {f['seed']}, "
        f"on {machine['cores']} cores of {machine['cpu']} ({machine['cpu_capability']}), Python {machine['python']}, "
        f"torch {machine['torch']}, in {f['seconds'] / 60:.0f} minutes. Load averages were {min(loads):.1f} to "
        f"{max(loads):.1f}."
    )


def _codes(f: Figures) -> str:
    """The commits that were measured; where sections were run apart, which one each of them."""
    of: dict[str, list[str]] = {}
    for name, section in f["sections"].items():
        of.setdefault(section["code"], []).append(name)
    return next(iter(of)) if len(of) == 1 else ", ".join(f"{code} ({', '.join(names)})" for code, names in of.items())


def _segments(f: Figures) -> list[str]:
    details = f["segments_details"]
    variants = details["variants"]
    rows = [
        [
            name,
            v["libraries"] or "-",
            *(f"{v.get(group, 0):,}" for group in ("tiny", "smollm2", "rows")),
            v["unavailable"] or v["different"],
        ]
        for name, v in variants.items()
    ]
    other = (
        f"Two releases of torch took part, {' and '.join(details['releases'])}."
        if details["torch_releases"] > 1
        else f"One release of torch took part ({details['other_torch']})."
    )
    return [
        "### Honest segments",
        f"**{f['different']} of {f['segments']:,} different**: {details['lora']:,} training segments, "
        f"{details['of_these_smollm2']} of them SmolLM2-135M's, and {details['rows']:,} segments of rows (embeddings, "
        "losses, answers, cleaned text). This machine's default run commits to each; then it is executed from the same "
        f"state in another way, by a process of its own, and the digests are compared. {other} Jobs differ in "
        "precision, adapted layers, rank, batch, length of sequences and optimiser.",
        table(["executed with", "torch", "tiny model", "SmolLM2-135M", "rows", "different"], rows),
    ]


def _manifests(f: Figures) -> list[str]:
    details = f["manifests_details"]
    endings = details["endings"]
    failures = ", ".join(f"{count} with {kind}" for kind, count in endings.items() if kind != "done") or "none"
    executions = ", ".join(f"{name} {count:,}" for name, count in details["executions"].items())
    extremes = [[words, f"{count:,}"] for words, count in (details["of_these"] | details["texts"]).items()]
    return [
        "### Any legal manifest",
        f"**{f['manifests_different']} of {f['manifests']:,} different**: random manifests that the workload accepts, "
        f"on the tiny model, each executed by native and two other backends (executions: {executions}). A training "
        "that cannot go on must be the same defined failure after the same states everywhere, which is what an auditor "
        f"answers; {failures}, {endings.get('done', 0)} ended in a result.",
        table(["of the manifests had", "number"], extremes),
    ]


def _speed(f: Figures) -> list[str]:
    details = dict(f["speed_details"])
    threads = details.pop("threads")
    rows = [
        [
            name,
            f"{race['exact']['median_seconds']:.3f}",
            f"{race['plain']['median_seconds']:.3f}",
            f"{race[SLEEPING]['median_seconds']:.3f}",
            f"{race['ratio']:.2f}",
            f"{race['exact']['peak_bytes'] / 2**20:,.0f}",
            f"{min(race['plain']['peak_bytes'], race[SLEEPING]['peak_bytes']) / 2**20:,.0f}",
        ]
        for name, race in details.items()
    ]
    return [
        "### Time and memory against plain float32",
        f"Processes take turns, each with {threads} threads: one executes segments as a node does, two do the same "
        "work with transformers, PEFT and torch in float32, one with threads that spin while they wait (torch's "
        "default), one with threads that sleep. Ratios are of medians, to the faster of these. A step is one of "
        "SmolLM2-135M on 4 sequences of 128 tokens at rank 8; decoding, checking and encoding the state is part of it, "
        "once in two steps. Embeddings are MiniLM's of single verses, evaluation is SmolLM2's loss of passages, both "
        f"in batches that suit each side. A step takes {f['lora_step_ratio']:.2f} of the plain time, embeddings "
        f"{f['embed_ratio']:.2f}, evaluation {f['evaluate_ratio']:.2f}; training takes {f['memory_ratio']:.2f} of the "
        "plain memory.",
        table(
            [
                "",
                "exact, s",
                "plain, s",
                "plain, threads sleep, s",
                "ratio",
                "peak of exact, MiB",
                "peak of plain, MiB",
            ],
            rows,
        ),
    ]


def _loss(f: Figures) -> list[str]:
    details = f["loss_details"]
    losses = details["held_out"]
    rows = [[name, f"{loss:.5f}", f"{loss / losses['float32'] - 1:+.3%}"] for name, loss in losses.items()]
    return [
        "### What it learns",
        "The job of `make demo` (SmolLM2-135M-Instruct on the King James Bible, 2 rounds of 4 workers), without a "
        "network, in each precision and in plain float32 with torch's autograd and AdamW: same batches, same "
        f"averaging. Held-out loss in nats a token over {details['sequences']} sequences of {details['tokens']} "
        "tokens, all measured by plain float32.",
        table(["trained in", "held-out loss", "beside float32"], rows),
    ]


def _zoo(f: Figures) -> list[str]:
    details = f["zoo_details"]
    kinds = details["kinds"]
    how = sorted({way for kind in kinds.values() for way in kind["seen"] if way != "missed"})
    rows = [
        [
            name,
            f"{sum(kind['drawn'].values())} ({kind['drawn'].get('smollm2', 0)})",
            *(kind["seen"].get(way, 0) for way in how),
            kind["missed"],
        ]
        for name, kind in kinds.items()
    ]
    left_out = ", ".join(f"`{name}` ({why})" for name, why in details["left_out"].items())
    return [
        "### Cheats",
        f"**{f['zoo_missed']} missed.** Drawn segments in which a cheat of each kind did something "
        "([the zoo](zoo.md)), audited by an honest executor from the state before: the state before breaks a law and "
        "nobody is seated, the segment cannot be executed, or the state after is another one. Of `wrong-result` "
        f"results were checked. In brackets those of SmolLM2-135M. Left out: {left_out}.",
        table(["kind", "audited", *how, "missed"], rows),
    ]


def _wire(f: Figures) -> list[str]:
    details = f["audit_bytes_details"]
    rows = [[f"`{name}`", f"{size:,}"] for name, size in details["messages"].items()]
    worst = f["one_lie_details"]["worst"]
    return [
        "### What an audit moves, and what one lie gains",
        f"Beside the state before, a seat at an audit of the demo's tasks moves **{f['audit_bytes']:,} bytes** of "
        f"encoded messages at most ({details['task']}, and an answer that the segment cannot be executed, with the "
        f"longest reason), {details['usual']:,} at a training task with a digest for an answer. With frames, headers "
        f"and replies the most is {details['largest_with_frames_and_replies']:,}; each sign of life while an auditor "
        f"computes is {details['each_sign_of_life']:,} more.",
        table(["message", "bytes at most"], rows),
        f"One lie in every task in flight gains **{f['one_lie_expected_gain']:.1e}** of the reward at most, over "
        f"{f['one_lie_details']['rows']} rows of the table above; nearest to break-even is a stake of "
        f"{int(worst['stake']) // 10**18:,} with {worst['tasks']:,} tasks after {worst['consecutive_valid']:,} valid "
        "audits.",
    ]


SECTIONS = {
    "segments": _segments,
    "manifests": _manifests,
    "zoo_missed": _zoo,
    "lora_step_ratio": _speed,
    "loss_ratio": _loss,
    "audit_bytes": _wire,
}
