"""CAR files: what IPFS tools hand to one another, what others made, and what nobody should take."""

import contextlib
import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.artifacts import BlockMissing, BlockStore, CorruptArtifact, PartlySupported, UnusableCar
from proofyard.artifacts.car import car_pieces, read_car
from proofyard.artifacts.dag import all_blocks, entries, load
from proofyard.artifacts.hamt import build_shards
from proofyard.artifacts.unixfs import Link, Node
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.sdk import Artifacts

FIXTURES = Path(__file__).parents[1] / "vectors" / "ipfs"


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "own")


def car_of(artifacts, cid):
    get = artifacts.store.get_block
    return b"".join(car_pieces([cid], ((block, get(block)) for block in all_blocks(get, cid))))


@pytest.fixture
def folder(tmp_path, pattern):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "data").write_bytes(pattern(600_000))
    (folder / "same").write_bytes(pattern(600_000))
    (folder / "link").symlink_to("data")
    return folder


def test_a_car_file_brings_an_artifact_to_another_store(artifacts, folder, tmp_path):
    cid = artifacts.put(folder)
    path = artifacts.write_car(cid, tmp_path / "new" / "a.car")
    other = Artifacts(tmp_path / "other")
    found = other.put_car(path)
    assert (found.roots, found.passed_over) == ((cid,), 0)
    assert found.blocks == len(list(all_blocks(artifacts.store.get_block, cid)))
    assert other.is_complete(cid)
    assert [kept.cid for kept in other.kept()] == [cid]
    assert other.write_car(cid, tmp_path / "b.car").read_bytes() == path.read_bytes()


def test_a_car_file_of_what_is_not_all_here_is_not_written(artifacts, folder, tmp_path, pattern):
    cid = artifacts.put(folder)
    artifacts.store.delete_block(raw_cid(pattern(256 << 10)))
    with pytest.raises(BlockMissing):
        artifacts.write_car(cid, tmp_path / "a.car")
    assert not (tmp_path / "a.car").exists()


def as_version_2(car, start=11 + 40 + 7, size=None):
    header = bytes(16) + struct.pack("<QQQ", start, len(car) if size is None else size, 0)
    return bytes.fromhex("0aa16776657273696f6e02") + header + bytes(7) + car + b"an index"


def test_version_2_is_read(artifacts, folder, tmp_path):
    cid = artifacts.put(folder)
    (tmp_path / "2.car").write_bytes(as_version_2(car_of(artifacts, cid)))
    assert Artifacts(tmp_path / "other").put_car(tmp_path / "2.car").roots == (cid,)


def test_part_of_an_artifact_is_taken_as_such(artifacts, folder, tmp_path):
    cid = artifacts.put(folder)
    (tmp_path / "part.car").write_bytes(b"".join(car_pieces([cid], [(cid, artifacts.store.get_block(cid))])))
    other = Artifacts(tmp_path / "other")
    other.put_car(tmp_path / "part.car")
    assert not other.is_complete(cid)


def test_a_block_that_is_not_what_its_cid_says_is_refused(tmp_path):
    (tmp_path / "a.car").write_bytes(b"".join(car_pieces([raw_cid(b"x")], [(raw_cid(b"x"), b"y")])))
    with pytest.raises(CorruptArtifact, match="digest"):
        Artifacts(tmp_path / "other").put_car(tmp_path / "a.car")


@pytest.mark.parametrize(
    ("odd", "blocks", "complete"),
    [
        (lambda cid, blocks: car_pieces([cid], blocks + blocks), 8, True),
        (lambda cid, blocks: [*car_pieces([cid], blocks), bytes(1000)], 4, True),
        (lambda cid, blocks: car_pieces([cid, cid], blocks[::-1]), 4, True),
        (lambda cid, blocks: car_pieces([cid, raw_cid(b"elsewhere")], blocks), 4, True),
        (lambda cid, blocks: car_pieces([cid], []), 0, False),
        (lambda cid, blocks: car_pieces([cid], [*blocks, (raw_cid(b"x"), b"x")]), 5, True),
    ],
    ids=["blocks twice", "padded", "in another order", "a root that is elsewhere", "no blocks", "more than it names"],
)
def test_odd_cars_bring_what_is_in_them(artifacts, tmp_path, pattern, odd, blocks, complete):
    cid = artifacts.store.put_bytes(pattern(600_000))
    get = artifacts.store.get_block
    own = [(block, get(block)) for block in all_blocks(get, cid)]
    (tmp_path / "a.car").write_bytes(b"".join(odd(cid, own)))
    other = Artifacts(tmp_path / "other")
    found = other.put_car(tmp_path / "a.car")
    assert (found.blocks, other.is_complete(cid)) == (blocks, complete)
    assert {kept.cid for kept in other.kept()} == set(found.roots)


