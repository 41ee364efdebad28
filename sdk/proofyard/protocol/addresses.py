"""Addresses as people and other programs write them: small or large digits, with or without 0x."""

from proofyard.protocol.keccak import keccak
from proofyard.protocol.types import Address

DIGITS = 40


def checksum_address(address: bytes) -> Address:
    """20 bytes as EIP-55 writes them: a letter is large where the hash of the small digits has 8 or more."""
    digits = address.hex()
    pattern = keccak(digits.encode()).hex()
    return Address("0x" + "".join(d.upper() if p >= "8" else d for d, p in zip(digits, pattern, strict=False)))


def read_address(text: str) -> Address:
    """An address in any spelling; where small and large digits are mixed they are a checksum (EIP-55). Raises
    `ValueError` that says what is wrong with it."""
    typed = text.strip()
    digits = typed[2:] if typed[:2] in ("0x", "0X") else typed
    if len(digits) != DIGITS or not is_hex(digits):
        raise ValueError(f"{text[:100]!r} is no address: that is 0x and {DIGITS} digits from 0 to f")
    address = checksum_address(bytes.fromhex(digits))
    if digits not in (digits.lower(), digits.upper(), address[2:]):
        raise ValueError(f"{text!r} is no address, or a digit of it is wrong: it is not its own checksum")
    return address


def looks_like_address(text: str) -> bool:
    """Whether somebody means an address by it, right or wrong, and no name."""
    typed = text.strip()
    return typed[:2] in ("0x", "0X") or (len(typed) == DIGITS and is_hex(typed))


def is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
