"""A peer of the network written from docs/protocol.md alone: it imports nothing of the product.

`Peer` greets, asks and answers; `MapNode` is a node that executes the workload `map`, commits, audits and seals.
"""

import asyncio
import base64
import hashlib
import json
import os
import ssl
import struct
from contextlib import asynccontextmanager

import msgspec
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives import hashes
from eth_abi.abi import encode as abi_encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

FIELDS = {
    "Handshake": "string role,address client,address server,bytes32 clientNonce,bytes32 serverNonce,"
    "bytes32 certificate",
    "Commitment": "uint256 jobId,uint32 task,address node,bytes32 manifest,bytes32 inputs,bytes32 traceRoot,"
    "uint32 segments,bytes result,uint64 workUnits,bytes32 mark",
    "Receipt": "bytes32 leaf,uint256 job,uint64 deadline",
    "Seal": "uint256 batch,uint256 job,uint32 task,uint32 segment,bytes32 seed,address auditor,bytes32 seal",
}
MAX_FRAME = 1 << 20


class Refused(Exception):
    """The other side answered with an error."""


# Bytes


def frame(value):
    data = msgspec.msgpack.encode(value)
    return len(data).to_bytes(4, "big") + data


async def read_frame(reader):
    size = int.from_bytes(await reader.readexactly(4), "big")
    assert size <= MAX_FRAME
    return msgspec.msgpack.decode(await reader.readexactly(size))


def cid_of(data):
    """Of one raw block."""
    return cid_text(b"\x01\x55\x12\x20" + hashlib.sha256(data).digest())


def cid_text(binary):
    return "b" + base64.b32encode(binary).decode().lower().rstrip("=")


def cid_bytes(cid):
    text = cid[1:].upper()
    return base64.b32decode(text + "=" * (-len(text) % 8))


