from pathlib import Path

import msgspec
import pytest

from proofyard.cli.options import ServiceFlags
from proofyard.cli.run import NodeFlags, VerifierFlags
from proofyard.node.settings import NodeSettings
from proofyard.sdk.errors import BadSetting
from proofyard.sdk.settings import RequesterSettings, load
from proofyard.verifier.settings import VerifierSettings


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    rpc_url: str = "http://127.0.0.1:8545"
    registry: str
    port: int = 0
    lease_s: float = 15.0
    data_dir: Path = Path("data")
    ready_file: Path | None = None
    workloads: tuple[str, ...] = ("lora",)


def read(toml: Path, flags: dict[str, object] | None = None, **environ: str) -> Sample:
    return load(Sample, "node", toml=toml, flags={"registry": "0x1", **(flags or {})}, environ=environ)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "proofyard.toml"
    path.write_text('rpc_url = "http://file"\n[node]\nport = 1\nworkloads = ["a", "b"]\nready_file = "run/ready"\n')
    return path


def test_the_last_source_that_speaks_wins(toml: Path) -> None:
    assert read(toml).port == 1
    assert read(toml, PROOFYARD_NODE_PORT="2").port == 2
    assert read(toml, {"port": 3}, PROOFYARD_NODE_PORT="2").port == 3
    assert read(toml, {"port": None}).port == 1


def test_a_field_that_nobody_sets_keeps_its_default(toml: Path) -> None:
    assert read(toml).lease_s == 15.0


def test_shared_fields_may_stand_above_the_sections(toml: Path) -> None:
    assert read(toml).rpc_url == "http://file"
    assert read(toml, PROOFYARD_RPC_URL="http://env").rpc_url == "http://env"
    assert read(toml, PROOFYARD_RPC_URL="http://env", PROOFYARD_NODE_RPC_URL="http://own").rpc_url == "http://own"


def test_a_relative_path_in_the_file_is_relative_to_the_file(toml: Path) -> None:
    assert read(toml).ready_file == toml.parent / "run" / "ready"
    assert read(toml, PROOFYARD_NODE_READY_FILE="here").ready_file == Path("here")


def test_a_list_in_the_environment_is_separated_by_commas(toml: Path) -> None:
    assert read(toml).workloads == ("a", "b")
    assert read(toml, PROOFYARD_NODE_WORKLOADS="lora, embed").workloads == ("lora", "embed")


def test_a_value_that_does_not_fit_names_field_and_source(toml: Path) -> None:
    with pytest.raises(BadSetting, match=r"port from PROOFYARD_NODE_PORT does not fit.*'many'") as caught:
        read(toml, PROOFYARD_NODE_PORT="many")
    assert caught.value.field == "port"
    toml.write_text('[node]\nlease_s = "long"\n')
    with pytest.raises(BadSetting, match=r"lease_s from .*proofyard.toml, \[node\] does not fit"):
        read(toml)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("port", value) for value in (-1, 65_536)),
        *((name, -1) for name in ("threads", "memory_limit_bytes", "micro_batch", "state_budget_bytes", "bond_budget")),
        *((name, 0) for name in ("max_task_steps", "max_segments", "max_state_bytes")),
        *(("max_task_s", value) for value in (0.0, float("nan"), float("inf"))),
        *((name, 10**30) for name in ("threads", "cache_bytes", "max_segments")),
    ],
)
def test_a_number_that_no_node_can_use_is_refused(field: str, value: float, toml: Path) -> None:
    needed = {"registry": "0x1", "wallet": Path("w"), "data_dir": Path("d")}
    toml.unlink()
    toml.touch()
    with pytest.raises(BadSetting, match=f"{field} from --{field.replace('_', '-')} does not fit") as caught:
        load(NodeSettings, "node", toml=toml, flags={**needed, field: value}, environ={})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("api_port", 65_536),
        ("port", -1),
        ("batch_tasks", 0),
        ("decoys_bps", 10_001),
        ("lease_s", 0.0),
        ("keep_s", -1.0),
    ],
)
def test_a_number_that_no_verifier_can_use_is_refused(field: str, value: float, toml: Path) -> None:
    needed = {"registry": "0x1", "wallet": Path("w"), "data_dir": Path("d")}
    toml.unlink()
    toml.touch()
    with pytest.raises(BadSetting, match=f"{field} from --{field.replace('_', '-')} does not fit"):
        load(VerifierSettings, "verifier", toml=toml, flags={**needed, field: value}, environ={})


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest_one(toml: Path) -> None:
    toml.write_text("[node]\nprt = 1\n")
    with pytest.raises(BadSetting, match=r"no setting prt; did you mean port\?"):
        read(toml)


