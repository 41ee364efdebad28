"""What a setting may be, by its type: a value beyond is refused with the field's name."""

from typing import Annotated

from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65_535)]
Amount = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Threads = Annotated[int, Meta(ge=0, le=4096)]
Most = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Share = Annotated[int, Meta(ge=0, le=10_000)]
Seconds = Annotated[float, Meta(gt=0, le=100 * 366 * 86_400.0)]
