"""Artifacts from the shell: stores in temporary folders, and a peer on a real network that has one."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import base58
import pytest
import typer

from proofyard.artifacts import BlockStore, serve_blocks
from proofyard.artifacts.car import car_pieces
from proofyard.artifacts.unixfs import Link, directory_node, node_cid
from proofyard.chain import Anvil, ChainClient, Params, Wallet, deploy_network
from proofyard.cli import main
from proofyard.cli.artifact import parse_duration, parse_size, parse_span
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.types import ExitCode
from proofyard.sdk import Artifacts
from proofyard.transport import Endpoint

CHUNK = 256 << 10
Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls `proofyard artifact` on a store of the test; returns exit code, JSON and stderr."""
    for name in list(os.environ):
        if name.startswith("PROOFYARD_"):
            monkeypatch.delenv(name)
    toml = tmp_path / "proofyard.toml"
    toml.write_text('[artifact]\nstore = "store"\n')

    def call(*args: object) -> tuple[int, Any, str]:
        code = main(["--config", str(toml), "artifact", *map(str, args), "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else None, printed.err

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of a big file, a small one and a hidden one."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights").write_bytes(os.urandom(3 * CHUNK + 5))
    (folder / "sub" / "config").write_bytes(b"{}")
    (folder / ".hidden").write_bytes(b"not this")
    return folder


def test_a_file_goes_in_and_comes_out(run: Run, model: Path, tmp_path: Path) -> None:
    code, put, err = run("put", model / "weights")
    assert (code, put["bytes"]) == (0, 3 * CHUNK + 5)
    assert put["cid"] == BlockStore(tmp_path / "other").put_file(model / "weights")
    assert err == f"next: proofyard artifact get {put['cid']} COPY\n"
    code, got, _ = run("get", put["cid"], tmp_path / "copy")
    assert code == 0
    assert Path(got["path"]).read_bytes() == (model / "weights").read_bytes()


def test_a_part_of_a_file_comes_out(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model / "weights")
    data = (model / "weights").read_bytes()
    for span, expected in (("5:9", data[5:9]), (f"{CHUNK - 1}:{CHUNK + 1}", data[CHUNK - 1 : CHUNK + 1]), (":", data)):
        _, got, _ = run("get", put["cid"], tmp_path / "part", "--range", span, "--force")
        assert Path(got["path"]).read_bytes() == expected


def test_a_folder_is_listed_and_comes_out(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model, "--link")
    code, found, _ = run("ls", put["cid"])
    assert code == 0
    assert [(each["path"], each["bytes"]) for each in found] == [
        ("/", 0), ("sub/", 0), ("sub/config", 2), ("weights", 3 * CHUNK + 5)
    ]  # fmt: skip
    run("get", put["cid"], tmp_path / "copy")
    assert (tmp_path / "copy" / "sub" / "config").read_bytes() == b"{}"
    assert not (tmp_path / "copy" / ".hidden").exists()


def test_what_is_pinned_survives_a_collection(run: Run, model: Path) -> None:
    _, kept, _ = run("put", model / "weights")
    _, lost, _ = run("put", model / "sub" / "config")
    assert run("pin", lost["cid"], "--remove")[0] == 0
    code, listed, _ = run("ls")
    assert [each["cid"] for each in listed] == [kept["cid"]]
    code, done, _ = run("gc", "--grace", "0")
    assert (code, done["blocks"], done["bytes"]) == (0, 1, 2)
    assert run("verify", kept["cid"])[0] == 0
    assert run("verify", lost["cid"])[0] == ExitCode.FAILED


def test_a_lease_ends(run: Run, model: Path) -> None:
    _, put, _ = run("put", model / "weights")
    assert run("pin", put["cid"], "--for", "7d", "--reason", "base model")[0] == 0
    (listed,) = run("ls")[1]
    assert listed["reason"] == "base model"
    assert listed["until"] is not None
    run("pin", put["cid"], "--for", "0s")
    assert run("gc", "--grace", "0s")[1]["bytes_left"] == 0


def test_a_lease_beyond_every_calendar_spoils_no_list(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model / "weights")
    Artifacts(tmp_path / "store").pin(put["cid"], seconds=1e20)
    assert [each["cid"] for each in run("ls")[1]] == [put["cid"]]
    assert main(["artifact", "ls", "--store", str(tmp_path / "store")]) == 0


def test_cars_without_roots_or_with_very_many_are_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "none.car").write_bytes(b"".join(car_pieces([], [(raw_cid(b"x"), b"x")])))
    code, found, err = run("put", "--car", tmp_path / "none.car")
    assert (code, found["roots"], found["blocks"]) == (0, [], 1)
    assert "nothing keeps its 1 blocks" in err
    (tmp_path / "many.car").write_bytes(b"".join(car_pieces([raw_cid(b"%d" % n) for n in range(300)], [])))
    code, found, err = run("put", "--car", tmp_path / "many.car")
    assert (code, len(found["roots"])) == (0, 300)
    assert "295 other roots are not all in the file either" in err


