"""Text in narrow windows: broken between words, what is copied in one piece, commands as a shell reads them."""

import io
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.runtime.fitting import fitted, table, width_of

ADDRESS = "0x946229Ff1E6a0000000000000000000000000011E6"
CID = "bafybei" + "a" * 52
SUBMIT = "proofyard job submit --model 'my model' --data text.jsonl --reward 100 --audit-fee 20 --wait"


def read_by_a_shell(lines: str) -> list[str]:
    return shlex.split(re.sub(r"\\\n", " ", lines))


@pytest.mark.parametrize("lead", ["", "  ", "next: ", "job 4 is done, after a while; next: ", "  -> so do it: "])
@pytest.mark.parametrize("width", [24, 40, 60])
def test_a_command_can_be_copied_out_of_a_narrow_window(lead: str, width: int) -> None:
    lines = fitted(lead + SUBMIT, width).splitlines()
    assert all(len(line) <= width for line in lines)
    at = next(number for number, line in enumerate(lines) if "proofyard" in line)
    assert read_by_a_shell("\n".join(lines[at:])) == shlex.split(SUBMIT)


def test_a_sentence_with_a_command_in_it_is_no_command() -> None:
    text = "next: proofyard verifier dispute draw 7, from block 1234 on and within 60 s: it pays whoever draws"
    assert "\\" not in fitted(text, 40)
    assert " ".join(fitted(text, 40).split()) == text


def test_a_line_goes_on_where_its_text_began() -> None:
    assert fitted("deadline   2026-01-31 14:05:00+01:00 (in 3 h)", 30).splitlines() == [
        "deadline   2026-01-31",
        "           14:05:00+01:00 (in",
        "           3 h)",
    ]
    assert fitted(f"record               {CID}", 60).splitlines() == ["record", f"  {CID}"]
    assert fitted(f"    shown by batch 1, record {CID}", 60).splitlines()[-1].strip() == CID


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "job", "`proofyard node run`", ADDRESS, CID, "of the network;", "  "]), min_size=1),
    st.integers(20, 80),
    st.sampled_from(["", "  ", "label    ", "a very long label that fills all of it   "]),
)
def test_no_word_is_lost_or_broken_and_only_single_words_are_too_long(words: list[str], width: int, label: str) -> None:
    text = label + " ".join(words)
    lines = fitted(text, width).splitlines()
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


def test_what_fits_stays_as_it_is() -> None:
    text = f"a  b\n\n{ADDRESS}  x"
    assert fitted(text, 60) == text
    assert fitted(text * 9, None) == text * 9


ROWS = [("0", ADDRESS, "100 CREDIT", "127.0.0.1:4433"), ("1", ADDRESS, "90 CREDIT", "")]
HEADER = ("SLOT", "ADDRESS", "STAKE", "ENDPOINT")


def test_a_table_that_is_too_wide_becomes_records() -> None:
    assert len(table(ROWS, HEADER, 80).splitlines()) == 3
    assert table(ROWS, HEADER, None) == table(ROWS, HEADER, 200) == table(ROWS, HEADER)
    assert table(ROWS, HEADER, 60).splitlines() == [
        "SLOT      0",
        f"ADDRESS   {ADDRESS}",
        "STAKE     100 CREDIT",
        "ENDPOINT  127.0.0.1:4433",
        "",
        "SLOT      1",
        f"ADDRESS   {ADDRESS}",
        "STAKE     90 CREDIT",
    ]


def test_a_last_column_of_words_is_wrapped_in_its_place() -> None:
    rows = [("hours", "22-6", "by command, and until somebody says otherwise")]
    assert table(rows, ("LIMIT", "VALUE", ""), 44).splitlines() == [
        "LIMIT  VALUE",
        "hours  22-6   by command, and until somebody",
        "              says otherwise",
    ]


@pytest.mark.parametrize(("said", "width"), [("60", 60), ("3", 20), ("0", None), ("wide", None), ("", None)])
def test_the_width_is_what_columns_says_or_the_terminals(
    said: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", said)
    assert width_of(io.StringIO()) == width
