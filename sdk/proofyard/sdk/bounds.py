"""How long a client waits, and how much it takes."""

import math
from dataclasses import dataclass, fields

from proofyard.sdk.errors import BadSetting


@dataclass(frozen=True, kw_only=True)
class _Positive:
    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not value > 0 or math.isinf(value):
                raise BadSetting(each.name, f"{each.name}: is {str(value)[:80]!r}; give a number above 0")


@dataclass(frozen=True, kw_only=True)
class Timeout(_Positive):
    """Seconds. `reach`: until a verifier can be reached, one that restarts included. `answer`: for one answer.
    `publish`: for a verifier to fetch a job's inputs. `poll`: between two questions how a job is doing. `last_lines`:
    for what is left of the log of a job that is over. `chain`: between two looks at what the chain says of a followed
    job. `away`: a verifier that could not be reached is not dialled again, where others have what is read. Raises
    `BadSetting`."""

    reach: float = 60.0
    answer: float = 10.0
    publish: float = 3600.0
    poll: float = 0.5
    last_lines: float = 30.0
    chain: float = 5.0
    away: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Limits(_Positive):
    """The most that is taken. `result_bytes`: of one task's result. `tokenizer_bytes`: of one of its files. `rows` and
    `data_bytes`: of data that is no file, such as what a generator yields. `data_bytes`, `model_bytes`: of inputs that
    are named by CID. `log_lines`: of one job. Raises `BadSetting`."""

    result_bytes: int = 2 << 30
    tokenizer_bytes: int = 256 << 20
    rows: int = 1 << 30
    data_bytes: int = 32 << 30
    model_bytes: int = 32 << 30
    log_lines: int = 1_000_000
