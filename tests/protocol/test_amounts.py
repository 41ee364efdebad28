"""Amounts as people type them."""

import pytest

from proofyard.protocol.amounts import MOST, format_amount, read_amount


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("12", 12 * 10**18),
        ("0.5", 5 * 10**17),
        (".5", 5 * 10**17),
        ("1,250.5 CREDIT", 12505 * 10**17),
        ("1,000,000", 10**24),
        ("0.000000000000000001", 1),
        ("000012", 12 * 10**18),
        (" 7 ", 7 * 10**18),
        (format_amount(MOST), MOST),
    ],
)
def test_an_amount_is_exact(text: str, base: int) -> None:
    assert read_amount(text) == base


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0,5",
            "1,25",
            "12,50",
            "1,2345",
            ",500",
            "1.234,50",
            "1 000",
            "1_000",
            "1e18",
            "+5",
            "-5",
            "",
            ".",
            "CREDIT",
        ),
        *("5 ETH", "0x10", "1/2", "NaN", "inf", "\u0665", "\uff15", "1.0000000000000000001", "1.5.5", "1,,000"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused_with_the_form_that_is_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like 12, 0.5 or 1,250"):
        read_amount(text)


@pytest.mark.parametrize("text", ["79,228,162,515", "9" * 5000, "1" + "0" * 40])
def test_more_than_there_can_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more CREDIT than there can be"):
        read_amount(text)
