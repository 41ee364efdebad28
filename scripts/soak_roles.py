"""The processes of `soak.py`: one that has imported everything, and forks a verifier or a node whenever it is told to.

Both are the services as they are, but for the executor, which has nothing to compute, and for the wall's clock, which
may be wrong by what a file says. A fork is a process of its own, and is there in some milliseconds: so they can be
killed a thousand times in an hour.

Orders come as lines of JSON on stdin, and each is answered by one on stdout.
"""

import contextlib
import faulthandler
import gc
import json
import logging
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import soak_work

soak_work.install()

import msgspec  # noqa: E402

from proofyard.cli.logs import LogLevel, configure  # noqa: E402
from proofyard.node import juror  # noqa: E402
from proofyard.node import service as node_service  # noqa: E402
from proofyard.node.settings import NodeSettings  # noqa: E402
from proofyard.protocol.types import ProofyardError  # noqa: E402
from proofyard.runtime.folder import own_folder  # noqa: E402
from proofyard.runtime.parent import end_with_parent  # noqa: E402
from proofyard.verifier import service as verifier_service  # noqa: E402
from proofyard.verifier.settings import VerifierSettings  # noqa: E402

logger = logging.getLogger("proofyard.soak")


def serve() -> None:
    """Until stdin ends."""
    running: dict[str, int] = {}
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        match order["do"]:
            case "start":
                running[order["name"]] = answer["pid"] = _fork(order)
            case "signal":
                if order["name"] in running:
                    os.kill(running[order["name"]], order["number"])
            case "reap":
                for name in order["names"]:
                    if name in running and (code := _ended(running[name], wait=order["wait"])) is not None:
                        answer[name] = code
                        del running[name]
        print(json.dumps(answer), flush=True)


def _ended(pid: int, *, wait: bool) -> int | None:
    """How a process ended, as `subprocess` has it; None while it runs."""
    found, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(order: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        end_with_parent(parent, signal.SIGKILL)
        _redirect(Path(order["log"]))
        # Whoever does not stop in time is sent SIGABRT, and its log says where its threads are.
        faulthandler.enable()
        configure(LogLevel(order["level"]))
        _shift_clock(Path(order["clock"]))
        _run(order["role"], json.dumps(order["settings"]).encode())
        code = 0
    except ProofyardError as error:
        logger.error("%s", error)
        code = error.exit_code
    except BaseException:
        logger.exception("ended")
    finally:
        logging.shutdown()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, sink), (2, sink)):
        os.dup2(source, target)


def _shift_clock(path: Path) -> None:
    """From now on the wall's clock is wrong by the seconds in a file of one float."""
    real, shown = time.time, mmap.mmap(os.open(path, os.O_RDONLY), 8, prot=mmap.PROT_READ)
    time.time = lambda: real() + struct.unpack_from("<d", shown)[0]


def _run(role: str, settings: bytes) -> None:
    if role == "verifier":
        chosen = msgspec.json.decode(settings, type=VerifierSettings, dec_hook=_path)
        with own_folder(chosen.data_dir):
            verifier_service.run(chosen)
    else:
        for module in (node_service, juror):
            module.__dict__["Executor"] = soak_work.Digesting
        own = msgspec.json.decode(settings, type=NodeSettings, dec_hook=_path)
        with own_folder(own.data_dir):
            node_service.run(own)


def _path(kind: type, value: Any) -> Any:
    return kind(value)


if __name__ == "__main__":
    serve()
