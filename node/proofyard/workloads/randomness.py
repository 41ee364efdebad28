"""Random numbers that are the same on every machine and in every version of numpy.

Only the raw 64-bit stream of Philox4x64 is used, whose values numpy guarantees; shaping them into floats and
permutations is exact arithmetic done here.
"""

import hashlib

import numpy as np
import numpy.typing as npt


def raw_words(count: int, *purpose: str | int) -> npt.NDArray[np.uint64]:
    """`count` uniform 64-bit words that belong to `purpose` alone."""
    text = "\x1f".join(str(part) for part in purpose)
    key = hashlib.sha256(b"proofyard random\x1f" + text.encode()).digest()[:16]
    return np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)


def uniform(count: int, bound: float, *purpose: str | int) -> npt.NDArray[np.float64]:
    """`count` numbers uniform in [-bound, bound)."""
    unit = (raw_words(count, *purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (unit * 2.0 - 1.0) * bound


def permutation(count: int, *purpose: str | int) -> npt.NDArray[np.intp]:
    """A random order of range(count)."""
    return np.argsort(raw_words(count, *purpose), kind="stable")
