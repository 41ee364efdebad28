"""keccak-256, the hash of everything that a contract checks.

A record of a thousand tasks takes tens of thousands of them, so the library in C is called directly.
"""

from sha3 import keccak_256


def keccak(data: bytes) -> bytes:
    """32 bytes."""
    digest: bytes = keccak_256(data).digest()
    return digest
