"""A tokenizer is brought to one behaviour: what its file says of cutting, filling up and chance changes no token."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from scripts.compatibility import section
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from proofyard.protocol.manifest import Manifest
from proofyard.protocol.types import Cid
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.text_data import Document, pack
from proofyard.workloads.tokenizer import PART_CHARACTERS, Tokenizer
from proofyard.workloads.workload import Inputs, Resources, load_workload

WORDS = ["alpha", "beta", "gamma", "delta"]
TEXT = " ".join(WORDS * 60)
TRUNCATION = {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 110},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "!",
}
Change = Callable[[dict[str, Any]], Any]
CHANGES: dict[str, Change] = {
    "truncation": lambda raw: raw.update(truncation=TRUNCATION),
    "truncation from the left with a stride": lambda raw: raw.update(
        truncation=TRUNCATION | {"direction": "Left", "max_length": 8, "stride": 3, "strategy": "OnlyFirst"}
    ),
    "fixed padding": lambda raw: raw.update(padding=PADDING),
    "padding to the longest": lambda raw: raw.update(padding=PADDING | {"strategy": "BatchLongest"}),
    "padding to multiples, from the left": lambda raw: raw.update(
        padding=PADDING | {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 64}
    ),
    "both": lambda raw: raw.update(truncation=TRUNCATION, padding=PADDING),
}


def _characters() -> list[str]:
    return sorted({*"".join(WORDS), "▁", " "})


def byte_level() -> Any:
    table = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate(table)} | {"al": 256, "ph": 257}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("a", "l"), ("p", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece_bpe() -> Any:
    vocab = {character: number for number, character in enumerate(["<unk>", *_characters(), "al", "ta"])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("a", "l"), ("t", "a")], unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    return made


def word_piece() -> Any:
    pieces = ["[UNK]", "[CLS]", "[SEP]", "al", "##pha", "beta", "gam", "##ma", "delta"]
    made = tokenizers.Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return made


def unigram() -> Any:
    pieces = [("<unk>", 0.0), *((c, -5.0) for c in _characters()), *((w, -1.0) for w in WORDS)]
    made = tokenizers.Tokenizer(models.Unigram(pieces, 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


def word_level() -> Any:
    vocab = {"[UNK]": 0} | {word: number for number, word in enumerate(WORDS, 1)}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level BPE": byte_level,
    "SentencePiece BPE": sentencepiece_bpe,
    "WordPiece": word_piece,
    "Unigram": unigram,
    "WordLevel": word_level,
}


def test_the_page_lists_the_kinds_that_are_tried_here() -> None:
    assert {row["kind"] for row in section("tokenizers").rows} == KINDS.keys()


def save(folder: Path, made: Any, change: Change = lambda raw: None) -> Path:
    raw = json.loads(made.to_str())
    change(raw)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return folder


def read(folder: Path, *, special: bool = False) -> list[list[int]]:
    texts = [TEXT, "alpha", "", "beta " * 40]
    return [ids.tolist() for ids in Tokenizer(folder).each(texts, special=special)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tokenizer_says_of_lengths_changes_no_token(kind: str, change: str, tmp_path: Path) -> None:
    made = KINDS[kind]()
    plain, changed = save(tmp_path / "plain", made), save(tmp_path / "changed", made, CHANGES[change])
    for special in (False, True):
        whole = read(plain, special=special)
        assert len(whole[0]) > 200 and read(changed, special=special) == whole


@pytest.mark.parametrize("kind", ["byte-level BPE", "SentencePiece BPE"])
def test_merges_that_are_skipped_at_random_are_not_skipped(kind: str, tmp_path: Path) -> None:
    made = KINDS[kind]()
    plain = save(tmp_path / "plain", made)
    changed = save(tmp_path / "changed", made, lambda raw: raw["model"].update(dropout=0.9))
    assert read(changed) == read(plain) == read(changed)


def test_pieces_are_not_drawn_by_chance(tmp_path: Path) -> None:
    made = unigram()
    plain = save(tmp_path / "plain", made)
    changed = save(tmp_path / "changed", made, lambda raw: raw["model"].update(alpha=0.1, nbest_size=5))
    assert read(changed) == read(plain) == read(changed)


def test_texts_are_cut_for_whoever_asks_for_it_alone(tmp_path: Path) -> None:
    folder = save(tmp_path, word_piece(), CHANGES["both"])
    (cut,) = Tokenizer(folder, max_tokens=8).each([TEXT], special=True)
    assert cut.tolist() == [1, 3, 4, 5, 6, 7, 8, 2]


def test_a_tokenizer_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    plain = read(save(tmp_path, word_level()))
    raw = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + raw)
    assert read(tmp_path) == plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it is missing; write it with"),
        (b"\xff\xfe{", "is no UTF-8"),
        (b"{", "nothing can be read by its tokenizer.json"),
        (b'{"version": "1.0", "model": {"type": "Sorcery"}}', "nothing can be read"),
    ],
)
def test_what_is_no_tokenizer_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputRefused, match=said):
        Tokenizer(tmp_path)


def test_a_text_that_a_tokenizer_cannot_read_is_a_defined_failure(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"alpha": 0}, unk_token="[UNK]"))
    with pytest.raises(InputRefused, match=r"cannot read a text by its tokenizer\.json: WordLevel error") as refused:
        Tokenizer(save(tmp_path, made)).tokens("zeta")
    assert refused.value.defined


def test_many_texts_are_read_in_parts(tmp_path: Path) -> None:
    folder = save(tmp_path, word_level())
    texts = ["alpha " * (PART_CHARACTERS // 12), "beta"] * 3
    assert [len(ids) for ids in Tokenizer(folder).each(texts)] == [PART_CHARACTERS // 12, 1] * 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny: Inputs) -> tuple[Inputs, Inputs]:
    """A model whose tokenizer is plain, and the same one with everything set."""
    folder = tmp_path_factory.mktemp("pair")
    assert tiny.model is not None
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"{word} " * 40}) + "\n" for word in WORDS))
    changed = shutil.copytree(tiny.model, folder / "changed")
    raw = json.loads((changed / "tokenizer.json").read_text())
    raw.update(truncation=TRUNCATION | {"max_length": 9}, padding=PADDING)
    raw["model"]["dropout"] = 0.5
    (changed / "tokenizer.json").write_text(json.dumps(raw))
    return Inputs(tiny.model, data), Inputs(changed, data)


def test_training_rows_are_those_of_the_whole_text(pair: tuple[Inputs, Inputs]) -> None:
    rows = [pack([Document(TEXT), Document("x")], inputs.model or Path(), 16) for inputs in pair]
    assert np.array_equal(*rows) and rows[0].shape == ((len(TEXT) + 3) // 16, 17)


@pytest.mark.parametrize(
    ("workload", "params"),
    [
        ("evaluate", {"max_tokens": 64}),
        ("embed", {"max_tokens": 64, "dimensions": 64}),
        ("map", {"chunk_tokens": 20}),
    ],
)
def test_workloads_over_rows_see_the_whole_text(
    workload: str, params: dict[str, Any], pair: tuple[Inputs, Inputs]
) -> None:
    found = load_workload(workload)
    manifest = Manifest(
        workload=workload,
        params={"rows": 4, "segment_rows": 4, "segments": 1} | params,
        model=Cid("model"),
        data=Cid("data"),
    )
    (task,) = found.graph(manifest)
    states = []
    for inputs in pair:
        runner = found.runner(manifest, task, inputs, Resources())
        states.append(runner.run(0, found.initial_state(manifest, task, inputs), lambda _: None))
    assert states[0] == states[1]
