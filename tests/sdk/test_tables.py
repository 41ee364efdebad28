"""Data that is no JSONL goes in as it is; what cannot is refused with its row and column."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("text;shard\na, b;3\n", [("a, b", "3")]),
        ("text|shard\na|b\n", [("a", "b")]),
        ("sep=;\ntext;shard\n\n\na;b\n", [("a", "b")]),
        ("\n\ntext\na\n", [("a", "")]),
        ("text,shard\n,x\n", [("", "x")]),
        ("text\rold\rmac\r", [("old", ""), ("mac", "")]),
        ("x,text,x\n1,a\0b,2\n", [("a\0b", "")]),
    ],
)
def test_tables_of_other_programs_go_in(content: str, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert [(each.text, each.shard) for each in read(tmp_path / "t.csv", tmp_path / "made")] == rows


def test_nothing_is_left_of_a_table_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobRefused):
        read([{"text": "a"}, {}], tmp_path)
    assert not list(tmp_path.iterdir())


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
        ([], "holds no row"),
        ([{"text": float("nan")}], "row 1 has no text"),
        ([{"text": b"a"}], "row 1: column text holds bytes"),
        ([{"text": "a", "answer": 1.5}], "row 1 .* no whole number"),
        ([{"text": "a", "answer": float("inf")}], "row 1 cannot be written"),
        ([{"text": "a", "choices": [float("inf")]}], "row 1 cannot be written"),
        ([{"text": "a" * (16 << 20)}], "row 1 has more than 16777216 bytes"),
        ("text\na\u00e9\n".encode("latin-1"), "is no UTF-8: line 2, column 2: the byte 0xe9"),
        ("text\na\n".encode("utf-16"), "is no UTF-8: line 1, column 1: the byte 0xff"),
        (b"words\na\n", r"no column text or messages \(columns: words\)"),
        (b"text,text\na,b\n", "two columns 'text'"),
        (b"", "no column text"),
        (b"text\n", "holds no row"),
        (b"shard,text\n1,a\n2\n", r"row 2 \(line 3\) has no text"),
        (b'text\n"a\n\nb"\nc,d\n', r"row 2 \(line 5\) has more fields than its header"),
        (b'text\na\n"b\n', "is no CSV: the row that begins in line 3: unexpected end"),
        (b'text\na\n"b"c\n', "is no CSV: the row that begins in line 3: "),
    ],
)
def test_a_table_that_cannot_be_read_says_where(data: Any, said: str, tmp_path: Path) -> None:
    if isinstance(data, bytes):
        (tmp_path / "t.csv").write_bytes(data)
        data = tmp_path / "t.csv"
    with pytest.raises(JobRefused, match=f"^data: .*{said}"):
        read(data, tmp_path)


COLUMNS: dict[str, list[Any]] = {"text": ["one", "two\nlines", "\u20ac"], "shard": [1, None, 3], "other": [7, 8, 9]}


@pytest.fixture
def dataset() -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict(COLUMNS)


REAL: dict[str, Any] = {
    "dataset": lambda dataset: dataset,
    "streamed": lambda dataset: dataset.to_iterable_dataset(),
    "formatted": lambda dataset: dataset.with_format("pandas"),
    "split": lambda dataset: dataset.train_test_split(1, shuffle=False)["train"],
    "pandas": lambda dataset: dataset.to_pandas(),
    "arrow": lambda dataset: dataset.data.table,
}


@pytest.mark.parametrize("form", REAL)
def test_real_datasets_go_in(form: str, dataset: Any, tmp_path: Path) -> None:
    expected = [Document("one", "1"), Document("two\nlines"), Document("\u20ac", "3")]
    found = read(REAL[form](dataset), tmp_path)
    assert [each.text for each in found] == [each.text for each in expected][: len(found)]
    assert [each.shard.removesuffix(".0") for each in found] == [each.shard for each in expected][: len(found)]
    assert len(found) == (2 if form == "split" else 3)


@pytest.mark.parametrize("kind", ["none", "snappy", "zstd"])
def test_parquet_goes_in(kind: str, dataset: Any, tmp_path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(dataset.data.table, tmp_path / "t.parquet", compression=kind)
    assert [each.shard for each in read(tmp_path / "t.parquet", tmp_path / "made")] == ["1", "", "3"]


def test_several_splits_are_not_one_table(dataset: Any, tmp_path: Path) -> None:
    import datasets

    with pytest.raises(JobRefused, match=r"several tables \(train, test\)"):
        read(datasets.DatasetDict(train=dataset, test=dataset), tmp_path)
    with pytest.raises(JobRefused, match="row 1 is str"):
        read(dataset["text"], tmp_path)
    questions = datasets.Dataset.from_dict({"text": ["q"], "choices": [["x", "y"]], "answer": [1]})
    spec = with_plain_data(EvaluateJob(model="m", data=questions.with_format("numpy")), tmp_path)  # type: ignore[arg-type]
    assert json.loads(Path(spec.data).read_text()) == {"text": "q", "choices": ["x", "y"], "answer": 1}


@pytest.mark.parametrize(
    ("columns", "spoil", "said"),
    [
        ({"body": ["a"]}, None, r"no column text or messages \(columns: body\)"),
        ({"text": [b"a"]}, None, "column text holds bytes"),
        ({"text": ["a", None]}, None, "row 2 has no text"),
        ({"text": ["a"]}, lambda raw: raw[:-20], "no Parquet file that can be read"),
        ({"text": ["a" * 99]}, lambda raw: raw[:4] + b"\xff" * 30 + raw[34:], "no Parquet file that can be read"),
        ({"text": ["a"]}, lambda raw: b"", "no Parquet file that can be read"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(columns: Any, spoil: Any, said: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "t.parquet"
    parquet.write_table(arrow.table(columns), file, compression="none")
    file.write_bytes(file.read_bytes() if spoil is None else spoil(file.read_bytes()))
    with pytest.raises(JobRefused, match=f"^data: .*{said}"):
        read(file, tmp_path / "made")


def test_arrow_texts_that_are_no_utf8_are_refused_with_their_rows(tmp_path: Path) -> None:
    """Other programs fill columns of texts with any bytes."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ends = np.array([0, 1, 3], np.int32).tobytes()
    texts = arrow.Array.from_buffers(arrow.string(), 2, [None, arrow.py_buffer(ends), arrow.py_buffer(b"ab\xff")])
    table = arrow.table({"text": texts})
    parquet.write_table(table, tmp_path / "t.parquet")
    for data in (table, tmp_path / "t.parquet"):
        with pytest.raises(JobRefused, match=r"a text in (it|rows 1 to 2) is no UTF-8.*byte 0xff"):
            read(data, tmp_path / "made")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobRefused, match=r"^data: Parquet is read with pyarrow; `pip install pyarrow`"):
        read(tmp_path / "t.parquet", tmp_path)


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
        (b'{"text": "a", "x": NaN}', "column 20: NaN is no JSON"),
        (b'{"text": -Infinity}', "column 10: -Infinity is no JSON"),
        (b'{"text": "a", "text": "b"}', "column 15: it has 'text' twice; keep one"),
        (b'{"shard": "a", "text": "b", "shard": "c"}', "it has 'shard' twice"),
        (b'{"text": {"a": 1}}', "column 2: .* in text; text is one text, not an object"),
        (b'{"text": "a", "shard": ["b"]}', "column 15: .* shard is one text, not a list"),
        (b'{"text": "a", "shard": true}', 'write it as text: "shard": "true"'),
        (b'{"text": "a", "shard": -3.0}', 'write it as text: "shard": "-3.0"'),
        (b'{"text": "a\0b"}', "column 12: a zero byte"),
        ('{"text": "a"}'.encode("utf-16-le"), "column 2: a zero byte, as in UTF-16"),
        (bytes(4096), "column 1: a zero byte"),
        (b'{"text": "a"}\r{"text": "b"}', "lines end with a carriage return alone"),
        (b'{"messages": []}', "column 1: it is a conversation; lora, sweep and evaluate take those"),
        (b'{"text": "a", "x": ' + b"[" * 9999 + b"]" * 9999 + b"}", "nested more than 100 deep"),
        (b'{"text": "a",}', "column 14"),
        (b"BZh91AY", "bzip2"),
        (b"null", "holds a null"),
    ],
)
def test_a_line_that_is_no_row_says_where_and_what_to_do(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputRefused, match=said):
        read_documents(file)


