"""What every section of `bench_exact.py` starts from: folders, models, texts, and what this machine is."""

import hashlib
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.text_data import read_documents
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
TREES = ("sdk", "node", "verifier", "scripts")
SEED = 20_261_126


@dataclass(frozen=True)
class Bench:
    """Models and texts. `folder` is for whatever a section writes and goes when the benchmark ends."""

    folder: Path
    quick: bool
    seed: int
    other_torch: str
    tiny: Path
    smollm2: Path
    minilm: Path
    patterns: Path
    bible: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def random(self, *purpose: object) -> random.Random:
        """Draws that depend on the seed and on what they are for, and on nothing that was drawn before."""
        return random.Random(repr((self.seed, *purpose)))

    def subfolder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def verses(self, count: int) -> list[str]:
        """Single lines of the Bible, all different."""
        lines = {line: None for document in read_documents(self.bible) for line in document.text.splitlines() if line}
        return self.random("verses").sample(list(lines), count)


def prepare(folder: Path, *, quick: bool, other_torch: str) -> Bench:
    """Write or fetch everything that the sections read."""
    for name in ("smollm2", "minilm"):
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "prepare_model.py"), name, "--cache", str(CACHE)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return Bench(
        folder=folder,
        quick=quick,
        seed=SEED,
        other_torch=other_torch,
        tiny=write_tiny_model(folder / "tiny-random-llama"),
        smollm2=CACHE / "models" / "smollm2-135m-instruct",
        minilm=CACHE / "models" / "all-minilm-l6-v2",
        patterns=write_tiny_corpus(folder / "patterns.jsonl", labels=8),
        bible=write_bible_corpus(folder / "bible.jsonl"),
    )


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def describe_machine() -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def code_version() -> str:
    """The commit, and a digest of what the working tree changes in it: results of other code are not merged."""
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    changes = _git("diff", "HEAD", "--", *TREES)
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
