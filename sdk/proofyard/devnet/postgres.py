"""A PostgreSQL of one's own in a folder of its own, from Debian's packages, as an unprivileged user."""

import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from proofyard.protocol.types import ProofyardError

USER = "proofyard"


class NoPostgres(ProofyardError):
    """There is none on this machine."""


class PostgresServer:
    """Listens on a socket in its folder only, which is a new one, temporary unless it is given, and gone with `close`.
    Raises `NoPostgres` with the reason where there is none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._programs = _programs()
        self._owner = _unprivileged()
        if folder is not None:
            folder.mkdir(mode=0o700)
        self._folder = folder or Path(mkdtemp(prefix="proofyard-postgres-"))
        if self._owner is not None:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        self._run(
            "initdb", "-D", str(self._data), "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--wal-segsize=1"
        )
        self._databases = 0
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off -c max_connections=200 -c max_wal_size=64MB"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash."""
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def runs(self) -> bool:
        return self._call("pg_ctl", "-D", str(self._data), "status").returncode == 0

    def dump(self, sink: IO[bytes]) -> None:
        """Write the newest database as SQL."""
        self._call("pg_dump", "-h", str(self._folder), "-U", USER, f"test{self._databases}", stdout=sink)

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self._run("createdb", "-h", str(self._folder), "-U", USER, name)
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        self._call(program, *arguments).check_returncode()

    def _call(
        self, program: str, *arguments: str, stdout: int | IO[bytes] = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[bytes]:
        user = None if self._owner is None else self._owner.pw_uid
        group = None if self._owner is None else self._owner.pw_gid
        return subprocess.run(  # noqa: S603 (programs of PostgreSQL's, our own arguments)
            [str(self._programs / program), *arguments],
            check=False,
            cwd=self._folder,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path:
        found.append(Path(on_path))
    if not found:
        raise NoPostgres("there is no PostgreSQL here: `apt-get install postgresql`")
    return found[-1].parent


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as where this process is root's, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres("PostgreSQL does not run as root, and there is no other user")
