"""Addresses as people and other programs write them: small or large digits, with or without 0x."""

from eth_utils.address import is_checksum_address, to_checksum_address

from proofyard.protocol.types import Address

DIGITS = 40


def read_address(text: str) -> Address:
    """An address in any spelling; where small and large digits are mixed they are a checksum (EIP-55). Raises
    `ValueError` that says what is wrong with it."""
    typed = text.strip()
    digits = typed[2:] if typed[:2] in ("0x", "0X") else typed
    if len(digits) != DIGITS or not is_hex(digits):
        raise ValueError(f"{text[:100]!r} is no address: that is 0x and {DIGITS} digits from 0 to f")
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address("0x" + digits):
        raise ValueError(f"{text!r} is no address, or a digit of it is wrong: it is not its own checksum")
    return Address(to_checksum_address("0x" + digits.lower()))


def looks_like_address(text: str) -> bool:
    """Whether somebody means an address by it, right or wrong, and no name."""
    typed = text.strip()
    return typed[:2] in ("0x", "0X") or (len(typed) == DIGITS and is_hex(typed))


def is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
