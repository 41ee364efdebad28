import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from proofyard.cli.output import emit, format_credits, names, note, parse_credits, table
from proofyard.protocol.amounts import MOST


def test_amounts_read_as_credits_without_rounding() -> None:
    assert format_credits(1_250_500_000_000_000_000_000) == "1,250.5 CREDIT"
    assert format_credits(-1) == "-0.000000000000000001 CREDIT"
    assert format_credits(0) == "0 CREDIT"


def test_many_names_are_counted() -> None:
    assert names(["a", "b"]) == "a, b"
    assert names([str(n) for n in range(5000)], 2) == "0, 1 and 4998 more"


@given(st.integers(min_value=0, max_value=MOST))
def test_an_amount_survives_being_printed_and_typed(amount: int) -> None:
    assert parse_credits(format_credits(amount)) == amount


@pytest.mark.parametrize(
    ("text", "base"), [("1,250.5 CREDIT", 12505 * 10**17), (" 12 ", 12 * 10**18), (".5", 5 * 10**17)]
)
def test_amounts_are_typed_as_they_are_printed(text: str, base: int) -> None:
    assert parse_credits(text) == base


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "-1",
        "1e3",
        "0.1234567890123456789",
        "ten",
        "1,5",
        "1,00",
        ",100",
        "1,0000",
        "1_000",
        "0x10",
        "\u0661",
    ],
)
def test_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not an amount"):
        parse_credits(text)


def test_a_table_lines_up() -> None:
    assert table([["a", "1"], ["long", "22"]], ["NAME", "N"]) == "NAME  N\na     1\nlong  22"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_takes_nothing_and_breaks_nothing(
    stream: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, stream, None)
    emit({}, as_json=False, text="data")
    note("said")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (("", "said\n") if stream == "stdout" else ("data\n", ""))
