"""The same content in several places, some of which are lost."""

import shutil

import pytest

from proofyard.artifacts import BlockMissing, BlockStore, Keeper
from proofyard.artifacts.builder import CHUNK_BYTES
from proofyard.sdk import Artifacts


@pytest.fixture
def model(tmp_path, pattern):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(pattern(3 * CHUNK_BYTES + 5))
    (model / "config").write_bytes(b"{}")
    return model


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "store")


def lose(path, how):
    match how:
        case "removed":
            shutil.rmtree(path)
        case "moved":
            path.rename(path.with_name("moved"))
        case "changed":
            (path / "weights").write_bytes(bytes(3 * CHUNK_BYTES + 5))
        case "shorter":
            (path / "weights").write_bytes(b"x")


@pytest.mark.parametrize("how", ["removed", "moved", "changed", "shorter"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("anew", [True, False])
def test_a_lost_copy_takes_nothing_with_it(artifacts, model, tmp_path, how, first, anew):
    cid = artifacts.put(model, link=True)
    copy = artifacts.get(cid, tmp_path / "copy")
    lost, kept = (model, copy) if first else (copy, model)
    lose(lost, how)
    if anew:
        artifacts = Artifacts(artifacts.store.path)
    found = artifacts.verify(cid)
    assert (found.damaged, found.missing) == ((), ())
    assert artifacts.store.local_path(cid) == kept
    artifacts.collect(grace_s=0)
    assert artifacts.get(cid, tmp_path / "again").joinpath("weights").read_bytes() == (kept / "weights").read_bytes()


def test_what_is_lost_everywhere_is_missing_and_not_damaged(artifacts, model, tmp_path):
    cid = artifacts.put(model, link=True)
    shutil.rmtree(artifacts.get(cid, tmp_path / "copy"))
    shutil.rmtree(model)
    found = artifacts.verify(cid)
    assert found.damaged == ()
    assert len(found.missing) == 5
    assert not artifacts.is_complete(cid)
    with pytest.raises(BlockMissing):
        artifacts.store.export(cid, tmp_path / "again")
    artifacts.collect(grace_s=0)
    assert list((artifacts.store.path / "links").iterdir()) == []


def test_a_path_holds_what_was_linked_last(artifacts, model):
    before = artifacts.put(model, link=True)
    (model / "config").write_bytes(b"{1}")
    after = artifacts.put(model, link=True)
    assert artifacts.store.linked() == {after: model}
    assert artifacts.store.local_path(before) is None


def test_what_is_lost_can_be_linked_again(artifacts, model):
    cid = artifacts.put(model, link=True)
    artifacts.store.delete_block(cid)
    assert artifacts.verify(cid).missing == (cid,)
    assert artifacts.put(model, link=True) == cid
    assert artifacts.is_complete(cid)


def test_two_files_in_one_folder_may_have_the_same_content(artifacts, tmp_path, pattern):
    folder = tmp_path / "twins"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(pattern(2 * CHUNK_BYTES))
    cid = artifacts.put(folder, link=True)
    (folder / "a").unlink()
    assert artifacts.is_complete(cid)
    assert artifacts.store.local_path(cid) is None
    out = artifacts.get(cid, tmp_path / "out")
    assert (out / "a").read_bytes() == pattern(2 * CHUNK_BYTES)


def test_all_places_are_forgotten_together(artifacts, model, tmp_path):
    cid = artifacts.put(model, link=True)
    artifacts.get(cid, tmp_path / "copy")
    artifacts.store.unlink(cid)
    assert BlockStore(artifacts.store.path).linked() == {}


def test_what_another_process_links_is_known_to_a_collection(artifacts, model):
    keeper = Keeper(artifacts.store)
    other = BlockStore(artifacts.store.path)
    cid = other.link_directory(model)
    keeper.collect(2e9)
    assert other.has(cid)
    assert not any(BlockStore(artifacts.store.path).missing(cid))


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_with_something_new_in_it_is_another(artifacts, model, kind):
    cid = artifacts.put(model, link=True)
    (model / "new").mkdir() if kind == "folder" else (model / "new").symlink_to("config")
    assert artifacts.put(model, link=True) != cid
