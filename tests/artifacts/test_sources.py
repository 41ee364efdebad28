"""What lies in people's folders: links, odd names, pipes, and what else can be put and must be had again."""

import hashlib
import os
import socket
import subprocess

import pytest

from proofyard.artifacts import (
    ArtifactTooLarge,
    CorruptArtifact,
    PartlySupported,
    SourceUnusable,
    StoreUnusable,
    UnsupportedArtifact,
)
from proofyard.artifacts.dag import MAX_DEPTH, EntryKind, entries
from proofyard.artifacts.exporting import leads_out
from proofyard.artifacts.files import write_link
from proofyard.artifacts.linked import located, spelt_path
from proofyard.artifacts.source import scan
from proofyard.artifacts.unixfs import Kind, Link, Node, decode, directory_node, node_cid, symlink_node
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.types import Address
from proofyard.runtime.service import write_ready
from proofyard.sdk import Artifacts


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(b"content")
    return folder


def put(store, node):
    block = node.encode()
    store.put_block(node_cid(block), block)
    return node_cid(block)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("name", "target"), [("a", "."), ("b", "nowhere"), ("sub/up", "../file"), ("loop", "loop"), ("sub/c", "..")]
)
def test_symbolic_links_come_back_as_links(store, folder, tmp_path, name, target, link):
    (folder / name).symlink_to(target)
    cid = store.link_directory(folder) if link else store.put_directory(folder)
    out = store.export(cid, tmp_path / "out")
    assert str((out / name).readlink()) == target
    assert (out / "file").read_bytes() == b"content"
    assert store.put_directory(out) == cid
    (folder / name).unlink()
    assert (store.link_directory(folder) if link else store.put_directory(folder)) != cid


def test_links_that_are_followed_stand_for_what_they_point_to(store, folder, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"weights")
    (folder / "weights").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to("sub")
    cid = store.link_directory(folder, follow=True)
    assert store.local_path(cid) == folder
    out = store.export(cid, tmp_path / "out")
    assert (out / "weights").read_bytes() == b"weights"
    assert not (out / "weights").is_symlink()
    assert (out / "again").is_dir()


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ({"a": "."}, "leads back to a folder"),
        ({"sub/a": "..", "sub/b": ".."}, "leads back to a folder"),
        ({"a": "nowhere"}, "leads to nothing"),
        ({"a": "b", "b": "a"}, "leads to nothing|symbolic links"),
        ({"a": "/dev/null"}, "neither a file, a folder"),
    ],
)
def test_links_that_cannot_be_followed_are_named(store, folder, links, reason):
    for name, target in links.items():
        (folder / name).symlink_to(target)
    with pytest.raises(SourceUnusable, match=reason) as caught:
        store.put_directory(folder, follow=True)
    assert str(folder) in str(caught.value)


def test_folders_that_unfold_through_links_end(store, tmp_path):
    for level in range(1, 16):
        (tmp_path / f"{level}").mkdir()
        for name in "abc":
            (tmp_path / f"{level}" / name).symlink_to(f"../{level + 1}")
    (tmp_path / "16").mkdir()
    with pytest.raises(SourceUnusable, match="more than 100000 files and folders"):
        store.put_directory(tmp_path / "1", follow=True)


NAMES = [
    "co:lon",
    "back\\slash",
    "new\nline",
    "end.",
    " ",
    "n" * 250,
    "é" * 127,
    "*?<>|\"'",
    os.fsdecode(b"\xff\xfe"),
    os.fsdecode("ümlaut".encode("latin-1")),
]


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_whatever_a_file_may_be_called_comes_back(store, tmp_path, name, link):
    source = tmp_path / "source" / name
    source.mkdir(parents=True)
    (source / name).write_bytes(b"content")
    make = store.link_directory if link else store.put_directory
    cid = make(tmp_path / "source")
    assert make(tmp_path / "source") == cid
    out = store.export(cid, tmp_path / "out")
    assert (out / name / name).read_bytes() == b"content"
    assert store.local_path(cid) is not None
    assert type(store)(store.path).local_path(cid) is not None
    assert located(spelt_path(source)) == source


@pytest.mark.parametrize("put", ["put_file", "put_directory", "link_file", "link_directory"])
@pytest.mark.parametrize("change", ["grows", "shrinks", "is written to"])
@pytest.mark.parametrize("size", [10, 3 << 18])
def test_what_changes_while_it_is_read_is_refused(store, folder, put, change, size):
    file = folder / "file"
    file.write_bytes(bytes(size))

    def meddle(_read):
        with file.open("r+b") as stream:
            if change == "is written to":
                stream.write(b"x")
            else:
                stream.truncate(file.stat().st_size + (1 if change == "grows" else -1))
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))

    with pytest.raises(SourceUnusable, match="changes while it is read") as caught:
        getattr(store, put)(folder if put.endswith("directory") else file, meddle)
    assert str(file) in str(caught.value)
    assert store.linked() == {}


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_what_is_put_is_never_too_deep_to_be_had(store, tmp_path, depth):
    deepest = (tmp_path / "root").joinpath(*["d"] * (depth - 1))
    deepest.mkdir(parents=True)
    (deepest / "file").write_bytes(b"x")
    if depth > MAX_DEPTH:
        with pytest.raises(SourceUnusable, match=f"more than {MAX_DEPTH} folders deep"):
            store.put_directory(tmp_path / "root")
    else:
        cid = store.put_directory(tmp_path / "root")
        assert store.export(cid, tmp_path / "out").joinpath(*["d"] * (depth - 1), "file").read_bytes() == b"x"


