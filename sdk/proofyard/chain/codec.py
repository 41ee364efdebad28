"""ABI decoding of what anybody may have written on chain: a text is bytes that its writer chose.

Contracts do not hold a `string` to UTF-8, and every reader of the chain comes past every text. So a text never fails
to be read: what is no printable character becomes a replacement character, and the rest of a log, a page or a list of
operators is read as if nothing were wrong with it.
"""

from functools import cache
from typing import Any

from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder
from eth_abi.encoding import TextStringEncoder
from eth_abi.registry import BaseEquals
from web3._utils.abi import build_strict_registry

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class _TextDecoder(StringDecoder):
    """Decodes any bytes to printable text."""

    @staticmethod
    def decoder_fn(data: bytes, handle_string_errors: str = "strict") -> str:
        text = data.decode("utf-8", errors="replace")
        return "".join(character if character.isprintable() else _REPLACEMENT for character in text)


@cache
def codec() -> ABICodec:
    """The codec of everything that is read from the chain."""
    registry: Any = build_strict_registry()
    registry.unregister("string")
    registry.register(BaseEquals("string"), TextStringEncoder, _TextDecoder, label="string")  # type: ignore[no-untyped-call]
    return ABICodec(registry)
