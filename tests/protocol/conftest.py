import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from proofyard.protocol import signature

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def known_signatures() -> Iterator[None]:
    """Recovers a signature once: tests that check a record many times spend their time on nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signature, "recover", lru_cache(maxsize=None)(signature.recover))
        yield