def test_pipes_and_devices_are_refused_and_not_waited_for(store, folder):
    subprocess.run(["mkfifo", folder / "pipe"], check=True)
    for path in (folder, folder / "pipe", "/dev/zero"):
        with pytest.raises(SourceUnusable, match="neither a file, a folder nor a symbolic link"):
            store.put_directory(path)


def test_what_is_executable_in_an_artifact_is_so_on_disk(store, tmp_path):
    nodes = {mode: put(store, Node(Kind.FILE, (), b"#!", 2, mode=mode)) for mode in (0o755, 0o644, 0o4711, 0)}
    cid = put(store, directory_node([Link(node, f"{mode:o}", 0) for mode, node in nodes.items()]))
    out = store.export(cid, tmp_path / "out")
    found = {path.name: path.stat().st_mode & 0o7777 for path in out.iterdir()}
    assert {name: mode & 0o111 for name, mode in found.items()} == {"755": 0o111, "644": 0, "4711": 0o111, "0": 0}
    assert all(mode & 0o7600 == 0o600 for mode in found.values())


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False),
        ("a", ".", False),
        ("a", "..", True),
        ("a", "/etc/passwd", True),
        ("d/a", "../b", False),
        ("d/a", "../../b", True),
        ("d/e/a", "../..", False),
        ("a", "d/../b", True),
        ("d/a", ".././../b", True),
        ("a", "...", False),
    ],
)
def test_where_a_link_leads(path, target, out):
    assert leads_out(path.split("/"), target) is out


def test_nothing_is_written_outside(store, tmp_path):
    leaf = store.put_bytes(b"secret")
    inner = put(store, directory_node([Link(leaf, "x", 0)]))
    out_link, up = put(store, symlink_node(str(tmp_path))), put(store, symlink_node("sub/../../x"))
    names = ["..", ".", "", "../x", "/x", "a/b", "nul\0", "n" * 256]
    good = [Link(leaf, "good", 0), Link(inner, "sub", 0), Link(out_link, "out", 0), Link(up, "up", 0)]
    cid = put(store, directory_node([*(Link(leaf, name, 0) for name in names), *good]))
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(store.path)}
    with pytest.raises(PartlySupported) as caught:
        store.export(cid, tmp_path / "dest")
    assert len(caught.value.left_out) == len(names) + 2
    after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(store.path)} - before
    assert {str(path.relative_to(tmp_path)) for path in after} == {"dest", "dest/good", "dest/sub", "dest/sub/x"}


def test_nothing_is_written_through_a_link_that_lies_there(store, tmp_path):
    first = put(store, directory_node([Link(put(store, symlink_node("/" + str(tmp_path))), "d", 0)]))
    leaf = store.put_bytes(b"x")
    second = put(store, directory_node([Link(put(store, directory_node([Link(leaf, "file", 0)])), "d", 0)]))
    store.export(first, tmp_path / "dest", outside_links=True)
    with pytest.raises(UnsupportedArtifact, match="nothing is written through it"):
        store.export(second, tmp_path / "dest")
    assert not (tmp_path / "file").exists()


