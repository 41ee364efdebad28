"""Where Foundry's programs are: on the PATH, or in the platform package that npm put into node_modules."""

import platform
import shutil
import sys
from pathlib import Path

from proofyard.chain.errors import ToolNotFound

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "win32"}


def find_tool(name: str) -> Path:
    """The executable `name` (anvil, forge). Raises `ToolNotFound`.

    npm's own launchers are passed over: they hide the exit code of the program they start.
    """
    on_path = shutil.which(name)
    if on_path and "node_modules" not in Path(on_path).parts:
        return Path(on_path)
    system = _SYSTEMS.get(sys.platform, sys.platform)
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    package = f"@foundry-rs/{name}-{system}-{machine}"
    program = f"{name}.exe" if system == "win32" else name
    for root in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        candidate = root / "node_modules" / package / "bin" / program
        if candidate.is_file():
            return candidate
    raise ToolNotFound(name, package)