LONG = 100_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a", %s, "y": ["text"]}' % b", ".join(b'"k%d": 1' % n for n in range(LONG)), None),
        (b'{"text": "a", %s, "text": ""}' % b", ".join(b'"k%d": 1' % n for n in range(LONG)), "has 'text' twice"),
        (b'{"text": "%s", "shard": 3}' % (b"\\ud83d\\ude00" * LONG), "in shard; write it as text"),
    ],
    ids=["many keys", "many keys, one twice", "many pairs of surrogates"],
)
def test_a_long_line_takes_time_by_its_length_alone(content: bytes, said: str | None, tmp_path: Path) -> None:
    """Nodes read it too: what takes a second for each megabyte would be a way to stop them. Squared it is minutes."""
    file = tmp_path / "data.jsonl"
    file.write_bytes(content)
    began = time.process_time()
    if said is None:
        assert read_documents(file)[0].text == "a"
    else:
        with pytest.raises(InputRefused, match=said):
            read_documents(file)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b'{"text": "a", "n": 1%s}' % (b"0" * 5000), ["a"]),
        (b'{"text": "a", "n": 1e999, "m": 18446744073709551616}', ["a"]),
        (b'{"text": "a", "x": {"text": "b", "text": "c"}}', ["a"]),
        (b'{"text": "a \\"text\\" \\"text\\""}', ['a "text" "text"']),
        (b'{"text": "a\\u0000b"}\r\n\r\n  \r\n{"text": ""}', ["a\0b", ""]),
        (b'{"text": "%s"}' % (b"[{" * 999), ["[{" * 999]),
        ('{"text": "\u2028 \U0001f600 \\ud83d\\ude00"}'.encode(), ["\u2028 \U0001f600 \U0001f600"]),
    ],
)
def test_lines_with_odd_parts_are_taken(content: bytes, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    assert [each.text for each in read_documents(tmp_path / "data.jsonl")] == texts


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_bytes(BOM + b'{"text": "a"}\r\n{"text": "b"}')
    assert [each.text for each in read_documents(file)] == ["a", "b"]
    file.write_bytes(b'{"text": "a"}\n' + BOM + b'{"text": "b"}')
    with pytest.raises(InputRefused, match="line 2"):
        read_documents(file)