def test_a_missing_field_says_where_it_can_be_set(toml: Path) -> None:
    with pytest.raises(BadSetting, match=r"give --registry, set PROOFYARD_REGISTRY, or write registry = "):
        load(Sample, "node", toml=toml, flags={}, environ={})


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="there is no settings file"):
        read(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[node")
    with pytest.raises(BadSetting, match="not valid TOML"):
        read(broken)


@pytest.mark.parametrize(
    ("flags", "settings"), [(NodeFlags, NodeSettings), (VerifierFlags, VerifierSettings)], ids=["node", "verifier"]
)
def test_every_setting_of_a_service_is_an_option_too(flags: type[ServiceFlags], settings: type) -> None:
    assert flags().given().keys() == {field.name for field in msgspec.structs.fields(settings)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('rpcurl = "http://x"\n', r"rpcurl is no setting at the top; did you mean rpc_url\?"),
        ('RPC_URL = "http://x"\n', r"did you mean rpc_url\?"),
        ('rpc-url = "http://x"\n', r"did you mean rpc_url\?"),
        ("chainid = 1\n", r"did you mean chain_id\?"),
        ("port = 1\n", r"port is no setting at the top.*others stand in a table such as \[node\]"),
        ("[nodes]\nport = 1\n", r"there is no table \[nodes\]; did you mean node\?"),
        ("[Verifier]\nport = 1\n", r"there is no table \[Verifier\]; did you mean verifier\?"),
        ("[request]\n", r"did you mean requester\?"),
        ("[anything]\n", r"it knows artifact, network, node, requester, verifier"),
        ("[node]\nPort = 1\n", r"no setting Port; did you mean port\?"),
        ("[node]\ndata-dir = 'x'\n", r"did you mean data_dir\?"),
        ("[network]\nrpcurl = 'x'\n", r"\[network\] has no setting rpcurl; did you mean rpc_url\?"),
        ("[network]\nwallet = 'x'\n", r"\[network\] has no setting wallet"),
        ("[requester]\nwalet = 'x'\n", r"did you mean wallet\?"),
        ("[NODE]\nport = 1\n", r"did you mean node\?"),
        ("[profile.dev]\nport = 1\n", r"no table \[profile\]"),
        ("[[nodes]]\nport = 1\n", r"nodes is no setting at the top"),
        ("node = 3\n", r"write it as \[node\]"),
        ("[[node]]\nport = 1\n", r"write it as \[node\]"),
        ("[node.limits]\nport = 1\n", r"no setting limits"),
    ],
)
def test_a_name_that_nobody_reads_is_refused_with_the_one_that_was_meant(text: str, says: str, toml: Path) -> None:
    toml.write_text(text)
    with pytest.raises(BadSetting, match=says):
        read(toml)


def test_what_another_program_reads_is_left_alone(toml: Path) -> None:
    toml.write_text("\ufeff[node]\nport = 7\n[verifier]\nport = 1\n[requester]\nwallet = 'x'\n", encoding="utf-8")
    assert read(toml, PROOFYARD_API="http://x", PROOFYARD_VERIFIER_PORT="1", PROOFYARD_SOMETHING="x").port == 7


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PROOFYARD_RPCURL", "RPC_URL"),
        ("PROOFYARD_REGISTRI", "REGISTRY"),
        ("PROOFYARD_PASSWORDFILE", "PASSWORD_FILE"),
        ("proofyard_rpc_url", "RPC_URL"),
        ("Proofyard_Node_Port", "NODE_PORT"),
        ("PROOFYARD_NODES_PORT", "NODE_PORT"),
        ("PROOFYARD_NODEPORT", "NODE_PORT"),
        ("PROOFYARD_NODE_DATADIR", "NODE_DATA_DIR"),
        ("PROOFYARD_NODE_LEASE", "NODE_LEASE_S"),
        ("PROOFYARD_VERIFER_PORT", "VERIFIER_PORT"),
        ("PROOFYARD_REQUESTER_WALET", "REQUESTER_WALLET"),
        ("PROOFYARD_NETWORK_RPCURL", "NETWORK_RPC_URL"),
    ],
)
def test_a_variable_that_is_nearly_right_is_refused(variable: str, meant: str, toml: Path) -> None:
    with pytest.raises(BadSetting, match=rf"{variable} is no setting; did you mean PROOFYARD_{meant}\?") as caught:
        read(toml, **{variable: "hunter22"})
    assert "hunter22" not in str(caught.value)
    with pytest.raises(BadSetting, match=r"PROOFYARD_NODE_NONSENSE is no setting$"):
        read(toml, PROOFYARD_NODE_NONSENSE="x")


def test_the_networks_table_is_everybodys(toml: Path) -> None:
    toml.write_text("rpc_url = 'http://top'\n[network]\nrpc_url = 'http://network'\n")
    assert read(toml).rpc_url == "http://network"
    assert read(toml, PROOFYARD_NETWORK_RPC_URL="http://env").rpc_url == "http://env"
    toml.write_text("[network]\nrpc_url = 'http://network'\n[node]\nrpc_url = 'http://own'\n")
    assert read(toml).rpc_url == "http://own"