HEADER = b"".join(car_pieces([raw_cid(b"x")], []))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is it a CAR file"),
        (b"{}" * 100, "no map"),
        (b"\0", "is it a CAR file"),
        (b"\xff" * 20, "too large"),
        (HEADER[:-3], "ends inside"),
        (HEADER + b"\x05\x01\x55", "ends inside"),
        (HEADER + b"\xff\xff\xff\x7f", "over the limit"),
        (HEADER + b"\x04\x02\x55\x12\x20", "no CID"),
        (HEADER.replace(b"version\x01", b"version\x03"), "version 3"),
        (as_version_2(HEADER)[:30], "ends inside"),
        (as_version_2(HEADER, start=0), "at 0 are its content"),
        (as_version_2(HEADER, start=1 << 63), "are its content"),
        (as_version_2(HEADER, size=1 << 62), "are its content"),
        (as_version_2(HEADER, size=0), "longer than its header says"),
        (as_version_2(HEADER, size=len(HEADER) - 1), "longer than its header says"),
        (b"\xc4\xd8\x4b" + bytes(100), "would have 1240132 bytes, over the limit"),
        (HEADER + HEADER, "no CID"),
        (b"\x1f\x8b\x08" + bytes(100), "no map"),
        (b"<!DOCTYPE html>" + b" " * 300, "no map"),
    ],
)
def test_what_is_no_car_file_is_named(tmp_path, data, reason):
    (tmp_path / "a.car").write_bytes(data)
    with pytest.raises(UnusableCar, match=reason) as caught:
        Artifacts(tmp_path / "other").put_car(tmp_path / "a.car")
    assert caught.value.exit_code == 2


@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused_or_read_but_never_breaks(noise, behind_header):
    with contextlib.suppress(UnusableCar):
        for _ in read_car(io.BytesIO(HEADER + noise if behind_header else noise)).blocks:
            pass


def from_fixture(name, artifacts):
    found = artifacts.put_car(FIXTURES / name)
    assert artifacts.is_complete(found.roots[0])
    return found


@pytest.mark.parametrize(
    ("name", "count", "left_out"),
    [
        ("path_gateway_unixfs_dir-with-files", 5, set()),
        ("path_gateway_unixfs_dir-with-percent-encoded-filename", 2, set()),
        ("path_gateway_unixfs_symlink", 3, set()),
        ("trustless_gateway_car_single-layer-hamt-with-multi-block-files", 1001, set()),
        ("subdomain_gateway_fixtures", 13, {"hello-CIDv1_TOO_LONG"}),
        ("path_gateway_tar_inside-root", 4, {"foobar/directory/../file"}),
        ("path_gateway_tar_outside-root", 3, {"../foo"}),
    ],
)
def test_what_the_gateways_are_tested_with_is_read(artifacts, tmp_path, name, count, left_out):
    found = from_fixture(f"{name}.car", artifacts)
    assert found.passed_over == (name == "subdomain_gateway_fixtures")
    (root,) = found.roots
    assert len(artifacts.entries(root)) == count
    with contextlib.nullcontext() if not left_out else pytest.raises(PartlySupported) as caught:
        artifacts.get(root, tmp_path / "out")
    assert not left_out or {path for path, _ in caught.value.left_out} == left_out
    assert sum(1 for path in (tmp_path / "out").rglob("*")) == count - 1 - len(left_out)


def test_a_sharded_folder_that_kubo_made_is_made_the_same_here(artifacts):
    (root,) = from_fixture("trustless_gateway_car_single-layer-hamt-with-multi-block-files.car", artifacts).roots
    get = artifacts.store.get_block
    links = []
    for entry in entries(get, root):
        if entry.path:
            node = load(get, entry.cid)
            assert isinstance(node, Node)
            links.append(Link(entry.cid, entry.path[0], len(get(entry.cid)) + sum(each.tsize for each in node.links)))
    assert build_shards(links, lambda *_: None).cid == root


def test_a_link_of_version_0_and_one_of_version_1_are_the_same_block(tmp_path):
    store = BlockStore(tmp_path)
    cid = store.put_directory(tmp_path / "tmp")
    section = cid_bytes(cid)[2:] + store.get_block(cid)
    car = b"".join(car_pieces([cid], [])) + bytes([len(section)]) + section
    assert list(read_car(io.BytesIO(car)).blocks) == [(cid, store.get_block(cid))]