def test_a_flipped_byte_is_found(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model)
    code, found, _ = run("verify")
    assert (code, found["damaged"], found["missing"]) == (0, [], [])
    damaged = raw_cid(b"{}")
    (tmp_path / "store" / "blocks" / damaged[-2:] / damaged).write_bytes(b"{]")
    code, found, err = run("verify")
    assert code == ExitCode.PROOF_MISMATCH
    assert found["damaged"] == [damaged]
    assert f"error: artifact {damaged} is corrupt" in err
    assert run("verify", put["cid"])[1]["missing"] == [damaged]
    run("put", model)
    assert run("verify")[0] == 0


CID = raw_cid(b"unknown")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("verify", "QmNotACid"), ExitCode.USAGE, "not a usable CID"),
        (("get", "/ipfs/" + CID + "/inside", "copy"), ExitCode.USAGE, "a path inside an artifact is not taken"),
        (("put", "/dev/null"), ExitCode.USAGE, "PATH: /dev/null is neither a file, a folder nor a symbolic link"),
        (("put", "/etc/hostname", "--car"), ExitCode.USAGE, "PATH: the CAR file cannot be read"),
        (("put", "/etc/hostname", "--car", "--link"), ExitCode.USAGE, "leave out --link and --follow"),
        (("get", CID, "copy", "--car", "--range", "0:5"), ExitCode.USAGE, "leave out --range"),
        (("put", "/nowhere"), ExitCode.USAGE, "PATH: there is no file or folder /nowhere"),
        (("get", CID, "copy"), ExitCode.USAGE, "give --registry, set PROOFYARD_REGISTRY, or --ipfs"),
        (("get", CID, "copy", "--peer", "nowhere"), ExitCode.USAGE, "write HOST:PORT"),
        (("get", CID, "copy", "--range", "9:1"), ExitCode.USAGE, "write START:STOP"),
        (("get", CID, "copy", "--max-size", "big"), ExitCode.USAGE, "write it like 4096 or 10GB"),
        (("get", CID, "copy", "--ipfs", "/ip4/127.0.0.1/tcp/9/http"), ExitCode.UNREACHABLE, "tcp/9/http failed"),
        (("pin", CID, "--for", "soon"), ExitCode.USAGE, "write it like 90s, 30m, 12h or 7d"),
        (("pin", CID, "--for", "999999999999999999d"), ExitCode.USAGE, "is longer than 36500d"),
        (("gc", "--grace", "36501d"), ExitCode.USAGE, "is longer than 36500d"),
        (("ls", "bafkqaaa"), ExitCode.USAGE, "the identity hash"),
        (("ls", "1" + CID), ExitCode.USAGE, "no base of CIDs begins with '1'"),
        (("ls", CID), ExitCode.FAILED, "fetch its artifact from a peer that has it"),
    ],
)
@pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")
def test_bad_input_is_named_with_what_to_do(args: tuple[str, ...], code: ExitCode, said: str, run: Run) -> None:
    found, printed, err = run(*args)
    assert (found, printed) == (code, None)
    assert said in err
    assert err.count("error:") == 1


