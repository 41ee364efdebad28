"""Compressed data goes in as it is, within bounds; what is packed otherwise is refused with the command for it."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts.compatibility import section

from proofyard.sdk import JobRefused, LoraJob, packed
from proofyard.sdk.bounds import Limits
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads.text_data import read_documents

LINES = b'{"text": "one", "shard": "a"}\n{"text": "two \xe2\x82\xac", "shard": "b"}\n'
TABLE = "text,shard\none,a\ntwo \u20ac,b\n".encode()
Pack = Callable[[bytes], bytes]


def read(file: Path, limits: Limits | None = None) -> list[tuple[str, str]]:
    spec = with_plain_data(LoraJob(model="m", data=file), file.parent / "made", limits or Limits())
    return [(each.text, each.shard) for each in read_documents(Path(spec.data))]


@pytest.mark.parametrize(
    ("name", "pack", "content"),
    [
        ("d.json.GZ", gzip.compress, LINES),
        ("d.jsonl.gz", lambda data: gzip.compress(data[:30], mtime=0) + gzip.compress(data[30:], mtime=0), LINES),
        ("d.jsonl.gz", gzip.compress, b"\xef\xbb\xbf" + LINES),
        ("d.CSV.bz2", bz2.compress, TABLE),
        ("d.tsv.xz", lzma.compress, TABLE.replace(b",", b"\t")),
    ],
)
def test_what_is_compressed_goes_in_as_it_is(name: str, pack: Pack, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pack(content))
    assert read(tmp_path / name) == [("one", "a"), ("two \u20ac", "b")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl.gz", LINES, "Not a gzipped file"),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "copy it again"),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0) + b"more", "Not a gzipped file"),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)[:20] + b"\xff" * 20, "cannot be unpacked"),
        ("d.jsonl.bz2", b"BZh9" + b"x" * 50, "cannot be unpacked"),
        ("d.jsonl.xz", lzma.compress(LINES)[:-5], "cannot be unpacked"),
    ],
)
def test_what_cannot_be_unpacked_is_refused_with_what_to_do(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobRefused, match=r"^data: d\.") as refused:
        read(tmp_path / name)
    assert said in str(refused.value)
    assert not list((tmp_path / "made").glob("*")), "nothing is left of it"


DATA = [(name, row["form"]) for row in section("data").rows for name in row["names"]]


def content_of(form: str) -> bytes:
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet, stream = pytest.importorskip("pyarrow.parquet"), io.BytesIO()
        parquet.write_table(pyarrow.table({"text": ["one", "two \u20ac"], "shard": ["a", "b"]}), stream)
        return stream.getvalue()
    return TABLE.replace(b",", form.encode()) if form in (",", "\t") else LINES


@pytest.mark.parametrize(("name", "form"), DATA, ids=[name for name, _ in DATA])
def test_every_form_of_data_that_is_documented(name: str, form: str, tmp_path: Path) -> None:
    packs = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    (tmp_path / name).write_bytes(packs.get(Path(name).suffix, bytes)(content_of(form)))
    if form != "refused":
        assert read(tmp_path / name) == [("one", "a"), ("two \u20ac", "b")]
        return
    with pytest.raises(JobRefused, match=r"unpack it with `[a-z0-9 -]+ " + name):
        read(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_what_unfolds_to_too_much_is_cut_off_while_it_is_written(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {gzip.compress: "d.jsonl.gz", bz2.compress: "d.jsonl.bz2"}.get(pack, "d.jsonl.xz")
    (tmp_path / name).write_bytes(pack(bytes(8 << 20)))
    monkeypatch.setattr(packed, "FREE_BYTES", 1 << 20)
    with pytest.raises(JobRefused, match="unfolds to more than"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(pack(LINES))
    with pytest.raises(JobRefused, match="unfolds to more than 50 bytes"):
        read(tmp_path / name, Limits(data_bytes=50))
    assert not list((tmp_path / "made").glob("*"))
