"""docs/protocol.md says what the code does: messages, structs that are signed, limits, errors, manifests, evidence."""

import re
from pathlib import Path

import msgspec
import pytest
from scripts.protocol_docs import PAGE, page

from proofyard.artifacts import builder, dag, exchange, hamt, unixfs
from proofyard.protocol import capability, commitment, manifest, mark, members, record, seal, settlement
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.transport import (
    bounds,
    carried,
    connection,
    endpoint,
    frames,
    guard,
    handshake,
    link,
    memory,
    places,
    quic,
)
from proofyard.transport import switchboard as board

TEXT = PAGE.read_text(encoding="utf-8")
CONTRACTS = Path(__file__).parents[2] / "contracts" / "src" / "libraries"
ON_CHAIN = {
    commitment.DOMAIN_TYPE,
    commitment.COMMITMENT_TYPE,
    commitment.RECEIPT_TYPE,
    settlement.REGISTER_TYPE,
    settlement.VERIFIER_KEY_TYPE,
    settlement.SETTLEMENT_TYPE,
}
SIGNED = ON_CHAIN | {capability.CAPABILITY_TYPE, seal.SEAL_TYPE, handshake.HANDSHAKE_TYPE}
KIB, MIB = 1 << 10, 1 << 20


def test_the_page_shows_every_message_as_it_is() -> None:
    assert page() == TEXT, "run `python scripts/protocol_docs.py`"
    for kind in (members.Member, *vars(record).values()):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            assert f"\n### {kind.__name__}\n" in TEXT


def test_the_structs_that_are_signed_are_those_of_the_code_and_of_the_contracts() -> None:
    assert set(re.findall(r"`(\w+\((?:[a-z]+[0-9]* \w+,?)+\))`", TEXT)) == SIGNED
    literals = re.sub(r'"\s+"', "", "".join(path.read_text() for path in CONTRACTS.glob("*.sol")))
    assert all(f'"{kind}"' in literals for kind in ON_CHAIN)


def test_every_code_of_a_refusal_is_on_the_page() -> None:
    root = Path(__file__).parents[2]
    sources = [path.read_text() for place in ("sdk", "node", "verifier") for path in (root / place).rglob("*.py")]
    codes = {code for text in sources for code in re.findall(r'(?:RequestFailed|ErrorInfo)\(\s*"([a-z-]+)"', text)}
    assert {"bad-request", "not-seen"} <= codes
    assert not {code for code in codes if f"`{code}`" not in TEXT}


def test_manifests_and_tasks_have_the_fields_that_the_page_lists_in_their_order() -> None:
    (listed,) = re.findall(r"the msgpack map of (.*?), in this order\.", TEXT)
    assert re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", listed)) == list(Manifest.__struct_fields__)
    assert f"`version` ({manifest.VERSION})" in listed
    (listed,) = re.findall(r"\*\*A task\*\* is what a `task-offer` carries: (.*?);", TEXT)
    assert re.findall(r"`(\w+)`", listed) == list(TaskSpec.__struct_fields__)
    assert f"at most {manifest.MAX_MANIFEST_BYTES // KIB} KiB, the msgpack map" in TEXT


