import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from proofyard.protocol.codec import CodecError, decode_json, read_json

ROOTS = [Path(__file__).parents[2] / folder for folder in ("sdk", "node", "verifier")]
MAKES = {"convert", "decode", "Decoder"}
PLAIN = {"str", "bytes", "dict", "list", "tuple", "object", "Any"}
"""Types that msgspec has nothing to find out about."""

RACE = """
import sys, threading
from enum import StrEnum
import msgspec
from proofyard.protocol.codec import {imported}

sys.setswitchinterval(1e-6)

def fresh():
    word = StrEnum("Word", ["a", "b"])
    inner = msgspec.defstruct("Inner", [("word", word), ("words", tuple[word, ...])])
    return msgspec.defstruct("Outer", [("word", word), ("inner", list[inner]), ("by", dict[str, inner])])

value = {{"word": "a", "inner": [{{"word": "b", "words": ["a"]}}], "by": {{"x": {{"word": "a", "words": []}}}}}}
data = msgspec.msgpack.encode(value)
for _ in range(250):
    kind, start = fresh(), threading.Barrier(4)

    def use():
        start.wait()
        {use}

    threads = [threading.Thread(target=use) for _ in range(4)]
    for each in threads: each.start()
    for each in threads: each.join()
"""


@pytest.mark.parametrize(
    ("imported", "use"),
    [("decode", "decode(data, kind)"), ("prepared", "msgspec.convert(value, prepared(kind))")],
    ids=["decode", "prepared"],
)
def test_threads_that_meet_a_type_at_the_same_time_all_go_on(imported: str, use: str) -> None:
    script = textwrap.dedent(RACE).format(imported=imported, use=use)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1}',
        b'{"a": ""}}',
        b'"\\ud800"',
        b'{"a": "\xff"}',
        b'{"b": ' + b"[" * 99_999,
        b'{"b": %s}' % (b"9" * 5000),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_json_from_outside_has_one_error(data: bytes) -> None:
    kind = msgspec.defstruct("Named", [("a", str)])
    with pytest.raises(CodecError, match="Named cannot be decoded: "):
        decode_json(data, kind)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 99_999, b"9" * 5000, "{"], ids=lambda data: repr(data[:12]))
def test_json_of_any_shape_has_one_error(data: bytes | str) -> None:
    with pytest.raises(CodecError, match="it is no JSON"):
        read_json(data)


OWN = {
    *("answering.py", "chat_child.py", "child.py", "codec.py", "inside.py", "pushed.py", "reading.py", "scorer.py"),
    *("trial.py", "warmup.py"),
}
"""These decode what this program has encoded itself, or catch whatever goes wrong."""


def test_json_from_outside_goes_through_one_place() -> None:
    """msgspec raises three kinds of errors for what is no JSON: a handler of one of them lets the others through."""
    files = [file for root in ROOTS for file in root.rglob("*.py")]
    assert {file.name for file in files if "msgspec.json.decode(" in file.read_text()} <= OWN


def test_every_type_is_prepared_before_msgspec_makes_one() -> None:
    files = [file for root in ROOTS for file in root.rglob("*.py")]
    calls = [(file, call) for file in files for call in ast.walk(ast.parse(file.read_text())) if _makes(call)]
    assert len(calls) > 20
    where = {f"{file.name}: {ast.unparse(call)}" for file, call in calls if not _is_prepared(call)}
    bare = where - {"codec.py: msgspec.msgpack.Decoder(kind)"}
    assert not bare, "wrap the type in proofyard.protocol.codec.prepared: msgspec is not thread-safe before"


def _makes(node: ast.AST) -> bool:
    """Whether it is a call such as `msgspec.json.decode(...)`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in MAKES:
        return False
    return ast.unparse(node.func).startswith("msgspec.")


def _is_prepared(call: ast.Call) -> bool:
    named = [each.value for each in call.keywords if each.arg == "type"]
    place = 0 if isinstance(call.func, ast.Attribute) and call.func.attr == "Decoder" else 1
    kind = named[0] if named else call.args[place] if len(call.args) > place else None
    if kind is None:
        return True
    if isinstance(kind, ast.Call):
        return ast.unparse(kind.func) == "prepared"
    return {each.id for each in ast.walk(kind) if isinstance(each, ast.Name)} <= PLAIN
