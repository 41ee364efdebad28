import io
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from proofyard.workloads import inspection

sys.path.insert(0, str(Path(__file__).parent))


class Here:
    """In the place of a sandbox: what looks at a job's inputs does so in this process: the start of one of its own
    takes most of a test's time. `tests/workloads/test_inspection.py` and the networks have the sandbox."""

    def run(self, _policy: Any, module: str, *, data: bytes, env: Any) -> "subprocess.CompletedProcess[bytes]":
        assert module == inspection.__name__ and "PATH" in env
        out = io.BytesIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
            try:
                inspection.main()
            except Exception:  # the process would have ended
                return subprocess.CompletedProcess(module, 1, b"", traceback.format_exc().encode())
            return subprocess.CompletedProcess(module, 0, out.getvalue(), b"")


@pytest.fixture(autouse=True)
def looked_at_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "Sandbox", Here)
