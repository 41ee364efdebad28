"""The fields of a config.json, typed: what is left out is what transformers takes, what has another type is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proofyard.workloads.errors import InputRefused
from proofyard.workloads.model_files import read_config

MOST = 1 << 31
"""No size is larger."""
LEAST_POSITIVE, MOST_POSITIVE = 1e-30, 1e30


class Fields:
    """Reads the fields of one model directory. Every method raises `InputRefused` that names the field."""

    def __init__(self, model: Path, families: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> None:
        """`families`: each family's defaults, which go before the `common` ones. A field without a default has to be
        there."""
        self._model = model
        self.raw = raw = read_config(model)
        self.family: str = raw.get("model_type", "")
        if "auto_map" in raw:
            raise InputRefused(f"model directory {model.name}", "asks to run code of its own, which is never done here")
        if not isinstance(self.family, str) or self.family not in families:
            known = ", ".join(families)
            raise self.refused(f"the model_type {self.family!r}; covered are {known}")
        if raw.get("quantization_config") is not None:
            raise self.refused("quantised weights (quantization_config)")
        self._defaults = {**common, **families[self.family]}

    def get(self, name: str) -> Any:
        if name in self.raw:
            return self.raw[name]
        if name not in self._defaults:
            raise InputRefused(f"model directory {self._model.name}", f"has no {name} in its config.json")
        return self._defaults[name]

    def has(self, name: str) -> bool:
        """Whether the family has this field, or the configuration sets it."""
        return name in self._defaults or name in self.raw

    def size(self, name: str, most: int = MOST) -> int:
        """A whole number from 1."""
        value = self.get(name)
        if type(value) is not int or not 1 <= value <= most:
            raise self.misstated(name, f"a whole number from 1 to {most}")
        return value

    def size_or(self, name: str, other: int) -> int:
        """The same, or `other` where the field is null."""
        return other if self.get(name) is None else self.size(name)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.get(name)
        if type(value) not in (int, float) or not abs(value) <= MOST_POSITIVE:
            raise self.misstated(name, "a finite number")
        return float(value)

    def positive(self, name: str) -> float:
        value = self.number(name)
        if not LEAST_POSITIVE <= value <= MOST_POSITIVE:
            raise self.misstated(name, "a positive number")
        return value

    def positive_or_none(self, name: str) -> float:
        """A positive number, 0.0 where the field is null."""
        return 0.0 if self.get(name) is None else self.positive(name)

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if type(value) is not bool:
            raise self.misstated(name, "true or false")
        return value

    def word(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise self.misstated(name, "a word")
        return value

    def misstated(self, name: str, expected: str) -> InputRefused:
        """The error for a field that holds something else."""
        return self.misstates(name, self.get(name), expected)

    def misstates(self, name: str, value: Any, expected: str) -> InputRefused:
        """The same for a value that stands deeper in the configuration."""
        found = repr(value)
        return InputRefused(
            f"model directory {self._model.name}", f"has {name} {found[:60]} in its config.json, expected {expected}"
        )

    def refused(self, what: str) -> InputRefused:
        """The error for something that a configuration asks for and that is not covered."""
        return InputRefused(f"model directory {self._model.name}", f"uses {what}, which exact execution does not cover")
