"""Writes the list of messages in `docs/protocol.md` from the structs themselves, each with the bytes of an example.

python scripts/protocol_docs.py          rewrite the part below the marker
python scripts/protocol_docs.py --check  exit 1 when it is out of date
"""

import inspect
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import inspect as shapes

from proofyard.artifacts import exchange
from proofyard.discovery import messages as discovery
from proofyard.protocol import carriage, members, messages, peer_record, record, routes
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.codec import encode
from proofyard.transport import frames, handshake, punching, reachability, relay

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"
MARKER = "<!-- Written by scripts/protocol_docs.py from here to the end. -->\n"
BYTES_PER_LINE = 48
WALLET = "0x5FbDB2315678afecb367f032d93F642f64180aa3"


def example(shape: Any, name: str = "") -> Any:
    """A value of a type, plain and the same every time."""
    match shape:
        case shapes.StructType(cls=cls, fields=fields):
            return cls(**{field.name: example(field.type, field.name) for field in fields})
        case shapes.DataclassType(cls=cls, fields=fields):
            return cls(**{field.name: example(field.type, field.name) for field in fields})
        case shapes.UnionType(types=types):
            return example(types[0], name)
        case shapes.VarTupleType(item_type=item):
            return (example(item, name),)
        case shapes.TupleType(item_types=items):
            return tuple(example(item, name) for item in items)
        case shapes.EnumType(cls=cls):
            return next(iter(cls))
        case shapes.ListType(item_type=item):
            return [example(item, name)]
        case shapes.DictType():
            return {}
        case shapes.BoolType():
            return True
        case shapes.IntType():
            return 5
        case shapes.FloatType():
            return 2.5
        case shapes.BytesType(min_length=least):
            return bytes(least or (65 if name == "signature" else 36 if name == "cids" else 32))
        case shapes.LiteralType(values=values):
            return values[0]
        case shapes.StrType():
            return text(name)
        case shapes.RawType():
            return msgspec.Raw(encode(messages.Ack()))
        case shapes.NoneType():
            return None
        case _:
            raise TypeError(f"no example for {shape} in {name!r}")


def text(name: str) -> str:
    if name in (
        "address",
        "node",
        "nodes",
        "owner",
        "worker",
        "verifier",
        "signer",
        "registry",
        "auditor",
        "absent",
        "copied",
        "peer",
        "relay",
        "caller",
        "host",
        "payer",
    ):
        return WALLET
    if name in ("work", "audits"):
        return "5"
    cids = ("manifest", "result", "before", "inputs", "trace", "artifacts", "record", "cid", "counted", "over")
    return raw_cid(b"example") if name in cids else {"host": "192.0.2.1", "kind": "ack", "payload": ""}.get(name, name)


def section(kind: type[msgspec.Struct]) -> str:
    """A struct's heading, meaning, fields and example."""
    value = example(shapes.type_info(kind))
    data = encode(value)
    if msgspec.msgpack.decode(data, type=kind) != value:
        raise ValueError(f"the example of {kind.__name__} does not survive encoding")
    tag = kind.__struct_config__.tag
    lines = [f"### {kind.__name__}" + (f" (`{tag}`)" if tag else ""), ""]
    if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("):
        lines += [inspect.cleandoc(kind.__doc__), ""]
    names = [f"`{field.encode_name}: {field_type(field.type)}`" for field in msgspec.structs.fields(kind)]
    lines += ["Fields: " + (", ".join(names) or "none") + ".", "", f"{len(data)} bytes:", "", "```"]
    lines += [data[at : at + BYTES_PER_LINE].hex() for at in range(0, len(data), BYTES_PER_LINE)]
    return "\n".join([*lines, "```", ""])


def field_type(kind: Any) -> str:
    """A type as the source has it, without modules and bounds."""
    if get_origin(kind) is Annotated:
        return field_type(get_args(kind)[0])
    if get_origin(kind) is tuple:
        *first, last = get_args(kind)
        return f"tuple[{', '.join(map(field_type, first))}, {'...' if last is Ellipsis else field_type(last)}]"
    if get_origin(kind) is Literal:
        return " | ".join(f'"{each}"' for each in get_args(kind))
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " | ".join(field_type(each) for each in get_args(kind))
    return "None" if kind is NoneType else str(kind.__name__)


def structs(module: Any) -> list[type[msgspec.Struct]]:
    """A module's structs, in the order of the source."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    ]


def tagged(module: Any) -> list[type[msgspec.Struct]]:
    """Those that travel on their own."""
    return [kind for kind in structs(module) if kind.__struct_config__.tag]


def evidence() -> list[type[msgspec.Struct]]:
    """What artifacts are made of: a member list is a list of the first, a record one of the second."""
    found = structs(record)
    found.sort(key=lambda kind: kind is not record.BatchRecord)
    return [members.Member, *found]


def page() -> str:
    head = PAGE.read_text().split(MARKER)[0]
    parts: list[tuple[str, list[type[msgspec.Struct]]]] = [
        ("Headers", [frames.RequestHeader, frames.ReplyHeader]),
        ("Handshake", tagged(handshake)),
        ("Blocks", tagged(exchange)),
        ("Routes", [routes.Route, *tagged(reachability), *structs(carriage), *tagged(relay), *tagged(punching)]),
        ("Peers", [*structs(peer_record), *tagged(discovery)]),
        ("Work", tagged(messages)),
        ("Evidence", evidence()),
    ]
    body = "\n".join(f"## {title}\n\n" + "\n".join(map(section, kinds)) for title, kinds in parts)
    return head + MARKER + "\n" + body


def main() -> None:
    wanted = page()
    if "--check" in sys.argv:
        if PAGE.read_text() != wanted:
            sys.exit(f"{PAGE.name} is out of date; run `python scripts/protocol_docs.py`")
    else:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
