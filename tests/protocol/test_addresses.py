"""Addresses as people type them."""

import pytest

from proofyard.protocol.addresses import looks_like_address, read_address

ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
DIGITS = ADDRESS[2:]


@pytest.mark.parametrize(
    "text",
    [
        *(ADDRESS, ADDRESS.lower(), "0x" + DIGITS.upper(), "0X" + DIGITS, "0X" + DIGITS.lower(), "0X" + DIGITS.upper()),
        *(DIGITS, DIGITS.lower(), DIGITS.upper(), f" {ADDRESS}\n", f"\t{DIGITS} "),
    ],
)
def test_any_spelling_of_an_address_is_that_address(text: str) -> None:
    assert read_address(text) == ADDRESS
    assert looks_like_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *(ADDRESS.replace("C5", "c5"), DIGITS.replace("dc", "Dc"), ADDRESS[:-1] + "9", ADDRESS[:-1], ADDRESS + "0"),
        *("0x" + ADDRESS, "0x " + DIGITS, "0x", "", "0x" + "g" * 40, "0x" + "\u0660" * 40, "\uff19" * 40, "x" + DIGITS),
        *("vitalik.eth", "alice", "XE7338O073KYGTWWZN0F2WZ0R8PX5ZPPZS", f"eip155:1:{ADDRESS}", f"ethereum:{ADDRESS}"),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        read_address(text)