@pytest.fixture
def network(tmp_path: Path, model: Path) -> Iterator[tuple[ChainClient, str, int]]:
    """A chain whose one verifier has the folder `model`: the chain, its CID and the verifier's port."""
    ready: list[Any] = []
    store = BlockStore(tmp_path / "seeder")
    cid = store.put_directory(model)
    with Anvil() as anvil:
        deployer = anvil.wallet(0)
        registry = deploy_network(anvil.rpc_url, deployer, Params()).registry
        chain = ChainClient(anvil.rpc_url, registry, deployer)
        wallet, started = Wallet.generate(), threading.Event()

        async def serve() -> None:
            async with Endpoint(wallet, network=chain.domain) as endpoint:
                serve_blocks(endpoint, store)
                stop = asyncio.Event()
                ready.extend((endpoint.port, asyncio.get_running_loop(), stop))
                started.set()
                await stop.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert started.wait(60)
        port, loop, stop = ready
        try:
            chain.register_verifier(wallet, chain.params().verifier_stake, f"127.0.0.1:{port}")
            yield chain, cid, port
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


def test_an_artifact_comes_from_the_peers_in_the_registry(
    run: Run, network: tuple[ChainClient, str, int], model: Path, tmp_path: Path
) -> None:
    chain, cid, port = network
    where = ("--rpc-url", chain.rpc_url, "--registry", chain.registry)
    code, got, err = run("get", cid, tmp_path / "copy", *where)
    assert (code, err) == (0, "")
    assert (Path(got["path"]) / "weights").read_bytes() == (model / "weights").read_bytes()
    code, _, err = run("get", CID, tmp_path / "other", *where, "--peer", f"127.0.0.1:{port}")
    assert code == ExitCode.UNREACHABLE
    assert "lacks blocks" in err


def test_links_modes_and_odd_names_are_kept_or_said(run: Run, model: Path, tmp_path: Path) -> None:
    (model / "link").symlink_to("weights")
    (model / "out").symlink_to("/etc/passwd")
    (model / "run.sh").write_bytes(b"#!/bin/sh")
    (model / "run.sh").chmod(0o755)
    (model / ("n" * 250)).write_bytes(b"long")
    (model / os.fsdecode(b"\xff\n\x1b")).write_bytes(b"odd")
    code, put, err = run("put", model)
    assert code == 0
    assert "2 symbolic links are stored as links; --follow" in err
    assert "executable is not kept" in err
    code, listed, _ = run("ls", put["cid"])
    found = {each["path"]: each for each in listed}
    assert (found["link"]["kind"], found["link"]["target"]) == ("symlink", "weights")
    code, _, err = run("get", put["cid"], tmp_path / "copy")
    assert code == ExitCode.USAGE
    assert "left out of" in err and "'out': a symbolic link out of the artifact, to '/etc/passwd'" in err
    assert (tmp_path / "copy" / "link").read_bytes() == (model / "weights").read_bytes()
    assert (tmp_path / "copy" / ("n" * 250)).read_bytes() == b"long"
    code, _, _ = run("get", put["cid"], tmp_path / "all", "--outside-links")
    assert code == 0
    assert str((tmp_path / "all" / "out").readlink()) == "/etc/passwd"


def test_a_name_from_a_stranger_is_no_line_and_no_command(
    run: Run, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / os.fsdecode(b"\xff\nbafkreifake  9  fake\x1b[2J")).write_bytes(b"odd")
    _, put, _ = run("put", model)
    main(["artifact", "ls", put["cid"], "--store", str(tmp_path / "store")])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 6
    assert "\x1b" not in printed


def test_a_folder_of_loops_is_put_and_refused_where_they_are_followed(run: Run, model: Path) -> None:
    (model / "a").symlink_to(".")
    (model / "b").symlink_to(".")
    assert run("put", model)[0] == 0
    code, _, err = run("put", model, "--follow")
    assert code == ExitCode.USAGE
    assert f"{model / 'a'} leads back to a folder that it is in" in err


