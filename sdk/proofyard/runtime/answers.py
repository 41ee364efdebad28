"""What somebody's HTTP server answers, bounded in size and time: a body may be anything, broken, or without an end."""

import time

import requests
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

PART_BYTES = 1 << 16


class NoAnswer(Exception):
    """Nothing was said that could be read. `reason` shows nothing of the address."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def get(url: str, most: int, seconds: float) -> tuple[int, bytes]:
    """Status and body of what is at an address: `most` bytes, within about `seconds`. Raises `NoAnswer`."""
    try:
        with requests.get(url, timeout=seconds, stream=True) as answer:
            return answer.status_code, read_body(answer.raw, most, seconds)
    except (requests.RequestException, HTTPError, ValueError, OSError) as error:
        raise NoAnswer(type(error).__name__) from None


def read_body(answer: BaseHTTPResponse, most: int, seconds: float) -> bytes:
    """A body, unpacked. Raises `NoAnswer` for one that is too large, or does not end; what urllib3 raises comes
    through."""
    parts, size, until = [], 0, time.monotonic() + seconds
    while part := answer.read1(PART_BYTES, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > most or time.monotonic() > until:
            answer.close()
            if size > most:
                raise NoAnswer(f"its answer is over the limit of {most} bytes")
            raise NoAnswer(f"no answer in {seconds:.0f} s: it does not end")
    return b"".join(parts)
