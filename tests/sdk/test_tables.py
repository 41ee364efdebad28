"""Data that is no JSONL goes in as it is; what cannot is refused with its row and column."""

import json
from pathlib import Path
from typing import Any

import pytest

from proofyard.sdk import EvaluateJob, JobRefused, LoraJob
from proofyard.sdk.tables import with_plain_data
from proofyard.workloads.errors import InputRefused
from proofyard.workloads.text_data import Document, read_documents

BOM = b"\xef\xbb\xbf"
ROWS = [{"text": "one, two\nthree", "shard": 3, "other": 1}, {"text": "four \u20ac", "shard": None}]


class Dataset:
    """What a Hugging Face dataset is to us: its rows by name."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Any:
        return iter(self._rows)


def read(data: Any, folder: Path) -> list[Document]:
    return read_documents(Path(with_plain_data(LoraJob(model="m", data=data), folder).data))


@pytest.mark.parametrize("make", [Dataset, list, lambda rows: (row for row in rows)], ids=["dataset", "list", "stream"])
def test_rows_with_named_columns_are_written_as_lines(make: Any, tmp_path: Path) -> None:
    assert read(make(ROWS), tmp_path) == [Document("one, two\nthree", "3"), Document("four \u20ac")]


class Frame(Dataset):
    """What a DataFrame is to us: iterating gives the names of its columns."""

    iterrows = None

    def to_dict(self, kind: str) -> list[Any]:
        assert kind == "records"
        return ROWS


def test_a_frame_of_pandas_is_its_rows(tmp_path: Path) -> None:
    assert read(Frame(["text", "shard"]), tmp_path)[0].shard == "3"


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".CSV", ","), (".tsv", "\t")])
@pytest.mark.parametrize("beginning", [b"", BOM])
def test_a_table_of_text_goes_in_directly(suffix: str, comma: str, beginning: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"table{suffix}"
    text = comma.join(["text", "shard", "n"]) + "\r\n" + comma.join(['"a ""b""\nc"', "s", "1"]) + "\r\n" + "d\r\n"
    file.write_bytes(beginning + text.encode())
    assert read(file, tmp_path) == [Document('a "b"\nc', "s"), Document("d")]


def test_questions_come_from_a_table_too(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text('text,choices,answer\nwhich,"[""a"", ""b""]",1\n')
    spec = with_plain_data(EvaluateJob(model="m", data=file), tmp_path)
    assert json.loads(Path(spec.data).read_text()) == {"text": "which", "choices": ["a", "b"], "answer": 1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"words": "a"}], r"row 1 has no text in the column text \(columns: words\)"),
        ([{"text": "a"}, {"text": None}], "row 2 has no text"),
        ([{"text": "a"}, "b"], "row 2 is str"),
        ([{"text": "\ud800"}], "row 1 holds half a character"),
        ([{"text": "a", "answer": "x"}], "row 1 cannot be written"),
        ({"train": [], "test": []}, r"holds several tables \(train, test\)"),
        (b"text\n\xff\n", "is no UTF-8"),
        (b"words\na\n", "row 1 has no text"),
        (b"text\na,b\n", "more fields than its header"),
        (b'text\n"a\n', "is no CSV"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(data: Any, said: str, tmp_path: Path) -> None:
    if isinstance(data, bytes):
        (tmp_path / "t.csv").write_bytes(data)
        data = tmp_path / "t.csv"
    with pytest.raises(JobRefused, match=f"^data: .*{said}"):
        read(data, tmp_path)


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(JobRefused, match=r"^data: (Parquet is read with pyarrow|t.parquet is no Parquet)"):
        read(file, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "\\ud800 a"}', r"line 1 is no document: column 11: \\ud800 is half of a character"),
        (b'{"text": "\\ud83d\\ude00 \\udc00"}', r"column 24: \\udc00 is half"),
        (b'{\n "text": "a"\n}', "line 1 .*pretty-printed"),
        (b'[\n {"text": "a"}\n]', "line 1 .*pretty-printed"),
        (b'[{"text": "a"}]', "holds a list, not an object; write one JSON object a line"),
        (
            b'{"text": "a"}\n{"text": "b", "shard": 3}',
            'line 2 .*column 15: .* in shard; write it as text: "shard": "3"',
        ),
        (b'{"text": "a", "shard": null}', "column 15: .* in shard; leave shard out"),
        (b'{"text": 5}', 'column 2: .* in text; write it as text: "text": "5"'),
        (b'{"words": "a"}', 'give every object a "text"'),
        ('{"text": "a\u00e9'.encode("latin-1"), "column 12: the byte 0xe9 is no UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PAR1\x15", "name it .parquet"),
        (b"text,shard\na,b", "ends in .csv"),
        (b'{"text": "a"} {"text": "b"}', "column 15: Extra data"),
        (b"{'text': 'a'}", "column 2: Expecting property name"),
        (b'"a"', "holds a text, not an object"),
        (b"null", "holds a null"),
    ],
)
def test_a_line_that_is_no_row_says_where_and_what_to_do(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputRefused, match=said):
        read_documents(file)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(BOM + b'{"text": "a"}\r\n{"text": "b"}')
    assert [each.text for each in read_documents(file)] == ["a", "b"]
    file.write_bytes(b'{"text": "a"}\n' + BOM + b'{"text": "b"}')
    with pytest.raises(InputRefused, match="line 2"):
        read_documents(file)
