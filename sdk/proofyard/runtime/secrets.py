"""What no log line and no error may say: keys and passwords that people typed, set, or put into URLs."""

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
LONG, SHORT = 20, 6
"""A part of a URL's path that is at least so long is taken for an access key; what is shorter hides nothing alone."""
_ODD = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w-]{8,}")
"""So is a part with letters and digits."""
_KEY = re.compile(r"(?:0[xX])?([0-9a-fA-F]{64})")

_secrets: set[str] = set()


def hide(*secrets: str) -> None:
    """Keep these out of every line that is logged or printed as an error from now on."""
    _secrets.update(secret for secret in secrets if secret)


def hide_in(url: str) -> None:
    """The same of what gives access in a URL, or in several: its password, the values in its query, long parts of its
    path. What is short is hidden with what stands around it: it may be a part of any word."""
    first, *others = re.split(r"[,\s]+(?=[A-Za-z]+://)", url)
    for other in others:
        hide_in(other)
    scheme, there_is, rest = first.partition("://")
    if not there_is:
        return
    is_web = scheme.lower() in ("http", "https", "ws", "wss")
    start = re.match(r"[^?#]*", rest)
    user, at, after = (start[0] if start else "").rpartition("@")
    if at:
        name, _, password = user.partition(":")
        secrets = password.split("@") if password else [name] if is_web else []
        _hide_part(password + at, *(part for secret in secrets for part in (secret, unquote(secret))))
    for each in re.split(r"[&;#]", first.partition("?")[2] or first.partition("#")[2]):
        value = each.partition("=")[2] or each
        _hide_part(*((value, unquote_plus(value)) if len(value) >= SHORT else (each,)))
    if is_web:
        parts = re.split(r"[/?#]", (after if at else rest).partition("/")[2])
        hide(*(part for part in parts if len(part) >= LONG or _ODD.fullmatch(part)))


def hide_what_is_given(texts: Iterable[str]) -> None:
    """The same of what people type or set: URLs, and private keys that stand where something else belongs."""
    for text in texts:
        hide_in(text)
        if found := _KEY.fullmatch(text.strip()):
            hide(found[1])


def _hide_part(*parts: str) -> None:
    hide(*(part for part in parts if len(part) >= SHORT))


def without_secrets(text: str) -> str:
    if not _secrets:
        return text
    return re.sub("|".join(map(re.escape, sorted(_secrets, key=len, reverse=True))), HIDDEN, text)