def merkle_root(leaves):
    row = [keccak(b"\x00" + leaf) for leaf in leaves]
    while len(row) > 1:
        pairs = [keccak(b"\x01" + row[at] + row[at + 1]) for at in range(0, len(row) - 1, 2)]
        row = pairs + row[len(row) // 2 * 2 :]
    return row[0]


def encode_state(tensors):
    """`tensors`: name to (dtype, length, bytes)."""
    header, at, body = {}, 0, b""
    for name in sorted(tensors):
        dtype, length, data = tensors[name]
        header[name] = {"data_offsets": [at, at + len(data)], "dtype": dtype, "shape": [length]}
        at, body = at + len(data), body + data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


# The workload `map`


def map_state(lines, params):
    """The state that holds these lines of the data file."""
    records, counts = [], []
    for line in lines:
        text = " ".join(line["text"].split())
        kept = params.get("min_characters", 1) <= len(text) <= params.get("max_characters", 1 << 24)
        if kept and text:
            records.append(json.dumps({"shard": line["shard"], "text": text}, ensure_ascii=False).encode())
        counts.append(int(bool(kept and text)))
    ends = [sum(map(len, records[: number + 1])) for number in range(len(records))]
    integers = {"ends": ends, "records": counts}
    tensors = {
        name: ("I64", len(values), struct.pack(f"<{len(values)}q", *values)) for name, values in integers.items()
    }
    data = b"".join(records)
    return encode_state(tensors | {"text": ("U8", len(data), data)})


def map_segment(manifest, data, task, segment):
    """The state after a segment of a task."""
    params, rows = manifest["params"], [json.loads(line) for line in data.splitlines() if line.strip()]
    first = (task["index"] * params["segments"] + segment) * params["segment_rows"]
    return map_state(rows[first : first + params["segment_rows"]], params)


def map_result(manifest, data, task):
    params, rows = manifest["params"], [json.loads(line) for line in data.splitlines() if line.strip()]
    size = params["segments"] * params["segment_rows"]
    return map_state(rows[task["index"] * size : (task["index"] + 1) * size], params)


def map_job(lines, segment_rows, segments):
    """A manifest for all these lines, the data file that it names, and the job's work units."""
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    params = {"rows": len(lines), "segment_rows": segment_rows, "segments": segments}
    manifest = {"version": 4, "workload": "map", "params": params, "model": None, "data": cid_of(data), "seed": 7}
    manifest |= {"precision": "exact", "look_ahead": 0, "nonce": "interop"}
    return msgspec.msgpack.encode(manifest), data, len(lines)


# The wire


class Peer:
    """A wallet with one connection. `answers`: by kind of request, what is said to it: (struct, body)."""

    def __init__(self, chain_id, registry, account=None):
        self.account = account or Account.create()
        self.domain = {"name": "Proofyard", "version": "1", "chainId": chain_id, "verifyingContract": registry}
        self.answers = {}
        self.blocks = {}
        self.failures = []
        self.answers["get-blocks"] = self.get_blocks
        self.answers["has-blocks"] = self.has_blocks

    def sign(self, kind, values):
        names = [dict(zip(("type", "name"), field.split(), strict=True)) for field in FIELDS[kind].split(",")]
        message = dict(zip((each["name"] for each in names), values, strict=True))
        return bytes(self.account.sign_message(self.typed(kind, names, message)).signature)

    def typed(self, kind, names, message):
        return encode_typed_data(self.domain, {kind: names}, message)

    def signer(self, kind, values, signature):
        names = [dict(zip(("type", "name"), field.split(), strict=True)) for field in FIELDS[kind].split(",")]
        message = dict(zip((each["name"] for each in names), values, strict=True))
        return Account.recover_message(self.typed(kind, names, message), signature=signature)

    @asynccontextmanager
    async def connected(self, host, port):
        config = QuicConfiguration(is_client=True, alpn_protocols=["proofyard/1"], verify_mode=ssl.CERT_NONE)
        tasks = set()

        def serve(reader, writer):
            task = asyncio.ensure_future(self.serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async with connect(host, port, configuration=config, stream_handler=serve) as self.protocol:
            assert isinstance(self.protocol, QuicConnectionProtocol)
            await self.greet()
            yield self
            for task in tasks:
                task.cancel()

    async def greet(self):
        reader, writer = await self.protocol.create_stream()
        nonce, own = os.urandom(32), self.account.address
        writer.write(frame({"type": "hello", "v": 1, "address": own, "nonce": nonce}))
        challenge = await read_frame(reader)
        assert challenge["type"] == "challenge", challenge
        certificate = self.protocol._quic.tls._peer_certificate.fingerprint(hashes.SHA256())
        said = (own, challenge["address"], nonce, challenge["nonce"], certificate)
        writer.write(frame({"type": "proof", "signature": self.sign("Handshake", ("client", *said))}))
        welcome = await read_frame(reader)
        if welcome["type"] != "welcome":
            raise Refused(welcome["reason"])
        assert self.signer("Handshake", ("server", *said), welcome["signature"]) == challenge["address"]
        self.verifier = challenge["address"]
        writer.write_eof()
        assert await reader.read() == b""

    async def ask(self, kind, fields, body=b""):
        """The answer's struct and body."""
        reader, writer = await self.protocol.create_stream()
        payload = {"type": kind} | fields
        header = {"v": 1, "kind": kind, "deadline_ms": 30_000, "body": len(body), "payload": payload}
        writer.write(frame(header) + body)
        writer.write_eof()
        reply = await read_frame(reader)
        assert reply["v"] == 1
        if reply.get("error"):
            raise Refused(f"{reply['error']['code']}: {reply['error']['message']}")
        data = await reader.readexactly(reply["body"])
        assert await reader.read() == b""
        return reply["payload"], data

    async def fetch(self, cid):
        """An artifact of one raw block."""
        reply, data = await self.ask("get-blocks", {"cids": cid_bytes(cid)})
        assert reply["type"] == "blocks"
        assert reply["sizes"] == [len(data)], (cid, reply)
        assert cid_of(data) == cid
        return data

    def keep(self, data):
        cid = cid_of(data)
        self.blocks[cid] = data
        return cid

    async def serve(self, reader, writer):
        try:
            header = await read_frame(reader)
            await reader.readexactly(header["body"])
            answer = self.answers.get(header["kind"])
            if answer is None:
                error = {"code": "unknown-request", "message": header["kind"]}
                writer.write(frame({"v": 1, "body": 0, "payload": None, "error": error}))
            else:
                said, body = await answer(header["payload"])
                writer.write(frame({"v": 1, "body": len(body), "payload": said, "error": None}) + body)
            writer.write_eof()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.failures.append(error)

    async def get_blocks(self, request):
        found = [self.blocks.get(cid) for cid in self.cids_of(request)]
        sizes = [-1 if data is None else len(data) for data in found]
        return {"type": "blocks", "sizes": sizes}, b"".join(data or b"" for data in found)

    async def has_blocks(self, request):
        return {"type": "held", "held": bytes(cid in self.blocks for cid in self.cids_of(request))}, b""

    @staticmethod
    def cids_of(request):
        return [cid_text(request["cids"][at : at + 36]) for at in range(0, len(request["cids"]), 36)]


class MapNode(Peer):
    """Takes what it is offered, one task after the other."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.receipts, self.sealed, self.opened = [], {}, []
        self.done = set()
        self.tasks = set()
        self.answers |= {
            "task-offers": self.task_offers,
            "audit-offers": self.audit_offers,
            "open-seals": self.open_seals,
            "cancel-tasks": self.cancel_tasks,
        }

    async def announce(self):
        fields = {"workloads": ["map"], "memory_bytes": 1 << 30, "port": 1, "software": "an independent node"}
        reply, _ = await self.ask("announce-3", fields | {"tasks": 1, "audits": 8, "session": "interop"})
        assert reply == {"type": "ack", "proceed": True, "reason": ""}, reply

    def soon(self, work):
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(lambda done: self.failures.append(done.exception()) if done.exception() else None)

    async def task_offers(self, request):
        for offer in request["offers"]:
            key = offer["job"], offer["task"]["index"]
            if key not in self.done:
                self.done.add(key)
                self.soon(self.execute(offer))
        return self.acks(request["offers"]), b""

    async def audit_offers(self, request):
        for offer in request["offers"]:
            self.soon(self.audit(offer))
        return self.acks(request["offers"]), b""

    async def cancel_tasks(self, request):
        return {"type": "ack", "proceed": True, "reason": ""}, b""

    @staticmethod
    def acks(items):
        return {"type": "acks", "answers": [{"type": "ack", "proceed": True, "reason": ""} for _ in items]}

    async def inputs(self, offer):
        manifest = msgspec.msgpack.decode(await self.fetch(offer["manifest"]))
        return manifest, await self.fetch(manifest["data"])

    async def execute(self, offer):
        task, (manifest, data) = offer["task"], await self.inputs(offer)
        states = [map_state([], manifest["params"])]
        states += [map_segment(manifest, data, task, segment) for segment in range(task["segments"])]
        trace, result = [self.keep(state) for state in states], self.keep(map_result(manifest, data, task))
        salt = os.urandom(32)
        commitment = {
            "job": offer["job"],
            "task": task["index"],
            "node": self.account.address,
            "manifest": cid_bytes(offer["manifest"])[4:],
            "inputs": merkle_root([cid_bytes(cid) for cid in (offer["manifest"], *offer["inputs"])]),
            "trace_root": merkle_root([cid_bytes(cid) for cid in trace]),
            "segments": task["segments"],
            "result": result,
            "work_units": task["work_units"],
            "mark": hashlib.sha256(salt + b"\0").digest(),
        }
        signed = [*commitment.values()]
        signed[7] = cid_bytes(result)
        self.keep(salt + b"\0")
        work = {"type": "submit-commitment-2", "commitment": commitment}
        work |= {"signature": self.sign("Commitment", signed), "trace": trace, "salt": salt, "decoy": None}
        (answer,) = (await self.ask("submit-commitments", {"works": [work]}))[0]["answers"]
        while answer["type"] == "refusal" and answer["code"] == "busy":  # the chain has not given it the job yet
            await asyncio.sleep(0.3)
            (answer,) = (await self.ask("submit-commitments", {"works": [work]}))[0]["answers"]
        assert answer["type"] == "receipt-2", answer
        promised = (answer["leaf"], answer["job"], answer["deadline"])
        assert self.signer("Receipt", promised, answer["signature"]) == self.verifier
        self.receipts.append(answer)

    async def audit(self, offer):
        place = (offer["batch"], offer["job"], offer["task"]["index"], offer["segment"])
        if place not in self.sealed:
            manifest, data = await self.inputs(offer)
            await self.fetch(offer["before"])
            after = map_segment(manifest, data, offer["task"], offer["segment"])
            own, salt = self.account.address, os.urandom(32)
            keyed = hashlib.sha256(offer["seed"] + bytes.fromhex(own[2:]) + after).digest()
            answer = hashlib.sha256(after).digest()
            kinds = ["address", "bytes32", "bytes32", "bytes32", "bytes32"]
            seal = keccak(abi_encode(kinds, [own, answer, keyed, keccak(b""), salt]))
            signature = self.sign("Seal", (*place, offer["seed"], own, seal))
            opening = {"after": answer, "keyed": keyed, "reason": "", "salt": salt, "signature": signature}
            self.sealed[place] = seal, signature, {"type": "seal-opened-3"} | opening
        seal, signature, _ = self.sealed[place]
        fields = dict(zip(("batch", "job", "task", "segment"), place, strict=True))
        sent = {"type": "submit-seal-2"} | fields | {"seed": offer["seed"], "seal": seal, "signature": signature}
        (ack,) = (await self.ask("submit-seals", {"seals": [sent]}))[0]["answers"]
        assert ack["proceed"], ack

    async def open_seals(self, request):
        answers = []
        for each in request["seals"]:
            known = self.sealed.get((each["batch"], each["job"], each["task"], each["segment"]))
            answers.append(known[2] if known else None)
        self.opened += [answer for answer in answers if answer]
        return {"type": "seals-opened", "answers": answers}, b""
