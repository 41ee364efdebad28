"""The door for graphs of blocks: whatever links to whatever, it is measured, listed and written out, or refused, within
what it says of itself."""

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from proofyard.artifacts import ArtifactError
from proofyard.artifacts.unixfs import FANOUTS, Kind, Link, Node, directory_node, file_node, node_cid, symlink_node
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import Cid
from proofyard.sdk import Artifacts

MAX_BYTES = 64 << 10
SECONDS = 20.0
TIMES = (1,) * 15 + (95,)
"""How often a node's links are there once more: one in 16 is large, or an input would take ten times as long."""
NAMES = ["a", "b", "..", "", "x/y", "A", "00", "0Aa", "\udcff", "n" * 256, ".h", "c:d"]
TARGETS = ["a", "..", "/etc/passwd", "a/../../b", ".", "\udcff"]


class _Bytes:
    """Numbers from bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def below(self, limit: int) -> int:
        return next(self._data, 0) % limit


def graph(data: bytes, put: Callable[[Node], Cid], leaf: Callable[[bytes], Cid]) -> list[Cid]:
    """Blocks that `data` stands for, each linking to earlier ones, the last the most of them."""
    numbers = _Bytes(data)
    sizes: dict[Cid, int] = {}

    def add(cid: Cid, size: int) -> None:
        sizes[cid] = size

    for length in (0, 1, 1000):
        add(leaf(bytes(length)), length)
    for _ in range(numbers.below(24)):
        found = list(sizes)
        links = [
            Link(found[numbers.below(len(found))], NAMES[numbers.below(len(NAMES))], numbers.below(250) ** 8)
            for _ in range(numbers.below(12))
        ]
        repeated = links * (TIMES[numbers.below(len(TIMES))] * (1 + numbers.below(8)))
        match numbers.below(6):
            case 0 | 1:
                parts = [sizes[link.cid] + (numbers.below(40) == 39) for link in repeated]
                node = file_node([Link(link.cid, "", 0) for link in repeated], parts)
                add(put(node), sum(parts))
            case 2 | 3:
                named = [Link(each.cid, f"{each.name}{n or ''}", each.tsize) for n, each in enumerate(repeated)]
                add(put(directory_node(named)), 0)
            case 4:
                fanout = sorted(FANOUTS)[numbers.below(len(FANOUTS))]
                width = len(f"{fanout - 1:X}")
                slots = [Link(link.cid, f"{n:0{width}X}{link.name}", 0) for n, link in enumerate(repeated[:fanout])]
                bits = (1 << len(slots)) - 1
                shape = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
                add(put(Node(Kind.SHARD, tuple(slots), shape, fanout=fanout)), 0)
            case _:
                add(put(symlink_node(TARGETS[numbers.below(len(TARGETS))])), 0)
    return list(sizes)


def artifact_door(folder: Path) -> Callable[[bytes], None]:
    """A function that takes random bytes: the artifact that they stand for is put through everything that reads one.
    Anything but an `ArtifactError` is a crash; more than it may be, or longer than it may take, is an `AssertionError`.
    """
    artifacts = Artifacts(folder / "store")

    def put(node: Node) -> Cid:
        block = node.encode()
        artifacts.store.put_block(node_cid(block), block)
        return node_cid(block)

    def leaf(data: bytes) -> Cid:
        artifacts.store.put_block(raw_cid(data), data)
        return raw_cid(data)

    def knock(data: bytes) -> None:
        root = graph(data, put, leaf)[-1]
        start, out = time.monotonic(), folder / "out"
        for read in (
            lambda: artifacts.store.size(root),
            lambda: artifacts.entries(root),
            lambda: artifacts.is_complete(root),
            lambda: artifacts.is_complete(root, (5, 1 << 62)),
            lambda: artifacts.store.get_bytes(root, MAX_BYTES),
            lambda: artifacts.get(root, out / "whole", max_bytes=MAX_BYTES),
            lambda: artifacts.get(root, out / "part", span=(3, 1 << 62), max_bytes=MAX_BYTES),
            lambda: artifacts.write_car(root, out / "car"),
        ):
            with contextlib.suppress(ArtifactError):
                read()
        artifacts.verify(root)
        written = [path for path in (out / "whole", *(out / "whole").rglob("*")) if not path.is_symlink()]
        assert sum(path.stat().st_size for path in written if path.is_file()) <= MAX_BYTES
        assert set(folder.iterdir()) <= {folder / "store", out}, "something was written outside"
        assert {path.name for path in out.iterdir()} <= {"whole", "part", "car"} if out.exists() else True
        assert time.monotonic() - start < SECONDS
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(artifacts.store.path / "blocks")
        (artifacts.store.path / "blocks").mkdir()

    return knock