def test_what_is_not_supported_spoils_nothing_beside_it(store, tmp_path):
    leaf = store.put_bytes(b"fine")
    metadata = put(store, Node(Kind.FILE, (), b"", 0))
    block = b"\x0a\x02\x08\x03"  # UnixFS metadata
    store.put_block(node_cid(block), block)
    plain = b"\x0a\x00"  # a DAG-PB node without UnixFS
    store.put_block(node_cid(plain), plain)
    foreign = "bafkrgq" + "a" * 97
    names = {"fine": leaf, "empty": metadata, "metadata": node_cid(block), "plain": node_cid(plain)}
    node = directory_node([Link(cid, name, 0) for name, cid in names.items()]).encode()
    cbor = bytes((1, 0x71, 0x12, 0x20)) + bytes(32)
    link = b"\x0a\x24" + cbor + b"\x12\x04cbor"
    node = b"\x12" + bytes([len(link)]) + link + node
    store.put_block(node_cid(node), node)
    cid = node_cid(node)
    kinds = {entry.path[0]: entry.kind for entry in entries(store.get_block, cid) if entry.path}
    unsupported = {name for name, kind in kinds.items() if kind is EntryKind.UNSUPPORTED}
    assert unsupported == {"metadata", "plain", "cbor"}
    assert not any(store.missing(cid))
    with pytest.raises(PartlySupported, match="left out") as caught:
        store.export(cid, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert {name for name, _ in caught.value.left_out} == unsupported
    assert (tmp_path / "out" / "fine").read_bytes() == b"fine"
    assert foreign not in kinds


def test_a_part_of_a_file_with_another_hash_is_called_unsupported(store):
    link = b"\x0a\x24" + bytes((1, 0x55, 0x1E, 0x20)) + bytes(32)
    node = b"\x12" + bytes([len(link)]) + link + b"\x0a\x06\x08\x02\x18\x05\x20\x05"
    store.put_block(node_cid(node), node)
    with pytest.raises(UnsupportedArtifact, match="another hash"):
        store.get_bytes(node_cid(node))
    with pytest.raises(UnsupportedArtifact, match="another hash"):
        store.missing_of_range(node_cid(node), 0, 5)


def test_sizes_may_be_packed(store):
    leaf = raw_cid(b"four")
    store.put_block(leaf, b"four")
    link = b"\x0a\x24" + bytes((1, 0x55, 0x12, 0x20)) + hashlib.sha256(b"four").digest()
    unixfs = b"\x08\x02\x18\x08\x22\x02\x04\x04"
    node = (b"\x12" + bytes([len(link)]) + link) * 2 + b"\x0a" + bytes([len(unixfs)]) + unixfs
    store.put_block(node_cid(node), node)
    assert store.get_bytes(node_cid(node)) == b"fourfour"


@pytest.mark.parametrize("data", [b"", b"nul\0", b"x" * 4096])
def test_a_link_without_a_usable_target_is_corrupt(store, data):
    cid = put(store, Node(Kind.SYMLINK, (), data))
    with pytest.raises(CorruptArtifact, match="usable target"):
        list(entries(store.get_block, cid))


def test_too_many_entries_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("proofyard.artifacts.source.MAX_ENTRIES", 10)
    for number in range(11):
        (tmp_path / f"{number}").touch()
    with pytest.raises(SourceUnusable, match="more than 10 files"):
        scan(tmp_path)


def test_a_limit_counts_links_too(store, tmp_path):
    cid = put(store, directory_node([Link(put(store, symlink_node("x" * 4000)), f"{n}", 0) for n in range(300)]))
    with pytest.raises(ArtifactTooLarge):
        store.export(cid, tmp_path / "out", max_bytes=1 << 20)


def test_a_path_that_is_too_long_for_this_system_is_left_out(store, tmp_path):
    here = store.put_bytes(b"x")
    for _ in range(16):
        here = put(store, directory_node([Link(here, "n" * 255, 0)]))
    root = put(store, directory_node([Link(store.put_bytes(b"fine"), "fine", 0)]))
    both = put(store, directory_node([Link(store.put_bytes(b"fine"), "a", 0), Link(root, "b", 0)]))
    assert store.export(both, tmp_path / "both").joinpath("b", "fine").read_bytes() == b"fine"
    deep = decode(here, store.get_block(here)).links[0].cid
    cid = put(store, directory_node([Link(store.put_bytes(b"fine"), "a", 0), Link(deep, "m" * 255, 0)]))
    with pytest.raises(PartlySupported, match="too long"):
        store.export(cid, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == b"fine"


@pytest.mark.parametrize("node", [Node(Kind.DIRECTORY), symlink_node("a")])
def test_a_folder_or_link_is_not_called_a_corrupt_file(store, tmp_path, node):
    cid = put(store, node)
    for read in (
        lambda: store.get_bytes(cid),
        lambda: store.export_range(cid, tmp_path / "out", 0, 5),
        lambda: store.missing_of_range(cid, 0, 5),
    ):
        with pytest.raises(UnsupportedArtifact, match="where a file is expected"):
            read()


@pytest.fixture(params=["pipe", "socket", "link to a pipe", "link to a socket"])
def no_file(request, tmp_path):
    """Something that is no file, as devices are, at a path of the test's own."""
    place, link = tmp_path / "special", tmp_path / "link"
    link.symlink_to(place)
    if "pipe" in request.param:
        os.mkfifo(place)
        yield link if "link" in request.param else place
        return
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        yield link if "link" in request.param else place


def identity(path):
    """What stays of a file that nobody replaces or writes to: following a link may change when it was last read."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize(
    "write",
    [
        lambda own, cid, path: own.get(cid, path, force=True),
        lambda own, cid, path: own.get(cid, path, span=(0, 2), force=True),
        lambda own, cid, path: own.get(cid, path, car=True, force=True),
    ],
    ids=["whole", "range", "car"],
)
def test_nothing_is_put_in_place_of_a_device_or_pipe(tmp_path, no_file, write):
    own = Artifacts(tmp_path / "store")
    cid = own.store.put_bytes(b"bytes")
    before = identity(no_file)
    with pytest.raises(StoreUnusable, match="device, pipe or socket"):
        write(own, cid, no_file)
    with pytest.raises(OSError, match="device, pipe or socket"):
        write_link(no_file, "elsewhere")
    with pytest.raises(OSError, match="device, pipe or socket"):
        write_ready(no_file, Address("0x01"), 1)
    assert identity(no_file) == before
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))