@pytest.mark.parametrize(
    "said",
    [
        f"ALPN `{quic.ALPN}`",
        f"Greetings are at most {handshake.MAX_GREETING_BYTES:,} bytes",
        f"the whole handshake takes at most {handshake.HANDSHAKE_SECONDS:.0f} seconds",
        f"the client may send {quic.GREETING_WINDOW // KIB} KiB in all",
        f"{handshake.NONCE_BYTES}-byte nonce",
        f"`v` of `hello` is {frames.VERSION}.",
        f"`v` of `RequestHeader` and `ReplyHeader` is {frames.VERSION};",
        f"closed with application error `{board.REFUSED:#x}`",
        f"{quic.STREAM_WINDOW // MIB} MiB on a stream and {quic.CONNECTION_WINDOW // MIB} MiB on a connection",
        f"{board.MAX_GREETINGS} connections at a time that have not proved a wallet",
        f"{board.MAX_GREETINGS_OF_SUBNET} of them from one subnet (/{places.PREFIX[4]}, or /{places.PREFIX[6]} of",
        f"{board.MAX_GREETINGS_OF_HOST} from one address; from {board.RETRY_ABOVE} on",
        f"lose one with error `{board.REFUSED:#x}`, known hosts last",
        f"at most {endpoint.MAX_CONNECTIONS_OF_WALLET} connections",
        f"{connection.REQUESTS_PER_SECOND:.0f} requests a second on each, {connection.REQUESTS_AT_ONCE:,.0f} saved up",
        f"shares {endpoint.MAX_STRANGERS} places",
        f"for a connection up to {memory.MOST_OF_CONNECTION // MIB} MiB",
        f"for a wallet up to {memory.MOST_OF_PEER // MIB} MiB",
        f"what is left of {memory.SENDING_BYTES // MIB} MiB",
        f"but always {memory.LEAST_OF_PEER // KIB} KiB",
        f"passes {memory.RECEIVING_BYTES // MIB} MiB",
        f"ends with error `{link.OVERFULL:#x}`",
        f"At most {bounds.MAX_PIECES_OF_STREAM:,} pieces of a stream, {bounds.MAX_PIECES:,} of a connection",
        f"an ACK frame names at most {bounds.MAX_ACK_RANGES} ranges",
        f"TLS messages at most {bounds.MAX_CRYPTO_BYTES // KIB} KiB",
        f"datagrams have at most {quic.MAX_DATAGRAM // KIB} KiB",
        f"frames of packets with more than {bounds.USUAL_FRAMES}",
        f"name more than {bounds.USUAL_ACK_RANGES} ranges",
        f"allowed {bounds.EXTRA_FRAMES_PER_S:,.0f} a second, {bounds.EXTRA_FRAMES:,.0f} saved up",
        f"begins with {quic.BASE_DATAGRAM:,} bytes of UDP payload",
        f"({quic.LOOPBACK_SIZES[0]:,} on loopback; 1,350, 1,452 and 8,900 elsewhere)",
        f"pings after {quic.KEEP_ALIVE:.0f} seconds of silence, {quic.KEEP_ALIVE_NEAR:.0f} where",
        f"no packet came for {link.STALL_S} seconds; {quic.IDLE_TIMEOUT:.0f} seconds without a packet",
        f"behind the byte `{carried.MARK:#04x}` and the {carried.TAG_BYTES} bytes of `flow`",
        f"Packets of {carried.HEAD_BYTES} bytes less",
        f"with error `{connection.VIOLATION:#x}` and costs {guard.VIOLATION_POINTS:.0f} points",
        f"at {guard.BAN_SCORE:.0f} the wallet is banned for ten minutes",
        f"msgpack, at most {frames.MAX_HEADER_BYTES // MIB} MiB",
        f"stops it with STOP_SENDING `{connection.CANCELLED:#x}`",
        f"resets the stream with `{connection.CANCELLED:#x}`",
        f"{builder.CHUNK_BYTES // KIB} KiB chunks and balanced trees of {builder.LINKS_PER_NODE} links",
        f"{hamt.FANOUT} slots",
        f"more than {builder.MAX_DIRECTORY_BYTES // KIB} KiB together",
        f"A block is at most {unixfs.MAX_BLOCK_BYTES // MIB} MiB",
        f"`get-blocks` names up to {exchange.MAX_BLOCKS} blocks",
        f"{exchange.ABSENT} for one that is not there",
        f"`has-blocks` names up to {exchange.MAX_ASKED:,}",
        f"at most {dag.MAX_ENTRIES:,} entries, {dag.MAX_DEPTH} folders deep",
        f"divisible by {seal.KEYED_ONE_IN}",
        f"`reason` has at most {seal.MAX_REASON} characters",
        f"`sha256(salt || kind)`: {mark.SALT_BYTES} random bytes",
        f"`Member`s, at most {members.MAX_MEMBERS_BYTES // MIB} MiB",
        f"at most {record.MAX_RECORD_BYTES // MIB} MiB; `validate_record`",
        'sha256("proofyard: this segment cannot be executed")',
    ],
)
def test_limits_versions_and_errors_are_those_of_the_code(said: str) -> None:
    assert said in TEXT