def test_a_car_file_goes_in_and_out(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model)
    code, got, _ = run("get", put["cid"], tmp_path / "model.car", "--car")
    assert code == 0
    _, found, err = run("put", got["path"], "--car", "--store", tmp_path / "other")
    assert found["roots"] == [{"cid": put["cid"], "complete": True}]
    assert err == ""
    _, listed, _ = run("ls", "--store", tmp_path / "other")
    assert [(each["cid"], each["bytes"]) for each in listed] == [(put["cid"], 3 * CHUNK + 7)]


def test_a_version_0_cid_is_the_same_artifact(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model)
    spelt = base58.b58encode(cid_bytes(put["cid"])[2:]).decode()
    assert spelt.startswith("Qm")
    assert run("ls", spelt)[1] == run("ls", put["cid"])[1]
    code, got, _ = run("get", f"ipfs://{spelt}", tmp_path / "copy")
    assert (code, got["cid"]) == (0, put["cid"])


def test_a_bomb_is_listed_beside_the_others(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model)
    store = BlockStore(tmp_path / "store")
    here = store.put_bytes(bytes(CHUNK))
    for _ in range(12):
        block = directory_node([Link(here, f"{n}", 0) for n in range(100)]).encode()
        store.put_block(node_cid(block), block)
        here = node_cid(block)
    run("pin", here)
    code, listed, _ = run("ls")
    assert (code, {each["cid"]: each["bytes"] for each in listed}) == (
        0, {put["cid"]: 3 * CHUNK + 7, here: CHUNK * 100**12}
    )  # fmt: skip
    code, _, err = run("get", here, tmp_path / "bomb")
    assert (code, (tmp_path / "bomb").exists()) == (ExitCode.FAILED, False)
    assert "over the limit of 68719476736" in err
    assert run("ls", here)[0] == ExitCode.FAILED


def test_a_file_is_not_written_over_unless_it_may_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "new.txt").write_text("new")
    _, put, _ = run("put", tmp_path / "new.txt")
    for more in ((), ("--car",), ("--range", "0:2")):
        code, _, err = run("get", put["cid"], tmp_path / "mine.txt", *more)
        assert (code, (tmp_path / "mine.txt").read_text()) == (ExitCode.USAGE, "mine")
        assert "is there already; name a new file or an empty folder" in err
    assert run("get", put["cid"], tmp_path / "mine.txt", "--force")[0] == 0
    assert (tmp_path / "mine.txt").read_text() == "new"


@pytest.mark.parametrize("words", [("put", ""), ("get", "", "x"), ("get", CID, ""), ("ls", "--store", "")])
def test_a_variable_that_is_not_set_is_no_path(run: Run, words: tuple[str, ...]) -> None:
    code, _, err = run(*words)
    assert code == ExitCode.USAGE
    assert "is empty" in err and "give it or leave it out" in err


def test_a_copy_that_is_gone_takes_nothing_with_it(run: Run, model: Path, tmp_path: Path) -> None:
    _, put, _ = run("put", model, "--link")
    run("get", put["cid"], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    code, found, _ = run("verify")
    assert (code, found["damaged"], found["missing"]) == (0, [], [])
    assert run("get", put["cid"], tmp_path / "copy")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "d", "-1d", "+1d", "1e3", "1.5d", "0,5d", "1_0d", "\u0667d", "7 days", "1d12h", "inf", "nan", "1w"),
        *("1" * 30, "40000000d", "999999999999999999d", "0x10"),
    ],
)
def test_a_duration_or_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is not a duration; write it like|is longer than"):
        parse_duration(text)
    with pytest.raises(typer.BadParameter, match=r"is not a size; write it like|is more than"):
        parse_size(text.replace("d", "GB").replace("40000000GB", "9999999999999GB"))


def test_durations_and_sizes_are_read_as_people_write_them() -> None:
    assert [parse_duration(text) for text in ("90", "90s", " 30m ", "12H", "7 d")] == [90, 90, 1800, 43_200, 604_800]
    assert [parse_size(text) for text in ("0", "4096", "10GB", "512 mib", "1KiB")] == [0, 4096, 10**10, 512 << 20, 1024]


@pytest.mark.parametrize("text", ["", "5", "5:5", "5:4", "-1:4", "0x0:4", "\u0661:9", "1:2:3", "1e1:", "a:b", "1 :2"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a range"):
        parse_span(text)