@pytest.mark.parametrize("value", ["1e3", "4433.0", "0x10", "4_433", "+5", " 5", "5\n", "\u0665", "5,0", "16GiB", " "])
def test_a_whole_number_in_the_environment_is_of_digits_alone(value: str, toml: Path) -> None:
    with pytest.raises(BadSetting, match="port from PROOFYARD_NODE_PORT does not fit: Expected `int`, digits alone"):
        read(toml, PROOFYARD_NODE_PORT=value)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("~/r", "/home/u/r"), ("$HOME/r", "/home/u/r"), ("${PLACE}/r", "/p/r"), ("/a$$b", "/a$b"), ("/%x/r", "/%x/r")],
)
def test_a_path_is_written_as_in_a_shell(
    written: str, read_as: str, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    places = {"HOME": "/home/u", "PLACE": "/p"}
    toml.write_text(f'[node]\nready_file = "{written}"\n')
    assert read(toml, **places).ready_file == Path(read_as)
    assert read(toml, PROOFYARD_NODE_READY_FILE=written, **places).ready_file == Path(read_as)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "leave the setting out"),
        ("  ", "leave the setting out"),
        ("a\\u0000b", "Expected `path`"),
        ("$NOWHERE/r", "no variable 'NOWHERE'"),
        ("a$", "write \\$\\$"),
        ("$(pwd)/r", "write \\$\\$"),
        ("~nobody-at-all/r", "no home of that user"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(written: str, says: str, toml: Path) -> None:
    toml.write_text(f'[node]\nready_file = "{written}"\n')
    with pytest.raises(BadSetting, match=rf"ready_file from .*, \[node\] does not fit: .*{says}"):
        read(toml)


def test_a_wallet_may_be_meant_by_its_name(tmp_path: Path, toml: Path) -> None:
    (tmp_path / "wallets").mkdir()
    (tmp_path / "wallets" / "alice.json").write_text("{}")
    toml.write_text('[requester]\nregistry = "0x1"\nwallet = "alice"\n')
    environ = {"PROOFYARD_KEYSTORE_DIR": str(tmp_path / "wallets")}

    def wallet(**more: str) -> Path:
        return load(RequesterSettings, "requester", toml=toml, flags={}, environ=environ | more).wallet

    assert wallet() == wallet(PROOFYARD_REQUESTER_WALLET="alice.json") == tmp_path / "wallets" / "alice.json"
    assert wallet(PROOFYARD_REQUESTER_WALLET="bob") == Path("bob")
    (tmp_path / "alice").write_text("{}")
    assert wallet() == tmp_path / "alice", "a file of that name is nearer"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[node]\n# caf\xe9\n", "no UTF-8 .byte 13.; save it as UTF-8"),
        ("[node]\n".encode("utf-16"), "no UTF-8 .byte 1."),
        (b"\0", "not valid TOML"),
        (b"port: 7\n", "not valid TOML"),
        (b"[node]\nport = 1\nport = 2\n", "not valid TOML"),
        (b"[node]\n[node]\n", "not valid TOML"),
        (b"port = " + b"[" * 3000 + b"]" * 3000, "nested without end"),
        (b"port = " + b"1" * 5000, "a number in it has thousands of digits"),
        (b"#" * (5 << 20), "more than 4 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, says: str, toml: Path) -> None:
    toml.write_bytes(content)
    with pytest.raises(BadSetting, match=says):
        read(toml)


def test_an_address_that_does_not_fit_is_not_shown(toml: Path) -> None:
    toml.write_text("rpc_url = ['http://user:secret@host/KEY']\n")
    with pytest.raises(BadSetting, match="rpc_url from") as caught:
        read(toml)
    assert "secret" not in str(caught.value)


def test_a_files_password_is_its_own_wallets(tmp_path: Path) -> None:
    file = tmp_path / "proofyard.toml"
    file.write_text('registry = "0x1"\n[requester]\nwallet = "a.json"\npassword_file = "a.password"\n')

    def password(wallet: Path | None = None, given: Path | None = None, **environ: str) -> Path | None:
        flags = {"wallet": wallet, "password_file": given}
        shared = frozenset({"registry", "wallet", "password_file"})
        return load(
            RequesterSettings, "requester", toml=file, flags=flags, shared=shared, environ=environ
        ).password_file

    its = tmp_path / "a.password"
    assert password() == password(tmp_path / "a.json") == its
    assert password(tmp_path / "b.json") is None, "it is asked for"
    assert password(None, PROOFYARD_WALLET=str(tmp_path / "b.json")) is None
    assert password(tmp_path / "b.json", Path("b.password")) == Path("b.password")
    assert password(tmp_path / "b.json", PROOFYARD_PASSWORD_FILE="b.password") == Path("b.password")
    file.write_text('registry = "0x1"\n[requester]\npassword_file = "a.password"\n')
    assert password(tmp_path / "b.json") == its, "the file names no wallet that it would be of"
