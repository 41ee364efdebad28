"""A store on a disk that is really full: it says so, keeps what it has, and goes on when there is room."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proofyard.artifacts import BlockStore
from proofyard.artifacts.errors import StoreUnusable
from proofyard.protocol.types import Cid

MIB = 1 << 20


class Disk:
    """Four MiB."""

    def __init__(self, path: Path) -> None:
        self.path, self.ballast = path, path / "ballast"

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as sink:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        sink.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def put_file(store: BlockStore, folder: Path, data: bytes) -> Cid:
    (folder / "file").write_bytes(data)
    return store.put_file(folder / "file")


def put_directory(store: BlockStore, folder: Path, data: bytes) -> Cid:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "file").write_bytes(data)
    return store.put_directory(folder / "source")


def link_file(store: BlockStore, folder: Path, data: bytes) -> Cid:
    (folder / "linked").write_bytes(data)
    return store.link_file(folder / "linked")


WAYS: dict[str, Callable[[BlockStore, Path, bytes], Cid]] = {
    "bytes": lambda store, _, data: store.put_bytes(data),
    "a file": put_file,
    "a folder": put_directory,
    "a file where it lies": link_file,
}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_is_told_of_and_waited_for(disk: Disk, tmp_path: Path, way: str, packs: bool) -> None:
    store, put = BlockStore(disk.path / "blocks", packs=packs), WAYS[way]
    kept = store.put_bytes(b"k" * 1000), store.put_bytes(b"K" * MIB)
    disk.fill()
    sizes = (1000, 300_000, 2 * MIB) if way != "a file where it lies" else (30 * MIB,)
    for size in sizes:
        with pytest.raises(StoreUnusable, match=r"(full|No space).*free some space"):
            for number in range(64):
                put(store, tmp_path, bytes([number]) * size)
    for cid, data in zip(kept, (b"k" * 1000, b"K" * MIB), strict=True):
        assert store.get_bytes(cid) == data and not any(store.missing(cid))
    disk.free()
    for size in (1000, 300_000, MIB):
        cid = put(store, tmp_path, b"f" * size)
        assert not any(store.missing(cid))
    store.close()
