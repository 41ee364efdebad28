"""What the work at hand is about, for the lines that are logged meanwhile: job, batch, task, peer.

A task of asyncio inherits it from whoever began it and changes only its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ABOUT: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("about", default=())


def about() -> dict[str, str]:
    """What lines logged now are about."""
    return dict(_ABOUT.get())


def set_about(**fields: object) -> None:
    """Until the task ends, or something else is set; what is None is left out."""
    _ABOUT.set(_joined(fields))


@contextmanager
def being_about(**fields: object) -> Iterator[None]:
    token = _ABOUT.set(_joined(fields))
    try:
        yield
    finally:
        _ABOUT.reset(token)


def _joined(fields: dict[str, object]) -> tuple[tuple[str, str], ...]:
    said = dict(_ABOUT.get()) | {name: str(value) for name, value in fields.items() if value is not None}
    return tuple(said.items())
